"""Stored runs: their description, computation, storage, loading and export."""

from cap_viz._moved import names_of

__getattr__ = names_of("cap_viz.runs", "runs.execute")
