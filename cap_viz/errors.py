"""Errors shown to users verbatim: each message says what went wrong, with which value, and what to do."""

from __future__ import annotations

from collections.abc import Sequence


class CapVizError(Exception):
    """A problem the user can act on. The message is one clear sentence."""


class UsageError(CapVizError):
    """The request itself is wrong (unknown name, value out of range); the CLI exits with 2."""


class OutOfMemory(CapVizError):
    """The device had no room for a batch; smaller ones may fit."""


class NotEnoughMemory(CapVizError):
    """A model was not loaded because its weights do not fit into the free memory."""


def check_choice(what: str, name: str, choices: Sequence[str]) -> None:
    """Raise `UsageError`, listing the choices, unless `name` is one of them."""
    if name not in choices:
        raise UsageError(f"Unknown {what} {name!r}; choose one of {', '.join(choices)}.")


OUT_OF_MEMORY = (
    "The memory ran out; finished batches are kept. Use a lower precision (CAP_VIZ_DTYPE) or a larger device."
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell by type name or message, since torch raises its own class on a GPU and a plain error on the CPU."""
    named = type(error).__name__ in ("MemoryError", "OutOfMemoryError")
    return named or "can't allocate memory" in str(error)
