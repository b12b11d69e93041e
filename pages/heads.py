"""Heads: layer x head importance, one head in detail, and live runs."""

import streamlit as st

from cap_viz.ui.frame import frame
from cap_viz.ui.heads_controls import controls
from cap_viz.ui.heads_view import body
from cap_viz.ui.panels import heading

view = frame("Heads")
heading("Heads", "Which attention heads does the model need on this task, and how sure are we?")
chosen = controls(view)
if chosen is None:
    st.stop()
body(view, chosen)
