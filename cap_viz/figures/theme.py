"""Colours, symbols and layout shared by all figures.

Backgrounds are transparent and colours legible on both themes, because a theme switch repaints without running the
page again. Show figures with `st.plotly_chart(figure, config=CONFIG)`.
"""

from __future__ import annotations

from collections.abc import Collection

import plotly.graph_objects as go

# After Okabe-Ito, fixed per criterion on every page; controls are greys. Each has a contrast of at least 3:1 in both
# themes, which makes some darker than the original (tests/test_setup.py).
CRITERION_COLOURS = {
    "cap": "#0072B2",
    "wanda": "#C98600",
    "wanda_oneshot": "#9C6A1A",
    "cap_fine": "#D55E00",
    "sparsegpt": "#009E73",
    "ria": "#CC79A7",
    "taylor": "#3A95CC",
    "gblm": "#968A00",
    "head": "#7D63C2",
    "shuffled_cap": "#8D7B6E",
    "random": "#9A9087",
    "magnitude": "#8B92A0",
    "global_magnitude": "#6F7685",
}
# One shape per criterion, since greys and neighbouring hues are hard to tell apart.
CRITERION_SYMBOLS = {
    "cap": "circle",
    "cap_fine": "diamond-wide",
    "wanda": "square",
    "wanda_oneshot": "square-cross",
    "sparsegpt": "pentagon",
    "ria": "triangle-down",
    "taylor": "star",
    "gblm": "hexagon",
    "head": "circle-x",
    "shuffled_cap": "cross",
    "random": "x",
    "magnitude": "triangle-up",
    "global_magnitude": "diamond",
}
# The same shapes as characters, for legends in text.
SYMBOL_GLYPHS = {
    "circle": "●",
    "square": "■",
    "square-cross": "⊞",
    "pentagon": "⬟",
    "triangle-down": "▼",
    "star": "★",
    "hexagon": "⬢",
    "circle-x": "⊗",
    "cross": "✚",
    "x": "✖",
    "triangle-up": "▲",
    "diamond": "◆",
    "diamond-wide": "◈",
}
OTHER_CRITERION = "#6F7685"
# Signed head effects: teal where ablating the head hurts, brown where it helps.
HURTS, HELPS = "#12887B", "#B5691C"
ACCENT = "#6164F0"
NEUTRAL = "#808694"
FAINT = "rgba(128,134,148,0.28)"
CLEAR = "rgba(0,0,0,0)"
# The only button, shown on hover, saves the figure as SVG: sharp in a paper, and editable.
CONFIG = {
    "displayModeBar": "hover",
    "modeBarButtons": [["toImage"]],
    "displaylogo": False,
    "toImageButtonOptions": {"format": "svg", "filename": "cap-viz"},
    "scrollZoom": False,
    "doubleClick": False,
}


def criterion_colour(name: str) -> str:
    return CRITERION_COLOURS.get(name, OTHER_CRITERION)


def criterion_symbol(name: str) -> str:
    return CRITERION_SYMBOLS.get(name, "circle")


def criterion_glyph(name: str) -> str:
    """Return a criterion's symbol as a character, for legends outside a figure."""
    return SYMBOL_GLYPHS[criterion_symbol(name)]


def display_order(names: Collection[str]) -> list[str]:
    """Sort criteria by the order of their fixed colours; criteria without one follow by name."""
    known = [name for name in CRITERION_COLOURS if name in names]
    return [*known, *sorted(set(names) - set(known))]


def blank(*, height: int, left: int = 40, right: int = 12, top: int = 12, bottom: int = 34) -> go.Figure:
    """Return an empty figure with the shared layout."""
    figure = go.Figure()
    figure.update_layout(
        height=height,
        margin={"l": left, "r": right, "t": top, "b": bottom},
        paper_bgcolor=CLEAR,
        plot_bgcolor=CLEAR,
        font={"size": 12},
        showlegend=False,
        hovermode="closest",
        dragmode=False,
        bargap=0.3,
        hoverlabel={"align": "left", "font": {"size": 12}},
        modebar={"remove": ["select", "lasso"]},
    )
    figure.update_xaxes(showgrid=False, zeroline=False, fixedrange=True, automargin=False, title_standoff=6)
    figure.update_yaxes(showgrid=False, zeroline=False, fixedrange=True, automargin=False, title_standoff=6)
    return figure


def signed(value: float, digits: int = 3) -> str:
    """Format with sign, using a true minus, which is as wide as the plus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def with_interval(value: float, low: float, high: float, *, unit: str, digits: int = 3) -> str:
    return f"{signed(value, digits)} {unit} [{signed(low, digits)}, {signed(high, digits)}]"
