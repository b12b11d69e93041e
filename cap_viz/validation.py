"""Validation of JSON and YAML from outside by pydantic, and its errors as sentences: which field, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

Valid = TypeVar("Valid")
# A text with more than white space.
Text = Annotated[str, Field(pattern=r"\S")]
# Types for people who edit a file, by the names that pydantic and Python have for them.
TYPES = {
    "string": "a text",
    "str": "a text",
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "list": "a list",
    "tuple": "a list",
    "dict": "an object",
    "model": "an object",
    "dataclass": "an object",
    "NoneType": "null",
}


class Record(BaseModel):
    """An object in a file; the types of its fields are exact, except that an int passes as a float."""

    # The validator of a model is built when it is first used, which keeps the start of the program short.
    model_config = ConfigDict(strict=True, frozen=True, defer_build=True)


def from_json(kind: type[Valid], content: str | bytes) -> Valid:
    """Read a dataclass or another type from JSON, with the exact types of a `Record` and no unknown fields.

    Raises `pydantic.ValidationError`, a ValueError; `mistake` puts it into words.
    """
    return adapter(kind).validate_json(content, strict=True, extra="forbid")


@lru_cache(maxsize=64)
def adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def mistake(error: ValueError, known: Iterable[str] = ()) -> str:
    """Describe the first mistake, such as "the field mask.sparsity should be a number, not a text".

    `known` lists the fields there are, for one that is unknown. The ValueError of a validator continues "the field x",
    or is a whole sentence where several fields are checked together.
    """
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    kind, value, context = first["type"], first["input"], first.get("ctx", {})
    what = f"the field {dotted(first['loc'])}" if first["loc"] else "the content"
    match kind:
        case "json_invalid":
            return f"not valid JSON ({context['error']})"
        case "value_error":
            return f"{what} {context['error']}" if first["loc"] else str(context["error"])
        case "missing":
            there = f"; there are {', '.join(value) or 'no fields'}" if isinstance(value, dict) else ""
            return f"{what} is missing{there}"
        case "extra_forbidden" | "unexpected_keyword_argument":
            return f"{what} is unknown" + (f"; there are {', '.join(known)}" if known else "")
        case "string_pattern_mismatch":  # The only pattern is that of `Text`.
            return f"{what} is empty"
        case "string_unicode":
            return f"{what} holds half of a surrogate pair, which is no character"
        case "string_too_long":
            return f"{what} has {len(value)} characters, more than {context['max_length']}"
    if (expected := kind.removesuffix("_type")) in TYPES:
        found = type(value).__name__
        return f"{what} should be {TYPES[expected]}, not {TYPES.get(found, found)}"
    # Such as "Input should be less than 1".
    return f"{what} {first['msg'].partition(' ')[2]}, not {value!r:.40}"


def dotted(path: Sequence[int | str]) -> str:
    """Write the path of a value as in JavaScript: "choices.text[1]"."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
