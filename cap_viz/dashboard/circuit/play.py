"""One question played token by token: how much less expected each token is without the selected head."""

from __future__ import annotations

import numpy as np
import streamlit as st

from cap_viz.dashboard.circuit.data import Circuit
from cap_viz.dashboard.components.head_map import Head
from cap_viz.dashboard.components.panels import problems_told
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.example import short
from cap_viz.dashboard.playground.data import Change
from cap_viz.dashboard.playground.data import outcome as read_by_model
from cap_viz.dashboard.stored import texts_of
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.figures.next_tokens import played_prompt
from cap_viz.figures.theme import signed
from cap_viz.settings import ASSETS

# Session key: how often a question was played, so that each time is one of its own for the browser.
PLAYS = "circuit_plays"


def play_section(view: Frame, circuit: Circuit, head: Head) -> None:
    """Offer the questions, those that need the head most first, and play the chosen one where the model is at hand."""
    ids = circuit.paths.questions.ids
    texts = texts_of(view.task.name, ids)
    st.markdown("#### One question, token by token", help=GLOSSARY["reading"])
    if texts is None or view.install_hint:
        st.caption(view.hindrance(view.task))
        return
    effects = circuit.total(head)
    order = np.argsort(-effects, kind="stable")
    questions = {ids[at]: f"{signed(float(effects[at]), 2)}: {short(texts[ids[at]].question)}" for at in order}
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        chosen = view.selection.selectbox("Question", "example", questions, label_visibility="collapsed")
        plays = view.selection.toggle("Play with the model", "reading")
    if not plays:
        return
    example = texts[chosen]
    with problems_told():
        with st.spinner("Reading the question …", show_time=True):
            text = example.prompt + example.options[example.gold]
            found = read_by_model(view.model, text, Change(heads=(head,)))
        st.html(ASSETS / "reading.css")
        st.html(played_prompt(found.tokens, found.token_change, play=st.session_state.get(PLAYS, 0)))
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.button("Play again", icon=":material/replay:", key="circuit_replay", on_click=play_again)
            st.caption(
                f"Question and right answer without head {head[1]} of layer {head[0]}. Teal: less expected than by the "
                "intact model. Brown: more. Full colour from 2 nats."
            )


def play_again() -> None:
    st.session_state[PLAYS] = st.session_state.get(PLAYS, 0) + 1
