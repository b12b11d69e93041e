"""Body of the Overview: one task in a row (accuracy, head map, cost of pruning), the others as one table."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from cap_viz.attribution.effect_metrics import METRICS
from cap_viz.dashboard.components.head_map import head_map
from cap_viz.dashboard.components.install_model import install_model
from cap_viz.dashboard.components.measured_column import swatch, title_of
from cap_viz.dashboard.components.panels import (
    caution,
    empty,
    escaped,
    heading,
    listed,
    percent,
    problem,
    provenance_of,
    tile,
)
from cap_viz.dashboard.components.verdict import verdict_line, verdict_of
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.sentences import reliability_sentence
from cap_viz.dashboard.names import metric_title, model_name
from cap_viz.dashboard.overview.data import METRIC, PrunedCell, PruningTable, TaskSummary, pruning_table, summaries
from cap_viz.dashboard.selection import go, go_button
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.evaluation.eval_metrics import ACC
from cap_viz.figures.accuracy import accuracy_strip
from cap_viz.figures.head_grid import Grid
from cap_viz.figures.prune import DENSE
from cap_viz.figures.theme import signed
from cap_viz.figures.thumbnail import thumbnail
from cap_viz.progress import duration
from cap_viz.pruning import criterion_title
from cap_viz.runs.run_labels import ablation_words
from cap_viz.runs.run_queries import runs_of
from cap_viz.runs.sample_plan import seconds_each, timed_run
from cap_viz.runs.spec import ScoreSpec
from cap_viz.settings import ASSETS
from cap_viz.stats import ChanceTest
from cap_viz.tasks import Task

TALLEST = 372
# In pixels: the three parts fit side by side from a width of 1,280 on; the last takes the rest.
NUMBERS_WIDTH, MAP_WIDTH = 176, 372
NAME_WIDTH = 150
# Calibration examples of the first run offered, as preset on Heads.
FIRST_EXAMPLES = 16
TOP_HEADS = 3
# Session key of the head picked on the map: pages are switched in a script run, not in a callback.
PICKED = "overview_picked"


def overview(view: Frame) -> None:
    if PICKED in st.session_state:
        layer, head = st.session_state.pop(PICKED)
        go("heads", params={"layer": layer, "head": head})
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="bottom"):
        with st.container(width="content"):
            heading("Overview", "What the model can do, which heads it needs, and what pruning costs.")
        with st.container(width="content"):
            go_button("New here? Take the lesson", "learn", key="overview_learn")
    install_model(view)
    found = summaries(view)
    lead = next(summary for summary in found if summary.task == view.task)
    costs = None if lead.dense_run is None or lead.dense is None else pruning_table(view, lead.task, lead.dense_run)
    problems = [sentence for summary in found for sentence in summary.problems]
    for sentence in dict.fromkeys([*problems, *(costs.problems if costs else ())]):
        problem(sentence)
    sources(view, found)
    task_row(view, lead, costs)
    others = [summary for summary in found if summary is not lead]
    if others:
        task_table(others)


def sources(view: Frame, found: list[TaskSummary]) -> None:
    runs = [run for one in found for run in (one.dense_run, one.score_run) if run is not None]
    ways = sorted({f"{run.spec.estimator}, {run.spec.ablation} ablation" for run in runs_of(runs, ScoreSpec)})
    if runs:
        provenance_of(runs, view.runs, [model_name(view.model.id), *ways, metric_title(METRIC).lower()])


def task_row(view: Frame, summary: TaskSummary, costs: PruningTable | None) -> None:
    """Draw one task's parts side by side; on a narrow screen they stack instead of shrinking."""
    with st.container(border=True, horizontal=True, gap="medium"):
        with st.container(width=NUMBERS_WIDTH):
            st.markdown("#### What it can do", help=f"{summary.task.title}: {summary.task.summary}")
            accuracy(view, summary)
        with st.container(width=MAP_WIDTH, gap="xsmall"):
            st.markdown("#### Which heads it needs", help=GLOSSARY["effect"])
            needed_heads(view, summary)
        with st.container(width="stretch"):
            st.markdown("#### What pruning costs", help=GLOSSARY["sparsity"])
            pruning(view, summary, costs)


def accuracy(view: Frame, summary: TaskSummary) -> None:
    test, task = summary.dense, summary.task
    label = f"Accuracy, {task.title}"
    if task.kind == "text":
        if summary.loss is not None:
            mean, low, high = (float(value) for value in (summary.loss.mean, summary.loss.low, summary.loss.high))
            tile(f"Loss, {task.title}", f"{mean:.2f}", f"{low:.2f} – {high:.2f} nats per token", term="loss")
        st.caption("A text has no options, so there is no accuracy.")
        return
    if test is None:
        tile(label, "–", "not evaluated yet", term="dense")
        first_step(view, task, "Ask the dense model", f"{view.n} questions", "prune")
        return
    tile(label, percent(test.accuracy), ACC.interval_words(test.ci), term="dense")
    st.html(accuracy_strip(test.accuracy, (test.ci.low, test.ci.high), test.chance))
    if test.clearly_above:
        st.caption(f"{test.n} questions; guessing: {percent(test.chance)}.", help=GLOSSARY["chance"])
    else:
        caution(f"Not clearly above guessing ({percent(test.chance)}).")


def first_step(view: Frame, task: Task, label: str, amount: str, page: str) -> None:
    """Link to the page that takes a first measurement, with its amount, if it can run here."""
    hindrance = view.hindrance(task)
    if not hindrance:
        go_button(label, page, key=f"overview_first_{page}_{task.name}")
    st.caption(escaped(hindrance or amount))


def needed_heads(view: Frame, summary: TaskSummary) -> None:
    task, heads, run = summary.task, summary.heads, summary.score_run
    if heads is None or run is None:
        empty("No head scores yet", "They show which heads the task needs.")
        timed = timed_run(view.runs, view.model, task.name)
        time = "" if timed is None else f", about {duration(FIRST_EXAMPLES * seconds_each(timed))}"
        first_step(view, task, "Score its heads", f"up to {FIRST_EXAMPLES} examples{time}", "heads")
        return
    words, unit, estimate = ablation_words(run.spec), METRICS[METRIC].unit, heads.estimate
    head_map(
        Grid.of(estimate, ends=words.ends),
        key="overview_map",
        unit=unit,
        label=f"Effect of {words.doing} each head{words.by} on {task.title}; Enter opens a head",
        on_pick=pick,
        tallest=TALLEST,
    )
    beyond = int(estimate.survives.sum())
    approximate = " By gradient, an approximation." if run.spec.estimator == "gradient" else ""
    st.markdown(
        f"**{beyond} of {estimate.survives.size}** heads have an effect beyond chance.{approximate}",
        help=GLOSSARY["fdr"],
    )
    st.caption(reliability_sentence(heads), help=GLOSSARY["reliability"])
    with st.container(horizontal=True, gap="small"):
        for layer, head in estimate.top_heads(TOP_HEADS):
            label, place = f"L{layer}H{head} ({signed(estimate.mean[layer, head], 2)})", {"layer": layer, "head": head}
            go_button(label, "heads", key=f"overview_head_{layer}_{head}", params=place)


def pick(layer: int, head: int) -> None:
    st.session_state[PICKED] = (layer, head)


def pruning(view: Frame, summary: TaskSummary, costs: PruningTable | None) -> None:
    if summary.dense is None or costs is None:
        if summary.task.kind == "text":
            st.caption("Compare shows what it costs on running text.")
        else:
            empty("No pruned accuracies yet", "Compare CAP with Wanda on the Prune page.")
        go_button("Prune it", "prune", key="overview_prune")
        return
    st.table(costs_table(costs, summary.dense.accuracy), border="horizontal")
    st.caption(pruning_words(costs, summary.dense), help=GLOSSARY["best"])
    if (verdict := verdict_of(view)) is not None:
        verdict_line(verdict)
    with st.container(gap=None):
        go_button("Prune it", "prune", key="overview_prune")
        go_button("Compare all criteria", "compare", key="overview_compare")


def pruning_words(costs: PruningTable, dense: ChanceTest) -> str:
    half_width = 100 * (dense.ci.high - dense.ci.low) / 2
    said = [f"% right of {dense.n} questions, each ± {half_width:.0f}. Bold: clearly the best."]
    if not dense.clearly_above:
        said = [f"% right of {dense.n} questions. The dense model is near guessing, so none is best."]
    if missing := [criterion_title(name) for name, cells in costs.rows.items() if None in cells]:
        said.append(f"–: not measured ({listed(missing)}).")
    return " ".join(said)


def costs_table(costs: PruningTable, dense: float) -> pd.DataFrame:
    """Table of accuracies in percent, a row per criterion and one for dense; cells are Markdown, the best one bold."""
    rows = {
        f"{swatch(name)} {criterion_title(name)}": [cost_cell(cell) for cell in cells]
        for name, cells in costs.rows.items()
    }
    rows[f"{swatch(DENSE)} {title_of(DENSE)}"] = [f"{100 * dense:.1f}"] * len(costs.sparsities)
    return pd.DataFrame.from_dict(rows, orient="index", columns=[percent(one, 0) for one in costs.sparsities])


def cost_cell(cell: PrunedCell | None) -> str:
    value = "–" if cell is None else f"{100 * cell.accuracy:.1f}"
    return f"**{value}**" if cell is not None and cell.best else value


def task_table(summaries: Sequence[TaskSummary]) -> None:
    helps, hurts = ablation_words(*(one.score_run.spec for one in summaries if one.score_run is not None)).ends
    st.html(ASSETS / "overview.css")
    st.markdown("#### Other tasks", help=GLOSSARY["reliability"])
    st.caption(f"Maps as above, each on a scale of its own; teal: {hurts}, brown: {helps}. Tasks compares them.")
    for summary in summaries:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            with st.container(width=NAME_WIDTH):
                name, heads = summary.task.name, summary.heads
                layer, head = (None, None) if heads is None else heads.estimate.top_head
                params = {"task": name, "layer": layer, "head": head}
                go_button(summary.task.title, "heads", key=f"overview_heads_{name}", params=params)
            st.html(row_html(summary), width="stretch")


def row_html(summary: TaskSummary) -> str:
    """Write accuracy (of a text the loss), how it stands to guessing, reliability and map of a task."""
    test, loss, heads = summary.dense, summary.loss, summary.heads
    level, against, reliability, image = "not evaluated yet", "", "no head scores yet", ""
    if loss is not None:
        level, against = f"Loss <b>{loss.mean:.2f}</b> ({loss.low:.2f} – {loss.high:.2f})", "nats per token"
    elif test is not None:
        level = f"<b>{percent(test.accuracy)}</b> ({ACC.interval_words(test.ci)})"
        above = "above" if test.clearly_above else "<b>not clearly above</b>"
        against = f"{above} guessing ({percent(test.chance)})"
    if heads is not None:
        known = "unknown" if heads.reliability is None else f"{heads.reliability.full:.2f}"
        reliability = f"reliability {known}, n = {heads.estimate.n}"
        image = thumbnail(heads.estimate.mean, heads.estimate.unclear, f"Head map of {summary.task.title}")
    cells = "".join(f"<span>{cell}</span>" for cell in (level, against, reliability))
    return f'<div class="cv-row">{cells}{image}</div>'
