"""Where the heads of a circuit act: by span of the prompt, or by step of a worked solution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial

import streamlit as st

from cap_viz.attribution.effect_metrics import DIFFERENTIABLE, METRICS
from cap_viz.attribution.position_effects import PositionEffects
from cap_viz.dashboard.components.chart import chart
from cap_viz.dashboard.components.head_map import Head
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.new_run import offer_runs
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.figures.positions import position_map
from cap_viz.runs.kinds.positions import load_positions
from cap_viz.runs.run_queries import runs_of
from cap_viz.runs.spec import PositionSpec
from cap_viz.runs.store import StoredRun
from cap_viz.tasks.spans import By

SPLITS: dict[By, str] = {"span": "Where their output is replaced", "step": "Which step is predicted"}
SAID: dict[By, str] = {
    "span": "To first order, so that the spans of a head add up. The first token (sink) stands apart.",
    "step": "How much the loss of each step of the worked solution rises; late steps are those of long solutions.",
}
positions_of = lru_cache(16)(load_positions)


def positions_section(view: Frame, wanted: PositionSpec, heads: Sequence[Head], metric: str) -> None:
    """Draw heads × spans or heads × steps from a stored run, or the button that measures it.

    `wanted` is the run by span that the button starts.
    """
    st.markdown("#### Where they act", help=GLOSSARY["span"])
    has_steps = view.task.is_local() and view.task.splits.evaluation[0].solution is not None
    asked = view.selection.segmented("Split", "split", SPLITS, label_visibility="collapsed") if has_steps else "span"
    by: By = "step" if asked == "step" else "span"
    if by == "step":
        wanted = replace(wanted, by="step", metric=None, heads=tuple(sorted(heads)))
    elif metric not in DIFFERENTIABLE:
        st.caption(f"{METRICS[metric].title} have no gradient; choose a loss to see where heads act.")
        return
    run = stored_positions(view, wanted)
    if run is None:
        offer_runs(view, f"Measure by {by}", wanted, key="circuit_positions_start")
        return
    found = positions_of(view.store, run)
    shown = metric if by == "span" else found.metrics[0]
    rows = [found.heads.index(head) for head in heads]
    chart(
        partial(
            position_map,
            found.estimated(shown),
            rows,
            heads=found.names,
            parts=found.parts,
            unit=METRICS[shown].unit,
            by=by,
        ),
        key="circuit_positions",
        alt=f"Effects of the heads by {by}: {largest_words(found, rows, shown)}",
    )
    st.caption(f"{SAID[by]} {len(found.questions)} questions.")


def stored_positions(view: Frame, wanted: PositionSpec) -> StoredRun[PositionSpec] | None:
    """Find the run with most examples that differs from the wanted one in examples, or in that it holds more heads."""
    held = [
        run
        for run in runs_of(view.runs, PositionSpec)
        if run.spec.examples.task == wanted.examples.task
        and replace(run.spec, examples=wanted.examples, heads=wanted.heads, reference=wanted.reference) == wanted
        and (run.spec.heads is None or set(wanted.heads or ()) <= set(run.spec.heads))
    ]
    return max(held, key=lambda run: len(run.spec.examples.ids), default=None)


def largest_words(found: PositionEffects, rows: Sequence[int], metric: str) -> str:
    """Name for each head the single part with its largest effect."""
    mean = found.mean_effect(metric)[list(rows), :-1]
    best = abs(mean).argmax(axis=1)
    return ", ".join(f"{found.names[row]} most at {found.parts[part]}" for row, part in zip(rows, best, strict=True))
