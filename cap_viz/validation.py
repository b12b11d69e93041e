"""Validation of JSON and YAML from outside by pydantic, and its errors as sentences: which field, and what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, TypeAdapter, ValidationError

Valid = TypeVar("Valid")
# Names of JSON's types for people who edit a file, and the types that pydantic's errors say are expected.
TYPES = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
}
EXPECTED = {
    "string_type": str,
    "bool_type": bool,
    "int_type": int,
    "float_type": float,
    "list_type": list,
    "tuple_type": list,
    "dict_type": dict,
    "model_type": dict,
    "dataclass_type": dict,
}


def not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text


# A text with more than white space.
Text = Annotated[str, AfterValidator(not_blank)]


def from_json(kind: type[Valid], content: str | bytes) -> Valid:
    """Read a dataclass from JSON: exact types, except that an int passes as a float, and no unknown fields.

    Raises `pydantic.ValidationError`, a ValueError; `mistake` puts it into words.
    """
    return adapter(kind).validate_json(content, strict=True, extra="forbid")


@lru_cache(maxsize=64)
def adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def mistake(error: ValueError) -> str:
    """Describe the first mistake, such as "the field mask.sparsity should be a number, not a text".

    A validator's own ValueError continues "the field x", or is a sentence where it checks several fields together.
    """
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    value, context = first["input"], first.get("ctx", {})
    what = f"the field {dotted(first['loc'])}" if first["loc"] else "the content"
    match first["type"]:
        case "json_invalid":
            return f"not valid JSON ({context['error']})"
        case "value_error":
            return f"{what} {context['error']}" if first["loc"] else str(context["error"])
        case "missing" if isinstance(value, dict):
            return f"{what} is missing; there are {', '.join(value) or 'no fields'}"
        case "missing":
            return f"{what} is missing"
        case "extra_forbidden" | "unexpected_keyword_argument":
            return f"{what} is unknown"
        case "string_unicode":
            return f"{what} holds half of a surrogate pair, which is no character"
        case "string_too_long":
            return f"{what} has {len(value)} characters, more than {context['max_length']}"
        case expected if expected in EXPECTED:
            return f"{what} should be {TYPES[EXPECTED[expected]]}, not {type_name(value)}"
        case _:  # Such as "Input should be less than 1".
            return f"{what} {first['msg'].partition(' ')[2]}, not {value!r:.40}"


def dotted(path: Sequence[int | str]) -> str:
    """Write the path of a value as in JavaScript: "choices.text[1]"."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def type_name(value: Any) -> str:
    return "null" if value is None else TYPES.get(type(value), type(value).__name__)
