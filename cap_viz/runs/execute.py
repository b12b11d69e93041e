"""Execution of a spec: look its run up, cut it from a longer one, or compute it in steps.

`run_steps` is a generator of `Progress` (about one a second) that returns the stored run; the masks it needs are built
in the same way and not stored. Head scores and evaluations are computed in batches: the plan is written before the
first forward, each finished batch is a file, and a killed process resumes from those files and ends with the same bits.
Work without batches (masks, profiles, roles, joint ablation) starts again from the beginning. A second process that
needs the same run waits for the first.
"""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pandas as pd
from filelock import FileLock, Timeout

from cap_viz import __version__
from cap_viz.attribution.attention_patterns import role_steps
from cap_viz.attribution.batch_plan import BatchPlan, halved
from cap_viz.errors import CapVizError, OutOfMemory, UsageError, check_choice
from cap_viz.evaluation.generation import writing_of
from cap_viz.evaluation.solution_loss import check_has_solutions
from cap_viz.files import write_json
from cap_viz.progress import Progress
from cap_viz.pruning import MaskRequest, criterion_named
from cap_viz.pruning.criterion import check_kv_combine
from cap_viz.pruning.head_sparsity import head_profile_steps, mask_head_zeros
from cap_viz.pruning.mask import Mask, check_scope
from cap_viz.runs.backends.base import HERE, Backend
from cap_viz.runs.checkpoints import Checkpoints
from cap_viz.runs.kinds.joint import together_steps
from cap_viz.runs.parquet_schema import (
    head_zeros_table,
    joint_table,
    options_table,
    roles_table,
    zeros_table,
)
from cap_viz.runs.prefix_reuse import first_of, longer_run
from cap_viz.runs.protocols import GENERATE, PERPLEXITY, SOLUTION, is_solution_loss, length_of, protocol_of
from cap_viz.runs.run_loading import read_mean_effect
from cap_viz.runs.spec import (
    EvalSpec,
    JointSpec,
    MaskSpec,
    ProfileSpec,
    RoleSpec,
    RunSpec,
    ScoreSpec,
    spec_dict,
)
from cap_viz.runs.store import SPEC, Store, StoredRun, lock_file
from cap_viz.tasks import check_has_options, load_task
from cap_viz.tasks.example_sets import check_version, examples_of
from cap_viz.tasks.readable import check_readable

if TYPE_CHECKING:
    from torch import Tensor

    from cap_viz.models.loading import ReasoningModel
    from cap_viz.runs.batched_runs import BatchedRun

log = logging.getLogger(__name__)

RunSteps = Generator[Progress, None, StoredRun]
STORED_ESTIMATORS = ("exact", "gradient")
PROFILE_SPARSITIES = tuple(round(0.01 * step, 2) for step in range(96))


def run_steps(spec: RunSpec, model: ReasoningModel, store: Store, backend: Backend = HERE) -> RunSteps:
    """Return the stored run of a spec; where there is none, cut it from a longer one or compute it.

    Batches are computed by `backend`. A damaged local run is set aside and computed again. Raises `CapVizError` when
    the spec is about other weights than those of `model`, `DamagedRun` for a damaged run that came with CAP Viz.
    """
    checkpoints = Checkpoints(store.partial_run_dir(spec), spec.examples.ids)
    stored = store.sound(spec)
    if stored is not None:
        discard_leftovers(checkpoints)
        return stored
    check_readable(model.ref.id, spec.examples.task)
    if spec.model != model.ref:
        raise CapVizError(
            f"The run is about {spec.model.id} with fingerprint {spec.model.fingerprint}, the loaded weights are "
            f"{model.ref.id} with {model.ref.fingerprint}."
        )
    folder = checkpoints.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_file(folder))
    yield from acquired(lock)
    try:
        # While this process waited for the lock, another one may have finished the run.
        stored = store.sound(spec)
        if stored is None:
            store.make_room(spec)
            write_json(folder / SPEC, spec_dict(spec))
            stored = yield from computed(spec, model, store, checkpoints, backend)
        checkpoints.discard()
    finally:
        lock.release()
    return stored


def discard_leftovers(checkpoints: Checkpoints) -> None:
    """Remove the parts of a finished run, whose process may have died between saving the run and removing them."""
    if checkpoints.folder.is_dir():
        lock = FileLock(lock_file(checkpoints.folder))
        with suppress(Timeout, OSError), lock.acquire(timeout=0):  # In use, or a read-only cache.
            checkpoints.discard()


def acquired(lock: FileLock) -> Generator[Progress, None, None]:
    while True:
        try:
            lock.acquire(timeout=0)
            return
        except Timeout:
            yield Progress(0, 1, "this run is being computed elsewhere; waiting for it", waiting=True)


def computed(
    spec: RunSpec, model: ReasoningModel, store: Store, checkpoints: Checkpoints, backend: Backend
) -> RunSteps:
    if isinstance(spec, ScoreSpec | EvalSpec):
        return (yield from batched_result(spec, model, store, checkpoints, backend))
    if isinstance(spec, RoleSpec):
        return (yield from roles_run(spec, model, store))
    if isinstance(spec, JointSpec):
        return (yield from joint_run(spec, model, store))
    return (yield from profile_run(spec, model, store, backend))


def check_estimator(spec: ScoreSpec) -> None:
    """Raise `UsageError` for an estimator that is not stored, or a spec that contradicts itself."""
    if spec.estimator == "hybrid":
        raise UsageError("Hybrid scores are not stored: run exact and gradient, and combine them (`hybrid_scores`).")
    check_choice("estimator", spec.estimator, STORED_ESTIMATORS)
    if (spec.estimator == "exact") != (spec.metric is None):
        raise UsageError(
            "Exact scores hold every metric, so their spec names none; a gradient run is about one metric and names it."
        )
    if spec.parts is not None and (spec.parts != "blocks" or spec.estimator != "exact"):
        raise UsageError(
            f'Parts {spec.parts!r} by the {spec.estimator} estimator: a spec names no parts for heads, and "blocks" '
            "with the exact estimator for whole attention layers and MLPs."
        )
    if spec.ablation == "zero" and spec.reference is not None:
        raise UsageError("Zero ablation takes no values from other examples; leave out the reference examples.")


def batched_result(
    spec: ScoreSpec | EvalSpec, model: ReasoningModel, store: Store, checkpoints: Checkpoints, backend: Backend
) -> RunSteps:
    """Compute head scores or an evaluation batch by batch, after building the mask of a pruned evaluation."""
    from cap_viz.runs.batched_runs import batched_run

    started, mask, tables = time.perf_counter(), None, {}
    if isinstance(spec, ScoreSpec):
        check_estimator(spec)
    else:
        check_protocol(spec)
        longer = longer_run(spec, store)
        if longer is not None and store.is_sound(longer):
            return first_of(longer, spec, store)
        if spec.mask is not None:
            mask = yield from mask_steps(spec.mask, model, store, backend)
            tables = mask_tables(model, mask)
    run = batched_run(model, spec, checkpoints.plan(), mask)
    del mask  # So that the run frees it once it has the pruned weights.
    resumed = yield from batch_steps(run, checkpoints, backend)
    made = provenance(spec, model, run.batches, started, resumed_batches=resumed)
    return store.save(spec, {**tables, **run.tables()}, made | backend.facts() | run.facts())


def mask_tables(model: ReasoningModel, mask: Mask) -> dict[str, pd.DataFrame]:
    """Make the tables of a mask: zeros per matrix, and per head where attention is in scope."""
    tables = {"zeros": zeros_table(mask.counts)}
    if mask.scope != "mlp":
        tables["heads"] = head_zeros_table(mask_head_zeros(model, mask))
    return tables


def batch_steps(run: BatchedRun, checkpoints: Checkpoints, backend: Backend) -> Generator[Progress, None, int]:
    """Restore the finished batches and have the backend compute the others; return the number restored.

    Where memory runs out, the remaining batches are halved and the new plan is recorded.
    """
    checkpoints.start(run.batches)
    finished = checkpoints.finished(run.batches)
    for batch, content in finished.items():
        run.restore(batch, content)
    arrived = set(finished)
    total, done = sum(map(run.size, run.batches.numbers())), sum(map(run.size, arrived))
    # A resumed run starts part-way; this first step says so, and the remaining time is estimated from here.
    yield Progress(done, total, run.note, run.partial())
    while left := [batch for batch in run.batches.numbers() if batch not in arrived]:
        try:
            for step in backend.steps(run, left):
                if step.last:
                    checkpoints.add(run.batches, step.batch, run.content(step.batch))
                    arrived.add(step.batch)
                    done += run.size(step.batch)
                yield Progress(done if step.last else done + step.done, total, run.note, run.partial())
        except OutOfMemory:
            smaller = halved(run.batches, [batch for batch in left if batch not in arrived])
            if smaller is None:
                raise
            log.warning("the memory ran out: going on with batches of half the size")
            checkpoints.start(smaller)
            run.replan(smaller)
            total = sum(map(run.size, smaller.numbers()))
    return len(finished)


def check_protocol(spec: EvalSpec) -> None:
    """Raise `UsageError` for an unknown protocol, or a task the protocol does not fit."""
    task = load_task(spec.examples.task)
    if spec.protocol is None:
        check_has_options(task)
    elif protocol_of(spec) is not None:
        writing_of(task)
    elif is_solution_loss(spec):
        check_has_solutions(spec.examples.task)
    elif length_of(spec) is None:
        known = f"{PERPLEXITY}, {GENERATE} and {SOLUTION}"
        raise UsageError(f"Unknown evaluation protocol {spec.protocol!r}; this program knows {known}.")
    check_version(spec.examples)


def roles_run(spec: RoleSpec, model: ReasoningModel, store: Store) -> RunSteps:
    started = time.perf_counter()
    roles = yield from role_steps(model, examples_of(spec.examples))
    return store.save(spec, {"roles": roles_table(roles)}, provenance(spec, model, None, started))


def joint_run(spec: JointSpec, model: ReasoningModel, store: Store) -> RunSteps:
    from cap_viz.runs.batched_runs import ablation_options

    started = time.perf_counter()
    scores = yield from together_steps(spec, model, examples_of(spec.examples), **ablation_options(spec))
    tables = {"options": options_table(scores.questions, scores.ablated[0]), "joint": joint_table(scores)}
    return store.save(spec, tables, provenance(spec, model, None, started))


def profile_run(spec: ProfileSpec, model: ReasoningModel, store: Store, backend: Backend) -> RunSteps:
    started = time.perf_counter()
    criterion = criterion_named(spec.mask.criterion)
    if criterion.rank is None:
        raise UsageError(f"Criterion {criterion.name!r} ranks weights anew for every sparsity; it has no profile.")
    if spec.mask.pattern is not None:
        raise UsageError(f"The pattern {spec.mask.pattern!r} has one sparsity; it has no profile over many.")
    if spec.parts not in (None, "heads"):
        raise UsageError(f'Parts {spec.parts!r}: a profile names none for matrices, or "heads".')
    request = yield from mask_request(spec.mask, model, store, backend)
    ranking = yield from criterion.rank(model, request)
    if spec.parts == "heads":
        heads = yield from head_profile_steps(model, ranking, request.scope, PROFILE_SPARSITIES)
        tables = {"heads": head_zeros_table(heads)}
    else:
        tables = {"zeros": zeros_table(ranking.profile(PROFILE_SPARSITIES))}
    return store.save(spec, tables, provenance(spec, model, None, started))


def mask_steps(
    spec: MaskSpec, model: ReasoningModel, store: Store, backend: Backend = HERE
) -> Generator[Progress, None, Mask]:
    """Build the mask of a spec; head scores it needs are read from the store, or computed first."""
    request = yield from mask_request(spec, model, store, backend)
    return (yield from criterion_named(spec.criterion).steps(model, request))


def pruned_weights_steps(
    spec: MaskSpec, model: ReasoningModel, store: Store, backend: Backend = HERE
) -> Generator[Progress, None, Mapping[str, Tensor]]:
    """Build a mask and return pruned copies of the matrices it changes, by name."""
    mask = yield from mask_steps(spec, model, store, backend)
    with model.lease:
        return model.pruned_weights(mask.keep, mask.updated)


def mask_request(
    spec: MaskSpec, model: ReasoningModel, store: Store, backend: Backend
) -> Generator[Progress, None, MaskRequest]:
    effect = None
    if spec.scores is not None:
        run = yield from run_steps(spec.scores, model, store, backend)
        effect = read_mean_effect(store, run, spec.metric or "nll")
    return MaskRequest(
        sparsity=spec.sparsity,
        scope=check_scope(spec.scope),
        effect=effect,
        kv_combine=check_kv_combine(spec.kv_combine or "mean"),
        calibration=None if spec.calibration is None else examples_of(spec.calibration),
        text=None if spec.text is None else examples_of(spec.text),
        control_seed=spec.control_seed or 0,
        allocation=spec.allocation,
        pattern=spec.pattern,
    )


def provenance(
    spec: RunSpec, model: ReasoningModel, batches: BatchPlan | None, started: float, resumed_batches: int = 0
) -> dict[str, Any]:
    """Record how a run was made: everything beyond the spec that its numbers may depend on."""
    import torch

    packages = ("cap_viz", "torch", "transformers", "transformer_lens", "numpy")
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "resumed_batches": resumed_batches,
        "data": load_task(spec.examples.task).splits.origin,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "machine": f"{platform.system()} {platform.machine()}",
        "title": model.title,
        "shape": asdict(model.shape),
        "versions": {name: __version__ if name == "cap_viz" else version(name) for name in packages},
        "plan": None if batches is None else asdict(batches),
    }
