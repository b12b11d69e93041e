"""Wording of the page's own comparison: numbers with their intervals, shares of weights, provenance of the masks."""

from __future__ import annotations

from cap_viz.dashboard.compare.data import Comparison, Difference
from cap_viz.dashboard.components.panels import listed, percent, percent_interval
from cap_viz.dashboard.names import metric_title, task_name
from cap_viz.evaluation.eval_metrics import Level, Measure
from cap_viz.evaluation.verdict import difference_words
from cap_viz.figures.theme import display_order
from cap_viz.pruning import criterion_title
from cap_viz.runs.comparison import DENSE, Cell, counts_weights
from cap_viz.runs.fixed_question import AT_CHANCE
from cap_viz.runs.mask_provenance import MaskProvenance
from cap_viz.tasks.example_sets import ExampleSet

OPTION_WORDS = {"kv_combine": "KV groups combined by", "metric": "head scores by", "score_metric": "gradients of"}


def name_of(cell: Cell) -> str:
    return "dense" if cell == DENSE else criterion_title(cell[0])


def share_words(comparison: Comparison, cell: Cell) -> str:
    """State the sparsity of a cell; for a criterion that counts heads, the share of weights it stands for first."""
    if cell not in comparison.removed:
        return percent(cell[1], 0)
    return f"{percent(comparison.removed[cell])} of the weights ({percent(cell[1], 0)} of the heads)"


def against_words(comparison: Comparison, one: Difference) -> str:
    """State a difference with its interval, or that both accuracies may be guesses."""
    return AT_CHANCE if comparison.guesses(one) else difference_words(one.result, comparison.measure)


def unit_note(comparison: Comparison) -> str:
    """Say where the criteria stand that count heads, and that they are compared with dense only; else empty."""
    names = [name for name in display_order(comparison.choice.criteria) if not counts_weights(name)]
    if not names or not comparison.removed:
        return ""
    most = max(comparison.removed, key=lambda cell: cell[1])
    return (
        f"{listed([criterion_title(name) for name in names])} counts heads: {percent(most[1], 0)} of them are "
        f"{percent(comparison.removed[most])} of the weights, and there it stands. To judge it, compare with dense."
    )


def loss_level_note(comparison: Comparison) -> str:
    """Explain a dense choice loss above that of an even guess although the accuracy is above chance; else empty."""
    dense, measure = comparison.levels[DENSE].value, comparison.measure
    if measure.is_share or comparison.on_floor or dense <= comparison.guess:
        return ""
    return (
        f"The dense model’s {measure.title.lower()} of {dense:.3f} is above an even guess ({comparison.guess:.3f}) "
        f"although {percent(comparison.test.accuracy)} of its answers are right: where it is wrong, it is very sure. "
        "Compare differences, not levels."
    )


def level_words(level: Level, measure: Measure) -> str:
    return percent(level.value) if measure.is_share else f"{level.value:.3f}"


def level_range(level: Level, measure: Measure) -> str:
    if measure.is_share:
        return percent_interval(level.ci)
    return f"{level.ci.low:.3f} – {level.ci.high:.3f}"


def basis_words(basis: MaskProvenance) -> str:
    """Describe what masks are built on: `masks from 48 examples of Mini science`, and every unusual option."""
    examples, activations = basis.examples, basis.get("activations")
    if examples is None:
        said = ["masks without calibration"]
    else:
        draw = f", draw {examples.seed}" if examples.seed else ""
        said = [f"masks from {len(examples.ids)} examples of {task_name(examples.task)}{draw}"]
    if isinstance(activations, ExampleSet):
        said.append(f"activations of {task_name(activations.task)}")
    for name, value in basis.unusual.items():
        said.append(f"{OPTION_WORDS.get(name, name)} {metric_title(value).lower()}")
    return ", ".join(said)
