"""Export of a stored run as a Jupyter notebook that looks its numbers up or recomputes them, and checks them.

The notebook format is plain JSON (nbformat 4.5), so writing it needs no Jupyter package.
"""

from __future__ import annotations

import json
from typing import Any

from cap_viz import __version__
from cap_viz.runs.kinds import describe, numbers_of
from cap_viz.runs.prefix_reuse import taken_words
from cap_viz.runs.run_labels import ablation_words
from cap_viz.runs.run_queries import is_run_of
from cap_viz.runs.spec import ScoreSpec, spec_dict
from cap_viz.runs.store import Store, StoredRun

# Tolerance of the means: another machine adds up float32 products in another order.
TOLERANCE = 1e-3

LOOK_UP = """\
import json

from cap_viz.runs.kinds import numbers_of
from cap_viz.runs.spec import spec_from_dict
from cap_viz.runs.store import Store

spec = spec_from_dict(json.loads({spec!r}))
store = Store()
run = store.sound(spec)
"""
COMPUTE = """\
# Not stored on this machine: compute it. The model and the task's data must be there (README, "Your own model").
if run is None:
    from cap_viz.models.loading import load_model
    from cap_viz.progress import finish
    from cap_viz.runs.execute import run_steps

    run = finish(run_steps(spec, load_model(spec.model.id), store))

numbers = numbers_of(store, run)
numbers.head(20)
"""
CHECK = """\
expected = json.loads({means!r})
for column, mean in expected.items():
    assert abs(numbers[column].mean() - mean) <= {tolerance} * max(1, abs(mean)), (column, numbers[column].mean(), mean)
print(f"{{len(numbers)}} rows; the means of {{len(expected)}} columns are those that were exported.")
"""
PLOT = """\
import plotly.express as px

chosen = numbers[numbers["metric"] == numbers["metric"].iloc[0]]
grid = chosen.pivot(index="layer", columns={columns!r}, values="mean_effect")
px.imshow(grid, color_continuous_scale="BrBG", color_continuous_midpoint=0, aspect="auto",
          title={title!r})
"""


def notebook_of(store: Store, run: StoredRun) -> bytes:
    """Build the notebook file of a run. Raises `DamagedRun` when the run's numbers cannot be read."""
    # The average of every numeric column, to check against.
    means = numbers_of(store, run).select_dtypes("number").mean().dropna().to_dict()
    cells = [
        markdown(introduction(run)),
        code(LOOK_UP.format(spec=json.dumps(spec_dict(run.spec)))),
        code(COMPUTE),
        code(CHECK.format(means=json.dumps(means), tolerance=TOLERANCE)),
    ]
    if is_run_of(run, ScoreSpec):
        words, part = ablation_words(run.spec), "block" if run.spec.parts else "head"
        title = f"Effect of {words.doing} each {part}{words.by}, {run.spec.examples.task}"
        cells.append(code(PLOT.format(columns="part" if run.spec.parts else "head", title=title)))
    content = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "cells": [{"id": f"cell-{number}", **cell} for number, cell in enumerate(cells)],
    }
    return (json.dumps(content, indent=1) + "\n").encode()


def introduction(run: StoredRun) -> str:
    spec, made, taken = run.spec, run.provenance, taken_words(run)
    how = f"{taken}, taken {made['created']}" if taken else f"computed {made['created']} in {made['seconds']:,.0f} s"
    return (
        f"# CAP Viz run {run.key}\n\n{run.kind} of {spec.model.id} on {spec.examples.task}: {describe(spec)}.\n\n"
        f"{len(spec.examples.ids)} examples; {how}. Written by CAP Viz {__version__}.\n\n"
        "The next cells look the run up in the local store or compute it, and check that its numbers are those that "
        "were exported."
    )


def markdown(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": text.splitlines(keepends=True)}


def code(text: str) -> dict[str, Any]:
    source = text.rstrip("\n").splitlines(keepends=True)
    return {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": [], "source": source}
