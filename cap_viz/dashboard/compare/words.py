"""Wording of the Compare page: verdicts from contrasts, numbers with their intervals, provenance of a group."""

from __future__ import annotations

from collections.abc import Sequence

from cap_viz.dashboard.compare.data import Comparison
from cap_viz.dashboard.components.panels import listed, p_words, percent, percent_interval
from cap_viz.evaluation.eval_metrics import Level, Measure
from cap_viz.figures.theme import display_order, signed
from cap_viz.pruning import criterion_title
from cap_viz.runs.comparison import CONTROLS, DENSE, SUBJECT, Cell, Contrast, counts_weights, same_unit
from cap_viz.runs.mask_provenance import MaskProvenance

OPTION_WORDS = {
    "scope": "scope",
    "metric": "head-score metric",
    "kv_combine": "KV groups combined by",
    "estimator": "estimator",
    "ablation": "ablation",
}

# Grades of evidence, the strongest first.
EVIDENCE = ("clear", "alone", "noise")
NO_SIGN, NO_SIGN_OF_IT = "no sign that the causal scores add anything", "no sign of it"


def verdicts(comparison: Comparison) -> list[str]:
    """Return one Markdown sentence per sparsity about CAP (else the first criterion that is not the reference)."""
    subject = subject_of(comparison)
    if subject is None:
        return []
    said = [verdict(comparison, subject, sparsity) for sparsity in comparison.sparsities]
    return [sentence for sentence in said if sentence]


def subject_of(comparison: Comparison) -> str | None:
    """Return the criterion that the verdicts judge: CAP, else the first one comparable to the reference."""
    reference = comparison.choice.reference
    shown = [
        name for name in display_order(comparison.choice.criteria) if name != reference and same_unit(name, reference)
    ]
    return SUBJECT if SUBJECT in shown else next(iter(shown), None)


def verdict(comparison: Comparison, subject: str, sparsity: float) -> str:
    cell, reference = (subject, sparsity), comparison.reference_cell(sparsity)
    if cell not in comparison.levels:
        return ""
    seconds = dict.fromkeys([reference, *((control, sparsity) for control in CONTROLS)])
    found = [contrast for second in seconds if (contrast := comparison.contrast(cell, second)) is not None]
    if not found:
        return f"**{share_words(comparison, cell)}** {name_of(cell)}: {name_of(reference)} is not measured here."
    guessed = [contrast for contrast in found if comparison.guesses(contrast, comparison.measure)]
    said = [clause(contrast, comparison.measure) for contrast in found if contrast not in guessed]
    if guessed:
        said.append(at_chance_words(guessed))
    meaning = causal_meaning(comparison.causal_evidence(sparsity)) if subject == SUBJECT else ""
    return f"**{share_words(comparison, cell)}** {name_of(cell)} {listed(said)}{meaning}."


def share_words(comparison: Comparison, cell: Cell) -> str:
    """State the sparsity of a cell; for a criterion that counts heads, the share of weights it stands for first."""
    if cell not in comparison.removed:
        return percent(cell[1], 0)
    return f"{percent(comparison.removed[cell])} of the weights ({percent(cell[1], 0)} of the heads)"


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


def at_chance_words(found: Sequence[Contrast]) -> str:
    """State contrasts of accuracies that may all be guesses, without a winner."""
    return f"is **not clearly above chance**, like {listed([name_of(contrast.second) for contrast in found])}"


def causal_meaning(evidence: Sequence[tuple[Measure, Contrast]]) -> str:
    """Say whether causal scores help, from CAP's contrasts with its controls; list all readings if they disagree."""
    readings: dict[str, list[tuple[Measure, Contrast]]] = {}
    for measure, contrast in sorted(evidence, key=lambda one: EVIDENCE.index(one[1].evidence)):
        readings.setdefault(causal_reading(contrast, measure), []).append((measure, contrast))
    if len(readings) < 2:
        return "".join(f": {said}, by {listed(places(items, evidence))}" for said, items in readings.items())
    parts = [
        f"by {listed(places(items, evidence))} {NO_SIGN_OF_IT if said == NO_SIGN else said}"
        for said, items in readings.items()
    ]
    return f": {'; '.join(parts)}"


def causal_reading(contrast: Contrast, measure: Measure) -> str:
    effect = "help" if is_better(contrast, measure) else "hurt"
    return {
        "clear": f"**the causal scores {effect}**",
        "alone": f"a hint at most that the causal scores {effect}",
        "noise": NO_SIGN,
    }[contrast.evidence]


def places(items: Sequence[tuple[Measure, Contrast]], evidence: Sequence[tuple[Measure, Contrast]]) -> list[str]:
    """Name the measures behind a reading, with the control if a measure does not read the same against all controls.

    The difference is added for the measure not shown on the page, since no other clause states it, unless it is noise.
    """
    said: list[str] = []
    for measure in dict.fromkeys(measure for measure, _ in items):
        title, found = measure.title.lower(), [contrast for one, contrast in items if one == measure]
        told = measure == evidence[0][0] or found[0].evidence == "noise"
        if len(found) == sum(one == measure for one, _ in evidence):
            said.append(title if told else f"{title} ({listed([gap(one, measure) for one in found])})")
        else:
            said += [
                f"{title} against {name_of(one.second)}" + ("" if told else f" ({gap(one, measure)})") for one in found
            ]
    # Entries with a control come first: after a whole measure, "against ..." would seem to apply to both measures.
    return sorted(said, key=lambda one: " against " not in one)


def gap(contrast: Contrast, measure: Measure) -> str:
    """Size and direction of a difference: `0.183 nats better`, `12.0 points below`."""
    return f"{amount(contrast.result.difference, measure)} {direction(contrast, measure).split()[0]}"


def clause(contrast: Contrast, measure: Measure) -> str:
    """State a contrast, as in `is **13.7 points below Wanda** (95 % interval 7.7 to 19.7)`; or call it noise."""
    result, other = contrast.result, name_of(contrast.second)
    if contrast.evidence == "noise":
        spread = f"{signed_steps(result.difference, measure)}, {signed_range(contrast, measure)}"
        return f"is **within noise of {other}** ({spread})"
    sign = 1 if result.difference > 0 else -1
    low, high = sorted((sign * result.ci.low, sign * result.ci.high))
    said = f"{amount(result.difference, measure)} {direction(contrast, measure)} {other}"
    limits = f"95 % interval {steps(low, measure)} to {steps(high, measure)}"
    if contrast.evidence == "clear":
        return f"is **{said}** ({limits})"
    return (
        f"is {said} ({limits}), **a hint only, not clear among so many comparisons** "
        f"(p = {p_words(result.p_value)}, adjusted {p_words(contrast.p_holm)})"
    )


def direction(contrast: Contrast, measure: Measure) -> str:
    if measure.is_share:
        return "above" if contrast.result.difference > 0 else "below"
    return "better than" if is_better(contrast, measure) else "worse than"


def is_better(contrast: Contrast, measure: Measure) -> bool:
    return (contrast.result.difference > 0) == measure.is_share


def evidence_words(contrast: Contrast, measure: Measure) -> str:
    """Short verdict for a row of the table."""
    better = "better" if is_better(contrast, measure) else "worse"
    return {"clear": f"clearly {better}", "alone": f"{better}, not after Holm", "noise": "within noise"}[
        contrast.evidence
    ]


def name_of(cell: Cell) -> str:
    return "dense" if cell == DENSE else criterion_title(cell[0])


def steps(value: float, measure: Measure) -> str:
    """Format a difference without its unit."""
    return f"{measure.scale * value:.{digits(measure)}f}".replace("-", "−")


def amount(value: float, measure: Measure) -> str:
    return f"{steps(abs(value), measure)} {measure.steps}"


def signed_steps(value: float, measure: Measure) -> str:
    return f"{signed(measure.scale * value, digits(measure))} {measure.steps}"


def signed_range(contrast: Contrast, measure: Measure) -> str:
    ci = contrast.result.ci
    return f"{signed(measure.scale * ci.low, digits(measure))} to {signed(measure.scale * ci.high, digits(measure))}"


def level_words(level: Level, measure: Measure) -> str:
    return percent(level.value) if measure.is_share else f"{level.value:.3f}"


def level_range(level: Level, measure: Measure) -> str:
    if measure.is_share:
        return percent_interval(level.ci)
    return f"{level.ci.low:.3f} – {level.ci.high:.3f}"


def digits(measure: Measure) -> int:
    return 1 if measure.is_share else 3


def basis_words(basis: MaskProvenance) -> str:
    """Describe a provenance: `calibration arc_easy, 48 examples, seed 0`, head scores, and every unusual option."""
    examples = basis.examples
    if examples is None:
        said = ["no calibration"]
    else:
        seed = "" if examples.seed is None else f", seed {examples.seed}"
        said = [f"calibration {examples.task}, {len(examples.ids)} examples{seed}"]
    metric = basis.get("metric")
    if metric is not None:
        said.append(f"head scores {basis.get('estimator')}, {basis.get('ablation')} ablation, {metric}")
    said += [
        f"{OPTION_WORDS.get(name, name)} {value}"
        for name, value in basis.unusual.items()
        if name not in ("metric", "estimator", "ablation")
    ]
    return " · ".join(said)
