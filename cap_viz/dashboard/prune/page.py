"""The Prune page: controls, what pruning costs, the pruned model as files, and what is removed."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from cap_viz.attribution.results import EvalReport
from cap_viz.dashboard.components.accessibility import scroll_to_landing
from cap_viz.dashboard.components.measured_column import Column, origin
from cap_viz.dashboard.components.paired import differences
from cap_viz.dashboard.components.panels import age, heading, problem, provenance
from cap_viz.dashboard.components.share import share
from cap_viz.dashboard.frame import Frame, frame
from cap_viz.dashboard.names import metric_title, run_title, task_name
from cap_viz.dashboard.prune.accuracy import CHOICES, accuracy_section, current_columns
from cap_viz.dashboard.prune.controls import SCOPE_NAMES, controls
from cap_viz.dashboard.prune.downloads import downloads
from cap_viz.dashboard.prune.export import export_section
from cap_viz.dashboard.prune.flips import flips_section
from cap_viz.dashboard.prune.notes import importance_section, notes_section
from cap_viz.dashboard.prune.setting import PruneSetting
from cap_viz.dashboard.prune.written import written_section
from cap_viz.dashboard.prune.zeros import zeros_section
from cap_viz.dashboard.selection import choose
from cap_viz.errors import CapVizError
from cap_viz.pruning import CRITERIA
from cap_viz.pruning.options import USUAL
from cap_viz.tasks import Task, load_task
from cap_viz.tasks.example_sets import companion_task

Columns = Sequence[Column[EvalReport]]


def prune_page() -> None:
    """Draw the page: numbers before machinery."""
    view = frame("Prune")
    heading(
        "Prune",
        "What does pruning cost, and does it help to know the heads?",
    )
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
        accuracy_section(view, setting)
    else:
        no_accuracy_section(view.task)
    export_section(view, setting)
    zeros, scale = st.columns([7, 6], gap="medium")
    with zeros:
        zeros_section(view, setting)
    with scale:
        importance_section(view, setting)
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
    name = f"prune-{setting.evaluation.task}-{round(100 * setting.sparsity)}"
    files, said = [], ["Nothing measured yet." if view.task.kind != "text" else "Text has no accuracies to hand out."]
    if ready:
        found = differences(CHOICES, ready) if len(ready) == len(columns) else []
        files = downloads(name, ready, found)
        said = ["One row per item with what each model chose; and accuracies, intervals and the full specs."]
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
    """Facts behind the numbers, and every choice that is not the usual one."""
    needs = [CRITERIA[name] for name in dict.fromkeys(setting.criteria)]
    options, chosen = setting.options, [setting.options_of(one.name) for one in needs]
    facts = [f"{len(setting.evaluation.ids)} questions"] if columns else []
    if setting.scores is not None and any(one.needs_scores for one in needs):
        facts.append(f"head scores: {run_title(setting.scores)}")
        facts += [metric_title(options.metric)] if options.metric not in (None, USUAL["metric"]) else []
        facts += ["KV groups by maximum"] if options.kv_combine not in (None, USUAL["kv_combine"]) else []
    facts += [] if options.scope == "both" else [f"{SCOPE_NAMES[options.scope]} only"]
    facts += ["OWL allocation"] if any(one.allocation for one in chosen) else []
    facts += sorted({f"pattern {one.pattern}" for one in chosen if one.pattern})
    text = setting.calibration
    if text is not None and text.task != setting.evaluation.task:
        measured = any(each.measures(one) for each, one in zip(needs, chosen, strict=True))
        facts += [f"activations on {task_name(text.task)}"] if measured else []
    facts += [f"{one.title} also reads {task_name(companion_task(setting.model))}" for one in needs if one.needs_text]
    facts += [f"control draw {options.control_seed}"] if any(one.needs_seed for one in needs) else []
    newest = [column.run.created for column in columns if column.run is not None]
    return [*facts, age(max(newest))] if newest else facts


def no_accuracy_section(task: Task) -> None:
    """Explain why a text task has no accuracy, and offer tasks that have one."""
    with st.container(border=True):
        st.markdown(f"**{task.title} has no accuracy**")
        st.caption(
            "Its examples have no options to get right or wrong. To see what pruning costs, choose another task:"
        )
        with st.container(horizontal=True):
            for name in ("mini_science", "arc_easy"):
                st.button(
                    load_task(name).title,
                    key=f"prune_task_{name}",
                    icon=":material/arrow_forward:",
                    on_click=choose,
                    args=({"task": name},),
                )
