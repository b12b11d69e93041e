"""An installation that does not fit is named in a sentence: versions, a second CAP Viz, missing packages."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.requirements import Requirement

from cap_viz import __version__, settings
from cap_viz.cli import health
from tests.shell import Shell


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        ("numpy>=99", ["numpy", ">=99"]),
        ("numpy<1", ["numpy", "<1"]),
        ("no-such-package>=1", ["no-such-package", "not installed"]),
    ],
)
def test_a_dependency_outside_its_range_is_named(wanted: str, named: list[str]) -> None:
    sentence = health.mismatch(Requirement(wanted))
    assert all(word in sentence for word in named)
    assert "pip install" in sentence


def test_this_installation_fits_its_ranges() -> None:
    assert [sentence for one in health.requirements() if (sentence := health.mismatch(one))] == []


def test_a_second_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "requirements", list)
    monkeypatch.setattr(health, "version", lambda name: "9.9.9")
    (sentence,) = health.installation_problems()
    assert "9.9.9" in sentence
    assert __version__ in sentence


def test_the_dashboard_without_streamlit_is_a_sentence(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cap_viz.cli.serve.find_spec", lambda name: None)
    code, _, err = shell("serve")
    assert code == 2
    assert "pip install streamlit" in err


def test_results_are_kept_where_they_were(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An installed CAP Viz uses the results of a checkout it is started in, else the user's cache."""
    monkeypatch.delenv(settings.CACHE)
    monkeypatch.setattr(settings, "IS_CHECKOUT", False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert settings.local_folder() == tmp_path / "home" / "cap-viz"
    for folder in ("cache/local", "cap_viz"):
        (tmp_path / folder).mkdir(parents=True)
    assert settings.local_folder() == tmp_path / "cache" / "local"
