"""The zeros section of the Prune page: zeros per layer, matrix and head, shown before anything is measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from jaxtyping import Float

from cap_viz.dashboard.components.job_card import ended_view, job_view, ticking
from cap_viz.dashboard.components.panels import (
    empty,
    note,
    percent,
    problem,
)
from cap_viz.dashboard.components.submission import submit_run
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.prune.cost import cost_sentence
from cap_viz.dashboard.prune.figures import (
    zeros_by_head,
    zeros_by_layer,
    zeros_by_matrix,
)
from cap_viz.dashboard.prune.setting import PruneSetting, counting_spec, mask_spec, missing_tasks, title_of
from cap_viz.dashboard.prune.words import named
from cap_viz.dashboard.prune.zeros import Zeros, head_zeros_of, zeros_of
from cap_viz.dashboard.state import go_button
from cap_viz.errors import CapVizError
from cap_viz.figures.theme import CONFIG
from cap_viz.pruning import CRITERIA
from cap_viz.runs.jobs import Job
from cap_viz.runs.queue import shared_queue
from cap_viz.runs.spec import ProfileSpec

DETAIL, REFUSED = "prune_detail", "prune_count_refused"


def zeros_section(view: Frame, setting: PruneSetting) -> None:
    """Draw the zeros section, with updates while counting jobs run."""
    active = active_among(missing_counts(view, setting, st.session_state.get(DETAIL)))
    ticking(lambda: draw_zeros(view, setting, len(active)), live=bool(active))


def parts_of(detail: str | None) -> str | None:
    """Return the unit counted by the profiles behind a detail: heads, or matrices (None)."""
    return "heads" if detail == "heads" else None


def draw_zeros(view: Frame, setting: PruneSetting, n_active: int) -> None:
    title, switch = st.columns([2, 3], vertical_alignment="center")
    title.markdown(
        "##### What is removed", help="Zeros are counted from stored tables or from the rule, without a run."
    )
    with switch:
        detail = st.segmented_control(
            "Detail",
            ["layers", "matrices", "heads"],
            default="layers",
            required=True,
            key=DETAIL,
            label_visibility="collapsed",
            width="stretch",
        )
    missing = missing_counts(view, setting, detail)
    active = active_among(missing)
    if len(active) != n_active:
        st.rerun()
    found = [zeros for name in dict.fromkeys(setting.criteria) if (zeros := zeros_or_sentence(view, setting, name))]
    for job in active:
        job_view(job, key="prune_zeros")
    offer_counting(view, missing)
    if not found:
        return
    figure = zeros_figure(view, setting, found, detail)
    if figure is not None:
        st.plotly_chart(figure, config=CONFIG, key="prune_zeros_figure", alt=zeros_in_words(found, setting))
    st.table(zeros_table(found), border="horizontal", hide_index=True)
    sources = ", ".join(f"{title_of(one.criterion)} {one.source}" for one in found)
    dotted = "" if detail in ("matrices", "heads") else f"Dotted: {percent(setting.sparsity, 0)} asked. "
    st.caption(f"{dotted}Counted from: {sources}.")
    st.caption(cost_sentence(setting.criteria))


def zeros_figure(view: Frame, setting: PruneSetting, found: Sequence[Zeros], detail: str | None) -> go.Figure | None:
    """Make the figure of zeros in the chosen detail; None if zeros per head are asked for and there are none."""
    if detail == "matrices":
        return zeros_by_matrix(found)
    if detail != "heads":
        return zeros_by_layer(found, setting.sparsity)
    if setting.options.scope == "mlp":
        st.caption("Only MLP weights are pruned, so heads keep all of theirs.")
        return None
    shares: dict[str, Float[np.ndarray, "layer head"]] = {}
    for name in (one.criterion for one in found):
        share = head_zeros_of(view.store, view.runs, mask_spec(setting, name), setting.model)
        if share is not None:
            shares[name] = share
        elif counting_spec(setting, name, "heads") is None:
            st.caption(
                f"{named(name)} decides anew at every sparsity: its zeros per head are counted when its accuracy is "
                "measured."
            )
    if not shares:
        return None
    st.caption("Of a head’s own weights: its rows of the query matrix and its columns of the output matrix.")
    return zeros_by_head(shares)


def missing_counts(view: Frame, setting: PruneSetting, detail: str | None) -> dict[ProfileSpec, str]:
    """Runs that would count zeros not stored yet, with the titles of their jobs."""
    found: dict[ProfileSpec, str] = {}
    for name in dict.fromkeys(setting.criteria):
        for parts in dict.fromkeys((None, parts_of(detail))):
            spec = missing_count(view, setting, name, parts)
            if spec is not None:
                found[spec] = f"Counting the zeros of {title_of(name)}{' per head' if parts else ''}"
    return found


def missing_count(view: Frame, setting: PruneSetting, name: str, parts: str | None) -> ProfileSpec | None:
    """Run that would count a criterion's zeros, per matrix or per head; None if they are known or cannot be counted.

    They cannot be counted where the texts that the mask is measured on are not on this machine.
    """
    count = zeros_of if parts is None else head_zeros_of
    try:
        if parts == "heads" and setting.options.scope == "mlp":
            return None
        if count(view.store, view.runs, mask_spec(setting, name), setting.model) is not None:
            return None
        spec = counting_spec(setting, name, parts)
    except CapVizError:
        return None  # `zeros_or_sentence` shows the error.
    return None if spec is None or view.store.get(spec) is not None or missing_tasks(spec) else spec


def active_among(specs: Iterable[ProfileSpec]) -> list[Job]:
    jobs = (shared_queue().find(spec) for spec in specs)
    return [job for job in jobs if job is not None and job.active]


def offer_counting(view: Frame, missing: Mapping[ProfileSpec, str]) -> None:
    """Draw the button that counts missing zeros, and the outcome of earlier attempts."""
    idle = {}
    for spec, title in missing.items():
        job = shared_queue().find(spec)
        if job is None or not job.active:
            idle[spec] = title
        if job is not None:
            ended_view(job)
    if refused := st.session_state.pop(REFUSED, ""):
        problem(refused)
    if not idle:
        return
    if not view.installed:
        note(view.install_hint)
        return
    st.button("Count the zeros", key="prune_count", on_click=count, args=(idle,))
    counts = "1 count is" if len(idle) == 1 else f"{len(idle)} counts are"
    st.caption(f"{counts} not stored yet. You can leave the page; it goes on.")


def count(wanted: Mapping[ProfileSpec, str]) -> None:
    try:
        for spec, title in wanted.items():
            submit_run(spec, title)
    except CapVizError as error:
        st.session_state[REFUSED] = str(error)


def zeros_or_sentence(view: Frame, setting: PruneSetting, name: str) -> Zeros | None:
    """Return the zeros of a criterion, or show why there are none unless a job can count them."""
    try:
        zeros = zeros_of(view.store, view.runs, mask_spec(setting, name), setting.model)
        spec = counting_spec(setting, name) if zeros is None else None
    except CapVizError as error:
        problem(str(error))
        if CRITERIA[name].needs_scores and setting.scores is None:
            go_button("Score the heads", "pages/heads.py", key=f"prune_to_heads_{name}", icon=":material/grid_on:")
        return None
    if zeros is not None:
        return zeros
    if spec is None or missing_tasks(spec):
        empty(f"Zeros of {title_of(name)}", "They appear with the first measurement of this model.")
    return None


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
