"""The shell command that computes the cells missing from the Compare page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from cap_viz.dashboard.compare.data import Stored
from cap_viz.defaults import MAIN_CRITERIA, N_CALIBRATION, SEED, SPARSITIES
from cap_viz.figures.theme import display_order
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.pruning import CRITERIA
from cap_viz.runs.comparison import DENSE
from cap_viz.runs.mask_provenance import MaskProvenance, ProvenanceGroup

# Sparsities to measure next when the table is complete.
FURTHER = (0.3, 0.4, 0.6)
# Defaults of the options of the shell's `compare`.
USUAL_REFERENCE, USUAL_N = "wanda", 600


@dataclass(frozen=True)
class NextCommand:
    """The next command and the reason for it; `text` is empty when there is nothing for the shell to run."""

    reason: str
    text: str


def next_command(
    stored: Stored, group: ProvenanceGroup | None, *, model: str, task: str, n: int, reference: str
) -> NextCommand:
    """Return the command for the cells missing from the usual table, else for further sparsities."""
    items = n if stored.dense is None else len(stored.dense.spec.examples.ids)
    basis = None if group is None else group.basis
    if basis is not None and not shell_can(basis, task):
        return NextCommand(
            "The shell's compare builds on the task's own calibration examples with the usual options; "
            "this group is built otherwise, and is measured on the Prune page.",
            "",
        )
    known = () if group is None else tuple(name for name in group.criteria if name in CRITERIA)
    criteria = display_order({*MAIN_CRITERIA, *known})
    there = set() if group is None else set(group.runs)
    missing = [
        (name, sparsity)
        for name in criteria
        for sparsity in sorted({*SPARSITIES, *(() if group is None else group.sparsities)})
        if (name, sparsity) not in there
    ]
    reason = "Computes what this comparison lacks; what is stored is not computed again."
    if not missing:
        further = [sparsity for sparsity in FURTHER if group is None or sparsity not in group.sparsities]
        missing = [(name, sparsity) for name in criteria for sparsity in further]
        reason = "Every criterion is measured at every sparsity shown. This adds sparsities between and beyond them."
    if not missing:
        return NextCommand("Every criterion is measured at every sparsity shown.", "")
    return NextCommand(reason, command(missing, basis, model=model, task=task, n=items, reference=reference))


def shell_can(basis: MaskProvenance, task: str) -> bool:
    """Whether the options of `compare` can describe the provenance of a group."""
    examples = basis.examples
    drawn = examples is None or (examples.task == task and examples.split == "calibration")
    return drawn and basis.get("activations") is None and set(basis.unusual) <= {"metric"}


def command(
    missing: Sequence[tuple[str, float]], basis: MaskProvenance | None, *, model: str, task: str, n: int, reference: str
) -> str:
    """Format the `compare` command, without options at their default."""
    examples = None if basis is None else basis.examples
    n_calibration = N_CALIBRATION if examples is None else len(examples.ids)
    seed = SEED if examples is None or examples.seed is None else examples.seed
    metric = "nll" if basis is None else str(basis.get("metric") or "nll")
    parts = ["python", "-m", "cap_viz", "compare", "--task", task]
    parts += option("--model", model, DEFAULT_MODEL)
    parts += ["--criteria", ",".join(dict.fromkeys(name for name, _ in missing))]
    parts += ["--sparsities", ",".join(f"{sparsity:g}" for sparsity in sorted({sparsity for _, sparsity in missing}))]
    parts += option("--against", reference if reference in CRITERIA else DENSE[0], USUAL_REFERENCE)
    parts += option("--n", str(n), str(USUAL_N))
    parts += option("--n-calibration", str(n_calibration), str(N_CALIBRATION))
    parts += option("--seed", str(seed), str(SEED))
    parts += option("--metric", metric, "nll")
    return shlex.join(parts)


def option(name: str, value: str, default: str) -> list[str]:
    return [] if value == default else [name, value]
