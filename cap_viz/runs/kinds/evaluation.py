"""Evaluations, dense or under a mask: options by log-likelihood, running text, worked solutions, written answers."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from cap_viz.attribution.results import EvalReport
from cap_viz.errors import UsageError
from cap_viz.evaluation.eval_metrics import (
    ACC,
    ACC_NORM,
    EXACT_MATCH,
    FLEXIBLE_MATCH,
    PERPLEXITY,
    TOKEN_LOSS,
    Level,
    Measure,
    level_of,
)
from cap_viz.evaluation.generation import (
    Block,
    GenerationArrays,
    GenerationProtocol,
    GenerationReport,
    generation_plan,
    generation_steps,
    writing_of,
)
from cap_viz.evaluation.perplexity import perplexity_plan, text_task
from cap_viz.evaluation.solution_loss import check_has_solutions
from cap_viz.progress import Progress
from cap_viz.pruning.head_sparsity import mask_head_zeros
from cap_viz.runs.batched_runs import BatchedRun, BatchStep, MaskedRun, batch_steps
from cap_viz.runs.kinds.base import Computation, Computed, RunKind, tables_of, task_of
from cap_viz.runs.kinds.scores import wanted_mask
from cap_viz.runs.prefix_reuse import first_of, longer_run
from cap_viz.runs.protocols import (
    ChoiceProtocol,
    EvalProtocol,
    PerplexityProtocol,
    SolutionProtocol,
    UnknownProtocol,
    protocol_of,
)
from cap_viz.runs.run_labels import percent
from cap_viz.runs.spec import EvalSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks import check_has_options, load_task
from cap_viz.tasks.example_sets import examples_of, versioned_task

if TYPE_CHECKING:
    from cap_viz.attribution.batch_plan import BatchPlan
    from cap_viz.models.loading import ReasoningModel
    from cap_viz.pruning.mask import Mask
    from cap_viz.runs.checkpoints import Arrays


class Evaluation(RunKind[EvalSpec]):
    """An evaluation, batch by batch, after its mask is built."""

    name = EvalSpec.kind
    title, summary = "evaluations", "accuracies, written answers, losses and perplexities, dense or pruned"
    most_examples, most_examples_shared = 10_000, 600

    def check(self, spec: EvalSpec) -> None:
        """Raise `UsageError` for an unknown protocol, or a task the protocol does not fit."""
        task = load_task(spec.examples.task)
        match protocol_of(spec):
            case ChoiceProtocol():
                check_has_options(task)
            case GenerationProtocol():
                writing_of(task)
            case SolutionProtocol():
                check_has_solutions(task.name)
            case UnknownProtocol(text):
                known = "perplexity, generate and solution"
                raise UsageError(f"Unknown evaluation protocol {text!r}; this program knows {known}.")
        versioned_task(spec.examples)

    def reused(self, spec: EvalSpec, store: Store) -> StoredRun[EvalSpec] | None:
        """Take the first items of a longer evaluation."""
        longer = longer_run(spec, store)
        return first_of(longer, spec, store) if longer is not None and store.is_sound(longer) else None

    def steps(self, spec: EvalSpec, by: Computation) -> Generator[Progress, None, Computed]:
        mask, tables = (yield from wanted_mask(spec.mask, by)), {}
        if mask is not None:
            tables = mask.counts.to_tables()
            if mask.scope != "mlp":
                tables |= mask_head_zeros(by.model, mask).to_tables()
        run = self.batched(by.model, spec, by.checkpoints.plan(), mask)
        del mask  # So that the run frees it once it has the pruned weights.
        facts = yield from batch_steps(run, by.checkpoints, by.backend)
        return Computed({**tables, **run.tables()}, run.batches, facts)

    def side_by_side(self, first: EvalSpec, second: EvalSpec) -> bool:
        """Whether only the masks differ: dense and pruned accuracies of a comparison then fill in together."""
        return replace(first, mask=None) == replace(second, mask=None)

    def holds_weights(self, spec: EvalSpec) -> bool:
        return spec.mask is not None

    def batched(
        self, model: ReasoningModel, spec: EvalSpec, plan: BatchPlan | None = None, mask: Mask | None = None
    ) -> BatchedRun:
        if isinstance(protocol_of(spec), GenerationProtocol):
            return GenerationRun(model, spec, plan, mask)
        return LoglikRun(model, spec, plan, mask)

    def describe(self, spec: EvalSpec) -> str:
        what = "dense" if spec.mask is None else f"{spec.mask.criterion} at {percent(spec.mask.sparsity)}"
        match protocol_of(spec):
            case ChoiceProtocol():
                return what
            case PerplexityProtocol(length):
                return f"perplexity on {length} tokens, {what}"
            case GenerationProtocol(format, _):
                return f"written answers ({format}), {what}"
            case SolutionProtocol():
                return f"loss on solutions, {what}"
            case UnknownProtocol(text):
                return f"protocol {text}, {what}"

    def numbers(self, store: Store, run: StoredRun[EvalSpec]) -> pd.DataFrame:
        """One row per question, window or solution."""
        if isinstance(protocol_of(run.spec), GenerationProtocol):
            return load_answers(store, run).to_pandas()
        return load_report(store, run).to_pandas()


class EvaluationRun(MaskedRun):
    """Evaluation of the dense model or under a mask."""

    def facts(self) -> dict[str, Any]:
        """Count the truncated prompts and the tokens they lost; empty where no prompt was truncated."""
        cut = [n for n in self.plan.dropped if n]
        return {"truncated": {"examples": len(cut), "tokens": sum(cut)}} if cut else {}


# Progress notes of runs that read.
NOTES: dict[type[EvalProtocol], str] = {
    ChoiceProtocol: "answering questions",
    PerplexityProtocol: "reading text",
    SolutionProtocol: "reading solutions",
}


class LoglikRun(EvaluationRun):
    """Log-likelihoods of options, windows of running text or worked solutions."""

    def __init__(self, model: ReasoningModel, spec: EvalSpec, plan: BatchPlan | None, mask: Mask | None) -> None:
        from cap_viz.evaluation.choice import EvalArrays, make_eval_plan

        super().__init__(model, spec, mask)
        protocol = protocol_of(spec)
        if isinstance(protocol, PerplexityProtocol):
            self.plan = perplexity_plan(model, text_task(spec.examples.task), spec.examples.ids, protocol.length)
        else:
            self.plan = make_eval_plan(model, examples_of(spec.examples), plan)
        self.note = NOTES[type(protocol)]
        self.arrays = EvalArrays(self.plan)

    def steps(self, wanted: Sequence[int]) -> Iterator[BatchStep]:
        from cap_viz.evaluation.choice import eval_steps

        for block in eval_steps(self.model, self.plan, self.weights, only=wanted):
            self.arrays.add(block)
            yield BatchStep(block.batch, self.size(block.batch), last=True)

    def partial(self) -> EvalReport:
        return self.arrays.report()


class GenerationRun(EvaluationRun):
    """Answers written by the model."""

    note = "writing answers"

    def __init__(self, model: ReasoningModel, spec: EvalSpec, plan: BatchPlan | None, mask: Mask | None) -> None:
        super().__init__(model, spec, mask)
        protocol, task = protocol_of(spec), load_task(spec.examples.task)
        assert isinstance(protocol, GenerationProtocol)
        self.plan = generation_plan(model, task, protocol, examples_of(spec.examples), plan)
        self.arrays = GenerationArrays(model, self.plan, task)
        self.known: GenerationReport | None = None

    def steps(self, wanted: Sequence[int]) -> Iterator[BatchStep]:
        coming = iter(wanted)
        batch = next(coming, 0)
        for step in generation_steps(self.model, self.plan, self.weights, only=wanted):
            if isinstance(step, Block):
                self.arrays.add(step)
                self.known = None
                yield BatchStep(step.batch, self.size(step.batch), last=True)
                batch = next(coming, batch)
            else:
                yield BatchStep(batch, step.done, last=False)

    def restore(self, batch: int, content: Arrays) -> None:
        super().restore(batch, content)
        self.known = None

    def partial(self) -> GenerationReport:
        """Return the report so far, cached until the next batch: decoding texts takes longer than a one-token step."""
        report = self.known
        if report is None:
            report = self.known = self.arrays.report()
        return report


def load_report(store: Store, run: StoredRun) -> EvalReport:
    """Load the log-likelihoods of options. Raises `UsageError` for a run of written answers: see `load_answers`."""
    if "options" not in run.digests:
        raise UsageError(f"Run {run.key} is of written answers; it holds no log-likelihoods of options.")
    return EvalReport.from_tables(tables_of(store, run, "options"), tasks=(task_of(run),))


def load_answers(store: Store, run: StoredRun) -> GenerationReport:
    """Load written answers. Raises `UsageError` for a run that wrote none."""
    if "answers" not in run.digests:
        raise UsageError(f"Run {run.key} wrote no answers; it holds log-likelihoods.")
    return GenerationReport.from_tables(tables_of(store, run, "answers"), tasks=(task_of(run),))


def measures_of(spec: EvalSpec) -> tuple[Measure, ...]:
    """Return the measures of an evaluation, the main one first; none for a protocol that is not known here."""
    match protocol_of(spec):
        case ChoiceProtocol():
            return ACC, ACC_NORM
        case GenerationProtocol():
            return EXACT_MATCH, FLEXIBLE_MATCH
        case PerplexityProtocol():
            return (PERPLEXITY,)
        case SolutionProtocol():
            return (TOKEN_LOSS,)
        case UnknownProtocol():
            return ()


def levels_of(store: Store, run: StoredRun[EvalSpec]) -> dict[Measure, Level]:
    """Return the measures of an evaluation with their values and intervals. Raises `DamagedRun`."""
    report = load_answers(store, run) if "answers" in run.digests else load_report(store, run)
    return {measure: level_of(report, measure) for measure in measures_of(run.spec)}
