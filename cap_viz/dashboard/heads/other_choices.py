"""Would other choices have said the same? The selected head under every way its effect was scored."""

from __future__ import annotations

from functools import lru_cache, partial

import streamlit as st

from cap_viz.attribution.effect_metrics import applicable_metrics
from cap_viz.attribution.specification_curve import SpecificationCurve
from cap_viz.dashboard.components.chart import chart
from cap_viz.dashboard.components.head_map import Head, head_name
from cap_viz.dashboard.components.panels import problems_told
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.new_run import offer_runs
from cap_viz.dashboard.names import texts_missing
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.figures.specification import specification_curve
from cap_viz.models.catalogue import ModelRef
from cap_viz.progress import duration
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.specifications import curve_of, expected_seconds_of, missing_runs, scores_of_draws, stored_choices
from cap_viz.runs.store import Store, StoredRun
from cap_viz.stats.ranking import usual_top
from cap_viz.tasks import Task, load_task


def other_choices_section(view: Frame, task: Task, head: Head) -> None:
    """Draw the specification curve of a head over what is stored, and the button that computes the rest."""
    with st.expander("Would other choices have said the same?", key="heads_choices"), problems_told():
        if not task.is_local():
            st.caption(texts_missing(task))
            return
        runs = tuple(scores_of_draws(view.runs, view.model, task.name))
        if len(runs) * len(applicable_metrics(task)) < 2:
            st.caption(
                "The heads were scored in one way only. Start a new run with another draw, ablation or estimator."
            )
            return
        curve, missing = curve_in(view.store, view.model, task.name, runs)
        st.markdown(said := agreement_sentence(curve, head), help=GLOSSARY["specification"])
        figure = partial(specification_curve, curve.of_head(*head), n_heads=curve.mean[0].size)
        chart(figure, key="heads_choices_figure", alt=said.replace("**", ""))
        st.caption("Filled: the interval excludes zero.")
        if missing:
            label = f"Compute the {len(missing)} missing runs" if len(missing) > 1 else "Compute the missing run"
            offer_runs(view, label, *missing, key="heads_choices_start", said=cost(view, curve, missing))


@lru_cache(16)
def curve_in(
    store: Store, model: ModelRef, task: str, runs: tuple[StoredRun[ScoreSpec], ...]
) -> tuple[SpecificationCurve, tuple[ScoreSpec, ...]]:
    """Return the curve over the choices made in stored runs, and the runs that would complete it.

    Raises `CapVizError` for fewer than two specifications.
    """
    chosen = load_task(task)
    choices = stored_choices(runs, model, chosen)
    return curve_of(store, model, chosen, choices), tuple(missing_runs(store, model, chosen, choices))


def agreement_sentence(curve: SpecificationCurve, head: Head) -> str:
    """Say in what share of the specifications a head is among the top and helps, and between which ranks it lies."""
    found = curve.to_pandas().set_index(["layer", "head"]).loc[head]
    low, high = int(found["rank_low"]), int(found["rank_high"])
    ranks = f"Ranks {low} to {high}, median {found['rank_median']:g}" if low < high else f"Rank {low} in all"
    return (
        f"{head_name(*head)} is among the first {usual_top(curve.mean[0].size)} heads in "
        f"**{found['share_top']:.0%}** of {len(curve.specifications)} specifications, helps in "
        f"{found['share_helps']:.0%} and hurts in {found['share_hurts']:.0%}. {ranks}."
    )


def cost(view: Frame, curve: SpecificationCurve, missing: tuple[ScoreSpec, ...]) -> str:
    """Say how many specifications are missing and how long their runs take, where each estimator was timed."""
    seconds = expected_seconds_of(view.runs, missing)
    time = "an estimator has not been timed here yet" if seconds is None else f"about **{duration(seconds)}**"
    return f"{len(curve.missing)} specifications are missing: {time}."
