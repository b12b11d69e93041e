"""Glossary: every term of the pages, what the numbers can and cannot say, how to cite."""

from cap_viz.dashboard.frame import frame
from cap_viz.dashboard.glossary.page import body

body(frame("Glossary", "What the words on these pages mean, and what their numbers can and cannot say.").selection)
