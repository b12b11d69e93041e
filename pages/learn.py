"""Learn: what causal attribution and pruning are, in eight steps with a guess before each answer."""

from cap_viz.dashboard.components.panels import heading
from cap_viz.dashboard.frame import frame
from cap_viz.dashboard.learn.page import body

view = frame("Learn")
heading("Learn", "What does it mean that a head matters, and what can be concluded from it?")
body(view)
