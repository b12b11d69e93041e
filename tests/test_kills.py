"""Processes killed in the middle of a run: nothing is damaged, and resumed results have the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cap_viz.settings import PROJECT


def kills(work: Path, *options: str, timeout: float = 120) -> dict[str, Any]:
    """What `tests.kills` reports, from a process of its own with a single thread: it forks."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.kills", "--work", str(work), *options],
        cwd=PROJECT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CAP_VIZ_THREADS": "1", "CAP_VIZ_CACHE": str(work / "cache")},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.stdout.strip(), done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.slow
def test_a_random_kill(tmp_path: Path) -> None:
    found = kills(tmp_path, "--kills", "1", "--runs", "scores,dense")
    assert found["wrong"] == []
    assert found["kills"] == 1


@pytest.mark.long
def test_five_random_kills(tmp_path: Path) -> None:
    found = kills(tmp_path, "--kills", "5")
    assert found["wrong"] == []
    assert found["kills"] == 5


@pytest.mark.long
def test_a_kill_before_and_after_every_file_operation(tmp_path: Path) -> None:
    found = kills(tmp_path, "--kills", "0", "--every-write")
    assert found["wrong"] == []
    assert found["kills"] > 20
    assert found["in_the_middle"] > 5


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_fifty_random_kills(tmp_path: Path, seed: int) -> None:
    found = kills(tmp_path, "--kills", "50", "--seed", str(seed), timeout=1700)
    assert found["wrong"] == []
    assert found["kills"] == 50
