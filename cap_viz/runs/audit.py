"""Audit of an evaluation, item by item: prompts, outputs and how they were judged. Needs no torch.

Runs hold ids and numbers; questions and options are read from the task again, so its data must be available.
"""

from __future__ import annotations

import pandas as pd

from cap_viz.attribution.results import EvalReport
from cap_viz.errors import UsageError
from cap_viz.evaluation.generation import GenerationProtocol, GenerationReport, prompt_text
from cap_viz.runs.kinds.evaluation import answer_rows, load_answers, load_report
from cap_viz.runs.protocols import ChoiceProtocol, SolutionProtocol, protocol_in
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks import Example, Task, load_task
from cap_viz.tasks.example_sets import examples_of


def audit_of(store: Store, run: StoredRun) -> pd.DataFrame:
    """Tabulate an evaluation, one row per item.

    Choices: prompt, options with their log-likelihoods, gold and chosen option. Written answers: prompt (for a chat,
    the user's message), raw text, the answer each reading found, gold. Solutions: prompt, solution, loss per token.

    Raises `UsageError` for a run that asked no questions, or when the task's data is missing or has changed.
    """
    protocol = protocol_in(run.spec)
    if not isinstance(protocol, ChoiceProtocol | SolutionProtocol | GenerationProtocol):
        raise UsageError(f"Run {run.key} asked no questions; an audit is of an evaluation of a task.")
    examples, task = examples_of(run.spec.examples), load_task(run.spec.examples.task)
    if isinstance(protocol, GenerationProtocol):
        return answers_audit(task, protocol, examples, load_answers(store, run))
    report = load_report(store, run)
    return (
        choices_audit(examples, report) if isinstance(protocol, ChoiceProtocol) else solutions_audit(examples, report)
    )


def choices_audit(examples: tuple[Example, ...], report: EvalReport) -> pd.DataFrame:
    rows = []
    for row, example in enumerate(examples):
        chosen, chosen_norm = int(report.chosen[row]), int(report.chosen_norm[row])
        options = {
            f"{name}_{k}": value
            for k, option in enumerate(example.options)
            for name, value in (("option", option.strip()), ("loglik", float(report.logliks[row, k])))
        }
        rows.append(
            {
                "id": example.id,
                "prompt": example.prompt,
                "gold": example.options[example.gold].strip(),
                "chosen": example.options[chosen].strip(),
                "right": chosen == example.gold,
                "chosen_norm": example.options[chosen_norm].strip(),
                "right_norm": chosen_norm == example.gold,
                **options,
            }
        )
    return pd.DataFrame(rows)


def solutions_audit(examples: tuple[Example, ...], report: EvalReport) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": [example.id for example in examples],
            "prompt": [example.prompt for example in examples],
            "solution": [example.options[0].strip() for example in examples],
            "tokens": report.questions.tokens[:, 0],
            "loglik": report.logliks[:, 0],
            "nll": report.losses("nll"),
        }
    )


def answers_audit(
    task: Task, protocol: GenerationProtocol, examples: tuple[Example, ...], report: GenerationReport
) -> pd.DataFrame:
    table = answer_rows(report)
    table.insert(1, "prompt", [prompt_text(task, example, protocol.format) for example in examples])
    return table
