"""Calibration on self-generated solutions: the model's correct written answers become a task of their own.

Head scores and activations are then measured on text the model itself produces (on-policy), not on given solutions.
The task is labelled with model, source and format, and its version follows from the texts. It is made from the
calibration split only, so that evaluation questions stay untouched.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from cap_viz.errors import UsageError
from cap_viz.evaluation.generation import GenerationProtocol, prompt_text, shots, writing_of
from cap_viz.runs.kinds.evaluation import load_answers
from cap_viz.runs.protocols import protocol_in
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks import TASKS, Example, Task, load_task
from cap_viz.tasks.example_sets import examples_of
from cap_viz.tasks.own import add_task

FEWEST = 2
# Every task needs an evaluation split; one text in this many goes there, though nobody evaluates on it.
PER_EVALUATION = 10


def own_solutions_task(store: Store, run: StoredRun, name: str) -> Task:
    """Save the texts that the strict reading found right as task `name`.

    Raises `UsageError` when the run wrote no answers, is not of the calibration split, used the chat format (whose
    prompt is no plain text) or has fewer than two right texts.
    """
    protocol = protocol_in(run.spec)
    if not isinstance(protocol, GenerationProtocol):
        raise UsageError(f"Run {run.key} wrote no answers; own solutions come from `generate`.")
    if run.spec.examples.split != "calibration":
        raise UsageError(f"Run {run.key} is of evaluation questions; only those of --split calibration may be kept.")
    if protocol.format == "chat":
        raise UsageError("The prompt of a chat is no plain text to calibrate on; write with fewshot or zeroshot.")
    task, report = load_task(run.spec.examples.task), load_answers(store, run)
    examples = examples_of(run.spec.examples)
    # Drop the worked examples of the common few-shot prompt: each of them was asked with a different prompt.
    first = shots(task, Example("", "", "", (), 0)) if protocol.format == "fewshot" else ()
    usual = {example.id for example in examples} - {shot.id for shot in first}
    rows = [
        {"id": example.id, "question": example.question, "answer": text.strip()}
        for example, text, right in zip(examples, report.texts, report.correct, strict=True)
        if right and example.id in usual and text.strip()
    ]
    if len(rows) < FEWEST:
        raise UsageError(
            f"Only {len(rows)} of {len(report)} texts are right ({writing_of(task).shots} worked examples left out); "
            f"at least {FEWEST} are needed. Generate more answers."
        )
    # The task's prompt, with a placeholder for the question.
    prompt = examples[0].prompt.replace(examples[0].question, "{question}", 1)
    asked = prompt_text(task, Example("", "{question}", prompt, (), 0), protocol.format)
    about = {
        "name": name,
        "kind": "text",
        "title": f"Own solutions, {task.title}",
        "summary": f"Correct solutions that {run.spec.model.id} wrote itself ({protocol.format}, run {run.key}).",
        "source": f"written by {run.spec.model.id} on {task.name}",
        "licence": task.licence,
        "prompt": asked,
        "calibration": "calibration.jsonl",
        "evaluation": "evaluation.jsonl",
    }
    left = max(1, len(rows) // PER_EVALUATION)
    with TemporaryDirectory() as folder:
        for split, part in (("calibration", rows[:-left]), ("evaluation", rows[-left:])):
            lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in part)
            Path(folder, f"{split}.jsonl").write_text(lines, encoding="utf-8")
        description = Path(folder, "solutions.yaml")
        description.write_text(yaml.safe_dump(about, allow_unicode=True), encoding="utf-8")
        return add_task(description, tuple(TASKS))
