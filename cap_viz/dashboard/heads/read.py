"""What a head attends to: the shown example read by the model with and without it, and all heads' patterns.

An attention pattern only describes a head; its effect says whether the model needs it.
"""

from __future__ import annotations

import numpy as np
import streamlit as st

from cap_viz.attribution.attention_patterns import MEASURES, TITLES, HeadRoles
from cap_viz.dashboard.components.head_map import head_name, pick_point
from cap_viz.dashboard.components.panels import escaped, problem
from cap_viz.dashboard.heads.data import HeadView
from cap_viz.dashboard.heads.example import shown_example
from cap_viz.dashboard.heads.new_run import measure_button
from cap_viz.dashboard.playground.data import Change, outcome, pattern
from cap_viz.dashboard.playground.page import MOST_ATTENTION_TOKENS, rounding_note, written
from cap_viz.dashboard.stored import texts_of
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.errors import CapVizError
from cap_viz.figures.next_tokens import attention_map, coloured_prompt
from cap_viz.figures.specificity import role_scatter
from cap_viz.figures.theme import CONFIG, signed
from cap_viz.runs.run_queries import role_spec
from cap_viz.stats.reliability import rank_correlation
from cap_viz.tasks import Example

SCATTER = "heads_roles"
HIGHEST = 7


def reading_toggle(view: HeadView) -> bool:
    """Draw the switch of the reading; none where the texts or the model are not on this machine."""
    if not view.frame.installed or texts_of(view.task.name, view.scores.questions.ids) is None:
        return False
    return view.frame.selection.toggle("Read with the model", "reading", help=GLOSSARY["reading"])


def reading_section(view: HeadView, head: tuple[int, int]) -> None:
    """Draw the shown example token by token; the head is zero-ablated here, whatever ablation the run used."""
    ids = view.scores.questions.ids
    texts = texts_of(view.task.name, ids)
    assert texts is not None
    example = texts[ids[shown_example(view.frame.selection, ids, view.stats.effects[head])]]
    text, without = example.prompt + example.options[example.gold], Change(heads=(head,))
    try:
        with st.spinner("Reading the example …", show_time=True):
            found = outcome(view.frame.model, text, without)
        left, right = st.columns([11, 10], gap="medium")
        with left:
            st.markdown(f"**Question and right answer, without head {head[1]} of layer {head[0]}**")
            st.html(coloured_prompt(found.tokens, found.token_change))
            st.caption("Teal: less expected than by the intact model. Brown: more. Full colour from 2 nats.")
            if view.task.kind != "text":
                own_answers(view, example, without)
        with right:
            attention(view, found.tokens, text, head)
    except CapVizError as error:
        problem(str(error))


def own_answers(view: HeadView, example: Example, without: Change) -> None:
    """Draw the model's continuations of the question, with the head and without it."""
    st.markdown(f"**What it writes itself** (the right answer: {escaped(example.options[example.gold].strip())})")
    sides = (("With the head", Change()), ("Without it", without))
    for place, (name, change) in zip(st.columns(2), sides, strict=True):
        with place, st.container(border=True):
            st.caption(name)
            written(view.frame, example.prompt, change)


def attention(view: HeadView, tokens: tuple[str, ...], text: str, head: tuple[int, int]) -> None:
    st.markdown("**What the head attends to here**")
    if len(tokens) > MOST_ATTENTION_TOKENS:
        st.caption(f"Shown for up to {MOST_ATTENTION_TOKENS} tokens; this example has {len(tokens)}.")
        return
    st.plotly_chart(
        attention_map(tokens, pattern(view.frame.model, text, *head, ())),
        key="heads_attention",
        config=CONFIG,
        alt=f"Attention pattern of head {head[1]} of layer {head[0]} on the shown example",
    )
    rounding_note(view.frame.model)


def roles_section(view: HeadView, roles: HeadRoles | None, selected: tuple[int, int]) -> None:
    """Draw effect against a chosen measure for all heads, or the button that starts the measurement."""
    st.markdown("#### Effect and attention")
    if roles is None:
        measure_button(
            view.frame,
            "Measure what heads attend to",
            "What heads attend to",
            role_spec(view.source.spec),
            key="heads_roles_start",
            icon=":material/visibility:",
            help="Previous token, first token, entropy and induction of every head: one reading of each example.",
        )
        return
    measure = view.frame.selection.segmented(
        "Measure of attention", "role", MEASURES, names=lambda name: TITLES[name], help=GLOSSARY["roles"]
    )
    estimate, values = view.stats.estimate, roles.values[measure]
    correlation = signed(rank_correlation(estimate.mean.ravel(), values.ravel()), 2)
    words = f"Rank correlation over {estimate.mean.size} heads: {correlation}."
    figure, reading = st.columns([11, 10], gap="medium", vertical_alignment="center")
    with figure:
        st.plotly_chart(
            role_scatter(
                estimate.mean, values, estimate.unclear, title=TITLES[measure], unit=view.unit, selected=selected
            ),
            key=SCATTER,
            config=CONFIG,
            on_select=lambda: pick_point(SCATTER),
            selection_mode="points",
            alt=f"Effect of every head against {TITLES[measure]}; {words}",
        )
    highest = np.argsort(-values, axis=None)[:HIGHEST]
    names = ", ".join(head_name(*divmod(int(place), values.shape[1])) for place in highest)
    reading.markdown(
        f"{words} Highest: {names}.\n\nAttention describes; only a head's effect says whether the model needs it. "
        "Click a point to select its head."
    )
    with reading:
        rounding_note(view.frame.model)
