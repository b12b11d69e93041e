"""Written answers of the dense and pruned models, stored or arriving, and their differences.

This module imports neither torch nor Streamlit.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from cap_viz.dashboard.prune.setting import PruneSetting, eval_spec, title_of
from cap_viz.dashboard.prune.zeros import shape_from
from cap_viz.errors import CapVizError
from cap_viz.evaluation.generation import GenerationReport, room_for_answer, writing_of
from cap_viz.models.catalogue import resolve
from cap_viz.runs.jobs import Job
from cap_viz.runs.kinds.evaluation import load_answers
from cap_viz.runs.protocols import generation_spec
from cap_viz.runs.queue import JobQueue
from cap_viz.runs.spec import EvalSpec
from cap_viz.runs.store import DamagedRun, Store, StoredRun
from cap_viz.stats import PairedComparison, compare_paired
from cap_viz.tasks import load_task
from cap_viz.tasks.example_sets import ExampleSet, evaluation_set
from cap_viz.tasks.pairing import common_rows


@dataclass(frozen=True)
class Written:
    """Written answers of one model: stored for `wanted`, partial from its job, or none yet."""

    name: str
    wanted: EvalSpec | None
    report: GenerationReport | None = None
    run: StoredRun | None = None
    job: Job | None = None
    problem: str = ""

    @property
    def title(self) -> str:
        return title_of(self.name)

    @property
    def active(self) -> bool:
        return self.job is not None and self.job.active

    @property
    def final(self) -> bool:
        return self.run is not None

    @property
    def measurable(self) -> bool:
        return self.wanted is not None and not self.final and not self.active


@dataclass(frozen=True)
class WritingRequest:
    """How answers are asked for: prompt format, the first `n` questions, and the most tokens of an answer."""

    format: str
    n: int
    max_tokens: int


def writing_request(runs: Sequence[StoredRun], setting: PruneSetting, format: str, n: int) -> WritingRequest:
    """Limit the answers to what the model can read beside a prompt, by the context length its stored runs name."""
    writing, shape = writing_of(load_task(setting.evaluation.task)), shape_from(runs, setting.model)
    return WritingRequest(format, n, writing.max_tokens if shape is None else room_for_answer(writing, shape.n_ctx))


def has_chat_template(model_id: str) -> bool:
    """Whether the tokenizer has a chat template; True as well where its files do not tell."""
    try:
        folder = resolve(model_id).folder
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (CapVizError, OSError, ValueError):
        return True
    return "chat_template" in config or (folder / "chat_template.jinja").is_file()


def written_of(store: Store, queue: JobQueue, setting: PruneSetting, name: str, request: WritingRequest) -> Written:
    """Return the answers of dense or a criterion, as they stand now."""
    try:
        choices = eval_spec(replace(setting, evaluation=first_questions(setting.evaluation, request.n)), name)
        wanted = generation_spec(
            setting.model,
            choices.examples,
            format=request.format,
            max_tokens=request.max_tokens,
            mask=choices.mask,
        )
    except CapVizError as error:
        return Written(name, None, problem=str(error))
    job, damage = queue.find(wanted), ""
    try:
        run = store.get(wanted)
        if run is not None:
            return Written(name, wanted, report=load_answers(store, run), run=run)
    except DamagedRun as error:
        damage = str(error)
    partial = job.progress.partial if job is not None and job.active else None
    arrived = partial if isinstance(partial, GenerationReport) and len(partial) else None
    return Written(name, wanted, report=arrived, job=job, problem=damage)


def first_questions(evaluation: ExampleSet, n: int) -> ExampleSet:
    """Return the first n questions of the task, or those known by their ids where its data is not on this machine."""
    if load_task(evaluation.task).is_local():
        return evaluation_set(evaluation.task, n)
    return replace(evaluation, ids=evaluation.ids[:n])


def written_difference(first: Written, second: Written) -> PairedComparison | None:
    """Paired difference in strict exact match, first minus second, on the questions both have answered."""
    if first.report is None or second.report is None:
        return None
    rows, others = common_rows(first.report.items, second.report.items)
    return compare_paired(first.report.correct[rows], second.report.correct[others]) if rows else None


def answers_table(columns: Sequence[Written]) -> pd.DataFrame:
    """One row per question all columns have answered: gold, and each model's answer with a check mark or a cross."""
    ready = [column for column in columns if column.report is not None]
    ids = [set(column.report.ids) for column in ready if column.report is not None]
    first = ready[0].report
    assert first is not None
    shared = set.intersection(*ids)
    rows = []
    for number, identity in enumerate(first.ids, start=1):
        if identity not in shared:
            continue
        answers = {column.title: marked(column, identity) for column in ready}
        texts = {text_at(column, identity) for column in ready}
        rows.append(
            {
                "Item": number,
                "Right answer": first.gold[number - 1],
                **answers,
                "Same text": len(texts) == 1,
                "Id": identity,
            }
        )
    return pd.DataFrame(rows)


def marked(column: Written, identity: str) -> str:
    report = column.report
    assert report is not None
    row = report.ids.index(identity)
    return f"{'✓' if report.correct[row] else '✗'} {report.strict[row] or 'no answer found'}"


def text_at(column: Written, identity: str) -> str:
    report = column.report
    assert report is not None
    return report.texts[report.ids.index(identity)]


@dataclass(frozen=True)
class Piece:
    """A stretch of a text: `kind` is "same", "gone" (only in the first text) or "new" (only in the second)."""

    kind: str
    text: str


def word_difference(first: str, second: str) -> list[Piece]:
    """Word-level difference from one text to the other; spaces belong to the word before them."""
    a, b = (re.findall(r"\s+|\S+\s*", text) for text in (first, second))
    pieces: list[Piece] = []
    for operation, i1, i2, j1, j2 in difflib.SequenceMatcher(a=a, b=b, autojunk=False).get_opcodes():
        if operation == "equal":
            pieces.append(Piece("same", "".join(a[i1:i2])))
            continue
        if i1 < i2:
            pieces.append(Piece("gone", "".join(a[i1:i2])))
        if j1 < j2:
            pieces.append(Piece("new", "".join(b[j1:j2])))
    return pieces
