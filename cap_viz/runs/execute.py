"""Execution of a spec: look its run up, cut it from a longer one, or compute it in steps.

`run_steps` is a generator of `Progress` (about one a second) that returns the stored run; the masks it needs are built
in the same way and not stored. Head scores and evaluations are computed in batches: the plan is written before the
first forward, each finished batch is a file, and a killed process resumes from those files and ends with the same bits.
Work without batches (masks, profiles, roles) starts again from the beginning. A second process that
needs the same run waits for the first.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Generator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import FileLock, Timeout

from cap_viz import __version__
from cap_viz.attribution.batch_plan import BatchPlan
from cap_viz.errors import CapVizError
from cap_viz.files import write_json
from cap_viz.progress import Progress
from cap_viz.pruning.mask import Mask
from cap_viz.runs import masks
from cap_viz.runs.backends.local import HERE
from cap_viz.runs.batched_runs import Backend
from cap_viz.runs.checkpoints import Checkpoints
from cap_viz.runs.kinds import KINDS
from cap_viz.runs.kinds.base import Computation, RunKind
from cap_viz.runs.kinds.scores import effects_by
from cap_viz.runs.plugin_packages import packages_of
from cap_viz.runs.spec import MaskSpec, RunSpec, spec_dict
from cap_viz.runs.store import SPEC, Store, StoredRun, lock_file
from cap_viz.runs.unfinished import discard, forget_ending, keep_ending
from cap_viz.tasks import load_task
from cap_viz.tasks.readable import check_readable

if TYPE_CHECKING:
    from torch import Tensor

    from cap_viz.models.loading import ReasoningModel

Spec = TypeVar("Spec", bound=RunSpec)
RunSteps = Generator[Progress, None, StoredRun[Spec]]


def run_steps(spec: Spec, model: ReasoningModel, store: Store, backend: Backend = HERE) -> RunSteps[Spec]:
    """Return the stored run of a spec; where there is none, cut it from a longer one or compute it.

    Batches are computed by `backend`. A damaged local run is set aside and computed again. Raises `CapVizError` when
    the spec is about other weights than those of `model`, `DamagedRun` for a damaged run that came with CAP Viz.
    """
    return stored_run(spec, store) or (yield from missing_run_steps(spec, model, store, backend))


def stored_run(spec: Spec, store: Store) -> StoredRun[Spec] | None:
    """Return the stored run of a spec with all its files sound, or None; raises `DamagedRun` as `run_steps` does."""
    stored = store.sound(spec)
    if stored is not None:
        discard(store, spec)
    return stored


def missing_run_steps(spec: Spec, model: ReasoningModel, store: Store, backend: Backend = HERE) -> RunSteps[Spec]:
    """Compute a run that is not in the store, as `run_steps` does."""
    checkpoints = Checkpoints(store.partial_run_dir(spec), spec.examples.ids)
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
        # Before this process held the lock, another one may have finished the run.
        stored = store.sound(spec)
        if stored is None:
            store.make_room(spec)
            write_json(folder / SPEC, spec_dict(spec))
            forget_ending(folder)
            stored = yield from computed(spec, model, store, checkpoints, backend)
        checkpoints.discard()
    except BaseException as error:
        keep_ending(checkpoints, error)
        raise
    finally:
        lock.release()
    return stored


def acquired(lock: FileLock) -> Generator[Progress, None, None]:
    while True:
        try:
            lock.acquire(timeout=0)
            return
        except Timeout:
            yield Progress(0, 1, "this run is being computed elsewhere; waiting for it", waiting=True)


def computed(
    spec: Spec, model: ReasoningModel, store: Store, checkpoints: Checkpoints, backend: Backend
) -> RunSteps[Spec]:
    kind: RunKind[Spec] = KINDS[spec.kind]
    kind.check(spec)
    found = kind.reused(spec, store)
    if found is not None:
        return found
    started = time.perf_counter()
    by = Computation(model, store, checkpoints, backend, lambda other: run_steps(other, model, store, backend))
    result = yield from kind.steps(spec, by)
    made = provenance(spec, model, result.batches, started)
    return store.save(spec, result.tables, made | result.facts)


def mask_steps(
    spec: MaskSpec, model: ReasoningModel, store: Store, backend: Backend = HERE
) -> Generator[Progress, None, Mask]:
    """Build the mask of a spec; head scores it needs are read from the store, or computed first."""
    return masks.mask_steps(spec, model, effects_by(store, lambda other: run_steps(other, model, store, backend)))


def pruned_weights_steps(
    spec: MaskSpec, model: ReasoningModel, store: Store, backend: Backend = HERE
) -> Generator[Progress, None, Mapping[str, Tensor]]:
    """Build a mask and return pruned copies of the matrices it changes, by name."""
    mask = yield from mask_steps(spec, model, store, backend)
    with model.lease:
        return model.pruned_weights(mask.keep, mask.updated)


def provenance(spec: RunSpec, model: ReasoningModel, batches: BatchPlan | None, started: float) -> dict[str, Any]:
    """Record how a run was made: everything beyond the spec that its numbers may depend on."""
    import torch

    packages = ("cap_viz", "torch", "transformers", "transformer_lens", "numpy")
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "resumed_batches": 0,
        "data": load_task(spec.examples.task).splits.origin,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "machine": f"{platform.system()} {platform.machine()}",
        "title": model.title,
        "shape": asdict(model.shape),
        "versions": {
            **{name: __version__ if name == "cap_viz" else version(name) for name in packages},
            **dict(origin.rsplit(" ", 1) for origin in packages_of(spec)),
        },
        "plan": None if batches is None else asdict(batches),
    }
