"""Errors shown to users verbatim: each message says what went wrong, with which value, and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, overload

Choice = TypeVar("Choice")


class CapVizError(Exception):
    """A problem the user can act on. The message is one clear sentence."""


class UsageError(CapVizError):
    """The request itself is wrong (unknown name, value out of range); the CLI exits with 2."""


class OutOfMemory(CapVizError):
    """The device had no room for a batch; smaller ones may fit."""


class NotEnoughMemory(CapVizError):
    """A model was not loaded because its weights do not fit into the free memory."""


@overload
def choose(what: str, name: str, choices: Mapping[str, Choice]) -> Choice: ...
@overload
def choose(what: str, name: str, choices: Sequence[Choice]) -> Choice: ...


def choose(what: str, name: str, choices: Mapping[str, Any] | Sequence[Any]) -> Any:
    """Return the choice of that name: a mapping's value, or the name itself.

    Raises `UsageError` with the known names for an unknown one.
    """
    if name not in choices:
        raise UsageError(f"Unknown {what} {name!r}; choose one of {', '.join(choices)}.")
    return choices[name] if isinstance(choices, Mapping) else name


OUT_OF_MEMORY = (
    "The memory ran out; finished batches are kept. Use a lower precision (CAP_VIZ_DTYPE) or a larger device."
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell by type name or message, since torch raises its own class on a GPU and a plain error on the CPU."""
    named = type(error).__name__ in ("MemoryError", "OutOfMemoryError")
    return named or "can't allocate memory" in str(error)
