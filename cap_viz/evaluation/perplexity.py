"""Perplexity: how surprised a model, dense or pruned, is by running text.

1. The task's evaluation text is one string: its paragraphs in source order, joined by blank lines.
2. It is encoded once, without special tokens, and cut into windows of `length` tokens that do not overlap; what is left
   at the end is not used.
3. Every window stands alone: its first token is given, the other `length - 1` are scored.
4. Perplexity is exp of the mean loss per scored token over all windows. Its interval resamples windows (bootstrap),
   since tokens of one window are not independent.

This is the way of GPTQ, SparseGPT and Wanda (there with 2,048 tokens); numbers compare at equal text, length and
tokenizer only. A window is an example with a single option, so evaluations store it as they store questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING

from cap_viz.attribution.results import EvalReport
from cap_viz.errors import UsageError
from cap_viz.models.catalogue import ModelRef
from cap_viz.runs.spec import EvalSpec, MaskSpec
from cap_viz.stats import Interval, bootstrap_mean_ci
from cap_viz.tasks import Task, load_task
from cap_viz.tasks.base import Example
from cap_viz.tasks.example_sets import ExampleSet

if TYPE_CHECKING:
    from cap_viz.evaluation.choice import EvalPlan
    from cap_viz.models.loading import ReasoningModel

PROTOCOL = "perplexity"
USUAL_WINDOWS, USUAL_LENGTH = 16, 1024
TEXT_TASKS = ("generic_text", "mini_text")


@dataclass(frozen=True)
class Perplexity:
    """Perplexity with its 95 % interval over windows (NaN for a single one)."""

    value: float
    ci: Interval
    n_windows: int
    n_tokens: int


def perplexity_spec(
    model: ModelRef,
    task: str = "generic_text",
    *,
    n_windows: int = USUAL_WINDOWS,
    length: int = USUAL_LENGTH,
    mask: MaskSpec | None = None,
) -> EvalSpec:
    """The evaluation of the first `n_windows` windows. Raises `UsageError` for a task without running text."""
    chosen = text_task(task)
    if n_windows < 1:
        raise UsageError(f"The number of windows is {n_windows}; it must be at least 1.")
    if length < 2:
        raise UsageError(f"A window of {length} tokens has nothing to score; give at least 2.")
    ids = tuple(window_id(number) for number in range(n_windows))
    examples = ExampleSet(task=task, version=chosen.version, ids=ids, split="windows")
    return EvalSpec(model=model, examples=examples, mask=mask, protocol=f"{PROTOCOL}-{length}")


def text_task(name: str) -> Task:
    task = load_task(name)
    if task.running_text is None:
        raise UsageError(f"Task {name} has no running text; perplexity is measured on {' or '.join(TEXT_TASKS)}.")
    return task


def window_id(number: int) -> str:
    return f"window-{number}"


def length_of(spec: EvalSpec) -> int | None:
    """Tokens of a window, or None for an evaluation that is not about perplexity."""
    kind, _, length = (spec.protocol or "").partition("-")
    return int(length) if kind == PROTOCOL else None


def token_windows(model: ReasoningModel, task: Task, length: int) -> list[tuple[int, ...]]:
    """All whole windows of a task's evaluation text, in order."""
    assert task.running_text is not None
    if length > model.shape.n_ctx:
        raise UsageError(
            f"A window of {length} tokens is longer than the {model.shape.n_ctx} tokens {model.ref.id} can read."
        )
    with model.lease:
        # One long text on purpose: without `verbose` the tokenizer would warn that no model reads it at once.
        ids = model.tokenizer(task.running_text(), add_special_tokens=False, verbose=False)["input_ids"]
    return [tuple(ids[start : start + length]) for start in range(0, len(ids) - length + 1, length)]


def perplexity_plan(model: ReasoningModel, spec: EvalSpec) -> EvalPlan:
    """The windows a spec names as examples of one option; one window is one batch.

    Raises `UsageError` when the text has fewer windows, or when they are longer than the model can read.
    """
    from cap_viz.attribution.batch_plan import BatchPlan
    from cap_viz.attribution.forward.packing import EncodedExample
    from cap_viz.evaluation.choice import EvalPlan

    length, task = length_of(spec), text_task(spec.examples.task)
    assert length is not None
    windows = token_windows(model, task, length)
    n = len(spec.examples.ids)
    if n > len(windows):
        raise UsageError(
            f"The text of {task.name} has {len(windows)} windows of {length} tokens, fewer than the {n} asked for."
        )
    examples = tuple(
        Example(id=identity, question="", prompt="", options=(str(number),), gold=0, task=task.as_version)
        for number, identity in enumerate(spec.examples.ids)
    )
    encoded = tuple(
        EncodedExample(prefix=window[:1], branches=(window[1:],), answer_lengths=(length - 1,))
        for window in windows[:n]
    )
    return EvalPlan(examples, encoded, BatchPlan(tuple((number,) for number in range(n)), packed=True))


def perplexity_of(report: EvalReport) -> Perplexity:
    """Perplexity from the stored log-likelihoods of the windows."""
    tokens = report.questions.tokens[:, 0]
    # All windows have the same length, so that their mean losses count alike.
    losses = report.losses("nll")
    ci = bootstrap_mean_ci(losses)
    return Perplexity(
        value=exp(float(losses.mean())),
        ci=Interval(exp(ci.low), exp(ci.high)),
        n_windows=len(losses),
        n_tokens=int(tokens.sum()),
    )
