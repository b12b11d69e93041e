"""Compare: CAP against Wanda and the other criteria on the same questions, from stored runs alone."""

from cap_viz.ui.compare_view import body
from cap_viz.ui.frame import frame
from cap_viz.ui.panels import heading

view = frame("Compare")
heading("Compare", "At the same sparsity, which criterion costs least, and is the difference more than noise?")
body(view)
