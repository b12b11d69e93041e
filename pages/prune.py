"""Prune: set the least important weights to zero by two criteria, and see what that removes and what it costs."""

import streamlit as st

from cap_viz.dashboard.components.panels import heading, problem
from cap_viz.dashboard.frame import frame
from cap_viz.dashboard.prune.accuracy_view import accuracy_section, current_columns
from cap_viz.dashboard.prune.controls import controls
from cap_viz.dashboard.prune.page import (
    flips_section,
    importance_section,
    no_accuracy_section,
    notes_section,
    provenance_row,
)
from cap_viz.dashboard.prune.written_view import written_section
from cap_viz.dashboard.prune.zeros_view import zeros_section
from cap_viz.errors import CapVizError

# Streamlit stacks columns below 640 px only; beside the sidebar these two need more.
STACKED = """<style>
@media (max-width: 1000px) {
  .st-key-prune_body > * > [data-testid="stHorizontalBlock"] { flex-wrap: wrap; }
  .st-key-prune_body > * > [data-testid="stHorizontalBlock"] > [data-testid="stColumn"] { min-width: 100%; }
}
</style>"""

view = frame("Prune")
heading(
    "Prune",
    "What does the model lose when its least important weights are set to zero, and does it help to know the heads?",
)
facts = st.container()
try:
    setting = controls(view)
except CapVizError as error:
    problem(str(error))
    st.stop()

has_accuracy = view.task.kind != "text"
columns = current_columns(view, setting) if has_accuracy else []
with facts:
    provenance_row(view, setting, columns)
st.html(STACKED)
with st.container(key="prune_body"):
    removed, cost = st.columns([6, 7], gap="medium")
with removed:
    zeros_section(view, setting)
with cost:
    if has_accuracy:
        accuracy_section(view, setting, columns)
    else:
        no_accuracy_section(setting)
if has_accuracy:
    flips_section(view.store, setting, columns)
if view.task.writing is not None:
    written_section(view, setting)
scale, notes = st.columns([6, 7], gap="medium")
with scale:
    importance_section(view, setting)
with notes:
    notes_section(setting)
