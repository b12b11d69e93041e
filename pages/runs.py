"""Runs: everything stored, where it came from, and ways to compare, hand on, bring in and delete it."""

from cap_viz.dashboard.frame import frame
from cap_viz.dashboard.runs.page import body

body(frame("Runs", "What has been measured, how was it made, and can it be trusted?"))
