"""Multiple-choice tasks of lm-evaluation-harness as tasks of CAP Viz: a YAML that needs no code becomes rows.

Templates are rendered in a sandbox. Questions are asked as the harness asks them without examples in the prompt: the
rendered `doc_to_text` after the `description`, each option after a space. What cannot be kept is refused by name.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from cap_viz.errors import UsageError
from cap_viz.tasks.description import name_from, read_limited, rows_of

# Fields that change what is asked or how it is judged, and that only code or a rebuilt prompt could honour.
REFUSED = (
    "include",
    "group",
    "process_docs",
    "process_results",
    "custom_dataset",
    "doc_to_image",
    "doc_to_audio",
    "gen_prefix",
    "unsafe_code",
)
TEMPLATES = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
EVALUATION_SPLITS, CALIBRATION_SPLITS = ("test_split", "validation_split"), ("training_split", "validation_split")


class HarnessLoader(yaml.SafeLoader):
    """Plain YAML, and `!function` as a mark of code."""


HarnessLoader.add_constructor("!function", lambda loader, node: Code(str(node.value)))


class Code(str):
    """The name of a Python function."""


def harness_fields(path: Path) -> dict[str, Any] | None:
    """Return the fields of a task of the harness; None for any other file."""
    if path.suffix not in (".yaml", ".yml"):
        return None
    try:
        fields = yaml.load(read_limited(path), HarnessLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None  # `description.yaml_fields` names the line.
    return fields if isinstance(fields, dict) and {"output_type", "doc_to_text"} & fields.keys() else None


def converted(path: Path, fields: dict[str, Any], folder: Path) -> Path:
    """Write a task of the harness as rows and description into a folder; return the description.

    Raises `UsageError` that names what is not supported.
    """
    check(path, fields)
    name = name_from(str(fields.get("task") or path.stem))
    content: dict[str, Any] = {
        "name": name,
        "kind": "choice",
        "prompt": "{question}",
        "source": f"lm-evaluation-harness task {fields.get('task', path.stem)}",
    }
    splits = {
        "calibration": split_named(path, fields, CALIBRATION_SPLITS),
        "evaluation": split_named(path, fields, EVALUATION_SPLITS),
    }
    if splits["calibration"] == splits["evaluation"]:
        del splits["calibration"]
    for role, split in splits.items():
        rows = [row(path, fields, document, number) for number, document in enumerate(documents(path, fields, split))]
        key = role if len(splits) == 2 else "data"
        content[key] = f"{role}.jsonl"
        text = "".join(f"{json.dumps(one, ensure_ascii=False)}\n" for one in rows)
        (folder / content[key]).write_text(text, encoding="utf-8")
    description = folder / f"{name}.yaml"
    description.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return description


def check(path: Path, fields: dict[str, Any]) -> None:
    refused = next((name for name in REFUSED if fields.get(name)), None)
    code = next((name for name, value in fields.items() if isinstance(value, Code)), None)
    if code is not None:
        raise UsageError(f"{path}: {code} is code (!function {fields[code]}), which is not run here.")
    if refused is not None:
        raise UsageError(f"{path}: {refused} is not supported; a task is taken over only where it needs no code.")
    if fields.get("output_type") != "multiple_choice":
        raise UsageError(f"{path}: output_type {fields.get('output_type')!r} is not supported, only multiple_choice.")
    if fields.get("num_fewshot"):
        raise UsageError(
            f"{path}: num_fewshot is {fields['num_fewshot']}, and questions are asked without examples here."
        )
    if fields.get("target_delimiter", " ") != " ":
        raise UsageError(f"{path}: target_delimiter is not supported; options follow the prompt after a space.")
    missing = [name for name in ("dataset_path", "doc_to_text", "doc_to_choice", "doc_to_target") if name not in fields]
    if missing:
        raise UsageError(f"{path}: the field {missing[0]} is missing.")


def split_named(path: Path, fields: dict[str, Any], names: Sequence[str]) -> str:
    found = next((fields[name] for name in names if fields.get(name)), None) or fields.get("test_split")
    if not found:
        raise UsageError(f"{path}: none of {', '.join(names)} is named.")
    return str(found)


def documents(path: Path, fields: dict[str, Any], split: str) -> list[dict[str, Any]]:
    """Read a split: JSON lines beside the YAML (`dataset_path: json`), else a data set of the hub."""
    if fields["dataset_path"] == "json":
        files = (fields.get("dataset_kwargs") or {}).get("data_files")
        file = files.get(split) if isinstance(files, dict) else files
        if not isinstance(file, str):
            raise UsageError(f"{path}: dataset_kwargs names no file for the split {split!r}.")
        return [one.fields for one in rows_of(path.parent / file)]
    import datasets

    try:
        found = datasets.load_dataset(fields["dataset_path"], fields.get("dataset_name"), split=split)
    except Exception as error:  # The hub and its files fail with errors of any type.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"{path}: the data set {fields['dataset_path']!r} cannot be read ({reason}).") from error
    return [dict(one) for one in found]  # pyright: ignore[reportCallIssue, reportArgumentType]


def row(path: Path, fields: dict[str, Any], document: dict[str, Any], number: int) -> dict[str, Any]:
    """Make one row of ours from a document. Raises `UsageError` with the document's number."""
    try:
        options = choices(fields["doc_to_choice"], document)
        question = rendered(fields.get("description") or "", document) + rendered(fields["doc_to_text"], document)
        gold = index_of(fields["doc_to_target"], document, options)
    except (TemplateError, ValueError, SyntaxError, TypeError, KeyError) as error:
        raise UsageError(f"{path}, document {number}: a template cannot be filled in ({error}).") from error
    return {"question": question, "options": options, "gold": gold}


def rendered(template: str, document: dict[str, Any]) -> str:
    return str(document[template]) if template in document else TEMPLATES.from_string(template).render(**document)


def choices(template: Any, document: dict[str, Any]) -> list[str]:
    """Return the options: a list of templates, a field that holds a list, or a template that prints one."""
    if isinstance(template, list):
        return [rendered(str(one), document) for one in template]
    value = document[template] if template in document else ast.literal_eval(rendered(template, document))
    return [str(one) for one in value]


def index_of(template: Any, document: dict[str, Any], options: Sequence[str]) -> int:
    """Return the right option's index, which the template gives as a number or as the option itself."""
    value = template if isinstance(template, int) else document.get(template)
    if value is None:
        value = rendered(str(template), document)
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str):
        return options.index(value) if value in options else int(value)
    return int(value)
