"""Figures on a page: each is made once for the same content, since making one takes longer than all else around it.

chart(partial(curves, shown), key="compare_curves", alt=shown.in_words())
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import lru_cache, partial

import plotly.graph_objects as go
import streamlit as st

from cap_viz.figures.theme import CONFIG


def chart(figure: partial[go.Figure], *, key: str, alt: str, on_pick: Callable[[], None] | None = None) -> None:
    """Draw what a function of `cap_viz.figures` returns for its arguments; `alt` is what a screen reader says of it.

    A click on a point calls `on_pick` as a callback.
    """
    st.plotly_chart(
        drawn(pickle.dumps(figure)),
        key=key,
        config=CONFIG,
        on_select=on_pick or "ignore",
        selection_mode="points",
        alt=alt,
    )


@lru_cache(256)
def drawn(recipe: bytes) -> go.Figure:
    """Make the figure of a pickled call. All sessions share it, so nobody may change it."""
    return pickle.loads(recipe)()
