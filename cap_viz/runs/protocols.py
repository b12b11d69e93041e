"""How an evaluation asks: a tagged union, and the strings that stand for it in `EvalSpec.protocol` and in keys.

None: `ChoiceProtocol`. "perplexity-1024": `PerplexityProtocol`. "generate-fewshot-256": `GenerationProtocol`.
"solution": `SolutionProtocol`. Anything else, say of a newer version, is an `UnknownProtocol`.
"""

from __future__ import annotations

from dataclasses import dataclass

from cap_viz.errors import UsageError
from cap_viz.evaluation.generation import FORMATS, GenerationProtocol, generation_protocol, writing_of
from cap_viz.evaluation.perplexity import USUAL_LENGTH, USUAL_WINDOWS, text_task, window_id
from cap_viz.evaluation.solution_loss import check_has_solutions
from cap_viz.models.catalogue import ModelRef
from cap_viz.runs.spec import EvalSpec, MaskSpec, RunSpec
from cap_viz.tasks import load_task
from cap_viz.tasks.example_sets import ExampleSet


@dataclass(frozen=True)
class ChoiceProtocol:
    """Compare the log-likelihoods of a question's options."""


@dataclass(frozen=True)
class PerplexityProtocol:
    """Score windows of running text of `length` tokens."""

    length: int


@dataclass(frozen=True)
class SolutionProtocol:
    """Score the worked solution of a task without options."""


@dataclass(frozen=True)
class UnknownProtocol:
    """A protocol that this version does not know, as it was written."""

    text: str


EvalProtocol = ChoiceProtocol | PerplexityProtocol | GenerationProtocol | SolutionProtocol | UnknownProtocol


def protocol_of(spec: EvalSpec) -> EvalProtocol:
    """Parse the protocol of an evaluation."""
    if spec.protocol is None:
        return ChoiceProtocol()
    match spec.protocol.split("-"):
        case ["solution"]:
            return SolutionProtocol()
        case ["perplexity", length] if length.isdecimal():
            return PerplexityProtocol(int(length))
        case ["generate", format, most] if format in FORMATS and most.isdecimal():
            return GenerationProtocol(format, int(most))
    return UnknownProtocol(spec.protocol)


def protocol_in(spec: RunSpec) -> EvalProtocol | None:
    """Parse the protocol of a run; None for a run that is no evaluation."""
    return protocol_of(spec) if isinstance(spec, EvalSpec) else None


def perplexity_spec(
    model: ModelRef,
    task: str = "generic_text",
    *,
    n_windows: int = USUAL_WINDOWS,
    length: int = USUAL_LENGTH,
    mask: MaskSpec | None = None,
) -> EvalSpec:
    """Make the spec of perplexity on the first `n_windows` windows of `length` tokens.

    Raises `UsageError` for a task without running text, no windows, or windows of fewer than two tokens.
    """
    chosen = text_task(task)
    if n_windows < 1:
        raise UsageError(f"The number of windows is {n_windows}; it must be at least 1.")
    if length < 2:
        raise UsageError(f"A window of {length} tokens has nothing to score; give at least 2.")
    ids = tuple(window_id(number) for number in range(n_windows))
    examples = ExampleSet(task=task, version=chosen.version, ids=ids, split="windows")
    return EvalSpec(model=model, examples=examples, mask=mask, protocol=f"perplexity-{length}")


def generation_spec(
    model: ModelRef,
    examples: ExampleSet,
    *,
    format: str = "fewshot",
    max_tokens: int | None = None,
    mask: MaskSpec | None = None,
) -> EvalSpec:
    """Make the spec of an evaluation of written answers.

    Raises `UsageError` for a task without written answers, an unknown format, or a token limit below 1.
    """
    task = load_task(examples.task)
    most = writing_of(task).max_tokens if max_tokens is None else max_tokens
    asked = generation_protocol(task, format, most)
    return EvalSpec(model=model, examples=examples, mask=mask, protocol=f"generate-{asked.format}-{asked.max_tokens}")


def solution_spec(model: ModelRef, examples: ExampleSet, mask: MaskSpec | None = None) -> EvalSpec:
    """Make the spec of the solution loss on these examples. Raises `UsageError` for a task with options."""
    check_has_solutions(examples.task)
    return EvalSpec(model=model, examples=examples, mask=mask, protocol="solution")
