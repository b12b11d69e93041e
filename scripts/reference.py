"""Write the API reference from the docstrings:  python -m scripts.reference [FOLDER]  (make docs)

The public names of `cap_viz` on one page, linked to the modules that define them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pdoc.render

import cap_viz
from cap_viz.runs import list_runs

TARGET = Path("build/reference")


def write_reference(folder: Path) -> Path:
    """Write the HTML pages into a folder and return the first of them."""
    # The names are loaded on first use, and pdoc sees only those that are loaded.
    for name in cap_viz.__all__:
        setattr(cap_viz, name, getattr(cap_viz, name))
    # The package `runs` stands for the function that lists runs.
    setattr(cap_viz, "runs", list_runs)  # noqa: B010
    pdoc.render.configure(docformat="markdown", show_source=False, search=False)
    pdoc.pdoc("cap_viz", "!cap_viz.", output_directory=folder)
    return folder / "cap_viz.html"


if __name__ == "__main__":
    print(write_reference(Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET))
