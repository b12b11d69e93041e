"""The check of shapes at run time, which jaxtyping's import hook puts on every function of the packages that compute.

`--jaxtyping-packages` in pyproject.toml names them; it loads before any of them is imported.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray

# By module and qualified name, the parameters (and "return") whose shapes are checked. Filled as modules are imported.
CHECKED: dict[tuple[str, str], set[str]] = defaultdict(set)


def check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check annotations that hold a shape; the others are pyright's, and tests break them on purpose."""
    shapes = {name: hint for name, hint in function.__annotations__.items() if holds_shape(hint)}
    if not shapes:
        return function
    CHECKED[function.__module__, function.__qualname__] |= set(shapes)
    function.__annotations__ = shapes
    return beartype(function)


def holds_shape(hint: Any) -> bool:
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return True
    # The parameters of a `Callable` come as a list.
    return any(map(holds_shape, hint if isinstance(hint, list) else get_args(hint)))
