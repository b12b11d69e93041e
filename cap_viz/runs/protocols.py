"""Evaluation protocols: construction and parsing of the strings in `EvalSpec.protocol`.

None: options are compared by their log-likelihoods. "perplexity-1024": windows of 1,024 tokens of running text.
"generate-fewshot-256": written answers, with the prompt format and the token limit. "solution": worked solutions.
"""

from __future__ import annotations

from cap_viz.errors import UsageError
from cap_viz.evaluation.generation import FORMATS, GenerationProtocol, writing_of
from cap_viz.evaluation.perplexity import USUAL_LENGTH, USUAL_WINDOWS, text_task, window_id
from cap_viz.evaluation.solution_loss import check_has_solutions
from cap_viz.models.catalogue import ModelRef
from cap_viz.runs.spec import EvalSpec, MaskSpec
from cap_viz.tasks import load_task
from cap_viz.tasks.example_sets import ExampleSet

PERPLEXITY, GENERATE, SOLUTION = "perplexity", "generate", "solution"


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
    return EvalSpec(model=model, examples=examples, mask=mask, protocol=f"{PERPLEXITY}-{length}")


def length_of(spec: EvalSpec) -> int | None:
    """Return the tokens per window, or None for an evaluation other than perplexity."""
    kind, _, length = (spec.protocol or "").partition("-")
    return int(length) if kind == PERPLEXITY and length.isdecimal() else None


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
    writing = writing_of(load_task(examples.task))
    if format not in FORMATS:
        raise UsageError(f"Unknown prompt format {format!r}; choose one of {', '.join(FORMATS)}.")
    most = writing.max_tokens if max_tokens is None else max_tokens
    if most < 1:
        raise UsageError(f"At most {most} tokens leave nothing to write; allow at least 1.")
    return EvalSpec(model=model, examples=examples, mask=mask, protocol=f"{GENERATE}-{format}-{most}")


def protocol_of(spec: EvalSpec) -> GenerationProtocol | None:
    """Parse the protocol of an evaluation of written answers; None for other evaluations."""
    kind, _, rest = (spec.protocol or "").partition("-")
    format, _, most = rest.partition("-")
    return GenerationProtocol(format, int(most)) if kind == GENERATE and format in FORMATS and most.isdigit() else None


def solution_spec(model: ModelRef, examples: ExampleSet, mask: MaskSpec | None = None) -> EvalSpec:
    """Make the spec of the solution loss on these examples. Raises `UsageError` for a task with options."""
    check_has_solutions(examples.task)
    return EvalSpec(model=model, examples=examples, mask=mask, protocol=SOLUTION)


def is_solution_loss(spec: EvalSpec) -> bool:
    return spec.protocol == SOLUTION
