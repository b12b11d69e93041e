"""Overview: what the model does on each task, from stored runs alone."""

from cap_viz.dashboard.components.panels import heading
from cap_viz.dashboard.frame import frame
from cap_viz.dashboard.overview.data import summaries
from cap_viz.dashboard.overview.page import overview

METRIC = "nll"

view = frame("Overview")
heading(
    "Overview",
    "How well does the model answer each task, which attention heads does it need, and what does pruning cost?",
)
overview(view, summaries(view, METRIC), METRIC)
