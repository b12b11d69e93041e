"""Examples of a run with and without the selected head: its effect on each, one in full, and as the model reads it."""

from __future__ import annotations

from functools import partial
from html import escape
from math import exp
from textwrap import wrap

import numpy as np
import streamlit as st
from scipy.special import softmax

from cap_viz.attribution.effect_metrics import nll
from cap_viz.attribution.results import EvalReport
from cap_viz.dashboard.components.chart import chart
from cap_viz.dashboard.components.head_map import Head
from cap_viz.dashboard.components.panels import escaped, problems_told
from cap_viz.dashboard.heads.data import HeadView
from cap_viz.dashboard.names import texts_missing
from cap_viz.dashboard.playground.data import Change
from cap_viz.dashboard.playground.data import outcome as read_by_model
from cap_viz.dashboard.playground.page import attention_chart, rounding_note, written
from cap_viz.dashboard.selection import choose
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.figures.next_tokens import coloured_prompt
from cap_viz.figures.options import option_shares
from cap_viz.figures.ranked_bars import example_strip
from cap_viz.figures.theme import signed
from cap_viz.tasks import Example

EXTREMES = {"most_hurt": "Most hurt", "most_helped": "Most helped"}
STRIP = "heads_strip"
LONGEST_NAME = HOVER_WIDTH = 60


def most_hurt_first(view: HeadView, head: Head) -> np.ndarray:
    """Return the examples' indices in the order of the head's effects."""
    return np.argsort(-view.stats.effects[head], kind="stable")


def shown_example(view: HeadView, head: Head) -> int:
    """Return the index of the chosen example: one id, or the extreme of the selected head."""
    asked = view.frame.selection.choice("example", [*EXTREMES, *view.ids])
    if asked in view.ids:
        return view.ids.index(asked)
    return int(most_hurt_first(view, head)[0 if asked == "most_hurt" else -1])


def example_section(view: HeadView, head: Head, row: int) -> bool:
    """Draw the effect on every example and the chosen one in full; return whether the model is to read it."""
    effect_strip(view, head, row)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        example_selector(view, head)
        reads = (
            not view.frame.hindrance(view.task)
            and view.texts is not None
            and view.frame.selection.toggle("Read with the model", "reading", help=GLOSSARY["reading"])
        )
    example = None if view.texts is None else view.texts.get(view.ids[row])
    (passage if view.task.kind == "text" else option_table)(view, head, row, example)
    if view.texts is None:
        st.caption(f"Only ids are shown. {texts_missing(view.task)}")
    return reads


def effect_strip(view: HeadView, head: Head, row: int) -> None:
    """Draw the head's effect on every example; a click chooses one."""
    effects = view.stats.effects[head]
    questions = [
        name if view.texts is None else "<br>".join(wrap(escape(view.texts[name].question, quote=False), HOVER_WIDTH))
        for name in view.ids
    ]
    figure = partial(
        example_strip,
        effects,
        [f"{signed(one)} {view.unit}<br>{question}" for one, question in zip(effects, questions, strict=True)],
        unit=view.unit,
        selected=row,
    )
    chart(
        figure,
        key=STRIP,
        on_pick=lambda: clicked_example(view.ids),
        alt="Effect of the selected head on every example; the selector below chooses one, too",
    )


def clicked_example(ids: tuple[str, ...]) -> None:
    """Choose the clicked point of the strip; a cleared selection changes nothing."""
    points = st.session_state[STRIP]["selection"]["points"]
    if points and "customdata" in points[0]:
        choose({"example": ids[int(points[0]["customdata"]["0"])]})


def example_selector(view: HeadView, head: Head) -> None:
    """Draw the selector: the extremes of the head, then every example from most hurt to most helped."""
    ids, effects, changes = view.ids, view.stats.effects[head], changes_of(view, head)
    names = {
        ids[i]: f"{signed(effects[i], 2)} {changes[i]}: {short(view.texts[ids[i]].question) if view.texts else ids[i]}"
        for i in most_hurt_first(view, head)
    }
    view.frame.selection.selectbox("Example", "example", {**EXTREMES, **names}, label_visibility="collapsed")


def changes_of(view: HeadView, head: Head) -> list[str]:
    """Say of every example how its answer changes without the head; "" of running text."""
    questions, scores = view.scores.questions, view.scores
    if view.task.kind == "text":
        return [""] * view.n
    before, after = (EvalReport(questions, logliks).chosen for logliks in (scores.dense, scores.ablated[head]))
    return [outcome(*one) for one in zip(before, after, questions.gold, strict=True)]


def outcome(before: int, after: int, gold: int) -> str:
    if before == after:
        return f"stays {'right' if before == gold else 'wrong'}"
    return "right → wrong" if before == gold else "wrong → right" if after == gold else "other wrong one"


def short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_NAME else f"{line[: LONGEST_NAME - 1]}…"


def option_table(view: HeadView, head: Head, row: int, example: Example | None) -> None:
    """Draw one question with the probability of every option, intact and with the head ablated."""
    scores, words = view.scores, view.words
    count = int(scores.questions.n_options[row])
    dense, ablated = (
        softmax(values[row, :count].astype(np.float64)) for values in (scores.dense, scores.ablated[head])
    )
    options = [f"Option {i + 1}" for i in range(count)] if example is None else [o.strip() for o in example.options]
    st.markdown(f"**{escaped(view.ids[row] if example is None else example.question)}**")
    st.html(option_shares(options, dense, ablated, int(scores.questions.gold[row]), words.done))
    st.caption(f"Bold: chosen; ✓: right{words.by and f'; {words.done}{words.by}'}.")


def passage(view: HeadView, head: Head, row: int, example: Example | None) -> None:
    """Draw one example: its prompt, the scored continuation, and the loss intact and ablated."""
    scores, labels = view.scores, view.scores.questions
    intact, ablated = (
        float(nll(logliks, labels.gold, labels.tokens)[row]) for logliks in (scores.dense, scores.ablated[head])
    )
    if example is None:
        st.markdown(f"**{escaped(view.ids[row])}**")
    else:
        st.caption("Given")
        st.markdown(lines_of(example.prompt))
        st.caption(f"Scored: {labels.tokens[row, labels.gold[row]]} tokens")
        st.markdown(lines_of(example.options[example.gold]))
    change = ablated - intact
    st.markdown(
        f"| | intact | {view.words.done} | change |\n|:-|-:|-:|-:|\n"
        f"| loss, nats per token | {intact:.3f} | {ablated:.3f} | {signed(change)} |\n"
        f"| probability per token | {exp(-intact):.3f} | {exp(-ablated):.3f} | × {exp(-change):.3g} |"
    )
    st.caption(
        "The model reads what is given and is scored on every token that follows. Probability: geometric mean over "
        "the tokens."
    )


def lines_of(text: str) -> str:
    """Escape plain text for Markdown, keeping its line breaks."""
    return escaped(text.strip()).replace("\n", "  \n")


def reading_section(view: HeadView, head: Head, row: int) -> None:
    """Draw the shown example token by token; the head is zero-ablated here, whatever ablation the run used."""
    assert view.texts is not None
    layer, number = head
    example, without = view.texts[view.ids[row]], Change(heads=(head,))
    text = example.prompt + example.options[example.gold]
    with problems_told():
        with st.spinner("Reading the example …", show_time=True):
            found = read_by_model(view.frame.model, text, without)
        left, right = st.columns([11, 10], gap="medium")
        with left:
            st.markdown(f"**Question and right answer, without head {number} of layer {layer}**")
            st.html(coloured_prompt(found.tokens, found.token_change))
            st.caption("Teal: less expected than by the intact model. Brown: more. Full colour from 2 nats.")
            if view.task.kind != "text":
                own_answers(view, example, without)
        with right:
            st.markdown("**What the head attends to here**")
            attention_chart(view.frame.model, text, found.tokens, head, key="heads_attention")
            rounding_note(view.frame.model)


def own_answers(view: HeadView, example: Example, without: Change) -> None:
    """Draw the model's continuations of the question, with the head and without it."""
    st.markdown(f"**What it writes itself** (the right answer: {escaped(example.options[example.gold].strip())})")
    sides = (("With the head", Change()), ("Without it", without))
    for place, (name, change) in zip(st.columns(2), sides, strict=True):
        with place, st.container(border=True):
            st.caption(name)
            written(view.frame, example.prompt, change)
