"""Playground: one prompt, heads switched off or weights pruned, and what the model then says."""

from cap_viz.dashboard.frame import frame
from cap_viz.dashboard.playground.page import body

body(frame("Playground", "What does the model say to one prompt without these heads, or with these weights at zero?"))
