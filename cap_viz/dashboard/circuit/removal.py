"""How good the ranking of the heads is: what their removal costs in its order, from its end, and at random."""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np
import pandas as pd
import streamlit as st
from jaxtyping import Float

from cap_viz.attribution.effect_metrics import METRICS
from cap_viz.attribution.removal_curve import SHARES, RemovalCurve, Removals
from cap_viz.dashboard.components.chart import chart
from cap_viz.dashboard.components.panels import p_words
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.new_run import offer_runs
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.figures.removal import removal_curves
from cap_viz.progress import duration
from cap_viz.runs.kinds.removal import load_removal, removal_spec
from cap_viz.runs.run_queries import alike, runs_of
from cap_viz.runs.sample_plan import seconds_of_passes
from cap_viz.runs.spec import RemovalSpec, ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks.example_sets import ExampleSet

SUMMED_UP = {"cpr": "CPR (best 1)", "cmd": "CMD (best 0)"}


def removal_section(
    view: Frame, scores: ScoreSpec, mean: Float[np.ndarray, "layer head"], examples: ExampleSet, metric: str
) -> None:
    """Draw the curves of a stored run in the order of these mean effects, or the button that measures it."""
    st.markdown("#### How good is the ranking", help=GLOSSARY["removal_curve"])
    removals = Removals.of_effects(mean, SHARES)
    wanted = removal_spec(scores, removals, examples)
    run = stored_removal(view, wanted)
    if run is None:
        said = cost_words(view, len(removals.sets), len(examples.ids), mean.size)
        offer_runs(view, "Remove heads in this order", wanted, key="circuit_removal_start", said=said)
        return
    found, (curves, areas) = removal_of(view.store, run), tables_of(view.store, run, metric)
    left, right = st.columns([5, 3], gap="medium")
    with left:
        figure = partial(removal_curves, curves, unit=METRICS[metric].unit)
        chart(figure, key="circuit_removal", alt="Loss with heads removed in order, from the end, and at random")
    with right:
        st.markdown("How much of the heads' contribution a circuit keeps, over the share of heads in it:")
        st.table(summary(areas), border="horizontal", hide_index=True)
        st.caption(
            f"On {len(found.joint.questions)} questions, {found.shared} of which ranked the heads. Brackets: 95 %. p: "
            f"share of {found.draws} random orders, with this one, that do at least as well."
        )


def summary(areas: pd.DataFrame) -> pd.DataFrame:
    rows = areas.set_index("area").loc[list(SUMMED_UP)].to_dict("records")
    return pd.DataFrame(
        {
            "Area": list(SUMMED_UP.values()),
            "This order": [f"{row['value']:.2f} [{row['ci_low']:.2f}, {row['ci_high']:.2f}]" for row in rows],
            "Random": [f"{row['random_median']:.2f}" for row in rows],
            "p": [p_words(row["p_value"]) for row in rows],
        }
    )


def stored_removal(view: Frame, wanted: RemovalSpec) -> StoredRun[RemovalSpec] | None:
    """Find the run with most examples that differs from the wanted one in examples only."""
    held = [run for run in runs_of(view.runs, RemovalSpec) if alike(run.spec, wanted)]
    same = [run for run in held if run.spec.examples.task == wanted.examples.task]
    return max(same, key=lambda run: len(run.spec.examples.ids), default=None)


@lru_cache(16)
def removal_of(store: Store, run: StoredRun[RemovalSpec]) -> RemovalCurve:
    """Read a run. Raises `DamagedRun`."""
    return load_removal(store, run)


@lru_cache(32)
def tables_of(store: Store, run: StoredRun[RemovalSpec], metric: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the curves of a run by the metric and the areas under them, with bootstrap intervals."""
    found = removal_of(store, run)
    return found.rows(metric), found.areas(metric)


def cost_words(view: Frame, n_sets: int, n: int, n_heads: int) -> str:
    """State the forwards with heads removed and, at the pace of a stored run of head scores, their time."""
    passes = n_sets * n
    seconds = seconds_of_passes(view.runs, view.model, view.task.name, passes, n_heads)
    time = "" if seconds is None else f", about {duration(seconds)}"
    return f"{passes:,} passes with heads removed{time}."
