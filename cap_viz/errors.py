"""The errors whose text is shown to people as it stands: what went wrong, which value, what to do."""

from __future__ import annotations


class CapVizError(Exception):
    """A problem the user can act on. The message is one clear sentence."""


class UsageError(CapVizError):
    """The request itself is wrong (unknown name, value out of range); the CLI exits with 2."""
