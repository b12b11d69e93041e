"""Keeps the tests to themselves: they write only into temporary folders and talk only to this machine."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import jaxtyping
import pytest

from cap_viz.models.catalogue import resolve
from cap_viz.models.loading import ReasoningModel, load
from cap_viz.runs.pack_writer import write_pack
from cap_viz.runs.queue import shared_queue
from cap_viz.runs.store import Store
from cap_viz.settings import PROJECT, shipped_folder
from cap_viz.tasks import TASKS, Splits, Task
from tests.shell import Shell
from tests.tiny import tiny_examples, write_tiny_model

SCRATCH = pytest.StashKey[tempfile.TemporaryDirectory[str]]()
# One of each kind of run of both models.
FEW_SHIPPED = (
    "score-smollm2-*-mini_science-*",
    "eval-smollm2-*-mini_science-*",
    "roles-smollm2-*-mini_science-*",
    "profile-smollm2-*-mini_science-*",
    "score-toy-reasoner-toy_math-*",
    "eval-toy-reasoner-toy_math-*",
)
# The shell without a window, where there is one, takes a seventh less computing.
CHROMIUM_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM_MAC = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)


hypothesis.settings.register_profile("usual", max_examples=100, deadline=None)
hypothesis.settings.load_profile("usual")
# `make fuzz` asks for it by name.
hypothesis.settings.register_profile("fuzz", max_examples=10_000, deadline=None)


def pytest_configure(config: pytest.Config) -> None:
    # Before anything is imported: huggingface_hub reads these only once.
    scratch = config.stash[SCRATCH] = tempfile.TemporaryDirectory(prefix="cap-viz-tests-")
    os.environ["HF_HUB_OFFLINE"] = "1"
    if "PYTEST_XDIST_WORKER" in os.environ:  # One core each: torch's threads would only wait for each other.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    # As `cap_viz.models.loading.load` sets it; tests import torch before that.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["HF_HOME"] = str(Path(scratch.name, "huggingface"))
    os.environ["CAP_VIZ_CACHE"] = str(Path(scratch.name, "cache"))
    os.environ["CAP_VIZ_LOG"] = str(Path(scratch.name, "cap_viz.log"))
    if worker := getattr(config, "workerinput", None):
        Path(scratch.name, "cache").mkdir()
        Path(scratch.name, "cache", "models").symlink_to(worker["models"])


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """All workers use one folder of converted models: converting takes 20 s."""
    models = Path(node.config.stash[SCRATCH].name, "models")
    models.mkdir(exist_ok=True)
    node.workerinput["models"] = str(models)


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[SCRATCH].cleanup()


@pytest.fixture(scope="session")
def few_shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack of a few of the shipped runs: checking all thousand takes seconds."""
    folder = tmp_path_factory.mktemp("packs") / "shipped"
    runs = sorted(Store(shipped=shipped_folder(), local=folder).runs(), key=lambda run: run.title)
    write_pack(folder, [next(run for run in runs if fnmatch(run.title, pattern)) for pattern in FEW_SHIPPED])
    return folder


@pytest.fixture
def all_shipped(own_folders: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """All shipped runs instead of a few."""
    monkeypatch.setattr("cap_viz.runs.store.shipped_folder", shipped_folder)


@pytest.fixture(autouse=True)
def own_folders(
    request: pytest.FixtureRequest, tmp_path: Path, few_shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty cache and log for each test, few shipped runs, and no data folder: the same tasks everywhere.

    Tests on the real model and in the browser share one cache folder and may use the public data sets.
    """
    if not any(request.node.get_closest_marker(name) for name in ("model", "e2e")):
        monkeypatch.setattr("cap_viz.runs.store.shipped_folder", lambda: few_shipped)
        monkeypatch.setenv("CAP_VIZ_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("CAP_VIZ_LOG", str(tmp_path / "cap_viz.log"))
        monkeypatch.delenv("CAP_VIZ_DATA", raising=False)


@pytest.fixture
def store(own_folders: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """An empty store that pages and notebooks find by the environment, without shipped runs, and a queue of its own."""
    monkeypatch.setattr("cap_viz.runs.store.shipped_folder", lambda: tmp_path / "shipped")
    shared_queue.cache_clear()
    yield Store()
    shared_queue.cache_clear()


@pytest.fixture(scope="session", autouse=True)
def one_component_scan() -> Iterator[None]:
    """Looks for Streamlit components among the installed packages once, not for every session of an AppTest."""
    if "streamlit" not in sys.modules:
        yield
        return
    from streamlit.components.v2 import manifest_scanner

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_scanner, "scan_component_manifests", cache(manifest_scanner.scan_component_manifests))
        yield


@pytest.fixture
def any_shapes() -> Iterator[None]:
    """Lets arrays of wrong shapes through to functions that refuse them with a sentence of their own."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Refuse connections and name look-ups that leave this machine (children inherit HF_HUB_OFFLINE)."""
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        refuse_remote(self.family, address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        refuse_remote(self.family, address)
        return connect_ex(self, address)

    def guarded_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        refuse_remote(socket.AF_INET, (host,))
        return getaddrinfo(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
        patch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
        yield


def refuse_remote(family: int, address: Any) -> None:
    if family not in (socket.AF_INET, socket.AF_INET6):
        return
    host = address[0].decode() if isinstance(address[0], bytes) else address[0]
    if host not in (None, "", "localhost", socket.gethostname()) and not is_loopback(host):
        raise ConnectionRefusedError(f"Tests must not use the network, but one tried to reach {host}.")


def is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama in Hugging Face layout."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_model(tiny_folder: Path) -> ReasoningModel:
    """The tiny model, loaded once; tests leave it as they found it."""
    return load(resolve(str(tiny_folder)))


@pytest.fixture
def tiny_task(monkeypatch: pytest.MonkeyPatch) -> Task:
    """A task named "tiny" over the tiny model's words: 12 calibration and 20 evaluation examples."""
    examples = tiny_examples(32)
    task = Task(
        name="tiny",
        title="Tiny",
        summary="Nonsense questions for tests.",
        version=1,
        source="tests",
        licence="Apache-2.0",
        prompt_format="Question: {question}\\nAnswer: {option}",
        load=lambda: Splits(calibration=examples[:12], evaluation=examples[12:]),
        is_local=lambda: True,
    )
    monkeypatch.setitem(TASKS, task.name, task)
    return task


@pytest.fixture
def registries() -> Iterator[None]:
    """Leave criteria, tasks and head metrics as they were; plug-ins are looked for anew."""
    from cap_viz.attribution.effect_metrics import METRICS
    from cap_viz.integrations.plugins import load_plugins
    from cap_viz.pruning import CRITERIA

    kept: list[tuple[dict[str, Any], dict[str, Any]]] = [(one, dict(one)) for one in (CRITERIA, TASKS, METRICS)]
    load_plugins.cache_clear()
    yield
    load_plugins.cache_clear()
    for registry, content in kept:
        registry.clear()
        registry.update(content)


@pytest.fixture(scope="session")
def example_plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package in `examples/plugin`, installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("plugin")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    build = ["--no-build-isolation", "--no-index", "--target", str(folder), str(PROJECT / "examples" / "plugin")]
    done = subprocess.run([*pip, *build], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def shell(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    return Shell(capfd, monkeypatch)


@pytest.fixture
def tiny(tiny_folder: Path, tiny_task: Task) -> list[str]:
    """Command line options for the tiny model and the tiny task."""
    return ["--model", str(tiny_folder), "--task", "tiny"]


@pytest.fixture(scope="session")
def chromium() -> str:
    """The system's Chromium, for playwright's `executable_path`; the variable CHROMIUM overrides it."""
    candidates = [os.environ.get("CHROMIUM"), *map(shutil.which, CHROMIUM_NAMES), *CHROMIUM_MAC]
    for path in candidates:
        if path and Path(path).is_file():
            return path
    pytest.exit(
        "The browser tests need Chromium: apt install chromium (Debian), brew install --cask chromium (macOS)"
        " or CHROMIUM=/path/to/it.",
        returncode=1,
    )
