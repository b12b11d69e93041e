"""Prune: set the least important weights to zero by two criteria, and see what that removes and what it costs."""

import streamlit as st

from cap_viz.errors import CapVizError
from cap_viz.ui import prune_view
from cap_viz.ui.frame import frame
from cap_viz.ui.panels import heading, problem
from cap_viz.ui.prune_controls import controls

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

columns = prune_view.current_columns(view, setting)
with facts:
    prune_view.provenance_row(view, setting, columns)
removed, cost = st.columns([6, 7], gap="medium")
with removed:
    prune_view.zeros_section(view, setting)
with cost:
    prune_view.accuracy_section(view, setting, columns)
prune_view.flips_section(setting, columns)
scale, notes = st.columns([6, 7], gap="medium")
with scale:
    prune_view.importance_section(view, setting)
with notes:
    prune_view.notes_section(setting)
