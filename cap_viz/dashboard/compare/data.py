"""Data of the page's own comparison, from stored runs alone: levels, paired differences and unreadable runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cap_viz.dashboard.components.panels import percent
from cap_viz.dashboard.stored import level_in, paired_in, read_zeros, report_of
from cap_viz.evaluation.eval_metrics import Level, Measure, against_guessing, guessing
from cap_viz.evaluation.verdict import difference_words
from cap_viz.figures.theme import display_order
from cap_viz.models.catalogue import ModelRef
from cap_viz.pruning import criterion_title
from cap_viz.runs.comparison import CONTROLS, DENSE, SUBJECT, Cell, control_pairs, counts_weights, reference_pairs
from cap_viz.runs.fixed_question import AT_CHANCE
from cap_viz.runs.mask_provenance import ProvenanceGroup, groups_of
from cap_viz.runs.run_queries import dense_run
from cap_viz.runs.store import DamagedRun, Store, StoredRun
from cap_viz.stats import ChanceTest, PairedComparison
from cap_viz.tasks import Task


@dataclass(frozen=True)
class Stored:
    """Stored runs of a model and task: the dense run and the groups of pruned runs on exactly its items.

    `damage` says which dense runs could not be read.
    """

    dense: StoredRun | None
    groups: tuple[ProvenanceGroup, ...]
    damage: tuple[str, ...]


def stored_comparison(store: Store, runs: Sequence[StoredRun], model: ModelRef, task: Task, n: int) -> Stored:
    """Return the dense run chosen for `n` items (see `dense_run`) and the groups of runs comparable to it."""
    readable, damage = list(runs), ()
    while (found := dense_run(readable, model, task.name, n)) is not None:
        try:
            report_of(store, found)
        except DamagedRun as error:
            damage += (f"Dense: {error}",)
            readable.remove(found)
        else:
            return Stored(found, groups_of(runs, found), damage)
    return Stored(None, (), damage)


@dataclass(frozen=True)
class ComparisonChoice:
    """Values of the controls. `group` is None when no pruned run is stored on the dense run's items."""

    measure: Measure
    criteria: tuple[str, ...]
    reference: str
    group: ProvenanceGroup | None
    paper: bool


@dataclass(frozen=True)
class Difference:
    """Paired difference `first` minus `second`: one comparison by itself, outside the fixed question."""

    first: Cell
    second: Cell
    result: PairedComparison


@dataclass(frozen=True)
class Comparison:
    """Levels of the cells compared, and the paired differences of the table.

    `removed` holds the share of weights that are zero in the cells of criteria that count heads; `at_chance` holds the
    cells with an accuracy not clearly above guessing; `damage` says which pruned runs could not be read.
    """

    task: Task
    choice: ComparisonChoice
    runs: dict[Cell, StoredRun]
    levels: dict[Cell, Level]
    removed: dict[Cell, float]
    at_chance: frozenset[Cell]
    differences: tuple[Difference, ...]
    test: ChanceTest
    guess: float
    damage: tuple[str, ...]

    @property
    def measure(self) -> Measure:
        return self.choice.measure

    @property
    def n(self) -> int:
        return len(self.runs[DENSE].spec.examples.ids)

    @property
    def cells(self) -> list[Cell]:
        """The pruned cells shown, sorted by share of weights, then by the fixed order of criteria."""
        order = display_order(self.choice.criteria)
        shown = [cell for cell in self.levels if cell[0] in order]
        return sorted(shown, key=lambda cell: (self.share(cell), order.index(cell[0])))

    def share(self, cell: Cell) -> float:
        """Return the share of weights removed: the sparsity asked, or what a criterion that counts heads reaches."""
        return self.removed.get(cell, cell[1])

    def share_words(self, cell: Cell) -> str:
        """State the sparsity of a cell; for a criterion that counts heads, the share of weights it stands for first."""
        if cell not in self.removed:
            return percent(cell[1], 0)
        return f"{percent(self.removed[cell])} of the weights ({percent(cell[1], 0)} of the heads)"

    def of(self, cell: Cell) -> list[Difference]:
        return [one for one in self.differences if one.first == cell]

    def guesses(self, one: Difference) -> bool:
        """Whether neither accuracy compared is clearly above guessing, so that neither may be called better."""
        return self.measure.is_share and {one.first, one.second} <= self.at_chance

    @property
    def on_floor(self) -> bool:
        """Whether the dense model is not clearly better than guessing, so that accuracies say little."""
        return DENSE in self.at_chance

    def against_words(self, one: Difference) -> str:
        """State a difference with its interval, or that both accuracies may be guesses."""
        return AT_CHANCE if self.guesses(one) else difference_words(one.result, self.measure)


def name_of(cell: Cell) -> str:
    return "dense" if cell == DENSE else criterion_title(cell[0])


def compared(store: Store, task: Task, dense: StoredRun, choice: ComparisonChoice) -> Comparison:
    """Compare the chosen cells. Raises `DamagedRun` only for the dense run; damaged pruned runs go to `damage`."""
    measure, report = choice.measure, report_of(store, dense)
    needed = {*choice.criteria, choice.reference, *(CONTROLS if SUBJECT in choice.criteria else ())}
    runs, levels, removed, damage = {DENSE: dense}, {DENSE: level_in(store, dense, measure)}, {}, []
    for cell, run in ({} if choice.group is None else choice.group.runs).items():
        if cell[0] not in needed:
            continue
        try:
            if not counts_weights(cell[0]):
                removed[cell] = float(read_zeros(store, run).reached[0])
            levels[cell] = level_in(store, run, measure)
            runs[cell] = run
        except DamagedRun as error:
            damage.append(f"{name_of(cell)} at {percent(cell[1], 0)}: {error}")
    tests = {cell: against_guessing(task, report_of(store, run)) for cell, run in runs.items()}
    return Comparison(
        task=task,
        choice=choice,
        runs=runs,
        levels=levels,
        removed=removed,
        at_chance=frozenset(cell for cell, test in tests.items() if not test.clearly_above),
        differences=tuple(
            Difference(first, second, paired_in(store, runs[first], runs[second], measure))
            for first, second in table_pairs(choice, levels)
        ),
        test=tests[DENSE],
        guess=guessing(task, report, measure),
        damage=tuple(damage),
    )


def table_pairs(choice: ComparisonChoice, levels: dict[Cell, Level]) -> list[tuple[Cell, Cell]]:
    """Pair every shown criterion with the reference, and CAP with its controls; sorted by sparsity and criterion."""
    order = display_order({name for name, _ in levels})
    pairs = [pair for pair in reference_pairs(levels, choice.reference) if pair[0][0] in choice.criteria]
    if SUBJECT in choice.criteria:
        pairs += control_pairs(levels, choice.reference)
    return sorted(pairs, key=lambda pair: (pair[0][1], order.index(pair[0][0])))
