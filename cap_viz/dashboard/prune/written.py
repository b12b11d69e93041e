"""Written answers of the dense and pruned models side by side, and how their texts differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial

import pandas as pd
import streamlit as st

from cap_viz.dashboard.components.job_card import while_active
from cap_viz.dashboard.components.measured_column import (
    Column,
    Offer,
    ReportKind,
    Tile,
    column_of,
    draw_columns,
    named,
)
from cap_viz.dashboard.components.paired import difference_table, differences, unseen_words
from cap_viz.dashboard.components.panels import caution, listed, percent, problems_told
from cap_viz.dashboard.components.row_picker import row_picker
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.names import model_name
from cap_viz.dashboard.prune.controls import evaluation_items
from cap_viz.dashboard.prune.setting import PruneSetting, eval_spec
from cap_viz.dashboard.stored import texts_of
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.evaluation.eval_metrics import EXACT_MATCH, level_of
from cap_viz.evaluation.generation import FORMATS, GenerationReport, prompt_text, room_for_answer, writing_of
from cap_viz.figures.text_difference import text_html
from cap_viz.models.catalogue import has_chat_template
from cap_viz.runs.kinds.evaluation import load_answers
from cap_viz.runs.protocols import generation_spec
from cap_viz.runs.queue import shared_queue
from cap_viz.runs.spec import EvalSpec
from cap_viz.runs.zero_counts import shape_from

COUNTS = ("16", "32", "64", "128")
USUAL_COUNT = "32"
# Parse rate below which most wrong answers are answers that were not found.
LOW_PARSE_RATE = 0.5
WRITTEN = ReportKind(GenerationReport, lru_cache(32)(load_answers), (EXACT_MATCH,))
Columns = Sequence[Column[GenerationReport]]


def written_section(view: Frame, setting: PruneSetting) -> None:
    """Draw the controls, a tile per model, the differences, and the texts side by side."""
    st.markdown("##### Answers written out", help=GLOSSARY["written"])
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        format = view.selection.segmented("How to ask", "format", FORMATS)
        with st.container(width=160):
            count = view.selection.selectbox("Questions", "written", COUNTS, default=USUAL_COUNT)
    examples = evaluation_items(view, int(count))
    writing, shape = writing_of(view.task), shape_from(view.runs, view.model)
    # What the model can read beside a prompt limits the answer.
    most = writing.max_tokens if shape is None else room_for_answer(writing, shape.n_ctx)
    amount = f"{len(examples.ids)} questions, answers of at most {most} tokens"
    no_template = format == "chat" and not has_chat_template(view.model.id)
    lacking = f"{model_name(view.model.id)} has no chat template; choose the format fewshot or zeroshot."
    blocked = lacking if no_template else ""
    offer = Offer("written_measure", "Let them write", amount, blocked)
    asked = generation_spec(setting.model, examples, format=format, max_tokens=most)

    def spec(name: str) -> EvalSpec:
        return replace(asked, mask=eval_spec(setting, name).mask)

    def now() -> list[Column[GenerationReport]]:
        return [column_of(WRITTEN, view.store, shared_queue(), name, partial(spec, name)) for name in setting.columns]

    wanted = [column.wanted for column in now() if column.wanted is not None]
    while_active(wanted, lambda: draw_written(view, format, offer, now()))


def draw_written(view: Frame, format: str, offer: Offer, columns: Columns) -> None:
    draw_columns(view, columns, written_tile, EXACT_MATCH.title, offer)
    ready = [column for column in columns if column.report is not None]
    if not ready:
        return
    found = differences(WRITTEN, columns)
    st.table(difference_table(found, WRITTEN.measures), border="horizontal", hide_index=True)
    st.caption(unseen_words(found, EXACT_MATCH))
    final = {column.title: column.report for column in ready if column.report is not None and not column.partial}
    if low := [title for title, report in final.items() if report.parse_rate < LOW_PARSE_RATE]:
        caution(
            f"{listed(low)}: most texts hold no answer in the asked form, and these count as wrong. Exact match then "
            "says more about the form than about the task."
        )
    texts_side_by_side(view, format, ready)


def written_tile(report: GenerationReport) -> Tile:
    level, right = level_of(report, EXACT_MATCH), f"{int(report.correct.sum())} of {len(report)}"
    return Tile(
        EXACT_MATCH.words(level.value),
        f"{EXACT_MATCH.interval_words(level.ci)}, {right}; answer found in {percent(report.parse_rate, 0)}",
        f"Strict reading. Flexible: {percent(report.correct_flexible.mean())}, found in "
        f"{percent(report.parse_rate_flexible, 0)}.",
    )


def texts_side_by_side(view: Frame, format: str, ready: Columns) -> None:
    """Draw the table of answers; the picked one shows the prompt, and each text with changes against the first."""
    table = answers_table(ready)
    if table.empty:
        return
    names = {one["Id"]: f"{one['Item']}. right: {one['Right answer']}" for one in table.to_dict("records")}
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
        with st.expander("Prompt"), problems_told():
            st.code(prompt_text(view.task, example, format), language=None, wrap_lines=True)
    texts = [
        (column, column.report.texts[column.report.ids.index(picked)]) for column in ready if column.report is not None
    ]
    for place, (column, text) in zip(st.columns(len(texts), gap="small"), texts, strict=True):
        with place:
            st.markdown(named(column.name))
            st.html(text_html(texts[0][1], text))
    st.caption(f"Against {ready[0].title}: struck through is gone, underlined is new.")


def answers_table(columns: Columns) -> pd.DataFrame:
    """One row per question all columns have answered: gold, and each model's answer with a check mark or a cross."""
    reports = {column.title: column.report for column in columns if column.report is not None}
    first = next(iter(reports.values()))
    items = pd.DataFrame({"Item": range(1, len(first) + 1), "Right answer": first.gold}, index=first.ids)
    answers = pd.concat([pd.Series(marked(one), one.ids, name=title) for title, one in reports.items()], axis=1)
    texts = pd.concat([pd.Series(one.texts, one.ids) for one in reports.values()], axis=1)
    table = items.join(answers).assign(**{"Same text": texts.nunique(axis=1) == 1, "Id": items.index})
    return table.dropna()


def marked(report: GenerationReport) -> list[str]:
    found = zip(report.correct, report.strict, strict=True)
    return [f"{'✓' if right else '✗'} {answer or 'no answer found'}" for right, answer in found]
