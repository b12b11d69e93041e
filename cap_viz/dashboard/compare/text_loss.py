"""Loss on given text, dense and under masks, from stored runs: perplexity on running text, loss on worked solutions."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Callable, Mapping
from math import exp

import pandas as pd
import streamlit as st

from cap_viz.attribution.results import EvalReport
from cap_viz.dashboard.compare.command import option
from cap_viz.dashboard.components.panels import escaped, p_words, percent, problem
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.stored import report_of
from cap_viz.errors import CapVizError
from cap_viz.evaluation.eval_metrics import TOKEN_LOSS, paired
from cap_viz.evaluation.perplexity import TEXT_TASKS, perplexity_of
from cap_viz.evaluation.solution_loss import solution_loss_of
from cap_viz.figures.theme import signed
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.pruning import criterion_title
from cap_viz.runs.comparison import SUBJECT, counts_weights
from cap_viz.runs.mask_provenance import provenance_of
from cap_viz.runs.protocols import PerplexityProtocol, SolutionProtocol, protocol_of
from cap_viz.runs.run_queries import runs_of
from cap_viz.runs.spec import EvalSpec, MaskSpec
from cap_viz.runs.store import StoredRun
from cap_viz.tasks import load_task
from cap_viz.tasks.example_sets import ExampleSet

Reports = Mapping[MaskSpec | None, EvalReport]


def perplexity_section(view: Frame) -> None:
    """Draw the table of stored perplexities under the masks of the page's task, or the commands that measure them."""
    runs = largest_group(view, lambda spec: isinstance(protocol_of(spec), PerplexityProtocol))
    with st.expander("Perplexity on running text", expanded=bool(runs)):
        if not runs:
            st.caption("What do these masks cost on text that asks for no reasoning? Nothing is stored yet. Measure:")
            text = next((name for name in TEXT_TASKS if load_task(name).is_local()), TEXT_TASKS[0])
            commands(view, ["perplexity", "--text", text], pruned=["--task", view.task.name])
            return
        reports = readable(view, runs)
        if reports is None:
            return
        spec = runs[0].spec
        protocol = protocol_of(spec)
        assert isinstance(protocol, PerplexityProtocol)
        st.table(table(reports, perplexity_cells), border="horizontal", hide_index=True)
        st.caption(
            f"{escaped(spec.examples.task)}, {len(spec.examples.ids)} windows of {protocol.length} tokens; masks "
            f"calibrated on {escaped(view.task.name)} or on nothing. Brackets: 95 % intervals that resample windows; "
            "the factor compares the same windows, so its interval is narrower."
        )


def solutions_section(view: Frame) -> None:
    """Draw the table of stored losses on the solutions of a task without options, or the commands that measure them."""
    runs = largest_group(
        view, lambda spec: protocol_of(spec) == SolutionProtocol() and spec.examples.task == view.task.name
    )
    st.markdown("#### Loss on the given solutions")
    if not runs:
        st.caption("How much more do the right solutions surprise the pruned model? Nothing is stored yet. Measure:")
        commands(view, ["solution-loss", "--task", view.task.name])
        return
    reports = readable(view, runs)
    if reports is None:
        return
    st.table(table(reports, solution_cells), border="horizontal", hide_index=True)
    st.caption(
        f"{len(runs[0].spec.examples.ids)} examples, mean loss per token in nats; masks calibrated on "
        f"{view.task.title} or on nothing. Brackets: 95 % intervals that resample examples; the difference compares "
        "the same examples, with a paired t-test that is not corrected for the number of rows."
    )


def largest_group(view: Frame, wanted: Callable[[EvalSpec], bool]) -> list[StoredRun[EvalSpec]]:
    """Return the largest group of wanted evaluations with the same examples and protocol.

    It may hold the dense model and masks calibrated on the page's task or on nothing.
    """
    groups: dict[tuple[ExampleSet, str | None], list[StoredRun[EvalSpec]]] = defaultdict(list)
    for run in runs_of(view.runs, EvalSpec):
        spec = run.spec
        if spec.model != view.model or not wanted(spec):
            continue
        if spec.mask is None or calibrated_on(spec.mask) in (None, view.task.name):
            groups[spec.examples, spec.protocol].append(run)
    return max(groups.values(), key=len, default=[])


def calibrated_on(mask: MaskSpec) -> str | None:
    """Task of a mask's calibration examples; None for criteria that look at the weights alone."""
    examples = provenance_of(mask).examples
    return None if examples is None else examples.task


def readable(view: Frame, runs: list[StoredRun[EvalSpec]]) -> Reports | None:
    """Read the reports by mask; draw the problem and return None if one cannot be read."""
    try:
        return {run.spec.mask: report_of(view.store, run) for run in runs}
    except CapVizError as error:
        problem(str(error))
        return None


def table(reports: Reports, cells: Callable[[EvalReport, EvalReport | None], dict[str, str]]) -> pd.DataFrame:
    """Make a row per mask, dense first, then by criterion and sparsity; masks are compared with dense if stored."""
    order = sorted(reports, key=lambda mask: ("", 0.0) if mask is None else (mask.criterion, mask.sparsity))
    return pd.DataFrame(
        [
            {
                "Weights": "dense" if mask is None else criterion_title(mask.criterion),
                "Sparsity": sparsity_cell(mask),
                **cells(reports[mask], None if mask is None else reports.get(None)),
            }
            for mask in order
        ]
    )


def sparsity_cell(mask: MaskSpec | None) -> str:
    if mask is None:
        return "–"
    return percent(mask.sparsity, 0) + ("" if counts_weights(mask.criterion) else " of heads")


def perplexity_cells(report: EvalReport, dense: EvalReport | None) -> dict[str, str]:
    found, against = perplexity_of(report), "–"
    if dense is not None:
        difference = paired(report, dense, TOKEN_LOSS)
        factor, low, high = (exp(value) for value in (difference.difference, difference.ci.low, difference.ci.high))
        against = f"× {factor:.3f} [{low:.3f}, {high:.3f}]"
    return {
        "Perplexity": f"{found.value:.2f} [{found.ci.low:.2f}, {found.ci.high:.2f}]",
        "Against dense": against,
    }


def solution_cells(report: EvalReport, dense: EvalReport | None) -> dict[str, str]:
    found, against, p = solution_loss_of(report), "–", "–"
    if dense is not None:
        difference = paired(report, dense, TOKEN_LOSS)
        limits = f"[{signed(difference.ci.low, 3)}, {signed(difference.ci.high, 3)}]"
        against, p = f"{signed(difference.difference, 3)} {limits}", p_words(difference.p_value)
    return {
        "Loss": f"{found.value:.3f} [{found.ci.low:.3f}, {found.ci.high:.3f}]",
        "Against dense": against,
        "p": p,
    }


def commands(view: Frame, command: list[str], pruned: list[str] | None = None) -> None:
    """Show the shell commands that measure dense and one mask, enough for a first difference."""
    dense = ["python", "-m", "cap_viz", *command, *option("--model", view.model.id, DEFAULT_MODEL)]
    masked = [*dense, "--criterion", SUBJECT, "--sparsity", "0.2", *(pruned or [])]
    st.code(f"{shlex.join(dense)}\n{shlex.join(masked)}", language="sh", wrap_lines=True)
