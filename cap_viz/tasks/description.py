"""User-defined tasks as files: JSON lines alone, or JSON lines with a YAML description.

Nothing in these files is run; errors name the file and line. Formats and a worked example: docs/own_task.md.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from cap_viz.errors import UsageError
from cap_viz.tasks.base import Example, Splits, Task
from cap_viz.tasks.rows import SourceRow, choice_example, question_example, splits_from, yes_no_example
from cap_viz.tasks.sources import read_json_lines
from cap_viz.tasks.writing import NUMBER, YES_NO, Writing

MAX_BYTES = 20_000_000
MAX_ROWS = 100_000
MAX_CHARACTERS = 20_000
MAX_OPTIONS = 26
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
USUAL_PROMPT = "Question: {question}\nAnswer:"
CALIBRATION_SHARE = 0.3
# Parsers of written answers, by the value of the field `answer`.
ANSWERS = {"number": NUMBER, "yes_no": YES_NO}
DATA_FIELDS = ("data", "calibration", "evaluation")
TEXT_FIELDS = ("name", "title", "kind", "prompt", "answer", "summary", "source", "licence", *DATA_FIELDS)


@dataclass(frozen=True)
class Kind:
    """Kind of task: its row fields in words, and the function that turns a row into an example."""

    fields: str
    to_example: Callable[[SourceRow], Example]


def choice(row: SourceRow) -> Example:
    options = row.texts("options")
    if len(options) > MAX_OPTIONS:
        raise row.mistake(f"there are {len(options)} options, at most {MAX_OPTIONS} are allowed")
    return choice_example(row, options, row.number("gold"), id=own_id(row))


def yes_no(row: SourceRow) -> Example:
    return yes_no_example(row, id=own_id(row))


def text(row: SourceRow) -> Example:
    return question_example(row, (f" {row.text('answer').strip()}",), 0, id=own_id(row))


def written(row: SourceRow) -> Example:
    solution = f" {row.text('solution').strip()}"
    return question_example(row, (solution,), 0, id=own_id(row), solution=solution)


def own_id(row: SourceRow) -> str | None:
    return row.text("id") if "id" in row.fields else None


KINDS = {
    "choice": Kind("question, options (a list of texts) and gold (the right one's number, from 0)", choice),
    "yes_no": Kind("question and answer (true or false)", yes_no),
    "text": Kind("question and answer (the text whose loss is measured)", text),
    "written": Kind("question and solution (a worked answer)", written),
}


@dataclass(frozen=True)
class Description:
    """Content of a YAML description, or defaults for JSON lines alone. `files` maps roles to data files."""

    name: str
    kind: str
    files: dict[str, Path]
    title: str = ""
    prompt: str = USUAL_PROMPT
    answer: str = "number"
    summary: str = "A task of your own."
    source: str = "added on this machine"
    licence: str = "not stated"
    calibration_share: float = CALIBRATION_SHARE


def described(path: Path) -> Description:
    """Read the description of a task from a .yaml or .jsonl file. Raises `UsageError` with file and line."""
    if path.suffix == ".jsonl":
        return Description(name=name_from(path.stem), kind=kind_of_rows(path), files={"data": path})
    return from_yaml(path)


def name_from(stem: str) -> str:
    """Turn a file name into a task name: lower case, other characters as underscores."""
    name = re.sub(r"[^a-z0-9]+", "_", stem.lower()).strip("_")[:40]
    return name if NAME.fullmatch(name) else f"task_{name}"[:40].rstrip("_")


def kind_of_rows(path: Path) -> str:
    """Infer the kind of task from the fields of the first row."""
    first = rows_of(path)[0]
    fields = first.fields
    if "options" in fields:
        return "choice"
    if "solution" in fields:
        return "written"
    if "answer" in fields:
        return "yes_no" if isinstance(fields["answer"], bool) else "text"
    known = "; ".join(f"{name}: {kind.fields}" for name, kind in KINDS.items())
    raise first.mistake(f"the fields {', '.join(fields)} are those of no kind of task ({known})")


def from_yaml(path: Path) -> Description:
    places = {name: SourceRow({name: value}, f"{path}, line {line}") for name, value, line in yaml_fields(path)}
    for name, place in places.items():
        if name not in (*TEXT_FIELDS, "calibration_share"):
            raise place.mistake(f"the field {name} is unknown; there are {', '.join(TEXT_FIELDS)}, calibration_share")
    texts = {name: places[name].text(name) for name in TEXT_FIELDS if name in places}
    whole = SourceRow(dict(texts), str(path))
    name, kind = whole.text("name"), whole.text("kind")
    if not NAME.fullmatch(name):
        raise places["name"].mistake(
            f"the name {name!r} should be lower-case letters, digits and underscores, at most 40, a letter first"
        )
    if kind not in KINDS:
        raise places["kind"].mistake(f"the kind {kind!r} is unknown; choose one of {', '.join(KINDS)}")
    prompt = texts.get("prompt", USUAL_PROMPT)
    if prompt.count("{question}") != 1:
        raise places["prompt"].mistake("the prompt should hold {question} once, where the question goes")
    if texts.get("answer", "number") not in ANSWERS:
        raise places["answer"].mistake(f"the answer is one of {', '.join(ANSWERS)}, not {texts['answer']!r}")
    roles = [role for role in DATA_FIELDS if role in texts]
    if roles not in (["data"], ["calibration", "evaluation"]):
        raise whole.mistake("name the rows either as data (one file) or as calibration and evaluation (two files)")
    share = places["calibration_share"].field("calibration_share", float) if "calibration_share" in places else None
    if share is not None and not 0 < share < 1:
        raise places["calibration_share"].mistake(f"the share {share} should be between 0 and 1")
    return Description(
        **{name: value for name, value in texts.items() if name not in DATA_FIELDS},
        files={role: path.parent / texts[role] for role in roles},
        calibration_share=CALIBRATION_SHARE if share is None else share,
    )


def yaml_fields(path: Path) -> list[tuple[str, Any, int]]:
    """Return name, value and line of every field. Only plain YAML values: no tags, no objects."""
    content = read_limited(path)
    loader = None
    try:
        loader = yaml.SafeLoader(content.decode("utf-8-sig"))
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise UsageError(f"{path}: expected fields such as name, kind and data, one on each line.")
        found = [
            (str(loader.construct_object(key)), loader.construct_object(value, deep=True), key.start_mark.line + 1)
            for key, value in node.value
        ]
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not text in UTF-8 ({error.reason} at byte {error.start + 1}).") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}"
        raise UsageError(f"{path}{where}: not valid YAML ({getattr(error, 'problem', None) or error}).") from error
    finally:
        if loader is not None:
            loader.dispose()
    return found


def check_bytes(path: Path) -> None:
    """Raise `UsageError` when a file cannot be read or is too large."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}).") from error
    if size > MAX_BYTES:
        raise UsageError(f"{path} is larger than {MAX_BYTES // 1_000_000} MB; use fewer or shorter rows.")


def read_limited(path: Path) -> bytes:
    """Return a file's bytes. Raises `UsageError` when it cannot be read or is too large."""
    check_bytes(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}).") from error


def rows_of(path: Path) -> list[SourceRow]:
    """Read the rows of a data file, checking the limits. Raises `UsageError` with file and line."""
    check_bytes(path)
    rows = read_json_lines(path)
    if len(rows) > MAX_ROWS:
        raise UsageError(f"{path} has {len(rows)} rows, at most {MAX_ROWS} are allowed.")
    for row in rows:
        for name, value in row.fields.items():
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, str) and len(one) > MAX_CHARACTERS:
                    raise row.mistake(f"the field {name} has {len(one)} characters, more than {MAX_CHARACTERS}")
    return rows


def splits_of(description: Description) -> Splits:
    """Return the examples. A single file is split evenly throughout, so that both splits cover all of it."""
    kind = KINDS[description.kind]

    def to_example(row: SourceRow) -> Example:
        example = kind.to_example(row)
        if description.kind == "written" and writing_of(description).read_strictly(example.solution or "") is None:
            raise row.mistake("no answer can be read from the solution")
        return replace(example, prompt=description.prompt.replace("{question}", example.question))

    if "data" not in description.files:
        calibration, evaluation = (rows_of(description.files[role]) for role in ("calibration", "evaluation"))
    else:
        calibration, evaluation = dealt_out(rows_of(description.files["data"]), description.calibration_share)
    return splits_from(calibration, evaluation, to_example, origin="a task added on this machine")


def dealt_out(rows: Sequence[SourceRow], share: float) -> tuple[list[SourceRow], list[SourceRow]]:
    """Split rows into calibration and evaluation; row i is for calibration where ceil(i · share) grows, as at i = 1."""
    calibration: list[SourceRow] = []
    evaluation: list[SourceRow] = []
    for number, row in enumerate(rows):
        chosen = calibration if math.ceil((number + 1) * share) > math.ceil(number * share) else evaluation
        chosen.append(row)
    return calibration, evaluation


def writing_of(description: Description) -> Writing:
    return ANSWERS[description.answer]


def task_of(description: Description) -> Task:
    """Make the task; its rows are read when first needed."""
    kinds = {"choice": "choice", "yes_no": "yes_no", "text": "text", "written": "text"}
    return Task(
        name=description.name,
        title=description.title or description.name.replace("_", " ").capitalize(),
        summary=description.summary,
        version=content_version(description),
        source=description.source,
        licence=description.licence,
        prompt_format=description.prompt.replace("\n", "\\n"),
        kind=kinds[description.kind],  # pyright: ignore[reportArgumentType]
        load=lambda: splits_of(description),
        is_local=lambda: True,
        writing=writing_of(description) if description.kind == "written" else None,
    )


def content_version(description: Description) -> int:
    """Return a version that changes with anything that could change a result, so that old and new runs never mix."""
    digest = hashlib.sha256()
    for value in (description.kind, description.prompt, description.answer, description.calibration_share):
        digest.update(f"{value}\0".encode())
    for role, path in sorted(description.files.items()):
        digest.update(role.encode())
        digest.update(read_limited(path))
    return int(digest.hexdigest()[:7], 16)


def as_yaml(description: Description, names: Mapping[str, str]) -> str:
    """Return the description as stored on this machine; `names` gives the stored file names by role."""
    fields = {name: getattr(description, name) for name in TEXT_FIELDS if name not in DATA_FIELDS}
    fields["title"] = task_of(description).title
    return yaml.safe_dump({**fields, **names, "calibration_share": description.calibration_share}, sort_keys=False)
