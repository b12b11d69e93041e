"""Overview: what the model does on each task, from stored runs alone."""

from cap_viz.dashboard.frame import frame
from cap_viz.dashboard.overview.page import overview

overview(frame("Overview"))
