"""Further sections of the Prune page: provenance and downloads, flipped items, importance behind CAP, notes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import streamlit as st

from cap_viz.dashboard.components.panels import (
    age,
    caution,
    escaped,
    examples_fact,
    problem,
    provenance,
)
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.prune.accuracy import Column, differences
from cap_viz.dashboard.prune.audit import audit_download, item_detail
from cap_viz.dashboard.prune.controls import KEYS
from cap_viz.dashboard.prune.export import comparison_json, items_csv
from cap_viz.dashboard.prune.figures import (
    importance_histogram,
)
from cap_viz.dashboard.prune.flips import filters_of, flip_table, flips_of
from cap_viz.dashboard.prune.setting import DENSE, PruneSetting
from cap_viz.dashboard.prune.words import named
from cap_viz.dashboard.prune.zeros import widest_outlier
from cap_viz.dashboard.state import choose, link_here
from cap_viz.dashboard.stored import scores_of, texts_of
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.errors import CapVizError
from cap_viz.figures.theme import CONFIG
from cap_viz.pruning import CRITERIA, importance
from cap_viz.pruning.options import USUAL
from cap_viz.runs.run_labels import ablation_words
from cap_viz.runs.store import DamagedRun, Store
from cap_viz.tasks import load_task
from cap_viz.tasks.example_sets import companion_task

# An outlier gets a warning when the other heads span less than this share of the scale of I.
NARROW = 0.6
ACCURACY_NOTES = (
    "At 10 and 20 % most differences are within noise on a few hundred items: look at the interval, not the bar.",
    "Items come in the task's order and took no part in scoring heads or measuring activations.",
)


def provenance_row(view: Frame, setting: PruneSetting, columns: Sequence[Column]) -> None:
    """Draw the provenance, the link to this view and the downloads."""
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


def prune_facts(setting: PruneSetting, columns: Sequence[Column]) -> list[str]:
    measured = "no accuracy" if is_text(setting) else f"accuracy on {len(setting.evaluation.ids)} items"
    facts = [setting.model.id, setting.evaluation.task, measured]
    if setting.scores is not None and any(CRITERIA[name].needs_scores for name in setting.criteria):
        scores = setting.scores
        facts.append(
            f"head scores from {examples_fact(scores.examples)} ({scores.estimator}, {scores.ablation} ablation, "
            f"{setting.options.metric})"
        )
    facts += [words for words in mask_facts(setting) if words]
    newest = [column.run.created for column in columns if column.run is not None]
    return [*facts, age(max(newest))] if newest else facts


def mask_facts(setting: PruneSetting) -> list[str]:
    """Facts about the masks besides criterion, sparsity and scope; empty strings for those that do not apply."""
    needs = [CRITERIA[name] for name in setting.criteria]
    options = [setting.options_of(name) for name in setting.criteria]
    measured = any(one.measures(each) for each, one in zip(options, needs, strict=True))
    other_text = setting.calibration is not None and setting.calibration.task != setting.evaluation.task
    return [
        "OWL allocation" if any(each.allocation for each in options) else "",
        *sorted({f"pattern {each.pattern}" for each in options if each.pattern}),
        f"activations on {setting.calibration.task}" if measured and other_text and setting.calibration else "",
        *(f"{one.title} reads {companion_task(setting.model)} as well" for one in needs if one.needs_text),
        f"control seed {setting.options.control_seed}" if any(one.needs_seed for one in needs) else "",
    ]


def is_text(setting: PruneSetting) -> bool:
    return load_task(setting.evaluation.task).kind == "text"


def no_accuracy_section(setting: PruneSetting) -> None:
    """Explain why a text task has no accuracy, and offer tasks that have one."""
    task = load_task(setting.evaluation.task)
    st.markdown("##### What it costs")
    with st.container(border=True):
        st.markdown(f"**{task.title} has no accuracy**")
        st.markdown(
            "Each of its examples has one given continuation, so there are no options a pruned model could get right "
            "or wrong. What is removed is shown beside this and needs no answers: masks built on the head scores and "
            "activations of these examples."
        )
        st.caption("To see what pruning costs, choose a task with options:")
        for name in ("mini_science", "arc_easy"):
            st.button(
                load_task(name).title,
                key=f"prune_task_{name}",
                type="tertiary",
                icon=":material/arrow_forward:",
                on_click=choose,
                args=({"task": name},),
            )


def downloads(setting: PruneSetting, columns: Sequence[Column]) -> None:
    if is_text(setting):
        st.caption("There are no accuracies to hand out for text.")
        return
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


def flips_section(store: Store, setting: PruneSetting, columns: Sequence[Column]) -> None:
    """Draw the table of items with changed answers, and the selected one in full."""
    st.markdown("##### Items whose answer changes", help="✓ right, ✗ wrong: the option each model finds most likely.")
    ready = [column for column in columns if column.report is not None and not column.partial]
    if len(ready) < 2:
        st.caption("Appears when dense and a pruned model are measured.")
        return
    try:
        flips = flips_of(ready)
    except CapVizError as error:
        problem(str(error))
        return
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
    picked = st.dataframe(
        table,
        hide_index=True,
        height=min(420, 38 + 35 * len(table)),
        key=f"prune_flip_table_{len(table)}",
        on_select="rerun",
        selection_mode="single-row",
        column_config={
            "Item": st.column_config.NumberColumn(width=52),
            "Question": st.column_config.TextColumn(width=240),
            **{name: st.column_config.TextColumn(width=150) for name in table.columns[2:-1]},
        },
    )
    rows = picked["selection"]["rows"]
    example = (texts or {}).get(shown[rows[0]].id) if rows and rows[0] < len(shown) else None
    if example is not None:
        item_detail(example, ready)
    elif texts:
        st.caption("Select a row to see the prompt and every option's log-likelihood.")
    if texts is not None:
        audit_download(store, ready)


def importance_section(view: Frame, setting: PruneSetting) -> None:
    """Draw the histogram of importance I, if one of the criteria scales head effects to it."""
    if setting.scores is None or not any(CRITERIA[name].scales_importance for name in setting.criteria):
        return
    words = ablation_words(setting.scores)
    st.markdown(
        "##### Importance behind CAP",
        help="CAP multiplies every weight's magnitude with the importance I of its head: the mean effect of "
        f"{words.doing} the head{words.by}, scaled so that the least helpful head has I = 1 and the most helpful "
        "I = 10.",
    )
    run = view.store.get(setting.scores)
    if run is None:
        st.caption("The head scores are no longer stored.")
        return
    try:
        effect = scores_of(view.store, run).mean_effect(setting.options.metric or USUAL["metric"])
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


def notes_section(setting: PruneSetting) -> None:
    """Draw the caveats of these numbers and the rules of the criteria."""
    st.markdown("##### Reading these numbers")
    said = [*criteria_notes(setting), *(() if is_text(setting) else ACCURACY_NOTES)]
    st.markdown("\n".join(f"- {one}" for one in said))
    rules = [
        f"{named(name)}: {CRITERIA[name].summary} *{CRITERIA[name].source}*" for name in dict.fromkeys(setting.criteria)
    ]
    st.markdown("  \n".join(rules))
    if not is_text(setting):
        st.caption(f"Chance: {GLOSSARY['chance']}")


def criteria_notes(setting: PruneSetting) -> list[str]:
    """Collect the criteria's notes under the chosen spread; a note not shared by all is prefixed with its criteria."""
    whose: dict[str, list[str]] = {}
    shown = [CRITERIA[name] for name in dict.fromkeys(setting.criteria)]
    for one in shown:
        for note in one.notes(setting.options_of(one.name).pattern):
            whose.setdefault(note, []).append(one.title)
    return [note if len(titles) == len(shown) else f"{' and '.join(titles)}: {note}" for note, titles in whose.items()]
