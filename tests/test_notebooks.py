"""The notebooks in `examples/` run from top to bottom on the toy reasoner, and hold no outputs."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import pytest

from cap_viz.settings import PROJECT

NOTEBOOKS = sorted((PROJECT / "examples").glob("*.ipynb"))


def run_cell(source: str, names: dict[str, object], place: str) -> object:
    """Run a cell and return the value of its last line, if that is an expression."""
    *body, last = ast.parse(source).body
    exec(compile(ast.Module(body=body, type_ignores=[]), place, "exec"), names)
    if isinstance(last, ast.Expr):
        return eval(compile(ast.Expression(last.value), place, "eval"), names)
    exec(compile(ast.Module(body=[last], type_ignores=[]), place, "exec"), names)
    return None


def test_there_are_two() -> None:
    assert [file.stem for file in NOTEBOOKS] == ["own_model_and_task", "quick_start"]


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    names: dict[str, object] = {"__name__": "__main__"}
    shown = 0
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
            value = run_cell(cell.source, names, f"{file.name}, cell {number}")
            html = getattr(value, "_repr_html_", None)
            if html is not None:
                text = html()
                shown += 1
                assert text
                # Figures bring Plotly with them; results show tables only.
                assert "<script" not in text or type(value).__name__ == "Figure"
    assert shown >= 3
    assert "Traceback" not in capsys.readouterr().err
