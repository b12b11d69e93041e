"""Interpretation of the shown example, token by token: the model runs with the selected head and without it.

Opt-in, since it needs the model in memory. The head is zero-ablated here, whatever ablation the run used.
"""

from __future__ import annotations

import streamlit as st

from cap_viz.dashboard.components.panels import escaped, problem
from cap_viz.dashboard.heads.detail import HeadView
from cap_viz.dashboard.heads.examples import shown_example
from cap_viz.dashboard.playground.data import Change, Outcome, outcome, pattern
from cap_viz.dashboard.playground.page import MOST_ATTENTION_TOKENS, written
from cap_viz.dashboard.stored import texts_of
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.errors import CapVizError
from cap_viz.figures.next_tokens import attention_map, coloured_prompt
from cap_viz.figures.theme import CONFIG
from cap_viz.tasks import Example

KEY = "reading"


def reading_section(view: HeadView, layer: int, head: int) -> None:
    """Draw the section; nothing if the texts or the model are not on this machine."""
    ids = view.scores.questions.ids
    texts = texts_of(view.task.name, ids)
    if texts is None or not view.frame.installed:
        return
    wanted = st.toggle(
        "Read the shown example with the model",
        key=KEY,
        bind="query-params",
        help=GLOSSARY["reading"],
    )
    if not wanted:
        return
    example = texts[ids[shown_example(ids, view.stats.effects[layer, head])]]
    try:
        with st.spinner("Reading the example …", show_time=True):
            found = outcome(view.frame.model, example.prompt + example.options[example.gold], removed(layer, head))
        left, right = st.columns([11, 10], gap="medium")
        with left:
            expected(found, layer, head)
            answers(view, example, layer, head)
        with right:
            attention(view, example, found, layer, head)
    except CapVizError as error:
        problem(str(error))


def removed(layer: int, head: int) -> Change:
    return Change(heads=((layer, head),))


def expected(found: Outcome, layer: int, head: int) -> None:
    st.markdown(f"**Question and right answer, without head {head} of layer {layer}**")
    st.html(coloured_prompt(found.tokens, found.token_change))
    st.caption(
        "Teal: less expected than by the intact model. Brown: more. Full colour from 2 nats; hover for the value."
    )


def answers(view: HeadView, example: Example, layer: int, head: int) -> None:
    """Draw the model's continuations of the question, with the head and without it; nothing on running text."""
    if view.task.kind == "text":
        return
    st.markdown(f"**What it writes itself** (the right answer: {escaped(example.options[example.gold].strip())})")
    sides = (("With the head", Change()), ("Without it", removed(layer, head)))
    for place, (name, change) in zip(st.columns(2), sides, strict=True):
        with place, st.container(border=True):
            st.caption(name)
            written(view.frame, example.prompt, change)


def attention(view: HeadView, example: Example, found: Outcome, layer: int, head: int) -> None:
    st.markdown("**What the head attends to here**")
    if len(found.tokens) > MOST_ATTENTION_TOKENS:
        st.caption(f"Shown for up to {MOST_ATTENTION_TOKENS} tokens; this example has {len(found.tokens)}.")
        return
    text = example.prompt + example.options[example.gold]
    st.plotly_chart(
        attention_map(found.tokens, pattern(view.frame.model, text, layer, head, ())),
        key="heads_attention",
        config=CONFIG,
        alt=f"Attention pattern of head {head} of layer {layer} on the shown example",
    )
