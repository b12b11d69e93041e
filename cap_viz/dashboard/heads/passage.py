"""Examples of running text: the loss on a given continuation, intact and with a head ablated."""

from __future__ import annotations

from math import exp

import numpy as np
import streamlit as st

from cap_viz.attribution.effect_metrics import nll
from cap_viz.attribution.results import HeadScores
from cap_viz.dashboard.components.panels import escaped
from cap_viz.figures.theme import signed
from cap_viz.runs.run_labels import AblationWords
from cap_viz.tasks import Example


def losses(scores: HeadScores, layer: int, head: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss of every example in nats per token, intact and with the head ablated."""
    gold, tokens = scores.questions.gold, scores.questions.tokens
    return nll(scores.dense, gold, tokens), nll(scores.ablated[layer, head], gold, tokens)


def loss_cells(scores: HeadScores, layer: int, head: int, rows: list[int]) -> dict[str, np.ndarray]:
    intact, ablated = losses(scores, layer, head)
    return {"intact": intact[rows], "ablated": ablated[rows]}


def passage(scores: HeadScores, words: AblationWords, layer: int, head: int, row: int, example: Example | None) -> None:
    """Draw one example: its prompt, the scored continuation, and the loss intact and ablated."""
    intact, ablated = (float(values[row]) for values in losses(scores, layer, head))
    n_tokens = int(scores.questions.tokens[row, scores.questions.gold[row]])
    with st.container(border=True):
        if example is None:
            st.markdown(f"**{escaped(scores.questions.ids[row])}**")
        else:
            st.caption("Given")
            st.markdown(lines_of(example.prompt))
            st.caption(f"Scored: {n_tokens} tokens")
            st.markdown(lines_of(example.options[example.gold]))
        change = ablated - intact
        st.markdown(
            f"| | intact | {words.done} | change |\n|:-|-:|-:|-:|\n"
            f"| loss, nats per token | {intact:.3f} | {ablated:.3f} | {signed(change)} |\n"
            f"| probability per token | {exp(-intact):.3f} | {exp(-ablated):.3f} | × {exp(-change):.3g} |"
        )
        st.caption(
            "The model reads what is given and is scored on every token that follows; there are no options. "
            "Probability: geometric mean over the tokens."
        )


def lines_of(text: str) -> str:
    """Escape plain text for Markdown, keeping its line breaks."""
    return escaped(text.strip()).replace("\n", "  \n")
