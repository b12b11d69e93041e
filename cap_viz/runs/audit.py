"""Audit of an evaluation, item by item: prompts, outputs and how they were judged. Needs no torch.

Runs hold ids and numbers; questions and options are read from the task again, so its data must be available.
"""

from __future__ import annotations

import pandas as pd

from cap_viz.attribution.results import EvalReport
from cap_viz.errors import UsageError
from cap_viz.evaluation.generation import GenerationProtocol, prompt_text
from cap_viz.runs.kinds.evaluation import load_answers, load_report
from cap_viz.runs.protocols import ChoiceProtocol, SolutionProtocol, protocol_in
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks import Example, load_task
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
    prompts = [example.prompt for example in examples]
    match protocol:
        case ChoiceProtocol():
            return choices_audit(examples, load_report(store, run))
        case SolutionProtocol():
            table = load_report(store, run).to_pandas()
            table.insert(1, "solution", [example.options[0].strip() for example in examples])
        case GenerationProtocol(format, _):
            table = load_answers(store, run).to_pandas()
            prompts = [prompt_text(task, example, format) for example in examples]
    table.insert(1, "prompt", prompts)
    return table


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
