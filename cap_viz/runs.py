"""From a spec to its stored run: look it up, or compute it in resumable steps.

Every function that computes is a generator of `Progress` (about one a second) that returns the stored run. The
batch plan is written before the first forward; each finished batch is a file. A killed process starts again from
those files and ends with the same bits. A second process asking for the same run waits for the first.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Generator
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from cap_viz import __version__
from cap_viz.checkpoints import Checkpoints
from cap_viz.errors import CapVizError, UsageError
from cap_viz.metrics import metric_named
from cap_viz.plan import BatchPlan
from cap_viz.progress import Progress
from cap_viz.pruning import MaskRequest, criterion_named
from cap_viz.pruning.base import check_kv_combine
from cap_viz.pruning.masks import Mask, ZeroCounts, check_scope, check_sparsity
from cap_viz.results import EvalReport, HeadScores
from cap_viz.spec import EvalSpec, ExampleSet, MaskSpec, ModelRef, ProfileSpec, RunSpec, ScoreSpec
from cap_viz.store import Store, StoredRun
from cap_viz.tables import ablated_table, options_table, report_from, scores_from, zeros_from, zeros_table
from cap_viz.tasks import Example, check_has_options, load_task

if TYPE_CHECKING:
    from cap_viz.models import ReasoningModel

RunSteps = Generator[Progress, None, StoredRun]
PROFILE_SPARSITIES = tuple(round(0.01 * step, 2) for step in range(96))


def calibration_set(task: str, n: int, seed: int = 0) -> ExampleSet:
    """`n` calibration examples of a task, drawn with `seed`."""
    chosen = load_task(task)
    ids = tuple(example.id for example in chosen.calibration(n, seed))
    return ExampleSet(task=task, version=chosen.version, ids=ids, split="calibration", seed=seed)


def evaluation_set(task: str, n: int | None = None) -> ExampleSet:
    """The first `n` evaluation examples of a task."""
    chosen = load_task(task)
    ids = tuple(example.id for example in chosen.evaluation(n))
    return ExampleSet(task=task, version=chosen.version, ids=ids, split="evaluation")


def named_set(task: str, ids: tuple[str, ...]) -> ExampleSet:
    """Exactly the named examples, from any split."""
    chosen = load_task(task)
    chosen.by_ids(ids)
    return ExampleSet(task=task, version=chosen.version, ids=ids, split="ids")


def mask_spec_for(
    model: ModelRef,
    criterion: str,
    sparsity: float,
    *,
    task: str,
    n: int,
    seed: int = 0,
    metric: str = "nll",
    kv_combine: str = "mean",
    scope: str = "both",
    scores: ScoreSpec | None = None,
) -> MaskSpec:
    """The mask a criterion makes from `n` calibration examples of a task; fields it does not need stay None.

    `scores` names other head scores to build on. Raises `UsageError` for an unknown name or sparsity.
    """
    check_sparsity(sparsity)
    check_scope(scope)
    metric_named(metric)
    needs = criterion_named(criterion)
    if needs.needs_scores and scores is None:
        scores = ScoreSpec(model=model, examples=calibration_set(task, n, seed))
    return MaskSpec(
        criterion=criterion,
        sparsity=sparsity,
        scope=scope,
        scores=scores if needs.needs_scores else None,
        metric=metric if needs.needs_scores else None,
        kv_combine=kv_combine if needs.needs_scores else None,
        calibration=calibration_set(task, n, seed) if needs.needs_calibration else None,
    )


def examples_of(wanted: ExampleSet) -> tuple[Example, ...]:
    """The examples a spec names. Raises `UsageError` when the task has changed since."""
    task = load_task(wanted.task)
    if task.version != wanted.version:
        raise UsageError(
            f"The run needs version {wanted.version} of task {wanted.task}, this program has version {task.version}."
        )
    return task.by_ids(wanted.ids)


def read_scores(store: Store, run: StoredRun) -> HeadScores:
    return scores_from(store.table(run, "options"), store.table(run, "ablated"))


def read_report(store: Store, run: StoredRun) -> EvalReport:
    return report_from(store.table(run, "options"))


def read_zeros(store: Store, run: StoredRun) -> ZeroCounts:
    """Zeros per matrix: at one sparsity for a pruned evaluation, at many for a profile."""
    return zeros_from(store.table(run, "zeros"))


def run_steps(spec: RunSpec, model: ReasoningModel, store: Store) -> RunSteps:
    """Compute any run, or return the stored one at once.

    Raises `CapVizError` when the spec asks for other weights than `model` has.
    """
    stored = store.get(spec)
    if stored is not None:
        return stored
    if spec.model != model.ref:
        raise CapVizError(
            f"The run is about {spec.model.id} with fingerprint {spec.model.fingerprint}, the loaded weights are "
            f"{model.ref.id} with {model.ref.fingerprint}."
        )
    folder = store.workshop(spec)
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    yield from acquired(lock)
    try:
        # The process waited for may have finished this very run.
        stored = store.get(spec)
        if stored is None:
            stored = yield from computed(spec, model, store, Checkpoints(folder))
        Checkpoints(folder).discard()
    finally:
        lock.release()
    return stored


def acquired(lock: FileLock) -> Generator[Progress, None, None]:
    while True:
        try:
            lock.acquire(timeout=0)
            return
        except Timeout:
            yield Progress(0, 1, "another process is computing this run; waiting for it")
            time.sleep(0.5)


def computed(spec: RunSpec, model: ReasoningModel, store: Store, checkpoints: Checkpoints) -> RunSteps:
    if isinstance(spec, ScoreSpec):
        return (yield from score_run(spec, model, store, checkpoints))
    if isinstance(spec, EvalSpec):
        return (yield from eval_run(spec, model, store, checkpoints))
    return (yield from profile_run(spec, model, store))


def score_run(spec: ScoreSpec, model: ReasoningModel, store: Store, checkpoints: Checkpoints) -> RunSteps:
    from cap_viz.scoring import ScoreArrays, check_estimator, make_score_plan, score_steps

    check_estimator(spec.estimator)
    started, examples = time.perf_counter(), examples_of(spec.examples)
    plan = make_score_plan(model, examples, ablation=spec.ablation, batches=checkpoints.plan())
    checkpoints.start(plan.batches)
    arrays = ScoreArrays(plan, model.shape.n_layers, model.shape.n_heads)
    finished = checkpoints.finished()
    for batch, content in finished.items():
        arrays.restore(batch, content)
    last_layer = model.shape.n_layers - 1
    total = plan.total_work(model.shape.n_layers)
    done = sum(plan.batch_work(batch, model.shape.n_layers) for batch in finished)
    # A resumed run starts part-way; the first step tells, so that the remaining time is judged from here.
    yield Progress(done, total, "scoring heads", arrays.scores())
    for block in score_steps(model, plan, skip=finished):
        arrays.add(block)
        done += block.work
        if block.layer == last_layer:
            checkpoints.add(block.batch, arrays.batch(block.batch))
        yield Progress(done, total, "scoring heads", arrays.scores())
    scores = arrays.scores()
    tables = {"options": options_table(scores.questions, scores.dense), "ablated": ablated_table(scores)}
    return store.save(spec, tables, provenance(model, plan.batches, started, resumed_batches=len(finished)))


def eval_run(spec: EvalSpec, model: ReasoningModel, store: Store, checkpoints: Checkpoints) -> RunSteps:
    from cap_viz.evaluation import EvalArrays, eval_steps, make_eval_plan

    check_has_options(load_task(spec.examples.task))
    started, examples = time.perf_counter(), examples_of(spec.examples)
    weights, tables = {}, {}
    if spec.mask is not None:
        mask = yield from mask_steps(spec.mask, model, store)
        with model.lease:
            weights = model.pruned_weights(mask.keep)
        tables["zeros"] = zeros_table(mask.counts)
        del mask
    plan = make_eval_plan(model, examples, checkpoints.plan())
    checkpoints.start(plan.batches)
    arrays = EvalArrays(plan)
    finished = checkpoints.finished()
    for batch, content in finished.items():
        arrays.restore(batch, content)
    yield Progress(len(arrays.arrived), len(examples), "answering questions", arrays.report())
    for block in eval_steps(model, plan, weights, skip=finished):
        arrays.add(block)
        checkpoints.add(block.batch, arrays.batch(block.batch))
        yield Progress(len(arrays.arrived), len(examples), "answering questions", arrays.report())
    report = arrays.report()
    tables["options"] = options_table(report.questions, report.logliks)
    return store.save(spec, tables, provenance(model, plan.batches, started, resumed_batches=len(finished)))


def profile_run(spec: ProfileSpec, model: ReasoningModel, store: Store) -> RunSteps:
    started = time.perf_counter()
    criterion = criterion_named(spec.mask.criterion)
    if criterion.rank is None:
        raise UsageError(f"Criterion {criterion.name!r} ranks weights anew for every sparsity; it has no profile.")
    request = yield from mask_request(spec.mask, model, store)
    ranking = yield from criterion.rank(model, request)
    counts = ranking.profile(PROFILE_SPARSITIES)
    return store.save(spec, {"zeros": zeros_table(counts)}, provenance(model, None, started))


def mask_steps(spec: MaskSpec, model: ReasoningModel, store: Store) -> Generator[Progress, None, Mask]:
    """Build the mask a spec describes, from stored head scores (computed first if they are missing)."""
    request = yield from mask_request(spec, model, store)
    return (yield from criterion_named(spec.criterion).steps(model, request))


def mask_request(spec: MaskSpec, model: ReasoningModel, store: Store) -> Generator[Progress, None, MaskRequest]:
    effect = None
    if spec.scores is not None:
        run = yield from run_steps(spec.scores, model, store)
        effect = read_scores(store, run).mean_effect(spec.metric or "nll")
    return MaskRequest(
        sparsity=spec.sparsity,
        scope=check_scope(spec.scope),
        effect=effect,
        kv_combine=check_kv_combine(spec.kv_combine or "mean"),
        calibration=None if spec.calibration is None else examples_of(spec.calibration),
    )


def provenance(
    model: ReasoningModel, batches: BatchPlan | None, started: float, resumed_batches: int = 0
) -> dict[str, Any]:
    """How a run came about: what its numbers may depend on beyond the spec."""
    import torch

    packages = ("cap_viz", "torch", "transformers", "transformer_lens", "numpy")
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "resumed_batches": resumed_batches,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "machine": f"{platform.system()} {platform.machine()}",
        "title": model.title,
        "shape": asdict(model.shape),
        "versions": {name: __version__ if name == "cap_viz" else version(name) for name in packages},
        "plan": None if batches is None else asdict(batches),
    }
