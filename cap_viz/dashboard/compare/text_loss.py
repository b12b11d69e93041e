"""Loss on given text, dense and under masks, from stored runs: perplexity on running text, loss on worked solutions."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence

import pandas as pd
import streamlit as st

from cap_viz.attribution.results import EvalReport
from cap_viz.dashboard.components.job_card import active_jobs, job_view, ticking
from cap_viz.dashboard.components.panels import escaped, p_words, percent, problem
from cap_viz.dashboard.components.submission import submit_run
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.names import task_name
from cap_viz.dashboard.stored import report_of
from cap_viz.errors import CapVizError
from cap_viz.evaluation.eval_metrics import TOKEN_LOSS, paired
from cap_viz.evaluation.perplexity import perplexity_of
from cap_viz.evaluation.solution_loss import solution_loss_of
from cap_viz.evaluation.verdict import difference_words
from cap_viz.figures.theme import signed
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.progress import duration
from cap_viz.pruning import criterion_title
from cap_viz.runs.comparison import SUBJECT, counts_weights
from cap_viz.runs.fixed_question import RIVAL, RunningText, missing_text, text_seconds, tokens_of
from cap_viz.runs.mask_provenance import largest_group
from cap_viz.runs.protocols import PerplexityProtocol, SolutionProtocol, protocol_of
from cap_viz.runs.spec import EvalSpec, MaskSpec
from cap_viz.runs.store import StoredRun
from cap_viz.settings import SPARSITIES

# From a report, and the dense one if there is one, to cells by their columns.
Cells = Callable[[EvalReport, EvalReport | None], dict[str, str]]
REFUSED = "compare_refused"


def measure_text(view: Frame, text: RunningText | None) -> None:
    """Offer to measure what the verdict's row of running text lacks, or say why this machine cannot."""
    if text is not None and len(text.answers) == len(SPARSITIES):
        return
    try:
        wanted = missing_text(view.store, view.model, view.task)
    except CapVizError as error:
        st.caption(f"Running text: {escaped(str(error))}")
        return
    if not view.installed:
        st.caption(escaped(view.install_hint))
        return
    active = bool(active_jobs(lambda spec: spec in wanted))
    ticking(lambda: text_jobs(view, wanted), live=active)


def text_jobs(view: Frame, wanted: Sequence[EvalSpec]) -> None:
    jobs = active_jobs(lambda spec: spec in wanted)
    for job in jobs:
        job_view(job, key="compare_text")
    if refused := st.session_state.pop(REFUSED, ""):
        problem(refused)
    if jobs or not wanted:
        return
    seconds, text = text_seconds(view.runs, wanted), escaped(task_name(wanted[0].examples.task))
    st.button(
        f"Measure running text ({f'{len(wanted)} runs' if seconds is None else duration(seconds)})",
        key="compare_measure_text",
        on_click=submit,
        args=(wanted,),
        help=f"Perplexity of {text} under CAP’s and Wanda’s masks: {len(wanted)} runs.",
    )


def submit(wanted: Sequence[EvalSpec]) -> None:
    try:
        for spec in wanted:
            assert spec.mask is not None
            whose = f"{criterion_title(spec.mask.criterion)} at {percent(spec.mask.sparsity, 0)}"
            submit_run(spec, f"Running text under {whose}")
    except CapVizError as error:
        st.session_state[REFUSED] = str(error)


def perplexity_section(view: Frame) -> None:
    """Draw the table of stored perplexities under the masks of the page's task; nothing where there are none."""
    runs = largest_group(
        view.runs, view.model, view.task.name, lambda spec: isinstance(protocol_of(spec), PerplexityProtocol)
    )
    if not runs:
        return
    with st.expander("Perplexity on running text"):
        stored = {run.spec.mask.criterion for run in runs if run.spec.mask is not None}
        lacking = [criterion_title(name) for name in (SUBJECT, RIVAL) if name not in stored]
        tokens = tokens_of(runs[0].spec) // len(runs[0].spec.examples.ids)
        draw_losses(
            view,
            runs,
            perplexity_cells,
            f"{task_name(runs[0].spec.examples.task)}, {len(runs[0].spec.examples.ids)} windows of {tokens} tokens; "
            f"masks calibrated on {view.task.title} or on nothing. Brackets: 95 % intervals that resample windows; the "
            "factor compares the same windows, so its interval is narrower."
            + (f" Not measured: {' and '.join(lacking)}." if lacking else ""),
        )


def solutions_section(view: Frame) -> None:
    """Draw the table of stored losses on the solutions of a task without options, or the command that measures them."""
    st.markdown("#### Loss on the given solutions")
    runs = largest_group(
        view.runs,
        view.model,
        view.task.name,
        lambda spec: protocol_of(spec) == SolutionProtocol() and spec.examples.task == view.task.name,
    )
    if not runs:
        st.caption("How much more do the right solutions surprise the pruned model? Nothing is stored yet. Measure:")
        dense = ["python", "-m", "cap_viz", "solution-loss", "--task", view.task.name]
        dense += [] if view.model.id == DEFAULT_MODEL else ["--model", view.model.id]
        pruned = [*dense, "--criterion", SUBJECT, "--sparsity", "0.2"]
        st.code(f"{shlex.join(dense)}\n{shlex.join(pruned)}", language="sh", wrap_lines=True)
        return
    draw_losses(
        view,
        runs,
        solution_cells,
        f"{len(runs[0].spec.examples.ids)} examples, mean loss per token in nats; masks calibrated on "
        f"{view.task.title} or on nothing. Brackets: 95 % intervals that resample examples; the difference compares "
        "the same examples, with a paired t-test that is not corrected for the number of rows.",
    )


def draw_losses(view: Frame, runs: list[StoredRun[EvalSpec]], cells: Cells, caption: str) -> None:
    """Draw a row per mask, dense first; masks are compared with dense where that is stored."""
    try:
        reports = {run.spec.mask: report_of(view.store, run) for run in runs}
    except CapVizError as error:
        problem(str(error))
        return
    rows = []
    for mask in sorted(reports, key=lambda mask: ("", 0.0) if mask is None else (mask.criterion, mask.sparsity)):
        title = "dense" if mask is None else criterion_title(mask.criterion)
        found = cells(reports[mask], None if mask is None else reports.get(None))
        rows.append({"Weights": title, "Sparsity": sparsity_cell(mask), **found})
    st.table(pd.DataFrame(rows), border="horizontal", hide_index=True)
    st.caption(escaped(caption))


def sparsity_cell(mask: MaskSpec | None) -> str:
    if mask is None:
        return "–"
    return percent(mask.sparsity, 0) + ("" if counts_weights(mask.criterion) else " of heads")


def perplexity_cells(report: EvalReport, dense: EvalReport | None) -> dict[str, str]:
    found = perplexity_of(report)
    return {
        "Perplexity": f"{found.value:.2f} [{found.ci.low:.2f}, {found.ci.high:.2f}]",
        "Against dense": "–" if dense is None else difference_words(paired(report, dense, TOKEN_LOSS), TOKEN_LOSS),
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
