"""A real Ray on this machine with two workers: same bits, lost workers, refusals. `make test-ray`."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cap_viz.errors import CapVizError, UsageError
from cap_viz.integrations.plugins import load_plugins
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.runs.backends.local import HERE
from cap_viz.runs.backends.ray import REPLACEMENTS, Cluster, check_reachable, ray_errors_explained, share_of
from cap_viz.runs.backends.ray_worker import Versions
from cap_viz.runs.batched_runs import Backend
from cap_viz.runs.execute import run_steps
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.protocols import generation_spec
from cap_viz.runs.spec import EvalSpec, PathSpec, PositionSpec, RunSpec, ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.settings import PROJECT
from cap_viz.tasks import TASKS
from cap_viz.tasks.example_sets import calibration_set, evaluation_set
from tests.shell import Shell

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

TASK = "mini_science"


@pytest.fixture(scope="module", autouse=True)
def settings(example_plugin: Path) -> Iterator[None]:
    """Ray's files in a short temporary folder (the paths of its sockets are limited), one thread everywhere.

    The workers find the example of a plug-in, this process does not.
    """
    import torch

    folder, threads = tempfile.mkdtemp(prefix="ray-"), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("CAP_VIZ_THREADS", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(example_plugin), os.environ.get("PYTHONPATH")])))
        patch.setattr("cap_viz.attribution.exact.TOKENS_PER_FORWARD", 200)
        patch.setattr("cap_viz.attribution.paths.TOKENS_PER_FORWARD", 60)
        patch.setattr("cap_viz.evaluation.choice.TOKENS_PER_FORWARD", 60)
        patch.setattr("cap_viz.attribution.gradient.TOKENS_PER_BACKWARD", 60)
        patch.setattr("cap_viz.evaluation.generation.ROWS", 2)
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(settings: None) -> Iterator[Cluster]:
    two = Cluster(workers=2)
    yield two
    two.close()


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Store, Store]:
    """One for what this process computes, one for the cluster."""
    here, there = (Store(shipped=tmp_path / "none", local=tmp_path / name / "local") for name in ("here", "there"))
    return here, there


def computed(spec: RunSpec, model: ReasoningModel, store: Store, backend: Backend = HERE) -> StoredRun:
    return finish(run_steps(spec, model, store, backend))


def score_spec(model: ReasoningModel, n: int = 12) -> ScoreSpec:
    return ScoreSpec(model.ref, calibration_set(TASK, n))


def processes(cluster: Cluster, model: ReasoningModel, store: Store) -> list[int]:
    """The workers' processes, once they are there."""
    import ray

    computed(EvalSpec(model.ref, evaluation_set(TASK, 2)), model, store, cluster)
    return ray.get([worker.__ray_call__.remote(lambda _: os.getpid()) for worker in cluster.workers])


def test_every_kind_of_run_has_the_bits_of_this_process(
    cluster: Cluster, tiny_model: ReasoningModel, stores: tuple[Store, Store]
) -> None:
    scores = score_spec(tiny_model)
    evaluation = EvalSpec(tiny_model.ref, evaluation_set(TASK, 24))
    specs: list[RunSpec] = [
        scores,
        replace(scores, ablation="mean"),
        replace(scores, parts="blocks"),
        replace(scores, estimator="gradient", metric="nll"),
        PathSpec(tiny_model.ref, scores.examples, ((0, 1), (2, 3))),
        PositionSpec(tiny_model.ref, scores.examples, "span", ((0, 1), (2, 3))),
        PositionSpec(tiny_model.ref, scores.examples, "span", metric="choice_nll"),
        evaluation,
        replace(evaluation, mask=mask_spec_for(tiny_model.ref, "cap", 0.5, task=TASK, n=12)),
        replace(evaluation, mask=mask_spec_for(tiny_model.ref, "sparsegpt", 0.5, task=TASK, n=4)),
        generation_spec(tiny_model.ref, evaluation_set("mini_strategy", 5), format="zeroshot", max_tokens=6),
    ]
    for spec in specs:
        mine, theirs = computed(spec, tiny_model, stores[0]), computed(spec, tiny_model, stores[1], cluster)
        assert theirs.digests == mine.digests, spec
        assert len(mine.provenance["plan"]["batches"]) > 1
        assert theirs.provenance["workers"] == 2
        assert "workers" not in mine.provenance


@pytest.mark.usefixtures("registries")
def test_a_criterion_and_a_task_of_a_plug_in_run_there(
    cluster: Cluster,
    tiny_model: ReasoningModel,
    stores: tuple[Store, Store],
    example_plugin: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(example_plugin))
    assert {one.problem for one in load_plugins()} == {""}
    mask = mask_spec_for(tiny_model.ref, "lamp", 0.5, task="weekdays", n=4)
    spec = EvalSpec(tiny_model.ref, evaluation_set("weekdays", 8), mask)
    mine, theirs = computed(spec, tiny_model, stores[0]), computed(spec, tiny_model, stores[1], cluster)
    assert theirs.digests == mine.digests
    assert theirs.provenance["workers"] == 2
    assert theirs.provenance["versions"]["cap-viz-lamp"] == "0.1"
    monkeypatch.setitem(TASKS, "weekdays", replace(TASKS["weekdays"], origin="cap-viz-lamp 0.2"))
    with pytest.raises(CapVizError, match=r"The worker on \S+ lacks cap-viz-lamp 0\.2, .*on all machines"):
        computed(replace(spec, mask=None), tiny_model, stores[1], cluster)


@pytest.mark.parametrize("moment", [1, 3])
def test_a_killed_worker_costs_only_the_batch_it_was_at(
    cluster: Cluster, tiny_model: ReasoningModel, stores: tuple[Store, Store], moment: int
) -> None:
    spec, killed = score_spec(tiny_model, 48), False
    first, _ = processes(cluster, tiny_model, stores[1])
    steps = run_steps(spec, tiny_model, stores[1], cluster)
    arrived = 0
    while True:
        try:
            progress = next(steps)
        except StopIteration as stop:
            run = stop.value
            break
        arrived += progress.done > 0
        if arrived == moment and not killed:
            os.kill(first, signal.SIGKILL)
            killed = True
    assert killed
    assert run.provenance["lost_workers"] == 1
    assert run.digests == computed(spec, tiny_model, stores[0]).digests
    assert len(cluster.workers) == 2


def test_workers_that_keep_dying_end_the_run_and_nothing_that_was_finished_is_lost(
    cluster: Cluster, tiny_model: ReasoningModel, stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cap_viz.runs.backends.ray.REPLACEMENTS", 0)
    spec, both = score_spec(tiny_model, 48), processes(cluster, tiny_model, stores[1])
    steps = run_steps(spec, tiny_model, stores[1], cluster)
    while next(steps).done == 0:
        pass
    for process in both:
        os.kill(process, signal.SIGKILL)
    with pytest.raises(CapVizError, match=r"1 workers were lost.* \d+ of \d+ batches are kept"):
        finish(steps)
    monkeypatch.setattr("cap_viz.runs.backends.ray.REPLACEMENTS", REPLACEMENTS)
    run = computed(spec, tiny_model, stores[1], cluster)
    assert run.provenance["resumed_batches"] >= 1
    assert run.digests == computed(spec, tiny_model, stores[0]).digests


def test_a_worker_that_died_between_two_runs_is_replaced(
    cluster: Cluster, tiny_model: ReasoningModel, stores: tuple[Store, Store]
) -> None:
    first, _ = processes(cluster, tiny_model, stores[1])
    os.kill(first, signal.SIGKILL)
    run = computed(score_spec(tiny_model), tiny_model, stores[1], cluster)
    assert run.provenance["lost_workers"] == 1
    assert first not in processes(cluster, tiny_model, stores[1])


def test_a_cancelled_run_leaves_the_cluster_ready_for_the_next(
    cluster: Cluster, tiny_model: ReasoningModel, stores: tuple[Store, Store]
) -> None:
    steps = run_steps(score_spec(tiny_model), tiny_model, stores[1], cluster)
    while next(steps).done == 0:
        pass
    steps.close()
    spec = EvalSpec(tiny_model.ref, evaluation_set(TASK, 10))
    assert computed(spec, tiny_model, stores[1], cluster).digests == computed(spec, tiny_model, stores[0]).digests


def test_workers_of_another_version_are_refused_with_both_versions(
    cluster: Cluster, tiny_model: ReasoningModel, stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.close()
    monkeypatch.setattr("cap_viz.runs.backends.ray.versions_here", lambda: Versions("9.9.9", 7, "3.0"))
    with pytest.raises(CapVizError, match=r"The workers have CAP Viz 0\.1\.0 .*, this machine has CAP Viz 9\.9\.9"):
        computed(score_spec(tiny_model), tiny_model, stores[1], cluster)
    cluster.close()


def test_a_running_cluster_is_joined_by_its_address(
    cluster: Cluster, shell: Shell, tiny_folder: Path, tmp_path: Path
) -> None:
    """`ray start` as its users start it; the command line computes there what it computes here."""
    cluster.close()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray = str(Path(sys.executable).with_name("ray"))
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "RAY_USAGE_STATS_ENABLED": "0"}
    start = [ray, "start", "--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    start += ["--node-ip-address=127.0.0.1", f"--temp-dir={os.environ['RAY_TMPDIR']}", "--disable-usage-stats"]
    subprocess.run(start, env=environment, check=True, capture_output=True, timeout=120)
    arguments = ("score", "--model", str(tiny_folder), "--task", TASK, "--n", "6")
    try:
        theirs = shell.json(*arguments, "--backend", "ray", "--address", f"127.0.0.1:{port}", "--workers", "2")
    finally:
        subprocess.run([ray, "stop", "--force"], env=environment, check=True, capture_output=True, timeout=120)
    shutil.rmtree(os.environ["CAP_VIZ_CACHE"])
    assert theirs["mean_effect"] == shell.json(*arguments)["mean_effect"]


def test_a_cluster_that_refuses_us_leads_to_its_token() -> None:
    """Ray says neither to a client without a token nor to one whose token nobody asked for what is wrong."""
    from ray.exceptions import ActorDiedError

    for error in (ConnectionError("Failed to connect to Ray cluster"), ActorDiedError()):
        with pytest.raises(CapVizError, match="set RAY_AUTH_MODE=token here"), ray_errors_explained():
            raise error


def test_a_dead_address_is_told_soon() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    asked = time.monotonic()
    with pytest.raises(CapVizError, match=rf"No Ray cluster answers at 127.0.0.1:{port} .*ray start --head"):
        check_reachable(f"127.0.0.1:{port}")
    assert time.monotonic() - asked < 10
    for odd in ("head", "head:port", ":6379"):
        with pytest.raises(UsageError, match="is no address of a Ray cluster"):
            check_reachable(odd)


def node(*, alive: bool = True, **resources: float) -> dict[str, object]:
    return {"Alive": alive, "Resources": resources}


def test_shares_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAP_VIZ_THREADS")
    monkeypatch.delenv("CAP_VIZ_DEVICE", raising=False)
    two_machines = [node(CPU=8.0), node(CPU=6.0), node(alive=False, CPU=1.0)]
    found = share_of(two_machines, 0)
    assert (found.workers, found.cpus, found.gpus) == (2, 6, 0)
    assert share_of(two_machines, 4).cpus == 3, "two workers on each machine, of which the smaller has 6"
    gpus = [node(CPU=16.0, GPU=2.0), node(CPU=16.0, GPU=1.0)]
    assert (share_of(gpus, 0).workers, share_of(gpus, 0).gpus) == (3, 1)
    monkeypatch.setenv("CAP_VIZ_DEVICE", "cpu")
    assert (share_of(gpus, 0).workers, share_of(gpus, 0).cpus, share_of(gpus, 0).gpus) == (2, 16, 0)
