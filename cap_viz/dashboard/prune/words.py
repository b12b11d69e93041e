"""Wording shared by the Prune page's sections: criteria with their colour, badges, intervals."""

from __future__ import annotations

from cap_viz.dashboard.components.panels import percent
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.prune.figures import colour_of
from cap_viz.dashboard.prune.setting import DENSE, title_of
from cap_viz.dashboard.prune.zeros import zeros_of
from cap_viz.figures.theme import criterion_glyph
from cap_viz.runs.comparison import counts_weights
from cap_viz.runs.spec import EvalSpec, MaskSpec
from cap_viz.runs.store import DamagedRun, StoredRun


def swatch(name: str) -> str:
    """The criterion's colour and shape for Markdown; a dot for the dense model."""
    glyph = "●" if name == DENSE else criterion_glyph(name)
    return f':color[{glyph}]{{foreground="{colour_of(name)}"}}'


def named(name: str) -> str:
    return f"{swatch(name)} **{title_of(name)}**"


def pruned_words(name: str, sparsity: float) -> str:
    """Name a column within a sentence: the dense model, or a criterion at its sparsity."""
    return "the dense model" if name == DENSE else f"{title_of(name)} at {percent(sparsity, 0)}"


def heads_words(view: Frame, mask: MaskSpec) -> str:
    """Say what share of the weights a share of heads is; empty for a criterion that counts weights."""
    if counts_weights(mask.criterion):
        return ""
    try:
        zeros = zeros_of(view.store, view.runs, mask, view.model)
    except DamagedRun:
        zeros = None
    weights = (
        "a smaller share of the weights, not counted yet"
        if zeros is None
        else f"{percent(zeros.reached)} of the weights"
    )
    return f"{percent(mask.sparsity, 0)} of the heads: {weights}"


def origin_badge(run: StoredRun) -> str:
    return f":{'violet' if run.origin == 'live' else 'gray'}-badge[{run.origin}]"


def so_far_badge(arrived: int, wanted: EvalSpec) -> str:
    return f":blue-badge[{arrived} of {len(wanted.examples.ids)} so far]"


def limits(low: float, high: float) -> str:
    return f"{100 * low:.1f}–{100 * high:.1f} %"
