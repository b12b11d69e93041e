"""One module reads the environment, at the moment it is asked."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from cap_viz.settings import (
    CACHE,
    DEVICE,
    DTYPE,
    PROJECT,
    SECRETS,
    ask_for,
    reported,
    requested_device,
    requested_dtype,
    told_to_workers,
)

PACKAGE = PROJECT / "cap_viz"
VARIABLES = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}


def reads_environment(path: Path) -> bool:
    """Whether a module names what `os` offers for variables."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in VARIABLES:
            return True
        if isinstance(node, ast.ImportFrom) and node.module == "os" and VARIABLES & {name.name for name in node.names}:
            return True
    return False


def test_no_other_module_reads_or_sets_a_variable() -> None:
    """Eight did, beside the one whose docstring said that it was the only one."""
    found = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if reads_environment(path)]
    assert found == ["settings.py"]


def test_what_is_asked_for_holds_here_and_in_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (DEVICE, DTYPE):
        monkeypatch.setenv(name, "")  # Put back afterwards.
    monkeypatch.setenv(CACHE, str(tmp_path))
    assert (requested_device(), requested_dtype()) == ("auto", "float32")
    assert DEVICE not in told_to_workers()
    ask_for(device="cpu", dtype="bfloat16")
    ask_for(device="", dtype="")
    assert (requested_device(), requested_dtype()) == ("cpu", "bfloat16")
    told = told_to_workers()
    assert (told[DEVICE], told[DTYPE], told[CACHE]) == ("cpu", "bfloat16", str(tmp_path))


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_are_neither_reported_nor_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "hf_of_somebody")
    assert reported()[name] == "set"
    assert "hf_of_somebody" not in {*reported().values(), *told_to_workers().values()}
    monkeypatch.delenv(name)
    assert reported()[name] == "not set"
