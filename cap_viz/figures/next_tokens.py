"""A prompt under the dense and the changed model: next-token probabilities, coloured tokens, one head's attention."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from cap_viz.figures.theme import ACCENT, CLEAR, FAINT, HELPS, HURTS, NEUTRAL, blank, signed

# Changes of this many nats and more get the full colour.
STRONG_CHANGE = 2.0
CHANGED, DENSE = "changed", "dense"
# Tokens of an attention map that have room for a label.
MOST_LABELS = 40


@dataclass(frozen=True)
class Candidate:
    """A next token as text, with its probability before and after the change."""

    text: str
    dense: float
    changed: float


def visible(token: str) -> str:
    """Return a token with its spaces and line breaks made visible."""
    return token.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣") or "∅"


def in_one_line(text: str) -> str:
    """Return a text with a sign in place of its line breaks and the blank lines between them."""
    return re.sub(r"\s*\n\s*", " ⏎ ", text).strip()


def next_token_bars(candidates: Sequence[Candidate], *, both: bool) -> go.Figure:
    """Plot probabilities of the likeliest next tokens, dense and, with `both`, under the changed model below."""
    figure = blank(height=56 + 34 * len(candidates), left=112, top=8, bottom=40)
    labels = unique([visible(one.text) for one in candidates])
    shown = [(DENSE, NEUTRAL, [one.dense for one in candidates])]
    if both:
        shown.append((CHANGED, ACCENT, [one.changed for one in candidates]))
    for name, colour, values in shown:
        figure.add_trace(
            go.Bar(
                name=name,
                x=[100 * value for value in values],
                y=labels,
                orientation="h",
                marker={"color": colour},
                text=["< 0.1 %" if value < 0.0005 else f"{100 * value:.1f} %" for value in values],
                textposition="outside",
                cliponaxis=False,
                textfont={"size": 11},
                hovertemplate=f"%{{y}}: %{{x:.2f}} % ({name})<extra></extra>",
            )
        )
    highest = max(max(one.dense, one.changed) for one in candidates)
    figure.update_layout(barmode="group", bargap=0.28)
    figure.update_yaxes(autorange="reversed", ticks="", tickfont={"size": 12})
    figure.update_xaxes(
        title="probability of the next token", ticksuffix=" %", range=[0, 118 * highest], nticks=5, gridcolor=FAINT
    )
    return figure


def unique(labels: Sequence[str]) -> list[str]:
    """Number repeated labels: different tokens may look alike, and bars with one label would coincide."""
    seen: dict[str, int] = {}
    found = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        found.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return found


def coloured_prompt(tokens: Sequence[str], change: Float[np.ndarray, " position"]) -> str:
    """Return the prompt as HTML, each token shaded by how much less (teal) or more (brown) it is expected."""
    return f'<p style="line-height:2;font-size:0.95rem">{"".join(map(coloured_token, tokens, change))}</p>'


def played_prompt(tokens: Sequence[str], change: Float[np.ndarray, " position"], *, play: int) -> str:
    """Return the coloured prompt, its tokens to light up in turn by `assets/reading.css`.

    Another number of the `play` makes the browser start again.
    """
    coloured = enumerate(map(coloured_token, tokens, change))
    played = "".join(one.replace('style="', f'class="cv-played" style="--token:{at};', 1) for at, one in coloured)
    return f'<p id="play-{play}" style="line-height:2;font-size:0.95rem">{played}</p>'


def coloured_token(token: str, change: float) -> str:
    known = np.isfinite(change)
    share = min(1.0, abs(change) / STRONG_CHANGE) if known else 0.0
    ground = rgba(HURTS if change < 0 else HELPS, 0.75 * share) if share > 0.02 else CLEAR
    title = f"{signed(float(change), 2)} nats" if known else "the first token is not predicted"
    text = escape(token).replace("\n", "⏎<br>")
    style = f"background:{ground};border-radius:3px;padding:2px 0;white-space:pre-wrap"
    return f'<span style="{style}" title="{title}">{text}</span>'


def rgba(colour: str, opacity: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:.2f})"


def attention_map(tokens: Sequence[str], pattern: Float[np.ndarray, "query key"]) -> go.Figure:
    """Plot attention weights: rows (queries) look back at columns (keys), from faint (0) to indigo (1)."""
    n = len(tokens)
    side = min(560, 120 + 16 * n)
    figure = blank(height=side, left=96, top=8, bottom=84)
    names = [f"{i} {visible(token)}" for i, token in enumerate(tokens)]
    shown = np.where(np.tri(n, dtype=bool), pattern, np.nan)
    figure.add_trace(
        go.Heatmap(
            z=shown,
            zmin=0,
            zmax=1,
            colorscale=[[0, "rgba(97,100,240,0.05)"], [1, ACCENT]],
            showscale=False,
            customdata=np.array([[[names[row], names[column]] for column in range(n)] for row in range(n)]),
            hovertemplate="%{customdata[0]} looks at %{customdata[1]}: %{z:.2f}<extra></extra>",
            hoverongaps=False,
        )
    )
    step = -(-n // MOST_LABELS)
    every = list(range(0, n, step))
    labels = [visible(tokens[i])[:12] for i in every]
    figure.update_xaxes(tickvals=every, ticktext=labels, tickangle=-60, ticks="", tickfont={"size": 10})
    figure.update_yaxes(tickvals=every, ticktext=labels, autorange="reversed", ticks="", tickfont={"size": 10})
    if step > 1:
        figure.update_xaxes(title=f"labels: one token in {step}; hovering names both")
        figure.update_layout(margin_b=108, height=side + 24)
    return figure
