"""Loss on given text, dense and under masks, from stored runs: perplexity on running text, loss on worked solutions."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import pandas as pd
import streamlit as st

from cap_viz.dashboard.components.job_card import offer_jobs
from cap_viz.dashboard.components.panels import escaped, percent, problems_told
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.names import job_title, task_name
from cap_viz.dashboard.stored import levels_in, paired_in
from cap_viz.errors import CapVizError
from cap_viz.evaluation.verdict import difference_words
from cap_viz.progress import duration
from cap_viz.pruning import criterion_title
from cap_viz.runs.comparison import SUBJECT, counts_weights
from cap_viz.runs.fixed_question import RunningText, missing_text, text_seconds, tokens_of
from cap_viz.runs.mask_provenance import largest_group
from cap_viz.runs.protocols import PerplexityProtocol, SolutionProtocol, protocol_of
from cap_viz.runs.spec import EvalSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.settings import SPARSITIES


def measure_text(view: Frame, text: RunningText | None) -> None:
    """Offer to measure what the verdict's row of running text lacks, or say why this machine cannot."""
    if text is not None and len(text.answers) == len(SPARSITIES):
        return
    try:
        wanted = missing_text(view.store, view.model, view.task)
    except CapVizError as error:
        st.caption(f"Running text: {escaped(str(error))}")
        return
    if not wanted:
        return
    seconds, source = text_seconds(view.runs, wanted), escaped(task_name(wanted[0].examples.task))
    offer_jobs(
        {spec: job_title(spec) for spec in wanted},
        f"Measure running text ({f'{len(wanted)} runs' if seconds is None else duration(seconds)})",
        f"Perplexity of {source} under CAP’s and Wanda’s masks: {len(wanted)} runs.",
        key="compare_measure_text",
        blocked=view.install_hint,
    )


def perplexity_section(view: Frame) -> None:
    """Draw the table of stored perplexities under the masks of the page's task; nothing where there are none."""
    runs = largest_group(
        view.runs, view.model, view.task.name, lambda spec: isinstance(protocol_of(spec), PerplexityProtocol)
    )
    if runs:
        with st.expander("Perplexity on running text"):
            windows = runs[0].spec.examples
            n, length = len(windows.ids), tokens_of(runs[0].spec) // len(windows.ids)
            loss_table(view, runs, f"{task_name(windows.task)}, {n} windows of {length} tokens", "windows")


def solutions_section(view: Frame) -> None:
    """Draw the table of stored losses on the solutions of a task without options, or the command that measures them."""
    st.markdown("#### Loss on the given solutions")
    name, wanted = view.task.name, (SolutionProtocol(), view.task.name)
    runs = largest_group(view.runs, view.model, name, lambda spec: (protocol_of(spec), spec.examples.task) == wanted)
    if runs:
        loss_table(view, runs, f"{len(runs[0].spec.examples.ids)} examples, mean loss in nats per token", "examples")
        return
    st.caption("How much more do the right solutions surprise the pruned model? Nothing is stored yet. Measure:")
    dense = shlex.join(["python", "-m", "cap_viz", "solution-loss", "--task", name, "--model", view.model.id])
    st.code(f"{dense}\n{dense} --criterion {SUBJECT} --sparsity 0.2", language="sh", wrap_lines=True)


def loss_table(view: Frame, runs: Sequence[StoredRun[EvalSpec]], about: str, items: str) -> None:
    """Draw a row per mask, dense first and compared with it where it is stored; `items` are windows or examples."""
    by_mask = {run.spec.mask: run for run in runs}
    order = sorted(by_mask, key=lambda mask: ("", 0.0) if mask is None else (mask.criterion, mask.sparsity))
    made = f"masks calibrated on {view.task.title} or on nothing"
    with problems_told():
        rows = [loss_row(view.store, by_mask[mask], by_mask.get(None)) for mask in order]
        st.table(pd.DataFrame(rows), border="horizontal", hide_index=True)
        st.caption(
            escaped(f"{about}; {made}. Brackets: 95 % intervals over {items}; dense is compared on the same {items}.")
        )


def loss_row(store: Store, run: StoredRun[EvalSpec], dense: StoredRun[EvalSpec] | None) -> dict[str, str]:
    """Return the cells of one run. Raises `CapVizError` if it is damaged, or on other texts than the dense one."""
    mask, ((measure, level),) = run.spec.mask, levels_in(store, run).items()
    against, in_weights = "–", mask is None or counts_weights(mask.criterion)
    if mask is not None and dense is not None:
        against = difference_words(paired_in(store, run, dense, measure), measure)
    return {
        "Weights": "dense" if mask is None else criterion_title(mask.criterion),
        "Sparsity": "–" if mask is None else f"{percent(mask.sparsity, 0)}{'' if in_weights else ' of heads'}",
        measure.title: f"{measure.words(level.value)} [{measure.interval_words(level.ci)}]",
        "Against dense": against,
    }
