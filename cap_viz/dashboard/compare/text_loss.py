"""Loss on given text, dense and under masks, from stored runs: perplexity on running text, loss on worked solutions."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import streamlit as st

from cap_viz.attribution.results import EvalReport
from cap_viz.dashboard.components.job_card import active_jobs, job_view, ticking
from cap_viz.dashboard.components.panels import escaped, p_words, percent, problem
from cap_viz.dashboard.components.submission import submit_run
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.names import task_name
from cap_viz.dashboard.stored import report_of
from cap_viz.defaults import N_CALIBRATION, SPARSITIES
from cap_viz.errors import CapVizError, UsageError
from cap_viz.evaluation.eval_metrics import TOKEN_LOSS, paired
from cap_viz.evaluation.perplexity import TEXT_TASKS, perplexity_of
from cap_viz.evaluation.solution_loss import solution_loss_of
from cap_viz.figures.theme import signed
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.progress import duration
from cap_viz.pruning import criterion_title
from cap_viz.runs.comparison import SUBJECT, counts_weights
from cap_viz.runs.fixed_question import RIVAL, TEXTS, RunningText, text_specs
from cap_viz.runs.mask_provenance import largest_group
from cap_viz.runs.prefix_reuse import computing_seconds
from cap_viz.runs.protocols import PerplexityProtocol, SolutionProtocol, protocol_of
from cap_viz.runs.run_queries import runs_of
from cap_viz.runs.spec import EvalSpec, MaskSpec
from cap_viz.runs.store import StoredRun
from cap_viz.runs.verdict import difference_words
from cap_viz.tasks import load_task
from cap_viz.tasks.readable import controls_for

Reports = Mapping[MaskSpec | None, EvalReport]
REFUSED = "compare_refused"


# Measuring running text -------------------------------------------------------------------------------------------


def measure_text(view: Frame, text: RunningText | None) -> None:
    """Offer to measure what the verdict's row of running text lacks, or say why this machine cannot."""
    if text is not None and len(text.answers) == len(SPARSITIES):
        return
    try:
        wanted = missing_text(view)
    except CapVizError as error:
        st.caption(f"Running text is not measured: {escaped(str(error))}")
        return
    active = bool(active_jobs(lambda spec: spec in wanted))
    ticking(lambda: text_jobs(view, wanted), live=active)


def missing_text(view: Frame) -> list[EvalSpec]:
    """Return the perplexity runs under CAP's and Wanda's usual masks that are not stored.

    Raises `CapVizError` where they cannot be computed here.
    """
    if not view.installed:
        raise UsageError(view.install_hint)
    texts = [name for name in controls_for(view.model.id) if name in TEXTS]
    text = next((name for name in texts if load_task(name).is_local()), None)
    if text is None:
        raise UsageError("there is none on this machine that this model can read.")
    if not view.task.is_local():
        raise UsageError(f"masks need calibration questions of {view.task.title}, which is not on this machine.")
    specs = text_specs(view.model, view.task.name, text)
    scores = {spec.mask.scores for spec in specs if spec.mask is not None and spec.mask.scores is not None}
    if any(view.store.get(one) is None for one in scores):
        raise UsageError(f"CAP needs exact head scores on {N_CALIBRATION} calibration questions; score them on Heads.")
    return [spec for spec in specs if view.store.get(spec) is None]


def text_jobs(view: Frame, wanted: Sequence[EvalSpec]) -> None:
    jobs = active_jobs(lambda spec: spec in wanted)
    for job in jobs:
        job_view(job, key="compare_text")
    if refused := st.session_state.pop(REFUSED, ""):
        problem(refused)
    if jobs or not wanted:
        return
    text = escaped(task_name(wanted[0].examples.task))
    st.button(
        f"Measure running text ({cost(view, wanted)})",
        key="compare_measure_text",
        on_click=submit,
        args=(wanted,),
        help=f"Perplexity of {text} under CAP’s and Wanda’s masks: {len(wanted)} runs.",
    )


def cost(view: Frame, wanted: Sequence[EvalSpec]) -> str:
    """Estimate the time from this model's stored perplexities, by their tokens."""
    paces = [
        seconds / tokens_of(run.spec)
        for run in runs_of(view.runs, EvalSpec)
        if run.spec.model == view.model and tokens_of(run.spec) and (seconds := computing_seconds(run)) is not None
    ]
    return duration(float(np.median(paces)) * sum(map(tokens_of, wanted))) if paces else f"{len(wanted)} runs"


def tokens_of(spec: EvalSpec) -> int:
    protocol = protocol_of(spec)
    return protocol.length * len(spec.examples.ids) if isinstance(protocol, PerplexityProtocol) else 0


def submit(wanted: Sequence[EvalSpec]) -> None:
    try:
        for spec in wanted:
            assert spec.mask is not None
            whose = f"{criterion_title(spec.mask.criterion)} at {percent(spec.mask.sparsity, 0)}"
            submit_run(spec, f"Running text under {whose}")
    except CapVizError as error:
        st.session_state[REFUSED] = str(error)


# Stored losses ----------------------------------------------------------------------------------------------------


def perplexity_section(view: Frame) -> None:
    """Draw the table of stored perplexities under the masks of the page's task, or the commands that measure them."""
    runs = largest_group(
        view.runs, view.model, view.task.name, lambda spec: isinstance(protocol_of(spec), PerplexityProtocol)
    )
    with st.expander("Perplexity on running text"):
        text = next((name for name in TEXT_TASKS if load_task(name).is_local()), TEXT_TASKS[0])
        if not runs:
            st.caption("What do these masks cost on text that asks for no reasoning? Nothing is stored yet. Measure:")
            commands(view, ["perplexity", "--text", text], pruned=["--task", view.task.name])
            return
        reports = readable(view, runs)
        if reports is None:
            return
        spec = runs[0].spec
        protocol = protocol_of(spec)
        assert isinstance(protocol, PerplexityProtocol)
        st.table(table(reports, perplexity_cells), border="horizontal", hide_index=True)
        stored = {mask.criterion for mask in reports if mask is not None}
        lacking = [criterion_title(name) for name in (SUBJECT, RIVAL) if name not in stored]
        st.caption(
            f"{escaped(task_name(spec.examples.task))}, {len(spec.examples.ids)} windows of {protocol.length} tokens; "
            f"masks calibrated on {escaped(view.task.title)} or on nothing. Brackets: 95 % intervals that resample "
            "windows; the factor compares the same windows, so its interval is narrower."
            + (f" Not measured: {' and '.join(lacking)}." if lacking else "")
        )


def solutions_section(view: Frame) -> None:
    """Draw the table of stored losses on the solutions of a task without options, or the commands that measure them."""
    runs = largest_group(
        view.runs,
        view.model,
        view.task.name,
        lambda spec: protocol_of(spec) == SolutionProtocol() and spec.examples.task == view.task.name,
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


def commands(view: Frame, command: list[str], pruned: list[str] | None = None) -> None:
    """Show the shell commands that measure dense and one mask, enough for a first difference."""
    model = [] if view.model.id == DEFAULT_MODEL else ["--model", view.model.id]
    dense = ["python", "-m", "cap_viz", *command, *model]
    masked = [*dense, "--criterion", SUBJECT, "--sparsity", "0.2", *(pruned or [])]
    st.code(f"{shlex.join(dense)}\n{shlex.join(masked)}", language="sh", wrap_lines=True)
