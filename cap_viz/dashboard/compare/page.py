"""The Compare page: the answer to the fixed question, then any criteria, sizes and measures with their intervals."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from cap_viz.dashboard.compare.controls import controls
from cap_viz.dashboard.compare.data import Comparison, ComparisonChoice, Stored, compared, name_of, stored_comparison
from cap_viz.dashboard.compare.table import draw_table, table_csv
from cap_viz.dashboard.compare.text_loss import measure_text, perplexity_section, solutions_section
from cap_viz.dashboard.components.chart import chart
from cap_viz.dashboard.components.panels import caution, empty, escaped, listed, note, percent, problem, provenance_of
from cap_viz.dashboard.components.share import Download, share
from cap_viz.dashboard.components.verdict import best_line, verdict_of, verdict_strip
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.names import basis_words, model_name
from cap_viz.dashboard.selection import go_button
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.figures.compare import CurvePoint, Curves, curves, figure_html
from cap_viz.figures.reported import MODEL, NOTE, SOURCE, ReportedPoint, reported_accuracy, reported_table
from cap_viz.figures.theme import display_order
from cap_viz.pruning import criterion_title
from cap_viz.runs.comparison import CONTROL, CONTROLS, DENSE, SUBJECT, Cell, counts_weights
from cap_viz.runs.fixed_question import OUTSIDE
from cap_viz.settings import MAIN_CRITERIA, SPARSITIES
from cap_viz.tasks import Task

TABLE_HELP = (
    "Every criterion against the reference on the same questions, and CAP against its controls. Each interval stands "
    f"alone, {OUTSIDE}. One that holds 0 does not prove equality: see the smallest detectable difference."
)


def body(view: Frame) -> None:
    """Draw everything below the heading."""
    if view.task.kind == "text":
        no_options(view)
        return
    menu = answer_section(view)
    stored = stored_comparison(view.store, view.runs, view.model, view.task, view.n)
    for sentence in stored.damage:
        problem(sentence)
    if stored.dense is None:
        nothing_to_compare(view)
    else:
        own_section(view, stored, menu)
        causal_section(view)
        perplexity_section(view)
    paper_section(view.task)


# The fixed question -----------------------------------------------------------------------------------------------


def answer_section(view: Frame) -> DeltaGenerator:
    """Draw the answer to the fixed question; return the place of the page's menu."""
    title, menu = st.columns([8, 1.3], vertical_alignment="center")
    verdict = verdict_of(view)
    title.markdown("#### Is CAP better than Wanda?", help=GLOSSARY["verdict"])
    if verdict is None:
        st.caption(
            f"Not measured for {escaped(model_name(view.model.id))} on {escaped(view.task.title)}: the question needs "
            "the dense model, CAP and Wanda on the same questions, at 10, 20 or 50 %, with masks from 48 examples."
        )
        return menu
    verdict_strip(verdict)
    with st.container(horizontal=True, vertical_alignment="center"):
        best_line(verdict)
        measure_text(view, verdict.text)
    return menu


def causal_section(view: Frame) -> None:
    """Draw CAP against its controls, by the rule and the family of the fixed question."""
    with st.expander("What the causal scores add"):
        found = [verdict for control in CONTROLS if (verdict := verdict_of(view, control)) is not None]
        st.caption(
            f"{criterion_title(CONTROL)} is CAP with every head equally important. Shuffled CAP is CAP with the "
            "importances dealt out at random, in one draw. The lead of CAP over both is what the causal scores add."
            if found
            else "CAP and its controls are not measured on the same questions."
        )
        for verdict in found:
            st.markdown(f"**CAP against {verdict.rival}**")
            verdict_strip(verdict)


# Own comparisons --------------------------------------------------------------------------------------------------


def own_section(view: Frame, stored: Stored, menu: DeltaGenerator) -> None:
    """Draw any criteria, measure and size: intervals of single comparisons, outside the fixed question."""
    assert stored.dense is not None
    with st.container(horizontal=True, vertical_alignment="center"):
        help_text = f"Any criteria, measure and size: {OUTSIDE}. Each interval stands alone, and no p is adjusted."
        st.markdown(f"#### Your comparison :gray-badge[{OUTSIDE}]", help=help_text, width="content")
        facts = st.container(width="stretch")
    choice = controls(view.selection, view.task, stored)
    comparison = compared(view.store, view.task, stored.dense, choice)
    with facts:
        built = [] if choice.group is None else [basis_words(choice.group.basis)]
        provenance_of(list(comparison.runs.values()), view.runs, [f"{comparison.n:,} questions", *built])
    with menu:
        share("compare", downloads(comparison), said=["The figure opens in any browser and needs no network."])
    for sentence in comparison.damage:
        problem(sentence)
    banners(view, comparison)
    draw_curves(comparison)
    if said := unit_note(comparison):
        st.caption(said)
    if choice.group is None:
        empty(f"Only the dense model is measured on these {comparison.n} questions", "Measure criteria on Prune.")
    elif not choice.criteria:
        empty("No criterion chosen", "Choose at least one criterion above to compare it.")
    else:
        st.markdown("##### Paired differences", help=TABLE_HELP)
        draw_table(comparison)
    next_steps(view, choice.criteria or MAIN_CRITERIA, comparison.n, prune_params(choice))


def downloads(comparison: Comparison) -> list[Download]:
    name = f"compare-{comparison.task.name}-{comparison.measure.name}"
    model, sample = comparison.runs[DENSE].spec.model.id, f"{comparison.task.name}, {comparison.n} items"
    title = f"{comparison.measure.title} of {model} on {sample}, 95 % intervals"
    return [
        Download("Table (CSV)", lambda: table_csv(comparison), f"{name}.csv", "text/csv"),
        Download(
            "Figure (HTML)", lambda: figure_html(curves(curves_of(comparison)), title), f"{name}.html", "text/html"
        ),
    ]


def draw_curves(comparison: Comparison) -> None:
    shown, measure = curves_of(comparison), comparison.measure
    chart(partial(curves, shown), key="compare_curves", alt=shown.in_words())
    paper = f" ◇ paper, second-hand: {MODEL}, not this model." if shown.paper else ""
    st.caption(f"Whiskers and band: 95 % intervals.{'' if measure.is_share else ' Lower is better.'}{paper}")


def curves_of(comparison: Comparison) -> Curves:
    measure, dense = comparison.measure, comparison.levels[DENSE]
    scale = measure.scale
    return Curves(
        measure=measure.title,
        unit=measure.unit,
        dense=(scale * dense.value, scale * dense.ci.low, scale * dense.ci.high),
        guess=("chance" if measure.is_share else "even guess", scale * comparison.guess),
        points=[curve_point(comparison, cell) for cell in comparison.cells],
        paper=[paper_point(one) for one in reported_accuracy(comparison.task.name)] if comparison.choice.paper else [],
        greyed=comparison.on_floor and measure.is_share,
    )


def curve_point(comparison: Comparison, cell: Cell) -> CurvePoint:
    level, measure = comparison.levels[cell], comparison.measure
    lines = [
        f"<b>{name_of(cell)} at {comparison.share_words(cell)}</b>",
        f"{measure.title.lower()} {measure.words(level.value)} ({measure.interval_words(level.ci)})",
        *(f"{comparison.against_words(one)} to {name_of(one.second)}" for one in comparison.of(cell)),
    ]
    value, low, high = (measure.scale * one for one in (level.value, level.ci.low, level.ci.high))
    between = cell in comparison.removed
    return CurvePoint(cell[0], name_of(cell), comparison.share(cell), value, low, high, "<br>".join(lines), between)


def paper_point(one: ReportedPoint) -> CurvePoint:
    title, value = criterion_title(one.criterion), 100 * one.value
    hover = f"<b>{title} at {percent(one.sparsity, 0)}</b><br>{value:.1f} % in the paper, second-hand ({MODEL})"
    return CurvePoint(one.criterion, title, one.sparsity, value, value, value, hover)


def unit_note(comparison: Comparison) -> str:
    """Say where the criteria stand that count heads, and that they are compared with dense only; else empty."""
    names = [name for name in display_order(comparison.choice.criteria) if not counts_weights(name)]
    if not names or not comparison.removed:
        return ""
    most = max(comparison.removed, key=lambda cell: cell[1])
    return (
        f"{listed([criterion_title(name) for name in names])} counts heads: {percent(most[1], 0)} of them are "
        f"{percent(comparison.removed[most])} of the weights, where its point is drawn. Compare it with dense only."
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


def no_options(view: Frame) -> None:
    task = view.task
    empty(
        f"{task.title} has no accuracy to compare",
        "It is scored by the loss on a given text, and offers no options to choose from. Choose a task with options in "
        "the sidebar, or see which heads this one needs.",
    )
    go_button("Its heads", "heads", key="compare_heads")
    solutions_section(view)
    paper_section(task)


def nothing_to_compare(view: Frame) -> None:
    """Say that no dense accuracy is stored, and offer the Prune page and the command that measures it."""
    empty(
        f"No dense accuracy of {model_name(view.model.id)} on {view.task.title} is stored yet",
        "Measure the dense model, CAP and Wanda at one sparsity on Prune, or everything at once from the shell.",
    )
    next_steps(view, MAIN_CRITERIA, view.n, {})


def banners(view: Frame, comparison: Comparison) -> None:
    test = comparison.test
    if comparison.on_floor:
        caution(
            f"The dense model is right on {percent(test.accuracy)} of {test.n} questions, not clearly above guessing "
            f"({percent(test.chance)}, p = {test.p_value:.2g}): what pruning does to accuracy says little here. "
            "Choose another task, or compare by choice loss."
        )
    if sentence := loss_level_note(comparison):
        st.caption(sentence)
    if comparison.n != view.n:
        # The sidebar names the sizes that are stored.
        note(f"No dense accuracy on {view.n} questions can be read; this page shows {comparison.n} instead.")


def paper_section(task: Task) -> None:
    with st.expander("The paper’s numbers (second-hand)"):
        st.caption(f"{SOURCE}, {MODEL}, {NOTE}")
        st.table(reported_table(), border="horizontal", hide_index=True)
        if not reported_accuracy(task.name):
            st.caption(f"The paper reports nothing on {escaped(task.title)}.")


def next_steps(view: Frame, criteria: Sequence[str], n: int, params: dict[str, str]) -> None:
    """Offer one sparsity on Prune, with `params` for its link, and the command that measures these criteria."""
    label = "Look at one sparsity on Prune: where the zeros are and which answers change"
    go_button(label, "prune", key="compare_prune", params=params)
    with st.expander("Measure more from the shell"):
        st.caption("What is stored is not computed again; --sparsities takes others.")
        asked = f"--criteria {','.join(criteria)} --sparsities {','.join(map(str, SPARSITIES))} --n {n}"
        about = shlex.join(["--task", view.task.name, "--model", view.model.id])
        st.code(f"python -m cap_viz compare {about} {asked}", language="sh", wrap_lines=True)


def prune_params(choice: ComparisonChoice) -> dict[str, str]:
    """Keys of a link to Prune: the highest sparsity, CAP (else the first criterion) and the reference."""
    if choice.group is None:
        return {}
    first = SUBJECT if SUBJECT in choice.group.criteria else choice.group.criteria[0]
    params = {"criterion": first, "sparsity": f"{round(100 * max(choice.group.sparsities))}"}
    return params if choice.reference == DENSE[0] else {**params, "against": choice.reference}
