"""Perplexity on running text under the masks of the page's task: the cost of pruning for a task on other text."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from math import exp

import pandas as pd
import streamlit as st

from cap_viz.dashboard.compare.command import option
from cap_viz.dashboard.components.panels import escaped, percent, problem
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.stored import report_of
from cap_viz.errors import CapVizError
from cap_viz.evaluation.eval_metrics import TOKEN_LOSS, paired
from cap_viz.evaluation.perplexity import TEXT_TASKS, Perplexity, perplexity_of
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.pruning import criterion_title
from cap_viz.runs.comparison import SUBJECT
from cap_viz.runs.mask_provenance import provenance_of
from cap_viz.runs.protocols import PerplexityProtocol, protocol_of
from cap_viz.runs.spec import EvalSpec, MaskSpec
from cap_viz.runs.store import StoredRun
from cap_viz.stats import Interval
from cap_viz.tasks import load_task
from cap_viz.tasks.example_sets import ExampleSet


@dataclass(frozen=True)
class PerplexityRow:
    """One stored perplexity. `factor` is its ratio to dense on the same windows, with the paired interval."""

    mask: MaskSpec | None
    found: Perplexity
    factor: float | None = None
    factor_ci: Interval | None = None


def perplexity_section(view: Frame) -> None:
    """Draw the table of stored perplexities, or the commands that measure them."""
    runs = perplexity_runs(view)
    with st.expander("Perplexity on running text", expanded=bool(runs)):
        if not runs:
            st.caption("What do these masks cost on text that asks for no reasoning? Nothing is stored yet. Measure:")
            st.code(command(view), language="sh", wrap_lines=True)
            return
        try:
            rows = rows_of(view, runs)
        except CapVizError as error:
            problem(str(error))
            return
        spec = runs[0].spec
        assert isinstance(spec, EvalSpec)
        protocol = protocol_of(spec)
        assert isinstance(protocol, PerplexityProtocol)
        st.table(shown(rows), border="horizontal", hide_index=True)
        st.caption(
            f"{escaped(spec.examples.task)}, {rows[0].found.n_windows} windows of {protocol.length} tokens; masks "
            f"calibrated on {escaped(view.task.name)} or on nothing. Brackets: 95 % intervals that resample windows; "
            "the factor compares the same windows, so its interval is narrower."
        )


def perplexity_runs(view: Frame) -> list[StoredRun]:
    """Return the perplexity runs, dense and pruned, of the text and window length with the most runs."""
    return largest_group(view, lambda spec: isinstance(protocol_of(spec), PerplexityProtocol))


def largest_group(view: Frame, wanted: Callable[[EvalSpec], bool]) -> list[StoredRun]:
    """Return the largest group of wanted evaluations with the same examples and protocol.

    It may hold the dense model and masks calibrated on the page's task or on nothing.
    """
    groups: dict[tuple[ExampleSet, str | None], list[StoredRun]] = defaultdict(list)
    for run in view.runs:
        spec = run.spec
        if not isinstance(spec, EvalSpec) or spec.model != view.model or not wanted(spec):
            continue
        if spec.mask is None or calibrated_on(spec.mask) in (None, view.task.name):
            groups[spec.examples, spec.protocol].append(run)
    return max(groups.values(), key=len, default=[])


def calibrated_on(mask: MaskSpec) -> str | None:
    """Task of a mask's calibration examples; None for criteria that look at the weights alone."""
    examples = provenance_of(mask).examples
    return None if examples is None else examples.task


def rows_of(view: Frame, runs: list[StoredRun]) -> list[PerplexityRow]:
    """Return the rows, dense first, then by criterion and sparsity. Raises `CapVizError` for an unreadable run."""
    masks = {run.key: run.spec.mask for run in runs if isinstance(run.spec, EvalSpec)}
    reports = {run.key: report_of(view.store, run) for run in runs}
    dense = next((reports[key] for key, mask in masks.items() if mask is None), None)
    rows = []
    for key, mask in masks.items():
        if dense is None or mask is None:
            rows.append(PerplexityRow(mask, perplexity_of(reports[key])))
            continue
        against_dense = paired(reports[key], dense, TOKEN_LOSS)
        ci = Interval(exp(against_dense.ci.low), exp(against_dense.ci.high))
        rows.append(PerplexityRow(mask, perplexity_of(reports[key]), exp(against_dense.difference), ci))
    return sorted(rows, key=lambda row: ("", 0.0) if row.mask is None else (row.mask.criterion, row.mask.sparsity))


def shown(rows: list[PerplexityRow]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "Weights": "dense" if row.mask is None else criterion_title(row.mask.criterion),
                "Sparsity": "–" if row.mask is None else percent(row.mask.sparsity, 0),
                "Perplexity": f"{row.found.value:.2f} [{row.found.ci.low:.2f}, {row.found.ci.high:.2f}]",
                "Against dense": "–"
                if row.factor is None or row.factor_ci is None
                else f"× {row.factor:.3f} [{row.factor_ci.low:.3f}, {row.factor_ci.high:.3f}]",
            }
            for row in rows
        ]
    )


def command(view: Frame) -> str:
    """Shell commands that measure dense and one mask, enough for a first factor."""
    text = next((name for name in TEXT_TASKS if load_task(name).is_local()), TEXT_TASKS[0])
    start = ["python", "-m", "cap_viz", "perplexity", "--text", text, *option("--model", view.model.id, DEFAULT_MODEL)]
    pruned = ["--criterion", SUBJECT, "--sparsity", "0.2", "--task", view.task.name]
    return f"{shlex.join(start)}\n{shlex.join([*start, *pruned])}"
