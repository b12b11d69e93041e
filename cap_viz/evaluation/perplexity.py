"""Perplexity of a model, dense or pruned, on running text.

1. The task's evaluation text is one string: its paragraphs in source order, joined by blank lines.
2. It is encoded once, without special tokens, and cut into windows of `length` tokens that do not overlap; a shorter
   rest at the end is not used.
3. Every window stands alone: its first token is given, the other `length - 1` are scored.
4. Perplexity is exp of the mean loss per scored token over all windows. Its interval resamples windows (bootstrap),
   since tokens of one window are not independent.

This is the protocol of GPTQ, SparseGPT and Wanda (there with 2,048 tokens); numbers are comparable only at equal text,
length and tokenizer. A window is an example with a single option, so that it is stored as questions are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cap_viz.attribution.results import EvalReport
from cap_viz.errors import UsageError
from cap_viz.evaluation.eval_metrics import PERPLEXITY, level_of
from cap_viz.stats import Interval
from cap_viz.tasks import Task, load_task
from cap_viz.tasks.base import Example

if TYPE_CHECKING:
    from cap_viz.evaluation.choice import EvalPlan
    from cap_viz.models.loading import ReasoningModel

USUAL_WINDOWS, USUAL_LENGTH = 16, 1024
TEXT_TASKS = ("generic_text", "mini_text")


@dataclass(frozen=True)
class Perplexity:
    """Perplexity with its 95 % interval over windows (NaN for a single window)."""

    value: float
    ci: Interval
    n_windows: int
    n_tokens: int


def text_task(name: str) -> Task:
    task = load_task(name)
    if task.running_text is None:
        raise UsageError(f"Task {name} has no running text; perplexity is measured on {' or '.join(TEXT_TASKS)}.")
    return task


def window_id(number: int) -> str:
    return f"window-{number}"


def token_windows(model: ReasoningModel, task: Task, length: int) -> list[tuple[int, ...]]:
    """Cut a task's evaluation text into whole windows of `length` tokens.

    Raises `UsageError` when a window is longer than the model can read.
    """
    assert task.running_text is not None
    if length > model.shape.n_ctx:
        raise UsageError(
            f"A window of {length} tokens is longer than the {model.shape.n_ctx} tokens {model.ref.id} can read."
        )
    with model.lease:
        # The text is long on purpose: without `verbose=False` the tokenizer warns that it exceeds the context.
        ids = model.tokenizer(task.running_text(), add_special_tokens=False, verbose=False)["input_ids"]
    return [tuple(ids[start : start + length]) for start in range(0, len(ids) - length + 1, length)]


def perplexity_plan(model: ReasoningModel, task: Task, ids: Sequence[str], length: int) -> EvalPlan:
    """Plan the first windows of a text, named `ids`, as examples with one option, one window per batch.

    Raises `UsageError` when the text has fewer windows, or when they are longer than the model can read.
    """
    from cap_viz.attribution.batch_plan import BatchPlan
    from cap_viz.attribution.forward.packing import EncodedExample
    from cap_viz.evaluation.choice import EvalPlan

    windows = token_windows(model, task, length)
    n = len(ids)
    if n > len(windows):
        raise UsageError(
            f"The text of {task.name} has {len(windows)} windows of {length} tokens, fewer than the {n} asked for."
        )
    examples = tuple(
        Example(id=identity, question="", prompt="", options=(str(number),), gold=0, task=task.as_version)
        for number, identity in enumerate(ids)
    )
    encoded = tuple(
        EncodedExample(prefix=window[:1], branches=(window[1:],), answer_lengths=(length - 1,))
        for window in windows[:n]
    )
    return EvalPlan(examples, encoded, BatchPlan(tuple((number,) for number in range(n)), packed=True))


def perplexity_of(report: EvalReport) -> Perplexity:
    """Compute perplexity from the log-likelihoods of the windows."""
    # All windows have the same length, so that the mean over windows is the mean over tokens.
    level = level_of(report, PERPLEXITY)
    return Perplexity(level.value, level.ci, n_windows=len(report), n_tokens=int(report.questions.tokens[:, 0].sum()))
