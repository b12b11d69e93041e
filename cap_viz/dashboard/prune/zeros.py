"""What pruning removes, shown before anything is measured: where the zeros are, and the importance behind CAP."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from cap_viz.dashboard.components.chart import chart
from cap_viz.dashboard.components.job_card import offer_jobs
from cap_viz.dashboard.components.measured_column import named, title_of
from cap_viz.dashboard.components.panels import caution, empty, percent, problem, problems_told
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.prune.setting import PruneSetting, counting_spec, mask_spec
from cap_viz.dashboard.selection import go_button
from cap_viz.dashboard.stored import read_head_zeros, read_zeros, scores_of
from cap_viz.errors import CapVizError
from cap_viz.figures.prune import (
    LayerShares,
    importance_histogram,
    zeros_by_head,
    zeros_by_layer,
    zeros_by_matrix,
)
from cap_viz.pruning import CRITERIA, importance
from cap_viz.pruning.options import USUAL
from cap_viz.runs.comparison import counts_weights
from cap_viz.runs.jobs import JobSpec
from cap_viz.runs.run_labels import ablation_words
from cap_viz.runs.run_queries import missing_tasks, runs_of
from cap_viz.runs.spec import MaskSpec, ScoreSpec
from cap_viz.runs.store import DamagedRun
from cap_viz.runs.zero_counts import Zeros, head_zeros_of, zeros_of
from cap_viz.stats import widest_outlier

DETAILS = {"layers": "Layers", "matrices": "Matrices", "heads": "Heads"}
# An outlier gets a warning when the other heads span less than this share of the scale of I.
NARROW = 0.6


def weights_words(view: Frame, mask: MaskSpec) -> str:
    """Say what share of the weights goes with whole heads; empty for a criterion that counts weights."""
    if counts_weights(mask.criterion):
        return ""
    try:
        zeros = zeros_of(view.store, view.runs, mask, view.model, read_zeros)
    except DamagedRun:
        zeros = None
    return f"{percent(zeros.reached)} of the weights" if zeros else "a smaller share of the weights, not counted yet"


@st.fragment
def zeros_section(view: Frame, setting: PruneSetting) -> None:
    """Draw where the zeros are, in figure and table, and offer to count those that are not known."""
    title, switch = st.columns([2, 3], vertical_alignment="center")
    title.markdown("##### Where the zeros are", help="Counted from stored tables or by the criterion, without a run.")
    with switch:
        detail = view.selection.segmented("Detail", "detail", DETAILS, label_visibility="collapsed", width="stretch")
    found = [zeros for name in setting.criteria if (zeros := zeros_or_sentence(view, setting, name))]
    missing = uncounted(view, setting, detail)
    counts = "1 count is" if len(missing) == 1 else f"{len(missing)} counts are"
    said = f"{counts} not stored yet."
    offer_jobs(missing, "Count the zeros", said, key="prune_count", blocked=view.install_hint)
    if not found:
        return
    figure = zeros_figure(view, setting, found, detail)
    if figure is not None:
        reached = ", ".join(f"{title_of(one.criterion)} reaches {percent(one.reached)} zeros" for one in found)
        alt = f"Zeros per layer at {percent(setting.sparsity, 0)} asked: {reached}."
        chart(figure, key="prune_zeros_figure", alt=alt)
    st.table(zeros_table(found), border="horizontal", hide_index=True)
    sources = "; ".join(f"{title_of(one.criterion)}: {one.source}" for one in found)
    dotted = f"Dotted: {percent(setting.sparsity, 0)} asked." if detail == "layers" else "Shares of zeros."
    st.caption(dotted, help=f"Counted from: {sources}.")


def zeros_figure(view: Frame, setting: PruneSetting, found: Sequence[Zeros], detail: str) -> partial[go.Figure] | None:
    """Make the figure of zeros in the chosen detail; None if zeros per head are asked for and there are none."""
    by_title = {title_of(one.criterion): one for one in found}
    if detail == "layers":
        layers = [
            LayerShares(one.criterion, title, {part: one.by_layer(part) for part in one.parts})
            for title, one in by_title.items()
        ]
        return partial(zeros_by_layer, layers, setting.sparsity)
    if detail == "matrices":
        return partial(zeros_by_matrix, {title: one.by_kind() for title, one in by_title.items()})
    if setting.options.scope == "mlp":
        st.caption("Only MLP weights are pruned, so heads keep all of theirs.")
        return None
    shares = {}
    for title, one in by_title.items():
        if (share := head_zeros_in(view, setting, one.criterion)) is not None:
            shares[title] = share
        elif counting_spec(setting, one.criterion, "heads") is None:
            st.caption(
                f"{named(one.criterion)} ranks weights anew at every sparsity: measuring its accuracy counts its zeros."
            )
    if not shares:
        return None
    st.caption("Of a head’s own weights: its rows of the query matrix and its columns of the output matrix.")
    return partial(zeros_by_head, shares)


def uncounted(view: Frame, setting: PruneSetting, detail: str) -> dict[JobSpec, str]:
    """Return the runs that would count zeros not stored yet, per matrix and for the detail "heads" also per head.

    By the titles of their jobs. Zeros cannot be counted where the texts a mask is measured on are not on this machine.
    """
    found: dict[JobSpec, str] = {}
    for name, parts in product(setting.criteria, (None, "heads")):
        if parts == "heads" and (detail != "heads" or setting.options.scope == "mlp"):
            continue
        with suppress(CapVizError):  # `zeros_or_sentence` shows the error.
            known = zeros_in(view, setting, name) if parts is None else head_zeros_in(view, setting, name)
            spec = counting_spec(setting, name, parts)
            if known is None and spec is not None and view.store.get(spec) is None and not missing_tasks(spec):
                found[spec] = f"Counting the zeros of {title_of(name)}{' per head' if parts else ''}"
    return found


def zeros_in(view: Frame, setting: PruneSetting, name: str) -> Zeros | None:
    return zeros_of(view.store, view.runs, mask_spec(setting, name), view.model, read_zeros)


def head_zeros_in(view: Frame, setting: PruneSetting, name: str) -> np.ndarray | None:
    return head_zeros_of(view.store, view.runs, mask_spec(setting, name), view.model, read_head_zeros)


def zeros_or_sentence(view: Frame, setting: PruneSetting, name: str) -> Zeros | None:
    """Return the zeros of a criterion, or show why there are none unless a job can count them."""
    try:
        zeros = zeros_in(view, setting, name)
        spec = counting_spec(setting, name) if zeros is None else None
    except CapVizError as error:
        problem(str(error))
        if CRITERIA[name].needs_scores and setting.scores is None:
            go_button("Score the heads", "heads", key=f"prune_to_heads_{name}")
        return None
    if zeros is None and (spec is None or missing_tasks(spec)):
        empty(f"Zeros of {title_of(name)}", "They appear with the first measurement of this model.")
    return zeros


def zeros_table(found: Sequence[Zeros]) -> pd.DataFrame:
    """Reached sparsity and the split between attention and MLP; cells are Markdown."""
    return pd.DataFrame(
        {
            "": [named(one.criterion) for one in found],
            "Reached": [percent(one.reached, 2) for one in found],
            **{
                title: [percent(one.parts[part]) if part in one.parts else "untouched" for one in found]
                for part, title in (("attention", "Attention"), ("mlp", "MLP"))
            },
            "Zeros in attention": [percent(one.attention_share_of_zeros, 0) for one in found],
        }
    )


def importance_section(view: Frame, setting: PruneSetting) -> None:
    """Draw the histogram of importance I, if one of the criteria scales head effects to it."""
    if setting.scores is None or not any(CRITERIA[name].scales_importance for name in setting.criteria):
        return
    words = ablation_words(setting.scores)
    st.markdown(
        "##### Importance behind CAP",
        help="CAP multiplies every weight's magnitude with the importance I of its head: the mean effect of "
        f"{words.doing} the head{words.by}, scaled so that the least helpful head has I = 1 and the most helpful "
        "I = 10.",
    )
    with problems_told():
        run = next(run for run in runs_of(view.runs, ScoreSpec) if run.spec == setting.scores)
        effect = scores_of(view.store, run).mean_effect(setting.options.metric or USUAL["metric"])
        draw_importance(importance(effect))


def draw_importance(scaled: np.ndarray) -> None:
    """Draw the histogram of importance per head, and say how far it spreads."""
    outlier = widest_outlier(scaled)
    chart(partial(importance_histogram, scaled, outlier), key="prune_importance", alt="Histogram of I")
    low, high = np.quantile(scaled, [0.05, 0.95])
    span = f"Nine heads in ten lie between I = {low:.1f} and {high:.1f}: a factor of {high / low:.1f}."
    if outlier.range_left < NARROW:
        caution(
            f"One head (layer {outlier.layer}, head {outlier.head}) stretches the scale: without it the effects span "
            f"{outlier.range_left:.0%} of their range. {span} CAP is then close to global magnitude."
        )
    else:
        st.caption(f"{span} The closer to 1, the more CAP resembles global magnitude.")
