"""What the Compare page says, from stored runs alone: levels, paired contrasts and the runs that cannot be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cap_viz.dashboard.stored import level_in, paired_in, paired_p_in, report_of
from cap_viz.evaluation.eval_metrics import Level, Measure, against_guessing, companion, guessing
from cap_viz.figures.theme import display_order
from cap_viz.models.catalogue import ModelRef
from cap_viz.runs.comparison import CONTROLS, DENSE, SUBJECT, Cell, Contrast, contrasts, control_pairs, reference_pairs
from cap_viz.runs.mask_provenance import ProvenanceGroup, groups_of
from cap_viz.runs.run_queries import dense_run, eval_runs
from cap_viz.runs.store import DamagedRun, Store, StoredRun
from cap_viz.stats import ChanceTest, holm
from cap_viz.tasks import Task


@dataclass(frozen=True)
class Damage:
    """A run that turned out unreadable, in the place where it was asked for."""

    cell: Cell
    sentence: str


@dataclass(frozen=True)
class Stored:
    """What is stored for a model and task: the dense run and the groups of pruned runs on its very items.

    `pruned_only` counts pruned evaluations that no dense run of the same items goes with.
    """

    dense: StoredRun | None
    groups: tuple[ProvenanceGroup, ...]
    damage: tuple[Damage, ...]
    pruned_only: int


def stored_comparison(store: Store, runs: Sequence[StoredRun], model: ModelRef, task: Task, n: int) -> Stored:
    """The dense run of `n` items, else of the largest number, with everything comparable to it."""
    found = dense_run(runs, model, task.name, n)
    pruned = len(eval_runs(runs, model, task.name)) - (found is not None)
    if found is None:
        return Stored(None, (), (), pruned)
    try:
        report_of(store, found)
    except DamagedRun as error:
        return Stored(None, (), (Damage(DENSE, str(error)),), pruned)
    return Stored(found, groups_of(runs, found), (), pruned)


@dataclass(frozen=True)
class ComparisonChoice:
    """What the controls say. `group` is None when nothing pruned is stored."""

    measure: Measure
    criteria: tuple[str, ...]
    reference: str
    group: ProvenanceGroup | None
    paper: bool


@dataclass(frozen=True)
class Comparison:
    """Levels of the dense model and of every cell shown, and the contrasts of the table, which are one family.

    `companions` are those of CAP with its controls by the companion of the measure, adjusted over the same pairs.
    """

    task: Task
    choice: ComparisonChoice
    dense: StoredRun
    runs: dict[Cell, StoredRun]
    levels: dict[Cell, Level]
    contrasts: tuple[Contrast, ...]
    companions: tuple[Contrast, ...]
    test: ChanceTest
    guess: float
    damage: tuple[Damage, ...]

    @property
    def measure(self) -> Measure:
        return self.choice.measure

    @property
    def n(self) -> int:
        return len(self.dense.spec.examples.ids)

    @property
    def cells(self) -> list[Cell]:
        """The pruned cells shown, by sparsity, criteria in their fixed order."""
        order = display_order(self.choice.criteria)
        shown = [cell for cell in self.levels if cell[0] in order]
        return sorted(shown, key=lambda cell: (cell[1], order.index(cell[0])))

    @property
    def sparsities(self) -> list[float]:
        return sorted({sparsity for _, sparsity in self.cells})

    def contrast(self, first: Cell, second: Cell) -> Contrast | None:
        return next((one for one in self.contrasts if (one.first, one.second) == (first, second)), None)

    def causal_evidence(self, sparsity: float) -> list[tuple[Measure, Contrast]]:
        """CAP with its controls by both measures, the one shown first: whether causal scores add anything."""
        by_measure = ((self.measure, self.contrasts), (companion(self.measure), self.companions))
        return [(measure, one) for measure, found in by_measure for one in found if one.is_causal(sparsity)]

    def reference_cell(self, sparsity: float) -> Cell:
        return DENSE if self.choice.reference == DENSE[0] else (self.choice.reference, sparsity)

    @property
    def on_floor(self) -> bool:
        """Whether the dense model does no better than guessing, so that accuracies say little."""
        return not self.test.clearly_above


def compared(store: Store, task: Task, dense: StoredRun, choice: ComparisonChoice) -> Comparison:
    """Raises `DamagedRun` only for the dense run; damaged pruned runs are listed and left out."""
    measure = choice.measure
    wanted = {} if choice.group is None else choice.group.runs
    needed = {*choice.criteria, choice.reference, *(CONTROLS if SUBJECT in choice.criteria else ())}
    runs, levels, damage = {DENSE: dense}, {DENSE: level_in(store, dense, measure)}, []
    for cell, run in wanted.items():
        if cell[0] not in needed:
            continue
        try:
            levels[cell] = level_in(store, run, measure)
            runs[cell] = run
        except DamagedRun as error:
            damage.append(Damage(cell, str(error)))
    report, pairs = report_of(store, dense), table_pairs(choice, levels)
    return Comparison(
        task=task,
        choice=choice,
        dense=dense,
        runs=runs,
        levels=levels,
        contrasts=contrasts(pairs, lambda first, second: paired_in(store, runs[first], runs[second], measure)),
        companions=companions(store, runs, pairs, companion(measure)),
        test=against_guessing(task, report),
        guess=guessing(task, report, measure),
        damage=tuple(damage),
    )


def companions(
    store: Store, runs: Mapping[Cell, StoredRun], pairs: Sequence[tuple[Cell, Cell]], measure: Measure
) -> tuple[Contrast, ...]:
    """CAP with its controls by another measure, as the table by that measure would have them."""
    p_values = [paired_p_in(store, runs[first], runs[second], measure) for first, second in pairs]
    adjusted = holm(np.array(p_values, dtype=np.float64))
    return tuple(
        Contrast(first, second, paired_in(store, runs[first], runs[second], measure), float(p))
        for (first, second), p in zip(pairs, adjusted, strict=True)
        if first[0] == SUBJECT and second[0] in CONTROLS
    )


def table_pairs(choice: ComparisonChoice, levels: dict[Cell, Level]) -> list[tuple[Cell, Cell]]:
    """Every shown criterion with the reference, and CAP with its controls: by sparsity, in the fixed order."""
    order = display_order({name for name, _ in levels})
    pairs = [pair for pair in reference_pairs(levels, choice.reference) if pair[0][0] in choice.criteria]
    if SUBJECT in choice.criteria:
        pairs += control_pairs(levels, choice.reference)
    return sorted(pairs, key=lambda pair: (pair[0][1], order.index(pair[0][0])))
