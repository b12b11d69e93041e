"""Batches computed by the workers of a Ray cluster, by default one per device, each with the model in memory.

1. With its first run a `Cluster` joins Ray (or starts it on this machine alone) and starts the workers. With every run
   their versions are compared with ours, and they load the run's model unless they hold it.
2. Every worker receives the run once: spec, plan and, for pruned evaluations, the mask from the object store.
3. Every worker computes one batch at a time. The run restores its result like a finished batch on resume, so the bits
   are the same as in this process.
4. When a worker dies, its current batch goes to another one and a new worker replaces it, at most `REPLACEMENTS` times
   a run. Finished batches are on disk, whatever ends a run early.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cap_viz.errors import OUT_OF_MEMORY, CapVizError, OutOfMemory, UsageError, is_out_of_memory
from cap_viz.runs.backends.ray_worker import Worker, versions_here
from cap_viz.runs.batched_runs import BatchedRun, BatchStep
from cap_viz.runs.plugin_packages import packages_of
from cap_viz.runs.spec import spec_dict
from cap_viz.settings import CPU, THREADS, prepare_ray, python_path, requested_device, thread_count, told_to_workers

prepare_ray()
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

if TYPE_CHECKING:
    from cap_viz.attribution.batch_plan import BatchPlan
    from cap_viz.models.catalogue import ModelRef

AUTO = "auto"
# `ray start` creates or finds a token; both sides have to agree on whether one is used.
TOKENS = (
    "Where the cluster uses a token (`ray start` says so), set RAY_AUTH_MODE=token here; where not, leave it unset."
)
# Long, since a machine may have to wait in a queue before it starts, and then imports torch.
START_SECONDS = 300
REACH_SECONDS = 5
REPLACEMENTS = 3


@dataclass(frozen=True)
class WorkerShare:
    """The number of workers, and the CPUs and GPUs of each."""

    workers: int
    cpus: int
    gpus: int


@dataclass(frozen=True)
class RunMessage:
    """Everything a worker needs to compute batches of a run; `mask` is a reference into Ray's object store.

    `packages` are the other packages that add something to the run, each with its version.
    """

    spec: dict[str, Any]
    plan: BatchPlan
    mask: Any
    packages: frozenset[str]

    def to(self, worker: Any) -> Any:
        return worker.begin.remote(self.spec, self.plan, self.mask, self.packages)


class Cluster:
    """Backend of a Ray cluster. It computes one run at a time."""

    def __init__(self, address: str = "", workers: int = 0) -> None:
        self.address, self.asked_workers = address, workers
        self.workers: list[Any] = []
        self.joined = False
        self.lost = 0
        self.share = WorkerShare(0, 1, 0)

    def close(self) -> None:
        """Stop the workers and leave Ray, which ends where it was started here."""
        for worker in self.workers:
            ray.kill(worker)
        if self.joined:
            ray.shutdown()
        self.workers, self.joined = [], False

    def facts(self) -> dict[str, Any]:
        return {"workers": self.share.workers, "threads": self.share.cpus, "lost_workers": self.lost}

    def steps(self, run: BatchedRun, wanted: Sequence[int]) -> Iterator[BatchStep]:
        """Yield batches as they arrive, and an empty step after each second without one, for cancelling and clocks.

        Raises `CapVizError` with one sentence for any failure; finished batches have been yielded before.
        """
        if not wanted:
            return
        self.lost = 0
        with ray_errors_explained():
            self.join()
            self.hold(run.spec.model)
            message = RunMessage(spec_dict(run.spec), run.batches, ray.put(run.mask), packages_of(run.spec))
            self.asked([message.to(worker) for worker in self.workers], "read the run's examples")
            yield from self.shared_out(run, deque(wanted), message)

    def shared_out(self, run: BatchedRun, left: deque[int], message: RunMessage) -> Iterator[BatchStep]:
        idle, busy = list(self.workers), {}
        n = len(left)
        while left or busy:
            while idle and left:
                worker, batch = idle.pop(), left.popleft()
                busy[worker.batch.remote(batch)] = (worker, batch)
            ready, _ = ray.wait(list(busy), timeout=1.0)
            if not ready:
                yield BatchStep(batch=0, done=0.0, last=False)
            for reference in ready:
                worker, batch = busy.pop(reference)
                try:
                    content = ray.get(reference)
                except RayActorError as error:
                    left.appendleft(batch)
                    done = n - len(left) - len(busy)
                    fresh = self.replaced(worker, run.spec.model, f"{done} of {n} batches are kept", error)
                    self.asked([message.to(fresh)], "read the run's examples")
                    idle.append(fresh)
                    continue
                run.restore(batch, content)
                idle.append(worker)
                yield BatchStep(batch, run.size(batch), last=True)

    def replaced(self, worker: Any, model: ModelRef, kept: str, error: RayActorError) -> Any:
        """Replace a lost worker by a new one that has loaded the model.

        Raises `CapVizError` after more than `REPLACEMENTS` losses in a run.
        """
        self.workers.remove(worker)
        self.lost += 1
        if self.lost > REPLACEMENTS:
            self.close()
            raise CapVizError(
                f"{self.lost} workers were lost, and no more are started; {kept}, and the same command goes on from "
                "there. Too little memory on the workers is the usual cause."
            ) from error
        fresh = self.new_worker()
        self.workers.append(fresh)
        self.ready(*loading(fresh, model))
        return fresh

    def join(self) -> None:
        """Join the cluster and create the workers, unless already joined."""
        if self.joined:
            return
        if self.address not in ("", AUTO):
            check_reachable(self.address)
        local: dict[str, Any] = {} if self.address else {"include_dashboard": False}
        ray.init(address=self.address or "local", logging_level=logging.ERROR, log_to_driver=False, **local)
        self.joined = True
        self.share = share_of(ray.nodes(), self.asked_workers)
        self.workers = [self.new_worker() for _ in range(self.share.workers)]

    def new_worker(self) -> Any:
        variables = told_to_workers()
        variables[THREADS] = variables["OMP_NUM_THREADS"] = str(self.share.cpus)
        if not self.address:
            variables["PYTHONPATH"] = python_path()
        # Ray itself must not restart workers: a new one has no model yet and does not know the run.
        options = {"num_cpus": self.share.cpus, "num_gpus": self.share.gpus, "max_restarts": 0}
        return ray.remote(Worker).options(**options, runtime_env={"env_vars": variables}).remote()

    def hold(self, model: ModelRef) -> None:
        """Have all workers load the model, unless they hold it; a worker that died since the last run is replaced."""
        # All workers begin to load at once; then each is waited for in turn.
        for worker, begun in [(worker, loading(worker, model)) for worker in self.workers]:
            try:
                self.ready(*begun)
            except RayActorError as error:
                self.replaced(worker, model, "finished batches are kept", error)

    def ready(self, versions: Any, model: Any) -> None:
        """Wait until a worker has started and loaded the model. Raises `CapVizError` where its versions differ."""
        (theirs,) = self.asked([versions], "start")
        if theirs != versions_here():
            raise CapVizError(f"The workers have {theirs}, this machine has {versions_here()}; make them the same.")
        self.asked([model], "load the model")

    def asked(self, references: list[Any], what: str) -> list[Any]:
        try:
            return ray.get(references, timeout=START_SECONDS)
        except GetTimeoutError as error:
            raise CapVizError(
                f"The {len(references)} workers did not {what} within {START_SECONDS} s; each asks for "
                f"{self.share.cpus} CPUs and {self.share.gpus} GPUs. Ask for fewer workers, or look at `ray status`."
            ) from error


def loading(worker: Any, model: ModelRef) -> tuple[Any, Any]:
    """Have a worker load the model; return references to its versions and to the result of loading."""
    return worker.versions.remote(), worker.hold.remote(model)


def share_of(nodes: Sequence[dict[str, Any]], workers: int) -> WorkerShare:
    """Choose the number of workers and their resources: by default one per GPU, or per machine if no GPU is to be used.

    Without GPUs the CPUs of a machine are split evenly among its workers; `CAP_VIZ_THREADS` overrides the CPUs.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = 0 if requested_device() == CPU else sum(int(node.get("GPU", 0)) for node in alive)
    if gpus:
        return WorkerShare(workers or gpus, cpus=thread_count() or 1, gpus=1)
    per_machine = -(-workers // len(alive)) if workers else 1
    fewest = min(int(node.get("CPU", 1)) for node in alive)
    return WorkerShare(workers or len(alive), cpus=thread_count() or max(1, fewest // per_machine), gpus=0)


def check_reachable(address: str) -> None:
    """Raise `CapVizError` where nothing answers; Ray itself would try for a minute and then end the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"{address!r} is no address of a Ray cluster; give auto, or a host and port: head:6379.")
    try:
        socket.create_connection((host, int(port)), timeout=REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise CapVizError(
            f"No Ray cluster answers at {address} ({error}); start one by `ray start --head`, or use --backend local."
        ) from error


@contextlib.contextmanager
def ray_errors_explained() -> Iterator[None]:
    """Turn errors of Ray or of a worker into a `CapVizError` with one sentence."""
    try:
        yield
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, CapVizError):
            raise cause from error
        if is_out_of_memory(cause):
            raise OutOfMemory(OUT_OF_MEMORY) from error
        raise CapVizError(f"A worker failed ({type(cause).__name__}: {cause}); finished batches are kept.") from error
    except RayActorError as error:
        raise CapVizError(f"The workers cannot be started ({last_line(error)}). {TOKENS}") from error
    except ConnectionError as error:
        raise CapVizError(f"The Ray cluster refused the connection ({last_line(error)}). {TOKENS}") from error
    except RayError as error:
        raise CapVizError(f"Ray failed ({last_line(error)}); finished batches are kept.") from error


def last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
