"""Compare: CAP against Wanda and the other criteria on the same questions, from stored runs alone."""

from cap_viz.dashboard.compare.page import body
from cap_viz.dashboard.frame import frame

body(frame("Compare", "Which criterion costs least at the same sparsity?"))
