"""Runs made of batches: what there is to compute and what becomes of it, apart from who computes it (`engines.py`).

A batched run knows its plan, computes batches on the model it was made with, keeps what has arrived, and makes the
tables that are stored. Batches may arrive in any order and from elsewhere (`restore`): the result has the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import pandas as pd
from torch import Tensor

from cap_viz.checkpoints import Arrays
from cap_viz.estimators.gradient import GradientArrays, gradient_steps, make_gradient_plan
from cap_viz.evaluation import EvalArrays, eval_steps, make_eval_plan
from cap_viz.example_sets import examples_of
from cap_viz.generation import (
    Block,
    GenerationArrays,
    GenerationReport,
    generation_plan,
    generation_steps,
    protocol_of,
)
from cap_viz.models import ReasoningModel
from cap_viz.perplexity import length_of, perplexity_plan
from cap_viz.plan import BatchPlan
from cap_viz.pruning.masks import Mask
from cap_viz.results import BlockScores
from cap_viz.scoring import Replacements, ScoreArrays, make_score_plan, replacements, score_steps
from cap_viz.solution_loss import is_solution_loss
from cap_viz.spec import EvalSpec, JointSpec, ScoreSpec
from cap_viz.tables import ablated_table, answers_table, blocks_table, effects_table, options_table, units_table
from cap_viz.tasks import load_task


@dataclass(frozen=True)
class Step:
    """`done` of a batch's size is computed; with the `last` step of a batch all of it, and its content is there."""

    batch: int
    done: float
    last: bool


class BatchedRun(Protocol):
    """What an engine needs to know of a run, and where it puts what it has computed.

    `size` is a batch's share of the work, in the unit of the progress. `steps` computes batches here, in the order
    asked for, and keeps what comes out; `content` gives a kept batch away, `restore` takes one in.
    """

    @property
    def spec(self) -> ScoreSpec | EvalSpec: ...

    @property
    def mask(self) -> Mask | None: ...

    @property
    def batches(self) -> BatchPlan: ...

    @property
    def note(self) -> str: ...

    def size(self, batch: int) -> float: ...

    def steps(self, wanted: Sequence[int]) -> Iterator[Step]: ...

    def content(self, batch: int) -> Arrays: ...

    def restore(self, batch: int, content: Arrays) -> None: ...

    def replan(self, plan: BatchPlan) -> None:
        """Go on by another plan, in which the batches that have arrived are the same."""
        ...

    def partial(self) -> Any:
        """The result of what has arrived."""
        ...

    def tables(self) -> dict[str, pd.DataFrame]: ...

    def facts(self) -> dict[str, Any]:
        """What is recorded beside the tables."""
        ...


def batched_run(
    model: ReasoningModel, spec: ScoreSpec | EvalSpec, plan: BatchPlan | None = None, mask: Mask | None = None
) -> BatchedRun:
    """A run on a loaded model; `plan` is that of a run that has begun, `mask` the one an evaluation is under."""
    if isinstance(spec, ScoreSpec):
        return ScoreRun(model, spec, plan) if spec.estimator == "exact" else GradientRun(model, spec, plan)
    if protocol_of(spec) is not None:
        return WritingRun(model, spec, plan, mask)
    return ReadingRun(model, spec, plan, mask)


def ablation_options(spec: ScoreSpec | JointSpec) -> dict[str, Any]:
    """What of a spec says by what outputs are replaced, as arguments of the plans."""
    reference = None if spec.reference is None else examples_of(spec.reference)
    seed = (spec.reference or spec.examples).seed or 0
    return {"ablation": spec.ablation, "reference": reference, "seed": seed}


class ScoreRun:
    """Heads, or whole attention layers and MLPs, ablated exactly."""

    mask = None

    def __init__(self, model: ReasoningModel, spec: ScoreSpec, plan: BatchPlan | None) -> None:
        self.model, self.spec = model, spec
        self.plan = make_score_plan(
            model,
            examples_of(spec.examples),
            **ablation_options(spec),
            parts=spec.parts or "heads",
            batches=plan,
        )
        self.arrays = ScoreArrays(self.plan, model.shape.n_layers, model.shape.n_heads)
        self.batches = self.plan.batches
        self.note = "scoring heads" if spec.parts is None else "scoring whole layers"

    @cached_property
    def replaced(self) -> Replacements:
        return replacements(self.model, self.plan)

    def size(self, batch: int) -> float:
        return self.plan.batch_work(batch, self.model.shape.n_layers)

    def steps(self, wanted: Sequence[int]) -> Iterator[Step]:
        done = 0.0
        for block in score_steps(self.model, self.plan, only=wanted, replaced=self.replaced):
            self.arrays.add(block)
            done += block.work
            yield Step(block.batch, done, block.last)
            done = 0.0 if block.last else done

    def content(self, batch: int) -> Arrays:
        return self.arrays.batch(batch)

    def restore(self, batch: int, content: Arrays) -> None:
        self.arrays.restore(batch, content)

    def replan(self, plan: BatchPlan) -> None:
        self.plan = self.arrays.plan = replace(self.plan, batches=plan)
        self.batches = plan

    def partial(self) -> Any:
        return self.arrays.result()

    def tables(self) -> dict[str, pd.DataFrame]:
        result = self.arrays.result()
        blocks = isinstance(result, BlockScores)
        name, table = ("blocks", blocks_table(result)) if blocks else ("ablated", ablated_table(result))
        return {"options": options_table(result.questions, result.dense), name: table}

    def facts(self) -> dict[str, Any]:
        return {}


class GradientRun:
    """All heads to first order, from one forward and one backward a batch."""

    mask = None
    note = "gradients of all heads"

    def __init__(self, model: ReasoningModel, spec: ScoreSpec, plan: BatchPlan | None) -> None:
        self.model, self.spec, self.metric = model, spec, spec.metric or "nll"
        self.plan = make_gradient_plan(
            model, examples_of(spec.examples), metric=self.metric, **ablation_options(spec), batches=plan
        )
        self.arrays = GradientArrays(self.plan, self.metric, model.shape.n_layers, model.shape.n_heads)
        self.batches = self.plan.batches

    @cached_property
    def replaced(self) -> Replacements:
        return replacements(self.model, self.plan)

    def size(self, batch: int) -> float:
        return len(self.batches.batches[batch])

    def steps(self, wanted: Sequence[int]) -> Iterator[Step]:
        options = {"metric": self.metric, "units": True, "only": wanted, "replaced": self.replaced}
        for block in gradient_steps(self.model, self.plan, **options):
            self.arrays.add(block)
            yield Step(block.batch, block.work, last=True)

    def content(self, batch: int) -> Arrays:
        return self.arrays.batch(batch)

    def restore(self, batch: int, content: Arrays) -> None:
        self.arrays.restore(batch, content)

    def replan(self, plan: BatchPlan) -> None:
        self.plan = self.arrays.plan = replace(self.plan, batches=plan)
        self.batches = plan

    def partial(self) -> Any:
        return self.arrays.result()

    def tables(self) -> dict[str, pd.DataFrame]:
        result = self.arrays.result()
        tables = {"options": options_table(result.questions, result.known_logliks), "effects": effects_table(result)}
        return tables if result.units is None else tables | {"units": units_table(result.units)}

    def facts(self) -> dict[str, Any]:
        return {}


class ReadingRun:
    """Log-likelihoods of options, of windows of text or of worked solutions, dense or under a mask."""

    def __init__(self, model: ReasoningModel, spec: EvalSpec, plan: BatchPlan | None, mask: Mask | None) -> None:
        self.model, self.spec, self.mask = model, spec, mask
        if length_of(spec) is not None:
            self.plan, self.note = perplexity_plan(model, spec), "reading text"
        else:
            self.plan = make_eval_plan(model, examples_of(spec.examples), plan)
            self.note = "reading solutions" if is_solution_loss(spec) else "answering questions"
        self.arrays = EvalArrays(self.plan)
        self.batches = self.plan.batches

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        weights, self.mask = pruned_weights(self.model, self.mask), None
        return weights

    def size(self, batch: int) -> float:
        return len(self.batches.batches[batch])

    def steps(self, wanted: Sequence[int]) -> Iterator[Step]:
        for block in eval_steps(self.model, self.plan, self.weights, only=wanted):
            self.arrays.add(block)
            yield Step(block.batch, self.size(block.batch), last=True)

    def content(self, batch: int) -> Arrays:
        return self.arrays.batch(batch)

    def restore(self, batch: int, content: Arrays) -> None:
        self.arrays.restore(batch, content)

    def replan(self, plan: BatchPlan) -> None:
        self.plan = self.arrays.plan = replace(self.plan, batches=plan)
        self.batches = plan

    def partial(self) -> Any:
        return self.arrays.report()

    def tables(self) -> dict[str, pd.DataFrame]:
        report = self.arrays.report()
        return {"options": options_table(report.questions, report.logliks)}

    def facts(self) -> dict[str, Any]:
        return truncation(self.plan.dropped)


class WritingRun:
    """Answers the model writes out, dense or under a mask."""

    note = "writing answers"

    def __init__(self, model: ReasoningModel, spec: EvalSpec, plan: BatchPlan | None, mask: Mask | None) -> None:
        self.model, self.spec, self.mask = model, spec, mask
        self.plan = generation_plan(model, spec, examples_of(spec.examples), plan)
        self.arrays = GenerationArrays(model, self.plan, load_task(spec.examples.task))
        self.batches = self.plan.batches
        self.known: GenerationReport | None = None

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        weights, self.mask = pruned_weights(self.model, self.mask), None
        return weights

    def size(self, batch: int) -> float:
        return len(self.batches.batches[batch])

    def steps(self, wanted: Sequence[int]) -> Iterator[Step]:
        coming = iter(wanted)
        batch = next(coming, 0)
        for step in generation_steps(self.model, self.plan, self.weights, only=wanted):
            if isinstance(step, Block):
                self.arrays.add(step)
                self.known = None
                yield Step(step.batch, self.size(step.batch), last=True)
                batch = next(coming, batch)
            else:
                yield Step(batch, step.done, last=False)

    def content(self, batch: int) -> Arrays:
        return self.arrays.batch(batch)

    def restore(self, batch: int, content: Arrays) -> None:
        self.arrays.restore(batch, content)
        self.known = None

    def replan(self, plan: BatchPlan) -> None:
        self.plan = self.arrays.plan = replace(self.plan, batches=plan)
        self.batches = plan

    def partial(self) -> GenerationReport:
        """Made when asked for and kept until the next batch: a step is a token, and reading texts takes longer."""
        if self.known is None:
            self.known = self.arrays.report()
        return self.known

    def tables(self) -> dict[str, pd.DataFrame]:
        return {"answers": answers_table(self.partial())}

    def facts(self) -> dict[str, Any]:
        return truncation(self.plan.dropped)


def pruned_weights(model: ReasoningModel, mask: Mask | None) -> dict[str, Tensor]:
    if mask is None:
        return {}
    with model.lease:
        return model.pruned_weights(mask.keep, mask.updated)


def truncation(dropped: Sequence[int]) -> dict[str, Any]:
    """What to record where prompts lost their beginning; nothing where none did."""
    cut = [n for n in dropped if n]
    return {"truncated": {"examples": len(cut), "tokens": sum(cut)}} if cut else {}
