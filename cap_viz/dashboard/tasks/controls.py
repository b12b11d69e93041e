"""Controls of the Tasks page, all bound to the URL; the first task of the pair is the sidebar's."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from cap_viz.dashboard.components.panels import note
from cap_viz.dashboard.state import bad_choice, bad_number, keep_in_range, keep_valid
from cap_viz.dashboard.tasks.data import Collection, Measured
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.stats import usual_top
from cap_viz.tasks.readable import CONTROL_TEXTS

KEYS = ("model", "task", "against", "scale", "k", "layer", "head")
STANDARDISED, RAW = "standardised", "nats"
SCALES = (STANDARDISED, RAW)
SCALE_UNITS = {STANDARDISED: "SD over heads", RAW: "nats per token"}


@dataclass(frozen=True)
class TaskPair:
    """Tasks to compare, scale of the maps, and number of heads counted as the top."""

    first: Measured
    second: Measured
    scale: str
    k: int

    @property
    def unit(self) -> str:
        return SCALE_UNITS[self.scale]


def controls(collection: Collection, task: str) -> TaskPair:
    """Draw the controls. The collection holds at least two tasks."""
    n_heads = collection.measured[0].stats.estimate.rank.size
    first = collection.named(task) if task in collection.names else collection.measured[0]
    others = [name for name in collection.names if name != first.name]
    usual = next((name for name in CONTROL_TEXTS if name in others), others[0])
    notes = [
        bad_choice("against", others, usual, "the comparison with"),
        bad_choice("scale", SCALES, STANDARDISED, "the scale"),
        bad_number("k", 1, n_heads // 2, "a top of"),
    ]
    if task not in collection.names:
        notes.append(f"No head scores of {task} are stored; comparing {first.name} instead.")
    keep_valid("against", others)
    keep_in_range("k", 1, n_heads // 2)
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        scale_place, second_place, k_place = (st.container(width=width) for width in (250, 250, "stretch"))
    with scale_place:
        scale = st.segmented_control(
            "Scale of the maps",
            SCALES,
            default=STANDARDISED,
            required=True,
            key="scale",
            bind="query-params",
            width="stretch",
            help=GLOSSARY["scale"],
        )
    with second_place:
        second = st.selectbox(
            f"Compare {first.task.title} with",
            others,
            others.index(usual),
            key="against",
            bind="query-params",
            help="The first task of the comparison is the one in the sidebar. A click on the matrix sets both.",
        )
    with k_place:
        k = st.slider(
            "Heads counted as the top",
            1,
            n_heads // 2,
            usual_top(n_heads),
            key="k",
            bind="query-params",
            help="How many heads with the largest effects are compared; a tenth of all unless you say otherwise.",
        )
    for sentence in filter(None, notes):
        note(sentence)
    return TaskPair(first, collection.named(str(second)), str(scale), int(k))
