"""Type checks for dataclasses made from untrusted JSON."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import lru_cache
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Made = TypeVar("Made")


def checked(made: Made) -> Made:
    """Return the object itself. Raises `TypeError` naming the first field of a wrong type, at any depth."""
    assert is_dataclass(made)
    for name, hint in hints(type(made)).items():
        value = getattr(made, name)
        if not fits(value, hint):
            raise TypeError(f"{type(made).__name__}.{name} cannot be {shown(value)}")
        if is_dataclass(value):
            checked(value)
    return made


@lru_cache(maxsize=64)
def hints(kind: type) -> dict[str, Any]:
    known = get_type_hints(kind)
    return {field.name: known[field.name] for field in fields(kind)}


def fits(value: object, hint: Any) -> bool:
    """Whether a value has an annotated type: a plain type, a union or a tuple. An int also counts as a float."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(parts) == 2 and parts[1] is Ellipsis:
            return all(fits(one, parts[0]) for one in value)
        return len(value) == len(parts) and all(fits(one, part) for one, part in zip(value, parts, strict=True))
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float)) if hint is float else isinstance(value, hint)


def shown(value: object) -> str:
    return f"{value!r:.40}"
