"""The section of the Prune page on written answers."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import streamlit as st

from cap_viz.dashboard.components.job_card import job_view, ticking
from cap_viz.dashboard.components.panels import caution, cut_words, escaped, listed, note, p_words, percent, problem
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.prune.accuracy import share_of
from cap_viz.dashboard.prune.accuracy_view import ended_once, submit
from cap_viz.dashboard.prune.setting import PruneSetting, missing_tasks
from cap_viz.dashboard.prune.words import limits, named, origin_badge, pruned_words, so_far_badge
from cap_viz.dashboard.prune.written import (
    WritingRequest,
    Written,
    answers_table,
    has_chat_template,
    text_at,
    word_difference,
    writing_request,
    written_difference,
    written_of,
)
from cap_viz.dashboard.state import bad_choice
from cap_viz.dashboard.stored import texts_of
from cap_viz.errors import CapVizError
from cap_viz.evaluation.generation import FORMATS, prompt_text
from cap_viz.figures.theme import signed
from cap_viz.runs.comparison import same_unit
from cap_viz.runs.queue import shared_queue
from cap_viz.tasks import Task

COUNTS = ("16", "32", "64", "128")
USUAL_COUNT = "32"
# Parse rate below which most wrong answers are answers that were not found.
LOW_PARSE_RATE = 0.5


def written_section(view: Frame, setting: PruneSetting) -> None:
    """Draw the controls, a tile per model, the differences, and the texts side by side."""
    st.markdown(
        "##### Answers written out",
        help="The model writes its answer word by word (always the likeliest next token), and the answer is read from "
        "the text. Strict: the form the prompt asks for; flexible: the last thing that could be an answer.",
    )
    for sentence in (
        bad_choice("format", FORMATS, FORMATS[0], "the prompt format"),
        bad_choice("written", COUNTS, USUAL_COUNT, "a number of written answers of"),
    ):
        if sentence:
            note(sentence)
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        with st.container(width=330):
            format = st.segmented_control(
                "How to ask",
                FORMATS,
                default=FORMATS[0],
                required=True,
                key="format",
                bind="query-params",
                help="fewshot: worked examples first; zeroshot: an instruction; chat: the model's own chat template.",
            )
        with st.container(width=160):
            count = st.selectbox("Questions", COUNTS, COUNTS.index(USUAL_COUNT), key="written", bind="query-params")
    n = min(int(count), len(view.task.splits.evaluation)) if view.task.is_local() else int(count)
    request = writing_request(view.runs, setting, str(format), n)
    active = [column.name for column in columns_of(view, setting, request) if column.active]
    ticking(lambda: draw(view, setting, request, active), live=bool(active))


def columns_of(view: Frame, setting: PruneSetting, request: WritingRequest) -> list[Written]:
    return [written_of(view.store, shared_queue(), setting, name, request) for name in setting.columns]


def draw(view: Frame, setting: PruneSetting, request: WritingRequest, active: Sequence[str]) -> None:
    columns = columns_of(view, setting, request)
    if [column.name for column in columns if column.active] != list(active):
        st.rerun()
    for place, column in zip(st.columns(len(columns), gap="small"), columns, strict=True):
        with place, st.container(gap="xxsmall"):
            written_tile(column)
    measuring(view, setting, columns, request)
    ready = [column for column in columns if column.report is not None]
    if not ready:
        return
    for sentence in difference_sentences(columns):
        st.caption(sentence)
    parse_caution(ready)
    texts_side_by_side(view.task, request.format, ready)


def written_tile(column: Written) -> None:
    badge = ""
    if column.run is not None:
        badge = origin_badge(column.run)
    elif column.report is not None and column.wanted is not None:
        badge = so_far_badge(len(column.report), column.wanted)
    st.markdown(f"{named(column.name)} {badge}")
    if column.report is None:
        st.metric("Exact match", "–", label_visibility="collapsed")
        st.caption(escaped(column.problem) or ("Writing." if column.active else "Not written yet."))
        return
    strict, flexible = share_of(column.report.correct), share_of(column.report.correct_flexible)
    st.metric("Exact match", percent(strict.value), label_visibility="collapsed")
    st.caption(
        f"{limits(strict.ci.low, strict.ci.high)} · {strict.right} of {strict.n}  \n"
        f"answer found in {percent(column.report.parse_rate, 0)}  \n"
        f"flexible {percent(flexible.value)}, found in {percent(column.report.parse_rate_flexible, 0)}"
    )
    if column.run is not None and (cut := cut_words(column.run)):
        st.caption(f":orange[{escaped(cut)}]")


def measuring(view: Frame, setting: PruneSetting, columns: Sequence[Written], request: WritingRequest) -> None:
    for column in columns:
        if column.job is not None and column.active:
            job_view(column.job, key="written")
    ended_once([column.job for column in columns if column.job is not None and not column.final])
    missing = [column for column in columns if column.measurable]
    if not missing:
        return
    if not view.installed:
        note(view.install_hint)
        return
    lacking = dict.fromkeys(task for column in missing if column.wanted for task in missing_tasks(column.wanted))
    if lacking:
        titles, folders = listed([task.title for task in lacking]), listed([f"{task.data_folder}/" for task in lacking])
        note(f"Not on this machine: {titles}. To let them write, set CAP_VIZ_DATA to a folder that holds {folders}.")
        return
    if request.format == "chat" and not has_chat_template(view.model.id):
        note(f"{view.model.id} has no chat template; choose the format fewshot or zeroshot.")
        return
    button, words = st.columns([2, 5], vertical_alignment="center")
    button.button(
        "Let them write",
        key="written_measure",
        width="stretch",
        on_click=submit,
        args=([(column.wanted, title(setting, column, request.n)) for column in missing],),
    )
    words.caption(
        f"{', '.join(column.title for column in missing)}: {request.n} answers of at most {request.max_tokens} "
        "tokens each, written 32 at a time. The first appear when a batch is done. You can leave the page; it goes on."
    )


def title(setting: PruneSetting, column: Written, n: int) -> str:
    return f"Answers of {pruned_words(column.name, setting.sparsity)}, {n} questions of {setting.evaluation.task}"


def difference_sentences(columns: Sequence[Written]) -> list[str]:
    """Return a sentence per pair on its difference in exact match; interim, without p, while answers arrive."""
    dense, *others = columns
    pairs = [(column, dense) for column in others] + ([(others[0], others[1])] if len(others) == 2 else [])
    said = []
    for first, second in pairs:
        found = written_difference(first, second) if same_unit(first.name, second.name) else None
        if found is None:
            continue
        interval = f"{signed(100 * found.ci.low, 1)} to {signed(100 * found.ci.high, 1)}"
        final = first.final and second.final
        ending = f"McNemar p {p_words(found.p_value)}" if final else f"interim, {found.n} questions"
        said.append(
            f"{named(first.name)} − {named(second.name)}: {signed(100 * found.difference, 1)} points ({interval}), "
            f"{ending}; differences below about {100 * found.minimum_detectable:.0f} points usually go unseen."
        )
    return said


def parse_caution(columns: Sequence[Written]) -> None:
    for column in columns:
        assert column.report is not None
        if column.final and column.report.parse_rate < LOW_PARSE_RATE:
            caution(
                f"{column.title}: in {percent(1 - column.report.parse_rate, 0)} of the texts no answer was found in "
                "the asked form. They count as wrong, so this exact match says more about the form than about the task."
            )


def texts_side_by_side(task: Task, format: str, ready: Sequence[Written]) -> None:
    """Draw the table of answers; a selected row shows the prompt, and each text with changes against the first."""
    table = answers_table(ready)
    if table.empty:
        return
    picked = st.dataframe(
        table,
        hide_index=True,
        height=min(320, 38 + 35 * len(table)),
        key=f"written_table_{len(table)}",
        on_select="rerun",
        selection_mode="single-row",
        column_config={"Item": st.column_config.NumberColumn(width=52)},
    )
    rows = picked["selection"]["rows"]
    if not rows or rows[0] >= len(table):
        st.caption("Select a row to read what each model wrote.")
        return
    identity = str(table["Id"].iloc[rows[0]])
    example = (texts_of(task.name, (identity,)) or {}).get(identity)
    if example is not None:
        with st.expander("Prompt"):
            try:
                st.code(prompt_text(task, example, format), language=None, wrap_lines=True)
            except CapVizError as error:
                problem(str(error))
    first = ready[0]
    for place, column in zip(st.columns(len(ready), gap="small"), ready, strict=True):
        with place:
            st.markdown(named(column.name))
            st.html(text_html(text_at(first, identity), text_at(column, identity)))
    st.caption(f"Against {first.title}: struck through is gone, underlined is new.")


def text_html(first: str, second: str) -> str:
    """HTML of the differences from the first text to the second; both are untrusted and escaped."""
    tags = {"same": ("", ""), "gone": ('<del style="opacity:0.6">', "</del>"), "new": ("<ins><b>", "</b></ins>")}
    parts = [f"{tags[p.kind][0]}{escape(p.text)}{tags[p.kind][1]}" for p in word_difference(first, second)]
    style = "white-space:pre-wrap;font-size:0.9rem;overflow-wrap:anywhere"
    return f'<div style="{style}">{"".join(parts) or "(nothing)"}</div>'
