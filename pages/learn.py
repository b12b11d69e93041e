"""Learn: what causal attribution and pruning are, in eight steps with a guess before each answer."""

from cap_viz.ui.frame import frame
from cap_viz.ui.learn_view import body
from cap_viz.ui.panels import heading

view = frame("Learn")
heading("Learn", "What does it mean that a head matters, and what can be concluded from it?")
body(view)
