"""The Compare page: figure and verdicts on the first screen, then paired table, perplexity, paper and next steps."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from cap_viz.dashboard.compare.command import next_command
from cap_viz.dashboard.compare.controls import KEYS, controls
from cap_viz.dashboard.compare.data import Comparison, ComparisonChoice, Damage, Stored, compared, stored_comparison
from cap_viz.dashboard.compare.figure import CurvePoint, Curves, curves, guess_word, number
from cap_viz.dashboard.compare.reported import ACCURACY, MODEL, PERPLEXITY, SOURCE, reported_accuracy
from cap_viz.dashboard.compare.table import figure_html, shown_table, table_csv, table_json
from cap_viz.dashboard.compare.text_loss import perplexity_section, solutions_section
from cap_viz.dashboard.compare.words import (
    at_chance_words,
    basis_words,
    clause,
    digits,
    level_range,
    level_words,
    loss_level_note,
    name_of,
    share_words,
    subject_of,
    unit_note,
    verdicts,
)
from cap_viz.dashboard.components.panels import age, caution, empty, escaped, note, percent, problem, provenance
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.state import go_button, link_here
from cap_viz.figures.theme import CONFIG
from cap_viz.pruning import criterion_title
from cap_viz.runs.comparison import CONTROL, DENSE, PLACEBO, SUBJECT, Cell
from cap_viz.runs.run_queries import dense_sizes
from cap_viz.tasks import Task

FIGURE_WIDTH, WORDS_WIDTH = 556, 330
# Rows shown without scrolling inside the table.
MOST_ROWS, TALLEST_TABLE = 15, 520


def body(view: Frame) -> None:
    """Draw everything below the heading."""
    if view.task.kind == "text":
        no_options(view)
        return
    stored = stored_comparison(view.store, view.runs, view.model, view.task, view.n)
    facts = st.container()
    damage_notes(stored.damage)
    if stored.dense is None:
        nothing_to_compare(view, stored)
        return
    choice = controls(view.task, stored)
    comparison = compared(view.store, view.task, stored.dense, choice)
    with facts:
        provenance_row(comparison)
    damage_notes(comparison.damage)
    banners(view, comparison)
    # A row that wraps, because a narrow window with a sidebar has no room for two columns.
    with st.container(horizontal=True, gap="medium"):
        with st.container(width=FIGURE_WIDTH):
            draw_curves(comparison)
        with st.container(width=WORDS_WIDTH):
            verdict_section(view, comparison)
    table_section(comparison)
    perplexity_section(view)
    paper_section(view.task)
    next_section(view, stored, choice)


# States -----------------------------------------------------------------------------------------------------------


def no_options(view: Frame) -> None:
    task = view.task
    empty(
        f"{task.title} has no accuracy to compare",
        f"{task.name} is scored by the loss on a given text, and offers no options to choose from. "
        "Choose a task with options in the sidebar, or see which heads this one needs.",
    )
    go_button("Its heads", "pages/heads.py", key="compare_heads", icon=":material/grid_on:")
    solutions_section(view)
    paper_section(task)


def nothing_to_compare(view: Frame, stored: Stored) -> None:
    """Say that no dense accuracy is stored, and offer the Prune page and the command that measures it."""
    there = (
        f"{stored.n_pruned} pruned evaluations are stored, but no dense one on the same questions. "
        if stored.n_pruned
        else ""
    )
    empty(
        f"No accuracy of {view.model.id} on {view.task.title} is stored yet",
        f"{there}Measure the dense model, CAP and Wanda at one sparsity on the Prune page, or everything at once "
        "from the shell.",
    )
    next_buttons(view, None)
    show_command(view, stored, None, "wanda")
    paper_section(view.task)


def damage_notes(damage: tuple[Damage, ...]) -> None:
    """Report the runs that cannot be read."""
    for one in damage:
        where = "" if one.cell == DENSE else f" at {percent(one.cell[1], 0)}"
        problem(f"{name_of(one.cell)}{where}: {one.sentence}".replace("dense:", "Dense:"))


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
        note(f"No dense accuracy on {view.n} items can be read; this page shows {comparison.n} items instead.")
    others = sorted(dense_sizes(view.runs, view.model, view.task.name) - {comparison.n})
    if others:
        st.caption(f"Also stored: {' and '.join(f'{n:,}' for n in others)} items (evaluation size in the sidebar).")


# Provenance and files ---------------------------------------------------------------------------------------------


def provenance_row(comparison: Comparison) -> None:
    facts, share = st.columns([8, 1.3], vertical_alignment="center")
    with facts:
        provenance(facts_of(comparison), origin=origin_of(comparison))
    with share, st.popover("Share", icon=":material/ios_share:", width="stretch"), st.container(width=360):
        st.caption("Link to this view")
        st.code(link_here(KEYS), language=None, wrap_lines=True)
        downloads(comparison)


def facts_of(comparison: Comparison) -> list[str]:
    group = comparison.choice.group
    built = [] if group is None else [basis_words(group.basis)]
    newest = max(run.created for run in comparison.runs.values())
    return [
        comparison.dense.spec.model.id,
        comparison.task.name,
        f"{comparison.n} evaluation items",
        *built,
        f"newest {age(newest)}",
    ]


def origin_of(comparison: Comparison) -> str:
    return " and ".join(sorted({run.origin for run in comparison.runs.values()}, reverse=True))


def downloads(comparison: Comparison) -> None:
    name = f"compare-{comparison.task.name}-{comparison.measure.name}"
    files = (
        ("Table (CSV)", lambda: table_csv(comparison), f"{name}.csv", "text/csv"),
        ("Table with specs (JSON)", lambda: table_json(comparison), f"{name}.json", "application/json"),
        ("Figure (HTML)", lambda: figure_page(comparison), f"{name}.html", "text/html"),
    )
    for label, content, file, mime in files:
        st.download_button(
            label,
            content,
            file,
            mime,
            on_click="ignore",
            key=f"compare_{file.rsplit('.', 1)[1]}",
            width="stretch",
        )
    st.caption("The figure opens in any browser and needs no network.")


def figure_page(comparison: Comparison) -> bytes:
    title = (
        f"{comparison.measure.title} of {comparison.dense.spec.model.id} on {comparison.task.name}, "
        f"{comparison.n} items, 95 % intervals"
    )
    return figure_html(curves(curves_of(comparison)), title)


# Figure -----------------------------------------------------------------------------------------------------------


def draw_curves(comparison: Comparison) -> None:
    shown = curves_of(comparison)
    st.plotly_chart(curves(shown), config=CONFIG, key="compare_curves", alt=in_words(comparison))
    st.caption(reading(comparison, bool(shown.paper)))


def curves_of(comparison: Comparison) -> Curves:
    return Curves(
        measure=comparison.measure,
        dense=comparison.levels[DENSE],
        guess=comparison.guess,
        points=[curve_point(comparison, cell) for cell in comparison.cells],
        paper=reported_accuracy(comparison.task.name) if comparison.choice.paper else (),
        greyed=comparison.on_floor and comparison.measure.is_share,
    )


def curve_point(comparison: Comparison, cell: Cell) -> CurvePoint:
    level, measure = comparison.levels[cell], comparison.measure
    lines = [
        f"<b>{name_of(cell)} at {share_words(comparison, cell)}</b>",
        f"{measure.title.lower()} {level_words(level, measure)} ({level_range(level, measure)})",
    ]
    for contrast in comparison.contrasts:
        if contrast.first == cell:
            said = at_chance_words([contrast]) if comparison.guesses(contrast, measure) else clause(contrast, measure)
            lines.append(said.replace("**", ""))
    between = cell in comparison.removed
    return CurvePoint(cell[0], comparison.share(cell), level, "<br>".join(lines), between)


def reading(comparison: Comparison, with_paper: bool) -> str:
    measure = comparison.measure
    intervals = "Wilson" if measure.is_share else "bootstrap"
    better = "" if measure.is_share else " Lower is better."
    paper = f" ◇ paper, second-hand: {MODEL}, not this model." if with_paper else ""
    return (
        f"Whiskers and the band around dense: 95 % intervals ({intervals}). Marks stand side by side at each "
        f"sparsity; lines start from the dense model.{better}{paper}"
    )


def in_words(comparison: Comparison) -> str:
    """Describe the figure in words, as its alternative text."""
    measure, dense = comparison.measure, comparison.levels[DENSE]
    said = [
        f"{measure.title} against sparsity. Dense {level_words(dense, measure)} ({level_range(dense, measure)}), "
        f"{guess_word(measure)} {number(comparison.guess, measure)}"
    ]
    for cell in comparison.cells:
        level = comparison.levels[cell]
        said.append(
            f"{name_of(cell)} at {share_words(comparison, cell)}: {level_words(level, measure)} "
            f"({level_range(level, measure)})"
        )
    return "; ".join(said)


# Verdicts and table -----------------------------------------------------------------------------------------------


def verdict_section(view: Frame, comparison: Comparison) -> None:
    choice = comparison.choice
    if choice.group is None:
        empty(
            f"Only the dense model is measured on these {comparison.n} items",
            "Measure CAP and Wanda at one sparsity on the Prune page, or run the command below.",
        )
        next_buttons(view, None)
        return
    if not choice.criteria:
        empty("No criterion chosen", "Choose at least one criterion above to compare it.")
        return
    subject = subject_of(comparison)
    said = verdicts(comparison)
    note_on_unit = unit_note(comparison)
    if subject is None or not said:
        empty("Nothing to compare yet", note_on_unit or "Choose a criterion other than the reference.")
        return
    st.markdown(f"##### {criterion_title(subject)} at each sparsity", help=verdict_help(comparison))
    for sentence in said:
        st.markdown(sentence)
    if note_on_unit:
        st.caption(note_on_unit)


def verdict_help(comparison: Comparison) -> str:
    return (
        "Paired on the same questions. Clear: the interval excludes 0, and p < 0.05 after Holm’s adjustment over all "
        f"{len(comparison.contrasts)} comparisons of the table below; a hint does not meet both. "
        f"{criterion_title(CONTROL)} is {SUBJECT.upper()} with every head equally important, "
        f"{criterion_title(PLACEBO)} one draw of it with the importance dealt out at random: what it is better by than "
        "these is what the causal scores add. It is judged by accuracy and by "
        "choice loss, whichever is shown, with the same adjustment."
    )


def table_section(comparison: Comparison) -> None:
    if not comparison.cells:
        return
    measure = comparison.measure
    st.markdown("##### Paired differences", help=table_help(comparison))
    table = shown_table(comparison)
    values = f"%.{digits(measure)}f" + (" %%" if measure.is_share else "")
    differences = f"%+.{digits(measure)}f"
    number_column, text_column = st.column_config.NumberColumn, st.column_config.TextColumn
    st.dataframe(
        table,
        hide_index=True,
        height="content" if len(table) <= MOST_ROWS else TALLEST_TABLE,
        placeholder="–",
        key="compare_table",
        column_config={
            "Sparsity": number_column(format="%g %%", width=68, pinned=True),
            "Criterion": text_column(width=128, pinned=True),
            measure.title: number_column(format=values, width=86),
            "95 % interval": text_column(width=108),
            "Against": text_column(width=128),
            "Verdict": text_column(width=142),
            "Difference": number_column(
                format=differences, width=84, help=f"First minus second on the same questions, in {measure.steps}"
            ),
            "Its 95 % interval": text_column(width=116, help="Paired bootstrap"),
            "p": number_column(format="%.2g", width=70, help=test_words(comparison)),
            "Holm p": number_column(
                format="%.2g", width=70, help=f"Adjusted over the {len(comparison.contrasts)} comparisons of this table"
            ),
            "Gained": number_column(width=66, help="Questions only the criterion answers correctly"),
            "Lost": number_column(width=66, help="Questions only the one it is compared with answers correctly"),
            "Detectable": number_column(
                format=f"%.{digits(measure)}f",
                width=88,
                help=f"Smallest true difference, in {measure.steps}, that would be found with 80 % power at p < 0.05",
            ),
        },
        alt="Paired differences, one row per criterion, sparsity and comparison",
    )
    st.caption(
        f"Differences in {measure.steps}. Holm p: adjusted over the {len(comparison.contrasts)} comparisons of this "
        f"table (family-wise 0.05). {test_words(comparison)}. A column’s header sorts the rows."
    )


def table_help(comparison: Comparison) -> str:
    return (
        f"Every criterion against {name_of(comparison.reference_cell(0.0))} on the same {comparison.n} questions"
        f"{', and CAP against its controls' if SUBJECT in comparison.choice.criteria else ''}. "
        "“Within noise” is no proof of equality: see the smallest detectable difference."
    )


def test_words(comparison: Comparison) -> str:
    return "p: exact McNemar test" if comparison.measure.is_share else "p: paired t-test of the losses"


# The paper and what to do next ------------------------------------------------------------------------------------


def paper_section(task: Task) -> None:
    with st.expander("The paper’s numbers (second-hand)"):
        st.caption(
            f"{SOURCE}, {MODEL}, final-answer accuracy. Another model and another protocol: compare the order of the "
            "criteria, not the level. The numbers are second-hand and were not checked against the paper. Values below "
            "chance (ARC-Challenge 8.5 %, StrategyQA 6.9 %) look like answers that could not be parsed, and Wanda’s "
            "GSM8K rises from 10 to 20 %."
        )
        st.table(paper_table(), border="horizontal", hide_index=True)
        if not reported_accuracy(task.name):
            st.caption(f"The paper reports nothing on {escaped(task.name)}.")


def paper_table() -> pd.DataFrame:
    rows = []
    for name, points, form in (("accuracy", ACCURACY, "{:.1%}"), ("perplexity", PERPLEXITY, "{:g}")):
        values = {(point.task, point.sparsity, point.criterion): point.value for point in points}
        for task, sparsity in dict.fromkeys((point.task, point.sparsity) for point in points):
            cap, wanda = (form.format(values[task, sparsity, one]).replace("%", " %") for one in ("cap", "wanda"))
            rows.append({"Task": task, "Number": name, "Sparsity": percent(sparsity, 0), "CAP": cap, "Wanda": wanda})
    return pd.DataFrame(rows)


def next_section(view: Frame, stored: Stored, choice: ComparisonChoice) -> None:
    st.markdown("##### What to do next")
    next_buttons(view, choice)
    show_command(view, stored, choice, choice.reference)


def next_buttons(view: Frame, choice: ComparisonChoice | None) -> None:
    params = {} if choice is None or choice.group is None else prune_params(choice)
    suffix = "" if choice is None else "_below"
    go_button(
        "Look at one sparsity on the Prune page: where the zeros are and which answers change",
        "pages/prune.py",
        key=f"compare_prune{suffix}",
        params=params,
        icon=":material/content_cut:",
    )


def prune_params(choice: ComparisonChoice) -> dict[str, str]:
    """URL parameters of the Prune page: the group's highest sparsity, CAP (else its first criterion), the reference."""
    assert choice.group is not None
    first = SUBJECT if SUBJECT in choice.group.criteria else choice.group.criteria[0]
    params = {"criterion": first, "sparsity": f"{round(100 * max(choice.group.sparsities))}"}
    return params if choice.reference == DENSE[0] else {**params, "against": choice.reference}


def show_command(view: Frame, stored: Stored, choice: ComparisonChoice | None, reference: str) -> None:
    group = None if choice is None else choice.group
    found = next_command(stored, group, model=view.model.id, task=view.task.name, n=view.n, reference=reference)
    st.caption(escaped(found.reason))
    if found.text:
        st.code(found.text, language="sh", wrap_lines=True)
