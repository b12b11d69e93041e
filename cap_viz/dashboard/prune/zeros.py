"""Where the zeros are: per layer, matrix and head, shown before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from cap_viz.dashboard.components.job_card import ended_view, has_ended, jobs_view, ticking
from cap_viz.dashboard.components.measured_column import named, title_of
from cap_viz.dashboard.components.panels import empty, note, percent, problem
from cap_viz.dashboard.components.submission import refusal, submit_all
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.prune.setting import PruneSetting, counting_spec, mask_spec
from cap_viz.dashboard.selection import go_button
from cap_viz.errors import CapVizError
from cap_viz.figures.prune import KIND_TITLES, LayerShares, MatrixShares, zeros_by_head, zeros_by_layer, zeros_by_matrix
from cap_viz.figures.theme import CONFIG
from cap_viz.pruning import CRITERIA
from cap_viz.runs.comparison import counts_weights
from cap_viz.runs.jobs import Job
from cap_viz.runs.kinds.profile import load_head_zeros, load_zeros
from cap_viz.runs.queue import shared_queue
from cap_viz.runs.run_queries import missing_tasks
from cap_viz.runs.spec import MaskSpec, ProfileSpec
from cap_viz.runs.store import DamagedRun
from cap_viz.runs.zero_counts import Zeros, head_zeros_of, zeros_of

DETAILS = {"layers": "Layers", "matrices": "Matrices", "heads": "Heads"}
COUNT = "prune_count"
# A finished run never changes.
read_zeros, read_head_zeros = lru_cache(64)(load_zeros), lru_cache(64)(load_head_zeros)


def weights_words(view: Frame, mask: MaskSpec) -> str:
    """Say what share of the weights goes with whole heads; empty for a criterion that counts weights."""
    if counts_weights(mask.criterion):
        return ""
    try:
        zeros = zeros_of(view.store, view.runs, mask, view.model, read_zeros)
    except DamagedRun:
        zeros = None
    return f"{percent(zeros.reached)} of the weights" if zeros else "a smaller share of the weights, not counted yet"


def zeros_section(view: Frame, setting: PruneSetting) -> None:
    """Draw the zeros section, with updates while counting jobs run."""
    active = active_among(missing_counts(view, setting, "heads"))
    ticking(lambda: draw_zeros(view, setting, len(active)), live=bool(active))


def draw_zeros(view: Frame, setting: PruneSetting, n_active: int) -> None:
    title, switch = st.columns([2, 3], vertical_alignment="center")
    title.markdown("##### Where the zeros are", help="Counted from stored tables or from the rule, without a run.")
    with switch:
        detail = view.selection.segmented(
            "Detail",
            "detail",
            tuple(DETAILS),
            names=DETAILS.__getitem__,
            what="a detail of",
            label_visibility="collapsed",
            width="stretch",
        )
    active = active_among(missing_counts(view, setting, "heads"))
    if len(active) != n_active:
        st.rerun()
    found = [zeros for name in dict.fromkeys(setting.criteria) if (zeros := zeros_or_sentence(view, setting, name))]
    jobs_view(active, key="prune_zeros")
    offer_counting(view, missing_counts(view, setting, detail))
    if not found:
        return
    figure = zeros_figure(view, setting, found, detail)
    if figure is not None:
        st.plotly_chart(figure, config=CONFIG, key="prune_zeros_figure", alt=zeros_in_words(found, setting))
    sources = "; ".join(f"{title_of(one.criterion)}: {one.source}" for one in found)
    st.table(zeros_table(found), border="horizontal", hide_index=True)
    dotted = f"Dotted: {percent(setting.sparsity, 0)} asked." if detail == "layers" else "Shares of zeros."
    st.caption(dotted, help=f"Counted from: {sources}.")


def zeros_figure(view: Frame, setting: PruneSetting, found: Sequence[Zeros], detail: str) -> go.Figure | None:
    """Make the figure of zeros in the chosen detail; None if zeros per head are asked for and there are none."""
    if detail == "layers":
        parts = [{part: one.by_layer(part) for part in one.parts} for one in found]
        return zeros_by_layer(
            [LayerShares(one.criterion, title_of(one.criterion), by) for one, by in zip(found, parts, strict=True)],
            setting.sparsity,
        )
    if detail == "matrices":
        return zeros_by_matrix(
            [MatrixShares(title_of(one.criterion), *one.by_kind(tuple(KIND_TITLES))) for one in found]
        )
    if setting.options.scope == "mlp":
        st.caption("Only MLP weights are pruned, so heads keep all of theirs.")
        return None
    shares = {}
    for name in (one.criterion for one in found):
        share = head_zeros_of(view.store, view.runs, mask_spec(setting, name), setting.model, read_head_zeros)
        if share is not None:
            shares[title_of(name)] = share
        elif counting_spec(setting, name, "heads") is None:
            st.caption(
                f"{named(name)} decides anew at every sparsity: its zeros per head are counted when its accuracy is "
                "measured."
            )
    if not shares:
        return None
    st.caption("Of a head’s own weights: its rows of the query matrix and its columns of the output matrix.")
    return zeros_by_head(shares)


def missing_counts(view: Frame, setting: PruneSetting, detail: str) -> dict[ProfileSpec, str]:
    """Runs that would count zeros not stored yet, with the titles of their jobs."""
    found: dict[ProfileSpec, str] = {}
    for name in dict.fromkeys(setting.criteria):
        for parts in (None, "heads") if detail == "heads" else (None,):
            spec = missing_count(view, setting, name, parts)
            if spec is not None:
                found[spec] = f"Counting the zeros of {title_of(name)}{' per head' if parts else ''}"
    return found


def missing_count(view: Frame, setting: PruneSetting, name: str, parts: str | None) -> ProfileSpec | None:
    """Run that would count a criterion's zeros, per matrix or per head; None if they are known or cannot be counted.

    They cannot be counted where the texts that the mask is measured on are not on this machine.
    """
    try:
        if parts == "heads" and setting.options.scope == "mlp":
            return None
        asked = (view.store, view.runs, mask_spec(setting, name), setting.model)
        known = zeros_of(*asked, read_zeros) if parts is None else head_zeros_of(*asked, read_head_zeros)
        spec = counting_spec(setting, name, parts) if known is None else None
    except CapVizError:
        return None  # `zeros_or_sentence` shows the error.
    return None if spec is None or view.store.get(spec) is not None or missing_tasks(spec) else spec


def active_among(specs: dict[ProfileSpec, str]) -> list[Job]:
    jobs = (shared_queue().find(spec) for spec in specs)
    return [job for job in jobs if job is not None and job.active]


def offer_counting(view: Frame, missing: dict[ProfileSpec, str]) -> None:
    """Draw the button that counts missing zeros, and the outcome of earlier attempts."""
    jobs = {spec: shared_queue().find(spec) for spec in missing}
    ended_view(*(job for job in jobs.values() if job is not None))
    refusal(COUNT)
    idle = {spec: missing[spec] for spec, job in jobs.items() if job is None or not (job.active or has_ended(job))}
    if not idle:
        return
    if not view.installed:
        note(view.install_hint)
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.button("Count the zeros", key=COUNT, on_click=submit_all, args=(idle, COUNT))
        counts = "1 count is" if len(idle) == 1 else f"{len(idle)} counts are"
        st.caption(f"{counts} not stored yet.", help="You can leave the page; it goes on.")


def zeros_or_sentence(view: Frame, setting: PruneSetting, name: str) -> Zeros | None:
    """Return the zeros of a criterion, or show why there are none unless a job can count them."""
    try:
        zeros = zeros_of(view.store, view.runs, mask_spec(setting, name), setting.model, read_zeros)
        spec = counting_spec(setting, name) if zeros is None else None
    except CapVizError as error:
        problem(str(error))
        if CRITERIA[name].needs_scores and setting.scores is None:
            go_button("Score the heads", "pages/heads.py", key=f"prune_to_heads_{name}", icon=":material/grid_on:")
        return None
    if zeros is None and (spec is None or missing_tasks(spec)):
        empty(f"Zeros of {title_of(name)}", "They appear with the first measurement of this model.")
    return zeros


def zeros_in_words(found: Sequence[Zeros], setting: PruneSetting) -> str:
    said = [f"{title_of(one.criterion)} reaches {percent(one.reached)} zeros" for one in found]
    return f"Zeros per layer at {percent(setting.sparsity, 0)} asked: {', '.join(said)}."


def zeros_table(found: Sequence[Zeros]) -> pd.DataFrame:
    """Reached sparsity and the split between attention and MLP; cells are Markdown."""
    return pd.DataFrame(
        {
            "": [named(one.criterion) for one in found],
            "Reached": [percent(one.reached, 2) for one in found],
            "Attention": [part_words(one, "attention") for one in found],
            "MLP": [part_words(one, "mlp") for one in found],
            "Zeros in attention": [percent(one.attention_share_of_zeros, 0) for one in found],
        }
    )


def part_words(zeros: Zeros, part: str) -> str:
    return percent(zeros.parts[part]) if part in zeros.parts else "untouched"
