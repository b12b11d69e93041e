"""Group stored evaluations by the provenance of their masks, so that only comparable criteria are compared.

Stored evaluations of one criterion at one sparsity can differ in calibration examples, head-score metric, scope and so
on. The `MaskProvenance` of a mask is its spec without criterion, sparsity and unused fields. One provenance covers
another that has a subset of its facts: Wanda on 48 examples joins CAP on the same 48, whatever CAP's metric, and
magnitude joins every group of its scope. A `ProvenanceGroup` holds all evaluations covered by one maximal provenance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields

from cap_viz.runs.comparison import Cell
from cap_viz.runs.spec import EvalSpec, MaskSpec, ScoreSpec
from cap_viz.runs.store import StoredRun
from cap_viz.tasks.example_sets import ExampleSet

# Default values, left out of a group's name.
USUAL = {
    "scope": "both",
    "metric": "nll",
    "kv_combine": "mean",
    "estimator": "exact",
    "ablation": "zero",
    "control_seed": "0",
}


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
        return {name: said[name] for name in sorted(said) if USUAL.get(name) != said[name]}


def provenance_of(mask: MaskSpec) -> MaskProvenance:
    facts: dict[str, object] = {
        field.name: getattr(mask, field.name)
        for field in fields(mask)
        # The text is fixed by the model.
        if field.name not in ("criterion", "sparsity", "scores", "calibration", "text")
    }
    if mask.calibration is not None:
        facts["examples"] = mask.calibration
    if mask.scores is not None:
        facts |= score_facts(mask.scores)
        if mask.calibration not in (None, mask.scores.examples):
            facts["activations"] = mask.calibration
    return MaskProvenance(frozenset((name, value) for name, value in facts.items() if value is not None))


def score_facts(scores: ScoreSpec) -> dict[str, object]:
    """List the options of head scores; `score_metric` only for gradient scores, since exact ones serve every metric."""
    facts: dict[str, object] = {
        field.name: getattr(scores, field.name) for field in fields(scores) if field.name not in ("model", "metric")
    }
    return facts if scores.metric is None else {**facts, "score_metric": scores.metric}


@dataclass(frozen=True)
class ProvenanceGroup:
    """Evaluations of masks with compatible provenance; `name` is short and plain, for use in a URL."""

    name: str
    basis: MaskProvenance
    runs: dict[Cell, StoredRun]

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
    pruned = [(run, mask) for run in runs if (mask := comparable_mask(run, dense)) is not None]
    bases = {provenance_of(mask): None for _, mask in pruned}
    fullest = [basis for basis in bases if not any(other != basis and other.covers(basis) for other in bases)]
    names = dict(zip(fullest, unique_names(fullest), strict=True))
    groups = [ProvenanceGroup(names[basis], basis, members(pruned, basis)) for basis in fullest]
    # `fullest` is ordered by newest run, and sorting is stable.
    return tuple(sorted(groups, key=lambda group: len(group.runs), reverse=True))


def comparable_mask(run: StoredRun, dense: StoredRun) -> MaskSpec | None:
    """Return the mask of a run that evaluates accuracy on the dense run's weights and items, else None."""
    spec = run.spec
    if not isinstance(spec, EvalSpec) or spec.protocol is not None:
        return None
    return spec.mask if (spec.model, spec.examples) == (dense.spec.model, dense.spec.examples) else None


def members(pruned: Sequence[tuple[StoredRun, MaskSpec]], basis: MaskProvenance) -> dict[Cell, StoredRun]:
    found: dict[Cell, StoredRun] = {}
    for run, mask in pruned:
        if basis.covers(provenance_of(mask)):
            found.setdefault((mask.criterion, mask.sparsity), run)
    return dict(sorted(found.items(), key=lambda item: (item[0][1], item[0][0])))


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
