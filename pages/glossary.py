"""Glossary: every term of the pages, what the numbers can and cannot say, how to cite."""

from cap_viz.ui.frame import frame
from cap_viz.ui.glossary_view import body
from cap_viz.ui.panels import heading

frame("Glossary")
heading("Glossary", "What the words on these pages mean, and what their numbers can and cannot say.")
body()
