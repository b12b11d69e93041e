"""Runs computed batch by batch: plan, steps and tables, independent of the backend (`runs/backends`).

A batched run holds its plan, computes batches on the model it was made with, keeps their results, and makes the tables
to store. Batches may arrive in any order and from elsewhere (`restore`): the result has the same bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd
from torch import Tensor

from cap_viz.attribution.batch_plan import BatchPlan
from cap_viz.attribution.exact import Replacements, ScoreArrays, make_score_plan, replacements, score_steps
from cap_viz.attribution.gradient import GradientArrays, gradient_steps, make_gradient_plan
from cap_viz.attribution.results import BlockScores, EvalReport
from cap_viz.evaluation.choice import EvalArrays, eval_steps, make_eval_plan
from cap_viz.evaluation.generation import Block, GenerationArrays, GenerationReport, generation_plan, generation_steps
from cap_viz.evaluation.perplexity import perplexity_plan, text_task
from cap_viz.models.loading import ReasoningModel
from cap_viz.pruning.mask import Mask
from cap_viz.runs.checkpoints import Arrays
from cap_viz.runs.parquet_schema import (
    ablated_table,
    answers_table,
    blocks_table,
    effects_table,
    options_table,
    units_table,
)
from cap_viz.runs.protocols import is_solution_loss, length_of, protocol_of
from cap_viz.runs.spec import EvalSpec, JointSpec, ScoreSpec
from cap_viz.tasks import load_task
from cap_viz.tasks.example_sets import examples_of


@dataclass(frozen=True)
class BatchStep:
    """Progress in one batch: `done` of its size is computed. After its `last` step the batch's content is complete."""

    batch: int
    done: float
    last: bool


class BatchedRun(ABC):
    """Interface between a run and the backend that computes its batches.

    `plan` holds the batches and everything else fixed before the first forward, `arrays` the results so far. `mask` is
    the mask of a pruned evaluation.
    """

    spec: ScoreSpec | EvalSpec
    mask: Mask | None
    note: str
    plan: Any
    arrays: Any

    @property
    def batches(self) -> BatchPlan:
        return self.plan.batches

    def size(self, batch: int) -> float:
        """Return the work in a batch, in units of progress: by default its number of examples."""
        return len(self.batches.batches[batch])

    @abstractmethod
    def steps(self, wanted: Sequence[int]) -> Iterator[BatchStep]:
        """Compute the `wanted` batches here, in that order, and keep their results."""

    def content(self, batch: int) -> Arrays:
        """Return the arrays of a computed batch, to be stored or sent."""
        return self.arrays.batch(batch)

    def restore(self, batch: int, content: Arrays) -> None:
        """Add a batch that was stored, or computed elsewhere."""
        self.arrays.restore(batch, content)

    def replan(self, batches: BatchPlan) -> None:
        """Continue with other batches; those already computed must be unchanged."""
        self.plan = self.arrays.plan = replace(self.plan, batches=batches)

    @abstractmethod
    def partial(self) -> Any:
        """Return the result of the batches so far."""

    @abstractmethod
    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the complete result as tables to store."""

    def facts(self) -> dict[str, Any]:
        """Return facts to record in the provenance."""
        return {}


def batched_run(
    model: ReasoningModel, spec: ScoreSpec | EvalSpec, plan: BatchPlan | None = None, mask: Mask | None = None
) -> BatchedRun:
    """Make the batched run of a spec; `plan` is that of an unfinished run, `mask` that of a pruned evaluation."""
    if isinstance(spec, ScoreSpec):
        return ScoreRun(model, spec, plan) if spec.estimator == "exact" else GradientRun(model, spec, plan)
    if protocol_of(spec) is not None:
        return GenerationRun(model, spec, plan, mask)
    return LoglikRun(model, spec, plan, mask)


def ablation_options(spec: ScoreSpec | JointSpec) -> dict[str, Any]:
    """Return the ablation keyword arguments of a spec, for `make_*_plan`."""
    reference = None if spec.reference is None else examples_of(spec.reference)
    seed = (spec.reference or spec.examples).seed or 0
    return {"ablation": spec.ablation, "reference": reference, "seed": seed}


class AblationRun(BatchedRun):
    """Scores by ablation; the replacements of outputs are prepared once, with the first batch."""

    mask = None

    def __init__(self, model: ReasoningModel, spec: ScoreSpec) -> None:
        self.model, self.spec = model, spec

    @cached_property
    def replaced(self) -> Replacements:
        return replacements(self.model, self.plan)

    def partial(self) -> Any:
        return self.arrays.result()


class ScoreRun(AblationRun):
    """Exact scores of heads, or of whole attention layers and MLPs."""

    def __init__(self, model: ReasoningModel, spec: ScoreSpec, plan: BatchPlan | None) -> None:
        super().__init__(model, spec)
        options = {**ablation_options(spec), "parts": spec.parts or "heads", "batches": plan}
        self.plan = make_score_plan(model, examples_of(spec.examples), **options)
        self.arrays = ScoreArrays(self.plan, model.shape.n_layers, model.shape.n_heads)
        self.note = "scoring heads" if spec.parts is None else "scoring whole layers"

    def size(self, batch: int) -> float:
        return self.plan.batch_work(batch, self.model.shape.n_layers)

    def steps(self, wanted: Sequence[int]) -> Iterator[BatchStep]:
        done = 0.0
        for block in score_steps(self.model, self.plan, only=wanted, replaced=self.replaced):
            self.arrays.add(block)
            done += block.work
            yield BatchStep(block.batch, done, block.last)
            done = 0.0 if block.last else done

    def tables(self) -> dict[str, pd.DataFrame]:
        result = self.arrays.result()
        blocks = isinstance(result, BlockScores)
        name, table = ("blocks", blocks_table(result)) if blocks else ("ablated", ablated_table(result))
        return {"options": options_table(result.questions, result.dense), name: table}


class GradientRun(AblationRun):
    """First-order effects of all heads, from one forward and one backward per batch."""

    note = "gradients of all heads"

    def __init__(self, model: ReasoningModel, spec: ScoreSpec, plan: BatchPlan | None) -> None:
        super().__init__(model, spec)
        self.metric = spec.metric or "nll"
        options = {**ablation_options(spec), "metric": self.metric, "batches": plan}
        self.plan = make_gradient_plan(model, examples_of(spec.examples), **options)
        self.arrays = GradientArrays(self.plan, self.metric, model.shape.n_layers, model.shape.n_heads)

    def steps(self, wanted: Sequence[int]) -> Iterator[BatchStep]:
        options = {"metric": self.metric, "units": True, "only": wanted, "replaced": self.replaced}
        for block in gradient_steps(self.model, self.plan, **options):
            self.arrays.add(block)
            yield BatchStep(block.batch, block.work, last=True)

    def tables(self) -> dict[str, pd.DataFrame]:
        result = self.arrays.result()
        tables = {"options": options_table(result.questions, result.known_logliks), "effects": effects_table(result)}
        return tables if result.units is None else tables | {"units": units_table(result.units)}


class EvaluationRun(BatchedRun):
    """Evaluation of the dense model or under a mask; the mask is released once the pruned weights are made."""

    def __init__(self, model: ReasoningModel, spec: EvalSpec, mask: Mask | None) -> None:
        self.model, self.spec, self.mask = model, spec, mask

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        if self.mask is None:
            return {}
        with self.model.lease:
            weights = self.model.pruned_weights(self.mask.keep, self.mask.updated)
        self.mask = None
        return weights

    def facts(self) -> dict[str, Any]:
        """Count the truncated prompts and the tokens they lost; empty where no prompt was truncated."""
        cut = [n for n in self.plan.dropped if n]
        return {"truncated": {"examples": len(cut), "tokens": sum(cut)}} if cut else {}


class LoglikRun(EvaluationRun):
    """Log-likelihoods of options, windows of running text or worked solutions."""

    def __init__(self, model: ReasoningModel, spec: EvalSpec, plan: BatchPlan | None, mask: Mask | None) -> None:
        super().__init__(model, spec, mask)
        length = length_of(spec)
        if length is not None:
            self.plan = perplexity_plan(model, text_task(spec.examples.task), spec.examples.ids, length)
            self.note = "reading text"
        else:
            self.plan = make_eval_plan(model, examples_of(spec.examples), plan)
            self.note = "reading solutions" if is_solution_loss(spec) else "answering questions"
        self.arrays = EvalArrays(self.plan)

    def steps(self, wanted: Sequence[int]) -> Iterator[BatchStep]:
        for block in eval_steps(self.model, self.plan, self.weights, only=wanted):
            self.arrays.add(block)
            yield BatchStep(block.batch, self.size(block.batch), last=True)

    def partial(self) -> EvalReport:
        return self.arrays.report()

    def tables(self) -> dict[str, pd.DataFrame]:
        report = self.arrays.report()
        return {"options": options_table(report.questions, report.logliks)}


class GenerationRun(EvaluationRun):
    """Answers written by the model."""

    note = "writing answers"

    def __init__(self, model: ReasoningModel, spec: EvalSpec, plan: BatchPlan | None, mask: Mask | None) -> None:
        super().__init__(model, spec, mask)
        protocol, task = protocol_of(spec), load_task(spec.examples.task)
        assert protocol is not None
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

    def tables(self) -> dict[str, pd.DataFrame]:
        return {"answers": answers_table(self.partial())}
