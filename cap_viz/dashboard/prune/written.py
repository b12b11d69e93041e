"""Written answers of the dense and pruned models side by side, and how their texts differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import pandas as pd
import streamlit as st

from cap_viz.dashboard.components.measured_column import (
    Column,
    Offer,
    ReportKind,
    Tile,
    column_of,
    draw_tile,
    named,
    offer_button,
    under_way,
    watched,
)
from cap_viz.dashboard.components.paired import difference_table, differences, unseen_words
from cap_viz.dashboard.components.panels import caution, listed, percent, problem
from cap_viz.dashboard.components.row_picker import row_picker
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.prune.accuracy import OFFER_PIXELS, TILE_PIXELS, pruned_words
from cap_viz.dashboard.prune.setting import PruneSetting, eval_spec
from cap_viz.dashboard.stored import texts_of
from cap_viz.errors import CapVizError
from cap_viz.evaluation.eval_metrics import EXACT_MATCH, per_question
from cap_viz.evaluation.generation import FORMATS, GenerationReport, prompt_text, room_for_answer, writing_of
from cap_viz.figures.text_difference import text_html
from cap_viz.models.catalogue import has_chat_template
from cap_viz.runs.kinds.evaluation import load_answers
from cap_viz.runs.protocols import generation_spec
from cap_viz.runs.queue import shared_queue
from cap_viz.runs.spec import EvalSpec
from cap_viz.runs.zero_counts import shape_from
from cap_viz.stats import wilson
from cap_viz.tasks.example_sets import ExampleSet, evaluation_set

COUNTS = ("16", "32", "64", "128")
USUAL_COUNT = "32"
# Parse rate below which most wrong answers are answers that were not found.
LOW_PARSE_RATE = 0.5
WRITTEN = ReportKind(GenerationReport, lru_cache(32)(load_answers), (EXACT_MATCH,), per_question)
Columns = Sequence[Column[GenerationReport]]


@dataclass(frozen=True)
class WritingRequest:
    """How answers are asked for: prompt format, the first `n` questions, and the most tokens of an answer."""

    format: str
    n: int
    max_tokens: int


def written_section(view: Frame, setting: PruneSetting) -> None:
    """Draw the controls, a tile per model, the differences, and the texts side by side."""
    st.markdown(
        "##### Answers written out",
        help="The model writes its answer word by word (always the likeliest next token), and the answer is read from "
        "the text. Strict: the form the prompt asks for; flexible: the last thing that could be an answer.",
    )
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        help = "fewshot: worked examples first; zeroshot: an instruction; chat: the model's own chat template."
        format = view.selection.segmented("How to ask", "format", FORMATS, what="the prompt format", help=help)
        with st.container(width=160):
            what = "a number of written answers of"
            count = view.selection.selectbox("Questions", "written", COUNTS, default=USUAL_COUNT, what=what)
    n = min(int(count), len(view.task.splits.evaluation)) if view.task.is_local() else int(count)
    writing, shape = writing_of(view.task), shape_from(view.runs, view.model)
    # What the model can read beside a prompt limits the answer.
    most = writing.max_tokens if shape is None else room_for_answer(writing, shape.n_ctx)
    request = WritingRequest(format, n, most)
    watched(lambda: columns_of(view, setting, request), lambda columns: draw_written(view, setting, request, columns))


def columns_of(view: Frame, setting: PruneSetting, request: WritingRequest) -> list[Column[GenerationReport]]:
    return [
        column_of(WRITTEN, view.store, shared_queue(), name, partial(writing_spec, setting, request, name))
        for name in setting.columns
    ]


def writing_spec(setting: PruneSetting, request: WritingRequest, name: str) -> EvalSpec:
    choices = eval_spec(replace(setting, evaluation=first_questions(setting.evaluation, request.n)), name)
    return generation_spec(
        setting.model,
        choices.examples,
        format=request.format,
        max_tokens=request.max_tokens,
        mask=choices.mask,
    )


def first_questions(evaluation: ExampleSet, n: int) -> ExampleSet:
    """Return the first n questions of the task, or those known by their ids where its data is not on this machine."""
    try:
        return evaluation_set(evaluation.task, n)
    except CapVizError:
        return replace(evaluation, ids=evaluation.ids[:n])


def draw_written(view: Frame, setting: PruneSetting, request: WritingRequest, columns: Columns) -> None:
    with st.container(horizontal=True, gap="medium"):
        for column in columns:
            with st.container(width=TILE_PIXELS, gap="xxsmall"):
                draw_tile(view, column, written_tile, EXACT_MATCH.title)
        with st.container(width=OFFER_PIXELS, gap="xxsmall"):
            offer_button(view, columns, offer(view, setting, request))
    under_way(columns, "written")
    ready = [column for column in columns if column.report is not None]
    if not ready:
        return
    found = differences(WRITTEN, columns)
    st.table(difference_table(found, WRITTEN.measures), border="horizontal", hide_index=True)
    st.caption(unseen_words(found, EXACT_MATCH))
    parse_caution(ready)
    texts_side_by_side(view, request.format, ready)


def written_tile(report: GenerationReport) -> Tile:
    hits, n = int(report.correct.sum()), len(report)
    ci = wilson(hits, n)
    return Tile(
        percent(hits / n),
        f"{100 * ci.low:.1f}–{percent(ci.high)}, {hits} of {n}; answer found in {percent(report.parse_rate, 0)}",
        f"Strict reading. Flexible: {percent(float(np.mean(report.correct_flexible)))}, found in "
        f"{percent(report.parse_rate_flexible, 0)}.",
    )


def offer(view: Frame, setting: PruneSetting, request: WritingRequest) -> Offer:
    def title(column: Column[GenerationReport]) -> str:
        whose = pruned_words(column.name, setting.sparsity)
        return f"Answers of {whose}, {request.n} questions of {view.task.title}"

    def work(missing: Columns) -> str:
        whose = listed([column.title for column in missing])
        return f"{whose}, {request.n} answers of at most {request.max_tokens} tokens"

    no_template = request.format == "chat" and not has_chat_template(view.model.id)
    blocked = f"{view.model.id} has no chat template; choose the format fewshot or zeroshot." if no_template else ""
    return Offer("written_measure", "Let them write", title, work, blocked=blocked)


def parse_caution(columns: Columns) -> None:
    for column in columns:
        if column.report is not None and not column.partial and column.report.parse_rate < LOW_PARSE_RATE:
            caution(
                f"{column.title}: in {percent(1 - column.report.parse_rate, 0)} of the texts no answer was found in "
                "the asked form. They count as wrong, so this exact match says more about the form than about the task."
            )


# The texts -------------------------------------------------------------------------------------------------------


def texts_side_by_side(view: Frame, format: str, ready: Columns) -> None:
    """Draw the table of answers; the picked one shows the prompt, and each text with changes against the first."""
    table = answers_table(ready)
    if table.empty:
        return
    names = {
        identity: f"{item}. right: {gold}" for identity, item, gold in table[["Id", "Item", "Right answer"]].values
    }
    picked = row_picker(
        view.selection,
        "answer",
        table,
        names,
        "Texts of",
        height=min(320, 38 + 35 * len(table)),
        column_config={"Item": st.column_config.NumberColumn(width=52)},
    )
    if picked is None:
        return
    example = (texts_of(view.task.name, (picked,)) or {}).get(picked)
    if example is not None:
        with st.expander("Prompt"):
            try:
                st.code(prompt_text(view.task, example, format), language=None, wrap_lines=True)
            except CapVizError as error:
                problem(str(error))
    first = text_at(ready[0], picked)
    for place, column in zip(st.columns(len(ready), gap="small"), ready, strict=True):
        with place:
            st.markdown(named(column.name))
            st.html(text_html(first, text_at(column, picked)))
    st.caption(f"Against {ready[0].title}: struck through is gone, underlined is new.")


def answers_table(columns: Columns) -> pd.DataFrame:
    """One row per question all columns have answered: gold, and each model's answer with a check mark or a cross."""
    reports = {column.title: column.report for column in columns if column.report is not None}
    first = next(iter(reports.values()))
    shared = set.intersection(*(set(report.ids) for report in reports.values()))
    rows = []
    for number, identity in enumerate(first.ids, start=1):
        if identity in shared:
            at = {title: report.ids.index(identity) for title, report in reports.items()}
            texts = {report.texts[at[title]] for title, report in reports.items()}
            answers = {title: marked(report, at[title]) for title, report in reports.items()}
            rows.append(
                {
                    "Item": number,
                    "Right answer": first.gold[number - 1],
                    **answers,
                    "Same text": len(texts) == 1,
                    "Id": identity,
                }
            )
    return pd.DataFrame(rows)


def marked(report: GenerationReport, row: int) -> str:
    return f"{'✓' if report.correct[row] else '✗'} {report.strict[row] or 'no answer found'}"


def text_at(column: Column[GenerationReport], identity: str) -> str:
    assert column.report is not None
    return column.report.texts[column.report.ids.index(identity)]
