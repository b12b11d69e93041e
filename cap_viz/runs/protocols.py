"""How an evaluation asks: the strings that `EvalSpec.protocol` holds, made and read here.

None: options are compared by their log-likelihoods. "perplexity-1024": windows of so many tokens of running text.
"generate-fewshot-256": written answers, the format and the most tokens. "solution": worked solutions.
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
    """The evaluation of the first `n_windows` windows. Raises `UsageError` for a task without running text."""
    chosen = text_task(task)
    if n_windows < 1:
        raise UsageError(f"The number of windows is {n_windows}; it must be at least 1.")
    if length < 2:
        raise UsageError(f"A window of {length} tokens has nothing to score; give at least 2.")
    ids = tuple(window_id(number) for number in range(n_windows))
    examples = ExampleSet(task=task, version=chosen.version, ids=ids, split="windows")
    return EvalSpec(model=model, examples=examples, mask=mask, protocol=f"{PERPLEXITY}-{length}")


def length_of(spec: EvalSpec) -> int | None:
    """Tokens of a window, or None for an evaluation that is not about perplexity."""
    kind, _, length = (spec.protocol or "").partition("-")
    return int(length) if kind == PERPLEXITY else None


def generation_spec(
    model: ModelRef,
    examples: ExampleSet,
    *,
    format: str = "fewshot",
    max_tokens: int | None = None,
    mask: MaskSpec | None = None,
) -> EvalSpec:
    """The evaluation of written answers. Raises `UsageError` for a task or format that has none."""
    writing = writing_of(load_task(examples.task))
    if format not in FORMATS:
        raise UsageError(f"Unknown prompt format {format!r}; choose one of {', '.join(FORMATS)}.")
    most = writing.max_tokens if max_tokens is None else max_tokens
    if most < 1:
        raise UsageError(f"At most {most} tokens leave nothing to write; allow at least 1.")
    return EvalSpec(model=model, examples=examples, mask=mask, protocol=f"{GENERATE}-{format}-{most}")


def protocol_of(spec: EvalSpec) -> GenerationProtocol | None:
    """How a run asks, or None for an evaluation that writes nothing."""
    kind, _, rest = (spec.protocol or "").partition("-")
    format, _, most = rest.partition("-")
    return GenerationProtocol(format, int(most)) if kind == GENERATE and format in FORMATS and most.isdigit() else None


def solution_spec(model: ModelRef, examples: ExampleSet, mask: MaskSpec | None = None) -> EvalSpec:
    """The evaluation that reads these examples' solutions. Raises `UsageError` for a task with options."""
    check_has_solutions(examples.task)
    return EvalSpec(model=model, examples=examples, mask=mask, protocol=SOLUTION)


def is_solution_loss(spec: EvalSpec) -> bool:
    return spec.protocol == SOLUTION
