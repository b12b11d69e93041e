"""Loss on worked solutions, dense and pruned: the Compare page's measure for tasks without options (GSM8K)."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

import pandas as pd
import streamlit as st

from cap_viz.attribution.results import EvalReport
from cap_viz.dashboard.compare.command import option
from cap_viz.dashboard.compare.perplexity import largest_group
from cap_viz.dashboard.components.panels import p_words, percent, problem
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.stored import report_of
from cap_viz.errors import CapVizError
from cap_viz.evaluation.eval_metrics import TOKEN_LOSS, paired
from cap_viz.evaluation.solution_loss import solution_loss_of
from cap_viz.figures.theme import signed
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.pruning import criterion_title
from cap_viz.runs.comparison import SUBJECT
from cap_viz.runs.protocols import SolutionProtocol, protocol_of
from cap_viz.runs.spec import EvalSpec, MaskSpec


def solutions_section(view: Frame) -> None:
    """Draw the table of stored losses, or the commands that measure them."""
    runs = largest_group(
        view, lambda spec: protocol_of(spec) == SolutionProtocol() and spec.examples.task == view.task.name
    )
    st.markdown("#### Loss on the given solutions")
    if not runs:
        st.caption("How much more do the right solutions surprise the pruned model? Nothing is stored yet. Measure:")
        st.code(command(view), language="sh", wrap_lines=True)
        return
    try:
        reports = {run.spec.mask: report_of(view.store, run) for run in runs if isinstance(run.spec, EvalSpec)}
    except CapVizError as error:
        problem(str(error))
        return
    st.table(shown(reports), border="horizontal", hide_index=True)
    st.caption(
        f"{len(next(iter(reports.values())))} examples, mean loss per token in nats; masks calibrated on "
        f"{view.task.title} or on nothing. Brackets: 95 % intervals that resample examples; the difference compares "
        "the same examples, with a paired t-test that is not corrected for the number of rows."
    )


def shown(reports: Mapping[MaskSpec | None, EvalReport]) -> pd.DataFrame:
    """Table of the losses, dense first, then by criterion and sparsity."""
    order = sorted(reports, key=lambda mask: ("", 0.0) if mask is None else (mask.criterion, mask.sparsity))
    return pd.DataFrame([row(mask, reports[mask], reports.get(None)) for mask in order])


def row(mask: MaskSpec | None, report: EvalReport, dense: EvalReport | None) -> dict[str, str]:
    found = solution_loss_of(report)
    cells = {
        "Weights": "dense" if mask is None else criterion_title(mask.criterion),
        "Sparsity": "–" if mask is None else percent(mask.sparsity, 0),
        "Loss": f"{found.value:.3f} [{found.ci.low:.3f}, {found.ci.high:.3f}]",
    }
    if mask is None or dense is None:
        return {**cells, "Against dense": "–", "p": "–"}
    against_dense = paired(report, dense, TOKEN_LOSS)
    limits = f"[{signed(against_dense.ci.low, 3)}, {signed(against_dense.ci.high, 3)}]"
    return {
        **cells,
        "Against dense": f"{signed(against_dense.difference, 3)} {limits}",
        "p": p_words(against_dense.p_value),
    }


def command(view: Frame) -> str:
    """Shell commands that measure dense and one mask, enough for a first difference."""
    start = ["python", "-m", "cap_viz", "solution-loss", "--task", view.task.name]
    start += option("--model", view.model.id, DEFAULT_MODEL)
    return f"{shlex.join(start)}\n{shlex.join([*start, '--criterion', SUBJECT, '--sparsity', '0.2'])}"
