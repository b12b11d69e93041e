"""Overview page: the chosen task on one screen, the others as cards below, all maps on one colour scale."""

from __future__ import annotations

import streamlit as st

from cap_viz.dashboard.components.panels import (
    age,
    caution,
    empty,
    escaped,
    origin_words,
    percent,
    percent_interval,
    problem,
    provenance,
    tile,
)
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.names import METRIC_UNITS
from cap_viz.dashboard.overview.cards import coloured, effect_grid, task_cards
from cap_viz.dashboard.overview.data import (
    TaskSummary,
    accuracy_points,
    best_sentence,
    dense_seconds,
    score_seconds,
)
from cap_viz.dashboard.state import go_button
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.errors import CapVizError
from cap_viz.figures.accuracy import accuracy_by_sparsity
from cap_viz.figures.head_grid import colour_limit, grid_width, head_grid
from cap_viz.figures.theme import CONFIG, criterion_colour, criterion_glyph, display_order, signed
from cap_viz.progress import duration
from cap_viz.pruning import criterion_title
from cap_viz.runs.run_labels import ablation_words
from cap_viz.runs.run_queries import runs_of
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.store import StoredRun
from cap_viz.tasks import Task

TALLEST = 372
FIGURE_HEIGHT = 224
# In pixels: the three parts fit side by side from a width of 1,280 on; the last takes the rest.
NUMBERS_WIDTH, MAP_WIDTH = 220, 336
# Calibration examples of the first run offered, as preset on Heads.
FIRST_EXAMPLES = 16


def overview(view: Frame, summaries: list[TaskSummary], metric: str) -> None:
    for sentence in dict.fromkeys(sentence for summary in summaries for sentence in summary.problems):
        problem(sentence)
    if all(summary.is_empty for summary in summaries):
        nothing_stored(view)
        return
    provenance(facts(view, summaries, metric), origin=origins(view, summaries))
    limit = colour_limit(*(summary.heads.estimate.mean for summary in summaries if summary.heads is not None))
    lead = next(summary for summary in summaries if summary.task == view.task)
    task_row(view, lead, metric, limit)
    others = [summary for summary in summaries if summary is not lead]
    if others:
        task_cards(others, limit, heading="Other tasks")
    st.caption(
        "● survives the false-discovery control · ▲ △ beyond the shared colour scale (filled: survives) · "
        "faded: interval includes zero · hollow marks: within noise of dense (paired McNemar p ≥ 0.05) · "
        "whiskers: 95 % intervals"
    )


def facts(view: Frame, summaries: list[TaskSummary], metric: str) -> list[str]:
    runs = shown_runs(summaries)
    newest = max((run.created for run in runs), default="")
    scored = runs_of(runs, ScoreSpec)
    estimators, ablations = (sorted({getattr(run.spec, name) for run in scored}) for name in ("estimator", "ablation"))
    measured = [" and ".join(estimators), f"{' and '.join(ablations)} ablation"] if scored else []
    return [view.model.id, *measured, f"{metric}, {METRIC_UNITS[metric]}", f"newest {age(newest)}"]


def origins(view: Frame, summaries: list[TaskSummary]) -> str:
    return " and ".join(sorted({origin_words(run, view.runs) for run in shown_runs(summaries)}, reverse=True))


def shown_runs(summaries: list[TaskSummary]) -> list[StoredRun]:
    return [run for one in summaries for run in (one.dense_run, one.score_run) if run is not None]


def nothing_stored(view: Frame) -> None:
    empty(
        f"Nothing is stored yet for {view.model.id}",
        "Open Heads and start a run there, or compute in the shell: "
        f"python -m cap_viz score --model {view.model.id} --task {view.task.name} --n 16",
    )
    go_button("Start on the Heads page", "pages/heads.py", key="overview_start", icon=":material/arrow_forward:")


def task_row(view: Frame, summary: TaskSummary, metric: str, limit: float) -> None:
    """Draw one task's parts side by side; on a narrow screen they stack instead of shrinking."""
    with st.container(border=True, horizontal=True, gap="medium"):
        with st.container(width=NUMBERS_WIDTH):
            st.markdown(f"#### {summary.task.title}", help=summary.task.summary)
            dense_tile(view, summary)
            reliability_tile(summary)
            with st.container(gap=None):
                links(summary)
        with st.container(width=MAP_WIDTH):
            head_map(view, summary, metric, limit)
        with st.container(width="stretch"):
            pruning_figure(summary)


def dense_tile(view: Frame, summary: TaskSummary) -> None:
    test, task = summary.dense, summary.task
    if task.kind == "text":
        if summary.loss is not None:
            mean, low, high = (float(value) for value in (summary.loss.mean, summary.loss.low, summary.loss.high))
            tile("Loss (dense)", f"{mean:.2f}", f"{low:.2f} – {high:.2f} nats per token", term="loss")
        return
    if test is None:
        tile("Accuracy (dense)", "–", "not evaluated yet", term="dense")
        seconds = dense_seconds(view, task, view.n)
        first_step(view, task, "Ask the dense model", f"{view.n} questions", seconds, "pages/prune.py")
        return
    tile("Accuracy (dense)", percent(test.accuracy), percent_interval(test.ci), term="dense")
    if test.clearly_above:
        st.caption(f"{test.n} questions; clearly above chance ({percent(test.chance)}).")
    else:
        caution(f"Not clearly above chance ({percent(test.chance)}): pruning results say little here.")


def reliability_tile(summary: TaskSummary) -> None:
    heads = summary.heads
    if heads is None or summary.score_run is None:
        return
    found, n = heads.reliability, heads.estimate.n
    if found is None:
        tile("Ranking reliability", "–", f"n = {n} is too few", term="reliability")
        return
    tile("Ranking reliability", f"{found.full:.2f}", f"n = {n}", term="reliability")
    layer, head = heads.estimate.top_head
    approximate = " By gradient, an approximation." if summary.score_run.spec.estimator == "gradient" else ""
    st.caption(
        f"{int(heads.estimate.survives.sum())} of {heads.estimate.survives.size} heads survive; largest effect: "
        f"layer {layer}, head {head} ({signed(float(heads.estimate.mean[layer, head]), 2)}).{approximate}"
    )


def links(summary: TaskSummary) -> None:
    task = summary.task.name
    chosen = {"task": task}
    if summary.heads is not None:
        layer, head = summary.heads.estimate.top_head
        go_button(
            "Inspect its heads",
            "pages/heads.py",
            key=f"overview_heads_{task}",
            selection=chosen,
            params={"layer": str(layer), "head": str(head)},
            icon=":material/grid_on:",
        )
        go_button(
            "Prune by them",
            "pages/prune.py",
            key=f"overview_prune_{task}",
            selection=chosen,
            icon=":material/content_cut:",
        )
    if summary.pruned:
        go_button(
            "Compare all criteria",
            "pages/compare.py",
            key=f"overview_compare_{task}",
            selection=chosen,
            icon=":material/show_chart:",
        )


def first_step(view: Frame, task: Task, label: str, amount: str, seconds: float | None, page: str) -> None:
    """Link to the page that takes a first measurement, with its amount and estimated time, if it can run here."""
    if not view.installed or not task.is_local():
        hint = (
            view.install_hint or f"The texts of {task.title} are not on this machine; set CAP_VIZ_DATA to measure it."
        )
        st.caption(escaped(hint))
        return
    name = page.removeprefix("pages/").removesuffix(".py")
    go_button(
        label,
        page,
        key=f"overview_first_{name}_{task.name}",
        selection={"task": task.name},
        icon=":material/arrow_forward:",
    )
    st.caption(amount if seconds is None else f"{amount}, about {duration(seconds)}")


def first_examples(task: Task) -> int:
    """Return the number of calibration examples of a first run: as preset on Heads, or all if there are fewer."""
    try:
        return min(FIRST_EXAMPLES, len(task.splits.calibration)) if task.is_local() else FIRST_EXAMPLES
    except CapVizError:
        # Malformed files: Heads reports them.
        return FIRST_EXAMPLES


def head_map(view: Frame, summary: TaskSummary, metric: str, limit: float) -> None:
    task = summary.task
    if summary.heads is None or summary.score_run is None:
        empty("No head scores yet", "They show which heads the task needs.")
        n = first_examples(task)
        first_step(view, task, "Score its heads", f"{n} examples", score_seconds(view, task, n), "pages/heads.py")
        return
    words, unit = ablation_words(summary.score_run.spec), METRIC_UNITS[metric]
    grid = effect_grid(summary.heads.estimate, words, limit, unit)
    st.plotly_chart(
        head_grid(grid, unit=unit, tallest=TALLEST),
        key=f"overview_grid_{task.name}",
        width=grid_width(*grid.shape, TALLEST),
        config=CONFIG,
        alt=f"Effect of {words.doing} each head{words.by} on {task.title}",
    )


def pruning_figure(summary: TaskSummary) -> None:
    if summary.dense is None or not summary.pruned:
        if summary.task.kind == "text":
            return
        empty("No pruned accuracies yet", "Compare CAP with Wanda on the Prune page; finished evaluations appear here.")
        return
    test, points = summary.dense, accuracy_points(summary.pruned)
    st.caption(legend({point.criterion for point in points}))
    figure = accuracy_by_sparsity(
        points,
        dense=(test.accuracy, test.ci.low, test.ci.high),
        chance=test.chance,
        height=FIGURE_HEIGHT,
    )
    st.plotly_chart(
        figure,
        key=f"overview_pruned_{summary.task.name}",
        config=CONFIG,
        alt=f"Accuracy after pruning on {summary.task.title}, by criterion and sparsity",
    )
    if summary.best:
        st.caption("Best criterion at each sparsity", help=GLOSSARY["best"])
        st.caption("  \n".join(best_sentence(best) for best in summary.best))


def legend(criteria: set[str]) -> str:
    """Return a legend to show above the figure: Plotly's own cuts long names on a narrow page."""
    return " · ".join(
        f"{coloured(criterion_colour(name), criterion_glyph(name))} {criterion_title(name)}"
        for name in display_order(criteria)
    )
