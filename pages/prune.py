"""Prune: set the least important weights to zero by two criteria, and see what that removes and what it costs."""

from cap_viz.dashboard.prune.page import prune_page

prune_page()
