"""Group stored evaluations by the provenance of their masks, so that only comparable criteria are compared.

Stored evaluations of one criterion at one sparsity can differ in calibration examples, head-score metric, scope and so
on. The `MaskProvenance` of a mask is its spec without criterion, sparsity and unused fields. One provenance covers
another that has a subset of its facts: Wanda on 48 examples joins CAP on the same 48, whatever CAP's metric, and
magnitude joins every group of its scope. A `ProvenanceGroup` holds all evaluations covered by one maximal provenance.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

from cap_viz.models.catalogue import ModelRef
from cap_viz.pruning.options import USUAL
from cap_viz.runs.comparison import Cell
from cap_viz.runs.run_queries import runs_of
from cap_viz.runs.spec import EvalSpec, MaskSpec
from cap_viz.runs.store import StoredRun
from cap_viz.tasks.example_sets import ExampleSet

# Default values, left out of a group's name.
DEFAULTS = {**USUAL, "estimator": "exact", "ablation": "zero"}


@dataclass(frozen=True)
class MaskProvenance:
    """Facts about a mask, as pairs of field and value; `examples` are the calibration examples."""

    facts: frozenset[tuple[str, object]]

    def covers(self, other: MaskProvenance) -> bool:
        """Whether this provenance has all facts of the other one."""
        return other.facts <= self.facts

    def get(self, field: str) -> object:
        return dict(self.facts).get(field)

    @property
    def examples(self) -> ExampleSet | None:
        found = self.get("examples")
        return found if isinstance(found, ExampleSet) else None

    @property
    def unusual(self) -> dict[str, str]:
        """Options that differ from the defaults, as text."""
        said = {name: str(value) for name, value in self.facts if not isinstance(value, ExampleSet)}
        return {name: said[name] for name in sorted(said) if str(DEFAULTS.get(name)) != said[name]}


def provenance_of(mask: MaskSpec) -> MaskProvenance:
    """Collect the facts of a mask and of its head scores.

    The metric of head scores counts only for gradient ones ("score_metric"): exact ones serve every metric.
    """
    facts: dict[str, object] = {
        field.name: getattr(mask, field.name)
        for field in fields(mask)
        # The text is fixed by the model.
        if field.name not in ("criterion", "sparsity", "scores", "calibration", "text")
    }
    facts["examples"] = mask.calibration
    if mask.scores is not None:
        scores = {field.name: getattr(mask.scores, field.name) for field in fields(mask.scores)}
        del scores["model"]
        facts |= {"score_metric": scores.pop("metric"), **scores}
        if mask.calibration != mask.scores.examples:
            facts["activations"] = mask.calibration
    return MaskProvenance(frozenset((name, value) for name, value in facts.items() if value is not None))


@dataclass(frozen=True)
class ProvenanceGroup:
    """Evaluations of masks with compatible provenance; `name` is short and plain, for use in a URL."""

    name: str
    basis: MaskProvenance
    runs: dict[Cell, StoredRun[EvalSpec]]

    @property
    def criteria(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(criterion for criterion, _ in self.runs))

    @property
    def sparsities(self) -> tuple[float, ...]:
        return tuple(sorted({sparsity for _, sparsity in self.runs}))


def groups_of(runs: Sequence[StoredRun], dense: StoredRun) -> tuple[ProvenanceGroup, ...]:
    """Group the pruned evaluations on exactly the items of the dense one, largest group first, then newest.

    `runs` come newest first; of two runs of the same criterion and sparsity in a group the newest is kept.
    """
    pruned = [
        (run, run.spec.mask, provenance_of(run.spec.mask))
        for run in runs_of(runs, EvalSpec)
        if run.spec.mask is not None and replace(run.spec, mask=None) == dense.spec
    ]
    bases = dict.fromkeys(basis for _, _, basis in pruned)
    fullest = [basis for basis in bases if not any(other != basis and other.covers(basis) for other in bases)]
    groups: list[ProvenanceGroup] = []
    for name, basis in zip(unique_names(fullest), fullest, strict=True):
        found: dict[Cell, StoredRun[EvalSpec]] = {}
        for run, mask, covered in pruned:
            if basis.covers(covered):
                found.setdefault((mask.criterion, mask.sparsity), run)
        by_sparsity = sorted(found.items(), key=lambda item: (item[0][1], item[0][0]))
        groups.append(ProvenanceGroup(name, basis, dict(by_sparsity)))
    # `fullest` is ordered by newest run, and sorting is stable.
    return tuple(sorted(groups, key=lambda group: len(group.runs), reverse=True))


def largest_group(
    runs: Sequence[StoredRun], model: ModelRef, task: str, wanted: Callable[[EvalSpec], bool]
) -> list[StoredRun[EvalSpec]]:
    """Return the largest group of wanted evaluations with the same examples and protocol.

    It may hold the dense model and masks calibrated on the task or on nothing.
    """
    groups: dict[tuple[ExampleSet, str | None], list[StoredRun[EvalSpec]]] = defaultdict(list)
    for run in runs_of(runs, EvalSpec):
        spec = run.spec
        if spec.model != model or not wanted(spec):
            continue
        made_from = None if spec.mask is None else provenance_of(spec.mask).examples
        if made_from is None or made_from.task == task:
            groups[spec.examples, spec.protocol].append(run)
    return max(groups.values(), key=len, default=[])


def unique_names(bases: Sequence[MaskProvenance]) -> list[str]:
    """Name provenances by their unusual options; equal names get a digest of all facts, example ids included."""
    names = [basis_name(basis) for basis in bases]
    return [
        name if names.count(name) == 1 else f"{name}-{digest(basis)}" for name, basis in zip(names, bases, strict=True)
    ]


def basis_name(basis: MaskProvenance) -> str:
    examples = basis.examples
    parts = ["no-calibration"] if examples is None else [examples.task, f"n{len(examples.ids)}"]
    if examples is not None:
        parts.append(examples.split if examples.seed is None else f"seed{examples.seed}")
    activations = basis.get("activations")
    if isinstance(activations, ExampleSet):
        parts.append(f"activations-{activations.task}-n{len(activations.ids)}")
    return "-".join([*parts, *(f"{name}-{value}" for name, value in basis.unusual.items())])


def digest(basis: MaskProvenance) -> str:
    return hashlib.sha256(repr(sorted(basis.facts, key=lambda fact: fact[0])).encode()).hexdigest()[:6]
