"""Who computes: what is asked for, and that a worker computes what this process would."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cap_viz.errors import CapVizError, UsageError
from cap_viz.models.catalogue import ModelRef
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.runs.backends import BackendChoice, backend_named, requested_backend
from cap_viz.runs.backends.local import HERE
from cap_viz.runs.backends.ray_worker import Worker, versions_here
from cap_viz.runs.execute import mask_steps
from cap_viz.runs.kinds import batched_run
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.plugin_packages import packages_of
from cap_viz.runs.spec import EvalSpec, PathSpec, ScoreSpec, spec_dict
from cap_viz.runs.store import Store
from cap_viz.settings import ADDRESS, BACKEND, WORKERS
from cap_viz.tasks import TASKS, Task
from cap_viz.tasks.example_sets import calibration_set, evaluation_set
from tests.shell import Shell


@pytest.mark.parametrize(
    ("options", "variables", "expected"),
    [
        ({}, {}, BackendChoice()),
        ({}, {BACKEND: "ray"}, BackendChoice("ray")),
        ({}, {ADDRESS: "head:6379", WORKERS: "4"}, BackendChoice("ray", "head:6379", 4)),
        ({"name": "ray", "address": "auto", "workers": 2}, {WORKERS: "4"}, BackendChoice("ray", "auto", 2)),
        ({"address": "auto"}, {}, BackendChoice("ray", "auto")),
        ({"name": "local"}, {ADDRESS: "head:6379"}, BackendChoice()),
    ],
)
def test_options_come_before_the_environment(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, str], variables: dict[str, str], expected: BackendChoice
) -> None:
    for name in (BACKEND, ADDRESS, WORKERS):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert requested_backend(**options) == expected  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--backend", "spark"), ["backend 'spark'", "local, ray"]),
        (("--backend", "ray", "--workers", "-1"), ["'-1' workers", "0"]),
    ],
)
def test_unknown_backends_and_odd_numbers_of_workers_are_a_sentence(
    shell: Shell, tiny: list[str], options: tuple[str, ...], named: list[str]
) -> None:
    code, _, err = shell("score", *tiny, "--n", "2", *options)
    assert code == 2
    assert all(part in err for part in named), err


def test_the_former_variable_is_read_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAP_VIZ_ENGINE", "ray")
    monkeypatch.delenv(BACKEND, raising=False)
    with pytest.warns(FutureWarning, match=r"CAP_VIZ_ENGINE\b.*\bCAP_VIZ_BACKEND\b"):
        assert requested_backend() == BackendChoice("ray")
    monkeypatch.setenv(BACKEND, "local")
    with pytest.warns(FutureWarning, match="CAP_VIZ_BACKEND"):
        assert requested_backend() == BackendChoice()


def test_without_ray_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cap_viz.runs.backends.find_spec", lambda _: None)
    with pytest.raises(CapVizError, match=r"pip install -r requirements-ray\.txt\b.*--backend local\b"):
        backend_named(BackendChoice("ray"))
    assert backend_named(BackendChoice()) is HERE


def held(model: ReasoningModel) -> Worker:
    worker = Worker()
    worker.model = model
    return worker


def test_a_worker_computes_the_batches_of_a_plan_to_the_same_bits(
    tiny_model: ReasoningModel, tiny_task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cap_viz.attribution.exact.TOKENS_PER_FORWARD", 40)
    spec = ScoreSpec(tiny_model.ref, calibration_set("tiny", 6), ablation="mean")
    mine = batched_run(tiny_model, spec)
    assert len(mine.batches.batches) > 1
    # The plan is followed whatever the worker's own settings.
    monkeypatch.setattr("cap_viz.attribution.exact.TOKENS_PER_FORWARD", 10_000)
    worker = held(tiny_model)
    worker.begin(spec_dict(spec), mine.batches, None)
    numbers = range(len(mine.batches.batches))
    for _ in mine.steps(numbers):
        pass
    for number in reversed(numbers):
        theirs = worker.batch(number)
        for name, array in mine.content(number).items():
            np.testing.assert_array_equal(theirs[name], array)


def test_a_worker_prunes_by_the_mask_it_is_sent(tiny_model: ReasoningModel, tiny_task: Task, store: Store) -> None:
    mask_spec = mask_spec_for(tiny_model.ref, "wanda", 0.5, task="tiny", n=4)
    spec = EvalSpec(tiny_model.ref, evaluation_set("tiny", 4), mask_spec)
    mine = batched_run(tiny_model, spec, mask=finish(mask_steps(mask_spec, tiny_model, store)))
    worker = held(tiny_model)
    worker.begin(spec_dict(spec), mine.batches, mine.mask)
    for _ in mine.steps([0]):
        pass
    pruned = worker.batch(0)["logliks"]
    np.testing.assert_array_equal(pruned, mine.content(0)["logliks"])
    worker.begin(spec_dict(replace(spec, mask=None)), mine.batches, None)
    assert not np.array_equal(worker.batch(0)["logliks"], pruned)


def test_a_worker_measures_paths_under_the_mask_it_is_sent(
    tiny_model: ReasoningModel, tiny_task: Task, store: Store
) -> None:
    mask_spec = mask_spec_for(tiny_model.ref, "wanda", 0.5, task="tiny", n=4)
    spec = PathSpec(tiny_model.ref, evaluation_set("tiny", 3), ((0, 1), (2, 3)), ablation="mean", mask=mask_spec)
    mine = batched_run(tiny_model, spec, mask=finish(mask_steps(mask_spec, tiny_model, store)))
    worker, numbers = held(tiny_model), range(len(mine.batches.batches))
    worker.begin(spec_dict(spec), mine.batches, mine.mask)
    for _ in mine.steps(numbers):
        pass
    for number in numbers:
        theirs = worker.batch(number)
        for name, array in mine.content(number).items():
            np.testing.assert_array_equal(theirs[name], array)


def test_a_worker_names_the_packages_it_lacks(
    tiny_model: ReasoningModel, tiny_task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS, "tiny", replace(tiny_task, origin="own-tasks 1.0"))
    spec, worker = EvalSpec(tiny_model.ref, evaluation_set("tiny", 2)), held(tiny_model)
    asked, plan = packages_of(spec), batched_run(tiny_model, spec).batches
    assert asked == {"own-tasks 1.0"}
    worker.begin(spec_dict(spec), plan, None, asked)
    monkeypatch.setitem(TASKS, "tiny", replace(tiny_task, origin="own-tasks 0.9"))
    with pytest.raises(CapVizError, match=r"^The worker on \S+ lacks own-tasks 1\.0, .* same packages on all machines"):
        worker.begin(spec_dict(spec), plan, None, asked)


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("store")
    return Store(shipped=folder / "shipped", local=folder / "local")


def test_a_worker_refuses_other_weights_and_says_its_versions(tiny_model: ReasoningModel) -> None:
    worker = Worker()
    with pytest.raises(CapVizError, match=r"fingerprint .*, the run is about other; give all machines the same files"):
        worker.hold(replace(tiny_model.ref, fingerprint="other"))
    assert worker.hold(tiny_model.ref) == "cpu"
    assert str(worker.versions()) == str(versions_here())
    assert "with torch" in str(versions_here())


def test_a_worker_without_the_model_says_so() -> None:
    with pytest.raises((CapVizError, UsageError), match="no_such_folder"):
        Worker().hold(ModelRef("/no_such_folder/model", "0" * 16))
