"""Tasks: the head scores of every task side by side, from stored runs alone."""

from cap_viz.dashboard.frame import frame
from cap_viz.dashboard.tasks.page import tasks_page

tasks_page(frame("Tasks", "Which heads do tasks share, which does one task need, and which does any text need?"))
