"""Heads: layer x head importance, one head in detail, and live runs."""

import streamlit as st

from cap_viz.dashboard.components.landing import scroll_to_landing
from cap_viz.dashboard.components.panels import heading
from cap_viz.dashboard.frame import frame
from cap_viz.dashboard.heads.page import body
from cap_viz.dashboard.heads.widgets import controls

view = frame("Heads")
heading("Heads", "Which attention heads does the model need on this task, and how sure are we?")
chosen = controls(view)
if chosen is None:
    st.stop()
body(view, chosen)
scroll_to_landing()
