"""What the Prune page shows: zeros at once, accuracy as it arrives, the items that change, and how to read it all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import streamlit as st

from cap_viz.errors import CapVizError
from cap_viz.jobs import Job, shared_queue
from cap_viz.pruning import CRITERIA, importance
from cap_viz.spec import EvalSpec, ProfileSpec, RunSpec
from cap_viz.stats import above_chance
from cap_viz.store import DamagedRun
from cap_viz.ui.figures import CONFIG
from cap_viz.ui.frame import Frame
from cap_viz.ui.jobs_view import ended_view, job_sentence, job_view, ticking
from cap_viz.ui.loading import scores_of, texts_of
from cap_viz.ui.panels import (
    GLOSSARY,
    age,
    caution,
    duration,
    empty,
    escaped,
    examples_fact,
    note,
    percent,
    problem,
    provenance,
    signed,
)
from cap_viz.ui.prune_accuracy import Column, Difference, column_of, cost_of, differences, share_of
from cap_viz.ui.prune_controls import KEYS
from cap_viz.ui.prune_export import comparison_json, items_csv
from cap_viz.ui.prune_figures import (
    accuracy_whiskers,
    colour_of,
    importance_histogram,
    zeros_by_layer,
    zeros_by_matrix,
)
from cap_viz.ui.prune_flips import filters_of, flip_table, flips_of
from cap_viz.ui.prune_setting import DENSE, Setting, counting_spec, mask_spec, title_of
from cap_viz.ui.prune_zeros import Zeros, widest_outlier, zeros_of
from cap_viz.ui.state import go_button, link_here

LAST, REFUSED = "prune_last", "prune_refused"
# An outlier is worth a note when the other heads share less than this part of the scale of I.
NARROW = 0.6


def swatch(name: str) -> str:
    """The criterion's colour as a dot for Markdown."""
    return f':color[●]{{foreground="{colour_of(name)}"}}'


def named(name: str) -> str:
    return f"{swatch(name)} **{title_of(name)}**"


# Provenance ------------------------------------------------------------------------------------------------------


def provenance_row(view: Frame, setting: Setting, columns: Sequence[Column]) -> None:
    """Where the numbers come from, with the link to this view and the files."""
    facts, share = st.columns([8, 1.3], vertical_alignment="center")
    with facts:
        provenance(prune_facts(setting, columns), origin=origin_of(columns))
    with share, st.popover("Share", icon=":material/ios_share:", width="stretch"):
        st.caption("Link to this view")
        st.code(link_here(KEYS), language=None, wrap_lines=True)
        downloads(setting, columns)


def origin_of(columns: Sequence[Column]) -> str | None:
    if any(column.active for column in columns):
        return "running"
    if any(column.stale for column in columns):
        return "stale"
    origins = {column.run.origin for column in columns if column.run is not None}
    return None if not origins else "live" if "live" in origins else "precomputed"


def prune_facts(setting: Setting, columns: Sequence[Column]) -> list[str]:
    facts = [setting.model.id, setting.evaluation.task, f"accuracy on {len(setting.evaluation.ids)} items"]
    if setting.scores is not None and any(CRITERIA[name].needs_scores for name in setting.criteria):
        scores = setting.scores
        facts.append(
            f"head scores from {examples_fact(scores.examples)} ({scores.estimator}, {scores.ablation} ablation, "
            f"{setting.metric})"
        )
    newest = [column.run.provenance["created"] for column in columns if column.run is not None]
    return [*facts, age(max(newest))] if newest else facts


def downloads(setting: Setting, columns: Sequence[Column]) -> None:
    ready = [column for column in columns if column.report is not None and not column.partial]
    if not ready:
        st.caption("Nothing measured yet.")
        return
    name = f"prune-{setting.evaluation.task}-{round(100 * setting.sparsity)}"
    st.download_button(
        "Items (CSV)",
        lambda: items_csv(ready),
        f"{name}.csv",
        "text/csv",
        on_click="ignore",
        key="prune_csv",
        width="stretch",
    )
    st.download_button(
        "Comparison with specs (JSON)",
        lambda: comparison_json(ready, differences(ready) if ready[0].name == DENSE else []),
        f"{name}.json",
        "application/json",
        on_click="ignore",
        key="prune_json",
        width="stretch",
    )
    st.caption("One row per item with what each model chose; and accuracies, intervals and the full specs.")


# Zeros -----------------------------------------------------------------------------------------------------------


def zeros_section(view: Frame, setting: Setting) -> None:
    """Which weights go, before anything is measured."""
    jobs = counting_jobs(view, setting)
    ticking(lambda: draw_zeros(view, setting, len(jobs)), live=bool(jobs))


def draw_zeros(view: Frame, setting: Setting, n_active: int) -> None:
    title, switch = st.columns([3, 2], vertical_alignment="center")
    title.markdown(
        "##### What is removed", help="Zeros are counted from stored tables or from the rule, without a run."
    )
    with switch:
        detail = st.segmented_control(
            "Detail",
            ["layers", "matrices"],
            default="layers",
            required=True,
            key="prune_detail",
            label_visibility="collapsed",
            width="stretch",
        )
    jobs = counting_jobs(view, setting)
    if len(jobs) != n_active:
        st.rerun()
    found = [zeros for name in dict.fromkeys(setting.criteria) if (zeros := zeros_or_sentence(view, setting, name))]
    for job in jobs:
        st.progress(job.progress.share, text=f"{escaped(job.title)}: {job_sentence(job)}")
    if not found:
        return
    by_layer = detail != "matrices"
    figure = zeros_by_layer(found, setting.sparsity) if by_layer else zeros_by_matrix(found)
    st.plotly_chart(figure, config=CONFIG, key="prune_zeros_figure", alt=zeros_in_words(found, setting))
    st.table(zeros_table(found), border="horizontal", hide_index=True)
    sources = ", ".join(f"{title_of(one.criterion)} {one.source}" for one in found)
    st.caption(f"Dotted: {percent(setting.sparsity, 0)} asked. Counted from: {sources}.")


def counting_jobs(view: Frame, setting: Setting) -> list[Job]:
    """Jobs that count zeros nobody has counted yet. They are started here: a few seconds each."""
    jobs: list[Job] = []
    for name in dict.fromkeys(setting.criteria):
        spec = missing_count(view, setting, name)
        if spec is None or not view.installed:
            continue
        job = shared_queue().find(spec) or started(spec, f"Counting the zeros of {title_of(name)}")
        if job is not None and job.active:
            jobs.append(job)
    return jobs


def started(spec: RunSpec, title: str) -> Job | None:
    """The job, or None while the queue is full."""
    try:
        return shared_queue().submit(spec, title)
    except CapVizError:
        return None


def missing_count(view: Frame, setting: Setting, name: str) -> ProfileSpec | None:
    """The run that would count a criterion's zeros, if nothing else can."""
    try:
        if zeros_of(view.store, view.runs, mask_spec(setting, name), setting.model) is not None:
            return None
        spec = counting_spec(setting, name)
    except CapVizError:
        return None
    return None if spec is None or view.store.get(spec) is not None else spec


def zeros_or_sentence(view: Frame, setting: Setting, name: str) -> Zeros | None:
    """Zeros of a criterion, or in their place why they are not there."""
    try:
        zeros = zeros_of(view.store, view.runs, mask_spec(setting, name), setting.model)
        spec = counting_spec(setting, name) if zeros is None else None
    except CapVizError as error:
        problem(str(error))
        if CRITERIA[name].needs_scores and setting.scores is None:
            go_button("Score the heads", "pages/heads.py", key=f"prune_to_heads_{name}", icon=":material/grid_on:")
        return None
    if zeros is not None:
        return zeros
    job = None if spec is None else shared_queue().find(spec)
    if not view.installed:
        empty(f"Zeros of {title_of(name)} are not stored", view.install_hint)
    elif job is not None and not job.active:
        ended_view(job)
        if st.button("Count again", key=f"prune_recount_{name}"):
            started(job.spec, job.title)
            st.rerun()
    elif spec is None:
        empty(f"Zeros of {title_of(name)}", "They appear with the first measurement of this model.")
    elif job is None:
        empty(f"Zeros of {title_of(name)}", "The queue is full; they are counted when there is room.")
    return None


def zeros_in_words(found: Sequence[Zeros], setting: Setting) -> str:
    said = [f"{title_of(one.criterion)} reaches {percent(one.reached)} zeros" for one in found]
    return f"Zeros per layer at {percent(setting.sparsity, 0)} asked: {', '.join(said)}."


def zeros_table(found: Sequence[Zeros]) -> pd.DataFrame:
    """Reached sparsity and the split between attention and MLP; cells are Markdown."""
    return pd.DataFrame(
        {
            "": [named(one.criterion) for one in found],
            "Reached": [percent(one.reached, 2) for one in found],
            "Attention": [part_words(one, "attention") for one in found],
            "MLP": [part_words(one, "mlp") for one in found],
            "Zeros in attention": [percent(one.attention_share_of_zeros, 0) for one in found],
        }
    )


def part_words(zeros: Zeros, part: str) -> str:
    return percent(zeros.parts[part]) if part in zeros.parts else "untouched"


# Accuracy --------------------------------------------------------------------------------------------------------


def current_columns(view: Frame, setting: Setting) -> list[Column]:
    """Dense and the criteria as they stand now; remembers what is shown, for when the controls move on."""
    last: dict[str, EvalSpec] = st.session_state.setdefault(LAST, {})
    columns = [column_of(view.store, shared_queue(), setting, name, last.get(name)) for name in setting.columns]
    for column in columns:
        if column.fresh and column.wanted is not None:
            last[column.name] = column.wanted
    return columns


def accuracy_section(view: Frame, setting: Setting, columns: Sequence[Column]) -> None:
    """What the model loses: measured results, or those arriving."""
    active = [column.name for column in columns if column.active]
    ticking(lambda: draw_accuracy(view, setting, active), live=bool(active))


def draw_accuracy(view: Frame, setting: Setting, active: Sequence[str]) -> None:
    columns = current_columns(view, setting)
    if [column.name for column in columns if column.active] != list(active):
        st.rerun()
    st.markdown(
        "##### What it costs",
        help="Accuracy (acc) on evaluation items that took no part in choosing weights: the option with the highest "
        "log-likelihood is right. acc_norm: the highest per character (length-normalised), as in "
        "lm-evaluation-harness. Intervals are 95 % (Wilson).",
    )
    for place, column in zip(st.columns(len(columns), gap="small"), columns, strict=True):
        with place, st.container(gap="xxsmall"):
            accuracy_tile(setting, column)
    measuring(view, setting, columns)
    if not any(column.report is not None for column in columns):
        return
    st.plotly_chart(
        accuracy_whiskers(columns, chance_of(columns)),
        config=CONFIG,
        key="prune_accuracy_figure",
        alt="; ".join(in_words(column) for column in columns),
    )
    found = differences(columns)
    if any(one.comparison is not None for one in found):
        st.table(difference_table(found), border="horizontal", hide_index=True)
        badge = ":orange-badge[stale] " if any(column.stale for column in columns) else ""
        st.caption(badge + reading(found))
    below_chance(columns)


def accuracy_tile(setting: Setting, column: Column) -> None:
    st.markdown(f"{named(column.name)} {tile_badge(column)}")
    if column.report is None:
        st.metric("Accuracy (acc)", "–", label_visibility="collapsed")
        st.caption(waiting_words(setting, column))
        return
    acc, norm = share_of(column.report.correct), share_of(column.report.correct_norm)
    st.metric("Accuracy (acc)", percent(acc.value), label_visibility="collapsed")
    st.caption(
        f"{limits(acc.ci.low, acc.ci.high)} · {acc.right} of {acc.n}  \n"
        f"acc_norm {percent(norm.value)}  \n{limits(norm.ci.low, norm.ci.high)}"
    )
    if column.stale:
        st.caption(f":orange[{escaped(column.stale)}]")


def limits(low: float, high: float) -> str:
    return f"{100 * low:.1f}–{100 * high:.1f} %"


def tile_badge(column: Column) -> str:
    if column.partial and column.report is not None and column.wanted is not None:
        return f":blue-badge[{len(column.report)} of {len(column.wanted.examples.ids)} so far]"
    if column.active:
        return (
            ":blue-badge[running]"
            if column.job is not None and column.job.state == "running"
            else ":gray-badge[queued]"
        )
    if column.stale:
        return ":orange-badge[stale]"
    if column.run is not None:
        return f":{'violet' if column.run.origin == 'live' else 'gray'}-badge[{column.run.origin}]"
    return ""


def waiting_words(setting: Setting, column: Column) -> str:
    if column.problem:
        return escaped(column.problem)
    if column.active:
        return "No answers yet."
    where = "" if column.name == DENSE else f" at {percent(setting.sparsity, 0)}"
    return f"Not measured{where} on these {len(setting.evaluation.ids)} items."


def measuring(view: Frame, setting: Setting, columns: Sequence[Column]) -> None:
    """The button that measures what is missing, with its cost; and the jobs under way."""
    for column in columns:
        if column.job is not None and column.active:
            job_view(column.job, key="prune")
        elif column.job is not None and not column.fresh:
            ended_view(column.job)
    if refused := st.session_state.pop(REFUSED, ""):
        problem(refused)
    missing = [column for column in columns if column.measurable]
    if not missing:
        return
    if not view.installed:
        note(view.install_hint)
        return
    button, words = st.columns([2, 5], vertical_alignment="center")
    with button:
        st.button(
            "Measure accuracy",
            type="primary",
            key="prune_measure",
            width="stretch",
            on_click=submit,
            args=([(column.wanted, job_title(setting, column)) for column in missing],),
        )
    words.caption(cost_sentence(view, missing))


def job_title(setting: Setting, column: Column) -> str:
    pruned = "the dense model" if column.name == DENSE else f"{column.title} at {percent(setting.sparsity, 0)}"
    return f"Accuracy of {pruned}, {len(setting.evaluation.ids)} items of {setting.evaluation.task}"


def submit(wanted: Sequence[tuple[EvalSpec, str]]) -> None:
    try:
        for spec, title in wanted:
            shared_queue().submit(spec, title)
    except CapVizError as error:
        st.session_state[REFUSED] = str(error)


def cost_sentence(view: Frame, missing: Sequence[Column]) -> str:
    cost = cost_of(view.runs, missing)
    names = ", ".join(column.title if column.name != DENSE else "the dense model" for column in missing)
    time = (
        "no stored run tells how long it takes"
        if cost.seconds is None
        else f"about {duration(cost.seconds)} by past runs"
    )
    return f"Measures {names}: {cost.items} questions in all, {time}. You can leave the page; it goes on."


def chance_of(columns: Sequence[Column]) -> float | None:
    for column in columns:
        if column.report is not None:
            return float((1 / column.report.questions.n_options).mean())
    return None


def in_words(column: Column) -> str:
    if column.report is None:
        return f"{column.title} not measured"
    share = share_of(column.report.correct)
    return f"{column.title} {percent(share.value)} ({limits(share.ci.low, share.ci.high)})"


def difference_table(found: Sequence[Difference]) -> pd.DataFrame:
    """Paired differences in percentage points; cells are Markdown."""
    return pd.DataFrame(
        {
            "Same items": [pair_words(one) for one in found],
            "Points": [points_words(one) for one in found],
            "McNemar p": ["" if one.comparison is None else p_words(one.comparison.p_value) for one in found],
            "Lost": ["" if one.comparison is None else str(one.comparison.only_b) for one in found],
            "Gained": ["" if one.comparison is None else str(one.comparison.only_a) for one in found],
        }
    )


def pair_words(one: Difference) -> str:
    return f"{swatch(one.first)} {title_of(one.first)} − {swatch(one.second)} {title_of(one.second)}"


def points_words(one: Difference) -> str:
    if one.comparison is None:
        return one.reason
    result = one.comparison
    so_far = f", {result.n} items" if one.provisional else ""
    interval = f"{signed(100 * result.ci.low, 1)} to {signed(100 * result.ci.high, 1)}"
    return f"**{signed(100 * result.difference, 1)}** ({interval}{so_far})"


def p_words(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def reading(found: Sequence[Difference]) -> str:
    """Whether the differences stand out, and what could have been seen."""
    known = [one for one in found if one.comparison is not None]
    if not known:
        return ""
    clear = [one for one in known if one.comparison is not None and one.comparison.p_value < 0.05]
    smallest = max(one.comparison.minimum_detectable for one in known if one.comparison is not None)
    items = min(one.comparison.n for one in known if one.comparison is not None)
    said = (
        "No difference stands out from noise."
        if not clear
        else "Clear at p < 0.05: " + ", ".join(f"{title_of(one.first)} − {title_of(one.second)}" for one in clear) + "."
    )
    return (
        f"{said} With {items} items, differences below about {100 * smallest:.0f} points usually go unseen "
        "(80 % power). Lost: right → wrong; gained: wrong → right. p is exact."
    )


def below_chance(columns: Sequence[Column]) -> None:
    """The banner: accuracy that guessing could reach says nothing about pruning."""
    for column in columns:
        if column.report is None or column.partial:
            continue
        test = above_chance(column.report.correct, column.report.questions.n_options)
        if not test.clearly_above:
            whose = "The dense model" if column.name == DENSE else column.title
            caution(
                f"{whose} is not clearly above chance here ({percent(test.accuracy)} against {percent(test.chance)}, "
                f"p = {test.p_value:.2g}): "
                + ("differences on this task mean little." if column.name == DENSE else "what is left may be guessing.")
            )


# Items -----------------------------------------------------------------------------------------------------------


def flips_section(setting: Setting, columns: Sequence[Column]) -> None:
    """The items whose answer changes."""
    st.markdown("##### Items whose answer changes", help="✓ right, ✗ wrong: the option each model finds most likely.")
    ready = [column for column in columns if column.report is not None and not column.partial]
    if len(ready) < 2:
        st.caption("Appears when dense and a pruned model are measured.")
        return
    flips = flips_of(ready)
    filters = {f"{one.title} ({len(one.flips)})": one for one in filters_of(flips, ready)}
    chosen = st.pills(
        "Filter",
        list(filters),
        default=next(iter(filters)),
        required=True,
        key="prune_flips",
        label_visibility="collapsed",
    )
    shown = filters[chosen].flips if chosen in filters else flips
    texts = texts_of(setting.evaluation.task, tuple(flip.id for flip in shown)) if shown else {}
    stale = [column for column in ready if column.stale]
    if stale:
        st.caption(f":orange-badge[stale] {escaped('; '.join(f'{column.title}: {column.stale}' for column in stale))}")
    if not shown:
        st.caption("No item answers this description.")
        return
    if texts is None:
        st.caption(
            "The questions' texts are not on this machine, so ids stand here. Set CAP_VIZ_DATA to a folder with "
            f"{setting.evaluation.task}/train.jsonl and test.jsonl to see them."
        )
    table = flip_table(shown, ready, texts or {})
    st.dataframe(
        table,
        hide_index=True,
        height=min(420, 38 + 35 * len(table)),
        key="prune_flip_table",
        column_config={
            "Item": st.column_config.NumberColumn(width=52),
            "Question": st.column_config.TextColumn(width=240),
            **{name: st.column_config.TextColumn(width=150) for name in table.columns[2:-1]},
        },
    )


# Importance and notes ----------------------------------------------------------------------------------------------


def importance_section(view: Frame, setting: Setting) -> None:
    """How CAP scales head effects, when CAP is one of the criteria."""
    if setting.scores is None or not any(CRITERIA[name].needs_scores for name in setting.criteria):
        return
    st.markdown(
        "##### Importance behind CAP",
        help="CAP multiplies every weight's magnitude with the importance I of its head: the mean effect of removing "
        "the head, scaled so that the least helpful head has I = 1 and the most helpful I = 10.",
    )
    run = view.store.get(setting.scores)
    if run is None:
        st.caption("The head scores are no longer stored.")
        return
    try:
        effect = scores_of(view.store, run).mean_effect(setting.metric)
    except DamagedRun as error:
        problem(str(error))
        return
    scaled = importance(effect)
    outlier = widest_outlier(scaled)
    st.plotly_chart(importance_histogram(scaled, outlier), config=CONFIG, key="prune_importance", alt="Histogram of I")
    low, high = np.quantile(scaled, [0.05, 0.95])
    words = f"Nine heads in ten lie between I = {low:.1f} and {high:.1f}: a factor of {high / low:.1f}."
    if outlier.range_left < NARROW:
        caution(
            f"One head (layer {outlier.layer}, head {outlier.head}) stretches the scale: without it the effects span "
            f"{outlier.range_left:.0%} of their range. {words} CAP is then close to global magnitude."
        )
    else:
        st.caption(words + " The closer to 1, the more CAP resembles global magnitude.")


def notes_section(setting: Setting) -> None:
    """What these numbers do not say."""
    st.markdown("##### Reading these numbers")
    said = [
        "Zeros are scattered over the matrices (unstructured). File size and speed stay the same; only formats and "
        "kernels made for sparse weights would gain.",
        "At 10 and 20 % most differences are within noise on a few hundred items: look at the interval, not the bar.",
        "Items come in the task's order and took no part in scoring heads or measuring activations.",
    ]
    if any(CRITERIA[name].threshold == "per row" for name in setting.criteria):
        said.insert(
            1,
            "Wanda takes whole numbers of weights from every row, rounded down, and so reaches slightly less than "
            "asked.",
        )
    st.markdown("\n".join(f"- {one}" for one in said))
    rules = [
        f"{named(name)}: {CRITERIA[name].summary} *{CRITERIA[name].source}*" for name in dict.fromkeys(setting.criteria)
    ]
    st.markdown("  \n".join(rules))
    st.caption(f"Chance: {GLOSSARY['chance']}")
