"""Loss on given text, dense and under masks, from stored runs: perplexity on running text, loss on worked solutions."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import pandas as pd
import streamlit as st

from cap_viz.dashboard.components.job_card import active_jobs, jobs_view, ticking
from cap_viz.dashboard.components.panels import escaped, percent, problem
from cap_viz.dashboard.components.submission import refusal, submit_all
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.names import task_name
from cap_viz.dashboard.stored import levels_in, paired_in
from cap_viz.errors import CapVizError
from cap_viz.evaluation.verdict import difference_words
from cap_viz.progress import duration
from cap_viz.pruning import criterion_title
from cap_viz.runs.comparison import SUBJECT, counts_weights
from cap_viz.runs.fixed_question import RIVAL, RunningText, missing_text, text_seconds, tokens_of
from cap_viz.runs.mask_provenance import largest_group
from cap_viz.runs.protocols import PerplexityProtocol, SolutionProtocol, protocol_of
from cap_viz.runs.spec import EvalSpec, MaskSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.settings import SPARSITIES

MEASURE_TEXT = "compare_measure_text"


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
    jobs_view(jobs, key="compare_text")
    refusal(MEASURE_TEXT)
    if jobs or not wanted:
        return
    masks = {spec: spec.mask for spec in wanted if spec.mask is not None}
    titles = {
        spec: f"Running text under {criterion_title(mask.criterion)} at {percent(mask.sparsity, 0)}"
        for spec, mask in masks.items()
    }
    seconds, text = text_seconds(view.runs, wanted), escaped(task_name(wanted[0].examples.task))
    st.button(
        f"Measure running text ({f'{len(wanted)} runs' if seconds is None else duration(seconds)})",
        key=MEASURE_TEXT,
        on_click=submit_all,
        args=(titles, MEASURE_TEXT),
        help=f"Perplexity of {text} under CAP’s and Wanda’s masks: {len(wanted)} runs.",
    )


def perplexity_section(view: Frame) -> None:
    """Draw the table of stored perplexities under the masks of the page's task; nothing where there are none."""
    runs = largest_group(
        view.runs, view.model, view.task.name, lambda spec: isinstance(protocol_of(spec), PerplexityProtocol)
    )
    if not runs:
        return
    with st.expander("Perplexity on running text"):
        windows, n = runs[0].spec.examples, len(runs[0].spec.examples.ids)
        stored = {run.spec.mask.criterion for run in runs if run.spec.mask is not None}
        lacking = [criterion_title(name) for name in (SUBJECT, RIVAL) if name not in stored]
        loss_table(
            view.store,
            runs,
            f"{task_name(windows.task)}, {n} windows of {tokens_of(runs[0].spec) // n} tokens; masks calibrated on "
            f"{view.task.title} or on nothing. Brackets: 95 % intervals that resample windows; the factor compares the "
            "same windows, so its interval is narrower."
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
        dense = shlex.join(
            ["python", "-m", "cap_viz", "solution-loss", "--task", view.task.name, "--model", view.model.id]
        )
        st.code(f"{dense}\n{dense} --criterion {SUBJECT} --sparsity 0.2", language="sh", wrap_lines=True)
        return
    loss_table(
        view.store,
        runs,
        f"{len(runs[0].spec.examples.ids)} examples, mean loss in nats per token; masks calibrated on "
        f"{view.task.title} or on nothing. Brackets: 95 % intervals that resample examples; the difference compares "
        "the same examples.",
    )


def loss_table(store: Store, runs: Sequence[StoredRun[EvalSpec]], caption: str) -> None:
    """Draw a row per mask, dense first and compared with it where it is stored."""
    by_mask = {run.spec.mask: run for run in runs}
    order = sorted(by_mask, key=lambda mask: ("", 0.0) if mask is None else (mask.criterion, mask.sparsity))
    try:
        rows = [loss_row(store, by_mask[mask], by_mask.get(None)) for mask in order]
    except CapVizError as error:
        problem(str(error))
        return
    st.table(pd.DataFrame(rows), border="horizontal", hide_index=True)
    st.caption(escaped(caption))


def loss_row(store: Store, run: StoredRun[EvalSpec], dense: StoredRun[EvalSpec] | None) -> dict[str, str]:
    """Return the cells of one run. Raises `CapVizError` if it is damaged, or on other texts than the dense one."""
    mask, ((measure, level),) = run.spec.mask, levels_in(store, run).items()
    against = "–"
    if mask is not None and dense is not None:
        against = difference_words(paired_in(store, run, dense, measure), measure)
    return {
        "Weights": "dense" if mask is None else criterion_title(mask.criterion),
        "Sparsity": "–" if mask is None else sparsity_words(mask),
        measure.title: f"{measure.words(level.value)} [{measure.interval_words(level.ci)}]",
        "Against dense": against,
    }


def sparsity_words(mask: MaskSpec) -> str:
    return percent(mask.sparsity, 0) + ("" if counts_weights(mask.criterion) else " of heads")
