"""The errors whose text is shown to people as it stands: what went wrong, which value, what to do."""

from __future__ import annotations

from collections.abc import Sequence


class CapVizError(Exception):
    """A problem the user can act on. The message is one clear sentence."""


class UsageError(CapVizError):
    """The request itself is wrong (unknown name, value out of range); the CLI exits with 2."""


class OutOfMemory(CapVizError):
    """The device had no room for a batch; smaller ones may fit."""


class NotEnoughMemory(CapVizError):
    """A model was not loaded since its weights do not fit into the memory that is free now."""


def check_choice(what: str, name: str, choices: Sequence[str]) -> None:
    """Raise `UsageError` with the known names where `name` is none of them."""
    if name not in choices:
        raise UsageError(f"Unknown {what} {name!r}; choose one of {', '.join(choices)}.")


OUT_OF_MEMORY = (
    "The memory ran out; finished batches are kept. Use a lower precision (CAP_VIZ_DTYPE) or a larger device."
)


def is_out_of_memory(error: BaseException) -> bool:
    """Told by name, since torch has an error of its own for GPUs and a plain one for the CPU."""
    named = type(error).__name__ in ("MemoryError", "OutOfMemoryError")
    return named or "can't allocate memory" in str(error)
