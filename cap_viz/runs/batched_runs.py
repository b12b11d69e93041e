"""Runs made of batches: what there is to compute and what becomes of it, apart from who computes it (`backends/`).

A batched run knows its plan, computes batches on the model it was made with, keeps what has arrived, and makes the
tables that are stored. Batches may arrive in any order and from elsewhere (`restore`): the result has the same bits.
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
    """`done` of a batch's size is computed; with the `last` step of a batch all of it, and its content is there."""

    batch: int
    done: float
    last: bool


class BatchedRun(ABC):
    """What a backend needs to know of a run, and where it puts what it has computed.

    `plan` holds the batches and what else was fixed before the first forward, `arrays` what has arrived. `mask` is the
    one an evaluation is under.
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
        """A batch's share of the work, in the unit of the progress: examples, unless they differ much."""
        return len(self.batches.batches[batch])

    @abstractmethod
    def steps(self, wanted: Sequence[int]) -> Iterator[BatchStep]:
        """Compute batches here, in the order asked for, and keep what comes out."""

    def content(self, batch: int) -> Arrays:
        """What came out of a batch, to be stored or sent."""
        return self.arrays.batch(batch)

    def restore(self, batch: int, content: Arrays) -> None:
        """Take in a batch that was stored, or computed elsewhere."""
        self.arrays.restore(batch, content)

    def replan(self, batches: BatchPlan) -> None:
        """Go on by other batches, of which those that have arrived are the same."""
        self.plan = self.arrays.plan = replace(self.plan, batches=batches)

    @abstractmethod
    def partial(self) -> Any:
        """The result of what has arrived."""

    @abstractmethod
    def tables(self) -> dict[str, pd.DataFrame]:
        """The whole result as it is stored."""

    def facts(self) -> dict[str, Any]:
        """What is recorded beside the tables."""
        return {}


def batched_run(
    model: ReasoningModel, spec: ScoreSpec | EvalSpec, plan: BatchPlan | None = None, mask: Mask | None = None
) -> BatchedRun:
    """A run on a loaded model; `plan` is that of a run that has begun, `mask` the one an evaluation is under."""
    if isinstance(spec, ScoreSpec):
        return ScoreRun(model, spec, plan) if spec.estimator == "exact" else GradientRun(model, spec, plan)
    if protocol_of(spec) is not None:
        return GenerationRun(model, spec, plan, mask)
    return LoglikRun(model, spec, plan, mask)


def ablation_options(spec: ScoreSpec | JointSpec) -> dict[str, Any]:
    """What of a spec says by what outputs are replaced, as arguments of the plans."""
    reference = None if spec.reference is None else examples_of(spec.reference)
    seed = (spec.reference or spec.examples).seed or 0
    return {"ablation": spec.ablation, "reference": reference, "seed": seed}


class AblationRun(BatchedRun):
    """Head scores: what outputs are replaced by is prepared once, with the first batch."""

    mask = None

    def __init__(self, model: ReasoningModel, spec: ScoreSpec) -> None:
        self.model, self.spec = model, spec

    @cached_property
    def replaced(self) -> Replacements:
        return replacements(self.model, self.plan)

    def partial(self) -> Any:
        return self.arrays.result()


class ScoreRun(AblationRun):
    """Heads, or whole attention layers and MLPs, ablated exactly."""

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
    """All heads to first order, from one forward and one backward a batch."""

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
    """Dense or under a mask, which is let go of once the pruned weights are there."""

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
        """Where prompts lost their beginning, how many and how much; nothing where none did."""
        cut = [n for n in self.plan.dropped if n]
        return {"truncated": {"examples": len(cut), "tokens": sum(cut)}} if cut else {}


class LoglikRun(EvaluationRun):
    """Log-likelihoods of options, of windows of text or of worked solutions."""

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
    """Answers the model writes out."""

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
        """Made when asked for and kept until the next batch: a step is a token, and reading texts takes longer."""
        report = self.known
        if report is None:
            report = self.known = self.arrays.report()
        return report

    def tables(self) -> dict[str, pd.DataFrame]:
        return {"answers": answers_table(self.partial())}
