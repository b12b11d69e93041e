"""Converting the GGUF model, killed on the way: no half of a model is ever read, and the result is the same."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cap_viz.errors import CapVizError
from cap_viz.models.catalogue import DEFAULT_MODEL, resolve
from cap_viz.models.gguf import convert_apart
from cap_viz.models.loading import converted
from cap_viz.settings import PROJECT

pytestmark = pytest.mark.model

CONVERT = "from cap_viz.models.loading import *; converted(resolve(DEFAULT_MODEL))"
# What is there when it is killed: the lock, the folder being filled, the weights in it.
KILLED_AT = [
    pytest.param(("*.building/model.safetensors",), id="late"),
    pytest.param(("*.lock", "*.building", "*.building/model.safetensors"), id="thrice", marks=pytest.mark.long),
]


def start(cache: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "CAP_VIZ_CACHE": str(cache)}
    return subprocess.Popen([sys.executable, "-c", CONVERT], cwd=PROJECT, env=environment, start_new_session=True)


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("killed_at", KILLED_AT)
def test_a_killed_conversion_is_begun_again_and_ends_the_same(tmp_path: Path, killed_at: tuple[str, ...]) -> None:
    undisturbed = converted(resolve(DEFAULT_MODEL))
    target = tmp_path / "models" / undisturbed.name
    for pattern in killed_at:
        process = start(tmp_path)
        while not list(target.parent.glob(pattern)):
            assert process.poll() is None
            time.sleep(0.01)
        # The converting child as well: what it has written stays as it is.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not target.exists() or digest(target) == digest(undisturbed)
    assert start(tmp_path).wait() == 0
    assert digest(target) == digest(undisturbed)
    assert list(target.parent.glob("*.building")) == []


@pytest.mark.parametrize("content", [b"", b"GGUF" + bytes(60)], ids=["empty", "no-header"])
def test_a_damaged_file_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "given.gguf").write_bytes(content)
    with pytest.raises(CapVizError, match=r"given\.gguf cannot be converted: \S+"):
        convert_apart(tmp_path, "given.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()
