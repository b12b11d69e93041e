"""Runs: everything stored, where it came from, and ways to compare, hand on, bring in and delete it."""

from cap_viz.ui.frame import frame
from cap_viz.ui.panels import heading
from cap_viz.ui.runs_view import body

view = frame("Runs")
heading("Runs", "What has been measured, how was it made, and can it be trusted?")
body(view)
