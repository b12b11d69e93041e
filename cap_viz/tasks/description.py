"""User-defined tasks as files: JSON lines alone, or JSON lines with a YAML description.

Nothing in these files is run; errors name the file and line. Formats and a worked example: docs/own_task.md.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator

from cap_viz.errors import UsageError
from cap_viz.tasks.base import Example, Splits, Task
from cap_viz.tasks.rows import ChoiceRow, ExampleRow, Fields, QuestionRow, SourceRow, YesNoRow, splits_from
from cap_viz.tasks.sources import json_lines
from cap_viz.tasks.wordings import asked, on_one_line, with_question
from cap_viz.tasks.writing import NUMBER, YES_NO, Writing
from cap_viz.validation import Record, Text, mistake

MAX_BYTES = 20_000_000
MAX_ROWS = 100_000
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
NAME_RULE = "lower-case letters, digits and underscores, at most 40, a letter first"
# Parsers of written answers, by the value of the field `answer`.
ANSWERS = {"number": NUMBER, "yes_no": YES_NO}
DATA_FIELDS = ("data", "calibration", "evaluation")


class AnswerRow(QuestionRow):
    """A question with one continuation to score."""

    answer: Text

    def example(self) -> Example:
        return self.with_options((f" {self.answer.strip()}",), 0)


class SolutionRow(QuestionRow):
    """A question with a worked answer."""

    solution: Text

    def example(self) -> Example:
        solution = f" {self.solution.strip()}"
        return self.with_options((solution,), 0, solution)


@dataclass(frozen=True)
class RowKind:
    """Kind of the rows of a task: their fields in words, and the model that checks them."""

    fields: str
    row: type[ExampleRow]


KINDS = {
    "choice": RowKind(
        "question, options (a list of texts) and gold (the right one's number, from 0) or answer (its text or letter)",
        ChoiceRow,
    ),
    "yes_no": RowKind("question and answer (true or false)", YesNoRow),
    "text": RowKind("question and answer (the text whose loss is measured)", AnswerRow),
    "written": RowKind("question and solution (a worked answer)", SolutionRow),
}


def task_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"should be {NAME_RULE}, not {name!r}")
    return name


class Description(Record):
    """Content of a YAML description, or defaults for JSON lines alone; its files of rows as paths."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, AfterValidator(task_name)]
    kind: Literal["choice", "yes_no", "text", "written"]
    title: Text = ""
    prompt: Annotated[str, AfterValidator(with_question)] = "Question: {question}\nAnswer:"
    answer: Literal["number", "yes_no"] = "number"
    summary: Text = "A task of your own."
    source: Text = "added on this machine"
    licence: Text = "not stated"
    data: Text | None = None
    calibration: Text | None = None
    evaluation: Text | None = None
    calibration_share: float = Field(0.3, gt=0, lt=1)

    @model_validator(mode="after")
    def names_its_rows(self) -> Description:
        if list(self.files) not in (["data"], ["calibration", "evaluation"]):
            raise ValueError("name the rows either as data (one file) or as calibration and evaluation (two files)")
        return self

    @property
    def files(self) -> dict[str, Path]:
        """Files of rows by role."""
        return {role: Path(file) for role in DATA_FIELDS if (file := getattr(self, role)) is not None}

    @property
    def writing(self) -> Writing | None:
        """How written answers are requested and parsed, where the task has some."""
        return ANSWERS[self.answer] if self.kind == "written" else None


def described(path: Path) -> Description:
    """Read the description of a task from a .yaml or .jsonl file. Raises `UsageError` with file and line."""
    if path.suffix == ".jsonl":
        return Description.model_validate({"name": name_from(path.stem), "kind": kind_of_rows(path), "data": str(path)})
    fields, lines = yaml_fields(path)
    try:
        found = Description.model_validate(fields)
    except ValidationError as error:
        place = error.errors(include_url=False)[0]["loc"]
        where = f"{path}, line {lines[place[0]]}" if place and place[0] in lines else str(path)
        raise UsageError(f"{where}: {mistake(error, Description.model_fields)}.") from error
    return found.model_copy(update={role: str(path.parent / file) for role, file in found.files.items()})


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


def yaml_fields(path: Path) -> tuple[Fields, dict[Any, int]]:
    """Return the values and the lines of all fields. Only plain YAML values: no tags, no objects."""
    content = read_limited(path)
    loader = None
    try:
        loader = yaml.SafeLoader(content.decode("utf-8-sig"))
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise UsageError(f"{path}: expected fields such as name, kind and data, one on each line.")
        names = [str(loader.construct_object(key)) for key, _ in node.value]
        values = [loader.construct_object(value, deep=True) for _, value in node.value]
        lines = [key.start_mark.line + 1 for key, _ in node.value]
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not text in UTF-8 ({error.reason} at byte {error.start + 1}).") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}"
        raise UsageError(f"{path}{where}: not valid YAML ({getattr(error, 'problem', None) or error}).") from error
    finally:
        if loader is not None:
            loader.dispose()
    return dict(zip(names, values, strict=True)), dict(zip(names, lines, strict=True))


def read_limited(path: Path) -> bytes:
    """Return a file's bytes. Raises `UsageError` when it cannot be read or is too large."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path} is larger than {MAX_BYTES // 1_000_000} MB; use fewer or shorter rows.")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}).") from error


def rows_of(path: Path) -> list[SourceRow]:
    """Read the rows of a data file, checking the limits. Raises `UsageError` with file and line."""
    rows = json_lines(read_limited(path), path)
    if len(rows) > MAX_ROWS:
        raise UsageError(f"{path} has {len(rows)} rows, at most {MAX_ROWS} are allowed.")
    return rows


def splits_of(description: Description) -> Splits:
    """Return the examples. A single file is split evenly throughout, so that both splits cover all of it."""
    row, writing = KINDS[description.kind].row, description.writing

    def to_example(fields: Fields) -> Example:
        example = row.to_example(fields)
        if writing is not None and writing.read_strictly(example.solution or "") is None:
            raise ValueError("no answer can be read from the solution")
        return replace(example, prompt=asked(description.prompt, example.question))

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


def task_of(description: Description) -> Task:
    """Make the task; its rows are read when first needed."""
    return Task(
        name=description.name,
        title=description.title or description.name.replace("_", " ").capitalize(),
        summary=description.summary,
        version=content_version(description),
        source=description.source,
        licence=description.licence,
        prompt_format=on_one_line(description.prompt),
        kind="text" if description.kind == "written" else description.kind,
        load=lambda: splits_of(description),
        writing=description.writing,
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
    fields = {**description.model_dump(exclude_none=True), "title": task_of(description).title, **names}
    return yaml.safe_dump(fields, sort_keys=False)
