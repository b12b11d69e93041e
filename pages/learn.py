"""Learn: what causal attribution and pruning are, in steps with a picture and a guess before each answer."""

from cap_viz.dashboard.frame import frame
from cap_viz.dashboard.learn.page import body

body(frame("Learn"))
