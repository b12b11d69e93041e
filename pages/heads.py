"""Heads: layer x head importance, one head in detail, and live runs."""

from cap_viz.dashboard.components.accessibility import scroll_to_landing
from cap_viz.dashboard.frame import frame
from cap_viz.dashboard.heads.page import page

page(frame("Heads"))
scroll_to_landing()
