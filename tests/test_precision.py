"""Effects smaller than the rounding of half precision are said to be so, wherever effects are shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cap_viz.models.rounding_noise import MEASURED_ON, floor_of, noise_floor
from tests.shell import Shell
from tests.test_ui_pages import opened


def test_the_floor_by_hand() -> None:
    # Two standard errors: 2 × 0.0406 / √4.
    assert floor_of("bfloat16", "nll", 4) == pytest.approx(0.0406)
    assert floor_of("float32", "nll", 4) is None
    assert floor_of("bfloat16", "accuracy", 4) is None
    found = noise_floor("bfloat16", "nll", np.array([[0.04, -0.04], [0.05, -1.0]]), 4)
    assert found is not None
    assert (found.below, found.n_heads) == (2, 4)
    assert str(found).startswith("2 of 4 heads have effects below 0.041 nats, which rounding to bfloat16 makes")
    assert MEASURED_ON in str(found)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_shell_and_the_page_say_it(
    dtype: str, tiny_folder: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAP_VIZ_DTYPE", dtype)
    arguments = ["score", "--model", str(tiny_folder), "--task", "mini_science", "--n", "4"]
    code, printed, err = shell(*arguments, "--json")
    assert code == 0, err
    content = json.loads(printed)
    _, table, _ = shell(*arguments)
    at = opened("pages/heads.py", model=str(tiny_folder), task="mini_science", run="n4-seed0-zero")
    assert not at.exception
    warnings = " ".join(box.value for box in at.warning)
    if dtype == "float32":
        assert "noise_floor" not in content
        assert "rounding" not in table + warnings
        return
    floor = content["noise_floor"]
    below = int((np.abs(np.array(content["mean_effect"])) < floor["floor"]).sum())
    assert floor["below"] == below > 0, "the tiny model has heads that do next to nothing"
    assert f"{below} of {floor['n_heads']} heads have effects below" in " ".join(table.split())
    assert f"{below} of {floor['n_heads']} heads have effects below" in warnings
