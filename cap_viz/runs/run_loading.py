"""Loading of stored runs: from the tables of a run back to its result."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from cap_viz.attribution.attention_patterns import HeadRoles
from cap_viz.attribution.results import BlockScores, EvalReport, GradientEffects, HeadScores, JointScores
from cap_viz.errors import UsageError
from cap_viz.evaluation.generation import GenerationReport
from cap_viz.pruning.head_sparsity import HeadZeros
from cap_viz.pruning.mask import ZeroCounts
from cap_viz.runs.kinds.joint import sets_of
from cap_viz.runs.parquet_schema import (
    answers_from,
    blocks_from,
    gradient_from,
    head_zeros_from,
    joint_from,
    report_from,
    roles_from,
    scores_from,
    zeros_from,
)
from cap_viz.runs.spec import JointSpec, ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks.base import TaskVersion

Asked = TypeVar("Asked", EvalReport, HeadScores, BlockScores, GradientEffects, JointScores)


def read_scores(store: Store, run: StoredRun) -> HeadScores:
    """Load exact head scores; for those of a gradient run, which has no ablated log-likelihoods, see `read_gradient`.

    Raises `UsageError` for a run of whole blocks: see `read_blocks`.
    """
    if parts_of(run) == "blocks":
        raise UsageError(f"Run {run.key} is of whole attention layers and MLPs, not of heads.")
    return of_task(run, scores_from(store.table(run, "options"), store.table(run, "ablated")))


def read_blocks(store: Store, run: StoredRun) -> BlockScores:
    """Load exact scores of whole attention layers and MLPs. Raises `UsageError` for a run of heads."""
    if parts_of(run) != "blocks":
        raise UsageError(f"Run {run.key} is of heads, not of whole attention layers and MLPs.")
    return of_task(run, blocks_from(store.table(run, "options"), store.table(run, "blocks")))


def of_task(run: StoredRun, result: Asked) -> Asked:
    """Add the task to a result's questions, which the run's spec names and its tables do not."""
    return replace(result, questions=replace(result.questions, tasks=(task_of(run),)))


def task_of(run: StoredRun) -> TaskVersion:
    return TaskVersion(run.spec.examples.task, run.spec.examples.version)


def parts_of(run: StoredRun) -> str:
    return (isinstance(run.spec, ScoreSpec) and run.spec.parts) or "heads"


def read_gradient(store: Store, run: StoredRun) -> GradientEffects:
    """Load the first-order effects of a gradient run."""
    units = store.table(run, "units") if "units.parquet" in run.checksums else None
    metric = run.spec.metric if isinstance(run.spec, ScoreSpec) else None
    found = gradient_from(store.table(run, "options"), store.table(run, "effects"), units, metric or "nll")
    return of_task(run, found)


def read_mean_effect(store: Store, run: StoredRun, metric: str) -> Float[np.ndarray, "layer head"]:
    """Load the head scores of an exact or gradient run. Raises `UsageError` for a metric a gradient run lacks."""
    if isinstance(run.spec, ScoreSpec) and run.spec.estimator == "gradient":
        return read_gradient(store, run).mean_effect(metric)
    return read_scores(store, run).mean_effect(metric)


def read_report(store: Store, run: StoredRun) -> EvalReport:
    """Load the log-likelihoods of options. Raises `UsageError` for a run of written answers: see `read_answers`."""
    if "options.parquet" not in run.checksums:
        raise UsageError(f"Run {run.key} is of written answers; it holds no log-likelihoods of options.")
    return of_task(run, report_from(store.table(run, "options")))


def read_answers(store: Store, run: StoredRun) -> GenerationReport:
    """Load written answers. Raises `UsageError` for a run that wrote none."""
    if "answers.parquet" not in run.checksums:
        raise UsageError(f"Run {run.key} wrote no answers; it holds log-likelihoods.")
    return replace(answers_from(store.table(run, "answers")), tasks=(task_of(run),))


def read_roles(store: Store, run: StoredRun) -> HeadRoles:
    """Load the attention measures of every head."""
    return roles_from(store.table(run, "roles"), len(run.spec.examples.ids))


def read_joint(store: Store, run: StoredRun) -> JointScores:
    """Load the log-likelihoods under joint ablation of sets of heads."""
    assert isinstance(run.spec, JointSpec)
    shape = run.provenance["shape"]
    sets = sets_of(run.spec, shape["n_layers"], shape["n_heads"])
    return of_task(run, joint_from(store.table(run, "options"), store.table(run, "joint"), sets))


def read_zeros(store: Store, run: StoredRun) -> ZeroCounts:
    """Load the zeros per matrix: at one sparsity for a pruned evaluation, at many for a profile."""
    return zeros_from(store.table(run, "zeros"))


def read_head_zeros(store: Store, run: StoredRun) -> HeadZeros:
    """Load the zeros per head: at one sparsity for a pruned evaluation, at many for a profile of heads."""
    return head_zeros_from(store.table(run, "heads"))
