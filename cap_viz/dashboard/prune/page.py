"""The Prune page: controls, what pruning costs, the pruned model as files, and what is removed."""

from __future__ import annotations

import json
from functools import cache

import streamlit as st

from cap_viz.dashboard.components.accessibility import scroll_to_landing
from cap_viz.dashboard.components.measured_column import named, origin
from cap_viz.dashboard.components.panels import age, empty, heading, problem, provenance
from cap_viz.dashboard.components.share import Download, share
from cap_viz.dashboard.frame import Frame, frame
from cap_viz.dashboard.names import basis_words, model_name
from cap_viz.dashboard.prune.accuracy import Columns, accuracy_section, current_columns, flips_section
from cap_viz.dashboard.prune.changed_roles import changed_roles_section
from cap_viz.dashboard.prune.controls import controls
from cap_viz.dashboard.prune.export import export_section, items_csv
from cap_viz.dashboard.prune.setting import PruneSetting
from cap_viz.dashboard.prune.written import written_section
from cap_viz.dashboard.prune.zeros import importance_section, zeros_section
from cap_viz.dashboard.selection import choose
from cap_viz.errors import CapVizError
from cap_viz.pruning import CRITERIA
from cap_viz.runs.mask_provenance import provenance_of
from cap_viz.settings import ASSETS
from cap_viz.tasks import Task, load_task

# Measured by `benchmarks.pruned_cost`.
COST = ASSETS / "pruned_cost.json"
ACCURACY_NOTES = (
    "At 10 and 20 % most differences are within noise on a few hundred items: look at the interval, not the mark.",
    "Items come in the task's order and took no part in scoring heads or measuring activations.",
)


def prune_page() -> None:
    """Draw the page: numbers before machinery."""
    view = frame("Prune")
    heading("Prune", "What does pruning cost, and does it help to know the heads?")
    facts = st.container()
    try:
        setting = controls(view)
    except CapVizError as error:
        problem(str(error))
        st.stop()
    has_accuracy = view.task.kind != "text"
    columns = current_columns(view, setting) if has_accuracy else []
    with facts:
        provenance_row(view, setting, columns)
    if has_accuracy:
        accuracy_section(view, setting, columns)
    else:
        no_accuracy_section(view.task)
    export_section(view, setting)
    zeros, scale = st.columns([7, 6], gap="medium")
    with zeros:
        zeros_section(view, setting)
    with scale:
        importance_section(view, setting)
    changed_roles_section(view, setting)
    if has_accuracy:
        flips_section(view, columns)
    if view.task.writing is not None:
        written_section(view, setting)
    notes_section(setting, has_accuracy=has_accuracy)
    scroll_to_landing()


def provenance_row(view: Frame, setting: PruneSetting, columns: Columns) -> None:
    """Draw where the numbers come from, and the Share menu."""
    facts, menu = st.columns([8, 1.3], vertical_alignment="center")
    with facts:
        provenance(prune_facts(setting, columns), origin=origin_of(view, columns))
    ready = [column for column in columns if column.report is not None and not column.partial]
    name = f"prune-{setting.evaluation.task}-{round(100 * setting.sparsity)}.csv"
    files, said = [], ["Nothing measured yet." if view.task.kind != "text" else "Running text has no accuracies."]
    if ready:
        files = [Download("Items (CSV)", lambda: items_csv(view.store, ready), name, "text/csv")]
        said = ["One row per model and item: prompt, options, answer. Specs and intervals: Compare and Runs."]
    with menu:
        share("prune", files, said=said)


def origin_of(view: Frame, columns: Columns) -> str | None:
    if any(column.active for column in columns):
        return "running"
    if any(column.stale for column in columns):
        return "stale"
    origins = sorted({said for column in columns if (said := origin(view, column))}, reverse=True)
    return " and ".join(origins) or None


def prune_facts(setting: PruneSetting, columns: Columns) -> list[str]:
    """Say on how much was measured, what each mask is built on, and how old the newest number is."""
    facts = [f"{len(setting.evaluation.ids)} questions"] if columns else []
    masks = [column.wanted.mask for column in columns if column.wanted is not None and column.wanted.mask is not None]
    built = {CRITERIA[mask.criterion].title: basis_words(provenance_of(mask)) for mask in masks}
    same = len(set(built.values())) == 1
    facts += set(built.values()) if same else [f"{title}: {words}" for title, words in built.items()]
    newest = [column.run.created for column in columns if column.run is not None]
    return [*facts, age(max(newest))] if newest else facts


def no_accuracy_section(task: Task) -> None:
    """Explain why a text task has no accuracy, and offer tasks that have one."""
    said = "Its examples have no options to get right or wrong. To see what pruning costs, choose another task:"
    empty(f"{task.title} has no accuracy", said)
    with st.container(horizontal=True):
        for name in ("mini_science", "arc_easy"):
            st.button(load_task(name).title, key=f"prune_task_{name}", on_click=choose, args=({"task": name},))


# How to read the numbers -----------------------------------------------------------------------------------------


def notes_section(setting: PruneSetting, *, has_accuracy: bool) -> None:
    """Draw the caveats of these numbers and the rules of the criteria."""
    with st.expander("Reading these numbers"):
        said = [*criteria_notes(setting), *(ACCURACY_NOTES if has_accuracy else ())]
        st.markdown("\n".join(f"- {one}" for one in said))
        rules = [f"{named(name)}: {CRITERIA[name].summary} *{CRITERIA[name].source}*" for name in setting.criteria]
        st.markdown("  \n".join(rules))
        st.caption(cost_sentence(setting.criteria))


def criteria_notes(setting: PruneSetting) -> list[str]:
    """Collect the criteria's notes under the chosen spread; a note not shared by all is prefixed with its criteria."""
    whose: dict[str, list[str]] = {}
    for one in (CRITERIA[name] for name in setting.criteria):
        for note in one.notes(setting.options_of(one.name).pattern):
            whose.setdefault(note, []).append(one.title)
    shared = len(setting.criteria)
    return [note if len(titles) == shared else f"{' and '.join(titles)}: {note}" for note, titles in whose.items()]


@cache
def cost_sentence(criteria: tuple[str, ...]) -> str:
    """State what the kinds of zeros the criteria make save in file size and time, as measured on one model."""
    cost, structured = json.loads(COST.read_text(encoding="utf-8")), {CRITERIA[name].structured for name in criteria}

    def saved(made: str) -> str:
        return f"file ×{cost[made]['bytes_ratio']:.2f}, time ×{cost[made]['seconds_ratio']:.2f}"

    parts = []
    if False in structured:
        parts.append(f"At 50 % zeros: {saved('unstructured 50 %')}.")
    if True in structured:
        few, half = saved("whole heads 20 %"), saved("whole heads 50 %")
        parts.append(f"Without 20 % of the heads: {few}; without 50 %: {half}.")
    where = f"{model_name(cost['model'])}, {cost['tokens']} tokens, {cost['threads']} threads"
    return f"{' '.join(parts)} Measured on {where}."
