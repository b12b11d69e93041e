"""Circuit: what the heads with the largest effects do through each other, and together."""

from cap_viz.dashboard.circuit.page import body
from cap_viz.dashboard.frame import frame

body(frame("Circuit", "Through which later heads do the strongest heads act, and with whom?"))
