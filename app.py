"""Overview: what the model does on each task, from stored runs alone."""

from cap_viz.ui.frame import frame
from cap_viz.ui.overview_data import summaries
from cap_viz.ui.overview_view import overview
from cap_viz.ui.panels import heading

METRIC = "nll"

view = frame("Overview")
heading(
    "Overview",
    "How well does the model answer each task, which attention heads does it need, and what does pruning cost?",
)
overview(view, summaries(view, METRIC), METRIC)
