"""The Compare page's controls, all bound to the URL."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from cap_viz.dashboard.compare.command import USUAL_REFERENCE
from cap_viz.dashboard.compare.data import ComparisonChoice, Stored
from cap_viz.dashboard.compare.reported import MODEL, reported_accuracy
from cap_viz.dashboard.components.panels import note
from cap_viz.dashboard.state import bad_choice, bad_choices, keep_valid, keep_valid_ones
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.evaluation.eval_metrics import ACC, MEASURES, Measure, measure_named
from cap_viz.figures.theme import display_order
from cap_viz.runs.comparison import DENSE, counts_weights
from cap_viz.runs.mask_provenance import ProvenanceGroup
from cap_viz.tasks import Task

KEYS = ("model", "task", "n", "measure", "criteria", "reference", "basis", "paper")


def controls(task: Task, stored: Stored) -> ComparisonChoice:
    """Draw the controls and report invalid values of the link."""
    notes = [bad_choice("measure", list(MEASURES), ACC.name, "the measure")]
    several = len(stored.groups) > 1
    with st.container():
        widths = [3.6, 4.0, 2.2, 2.9] if several else [3.1, 4.9, 2.4]
        places = st.columns(widths, vertical_alignment="bottom")
    with places[0]:
        measure = measure_control()
    group = next(iter(stored.groups), None)
    if several:
        with places[3]:
            group, said = group_control(stored.groups)
            notes.append(said)
    criteria: tuple[str, ...] = ()
    reference = DENSE[0]
    if group is not None:
        with places[1]:
            criteria, said = criteria_control(group)
            notes.append(said)
        with places[2]:
            reference, said = reference_control(group)
            notes.append(said)
    paper = paper_control(task, measure)
    for sentence in filter(None, notes):
        note(sentence)
    return ComparisonChoice(measure, criteria, reference, group, paper)


def measure_control() -> Measure:
    keep_valid("measure", list(MEASURES))
    chosen = st.segmented_control(
        "Measure",
        list(MEASURES),
        default=ACC.name,
        required=True,
        key="measure",
        bind="query-params",
        persist_state="session",
        width="stretch",
        help="\n".join(f"- `{one.name}` {one.title}: {one.summary}" for one in MEASURES.values()),
    )
    return measure_named(str(chosen))


def criteria_control(group: ProvenanceGroup) -> tuple[tuple[str, ...], str]:
    options = display_order(group.criteria)
    said = bad_choices("criteria", options, "the criterion")
    keep_valid_ones("criteria", options)
    chosen = st.multiselect(
        "Criteria",
        options,
        options,
        key="criteria",
        bind="query-params",
        persist_state="session",
        placeholder="Choose at least one criterion",
        help=GLOSSARY["criterion"],
    )
    return tuple(chosen), said


def reference_control(group: ProvenanceGroup) -> tuple[str, str]:
    options = [*(name for name in display_order(group.criteria) if counts_weights(name)), DENSE[0]]
    usual = USUAL_REFERENCE if USUAL_REFERENCE in options else DENSE[0]
    said = bad_choice("reference", options, usual, "the reference")
    keep_valid("reference", options)
    chosen = st.selectbox(
        "Compared with",
        options,
        options.index(usual),
        key="reference",
        bind="query-params",
        persist_state="session",
        help="Differences are against this criterion at the same sparsity, or against the dense model.",
    )
    return chosen, said


def group_control(groups: Sequence[ProvenanceGroup]) -> tuple[ProvenanceGroup, str]:
    names = [group.name for group in groups]
    said = bad_choice("basis", names, names[0], "masks built on")
    keep_valid("basis", names)
    chosen = st.selectbox(
        "Built on",
        names,
        key="basis",
        bind="query-params",
        persist_state="session",
        help="Calibration examples (task, number, seed of the draw) and unusual options behind the masks. Only "
        "criteria built on the same things are shown together; the fullest comparison comes first.",
    )
    return groups[names.index(chosen)], said


def paper_control(task: Task, measure: Measure) -> bool:
    """Draw the toggle for the paper's points; only for accuracy, and for tasks the paper reports."""
    if measure != ACC or not reported_accuracy(task.name):
        return False
    return st.toggle(
        "Show the paper’s points",
        value=False,
        key="paper",
        bind="query-params",
        persist_state="session",
        help=f"Hollow diamonds: what the paper reports for {MODEL}, second-hand. See “The paper’s numbers” below.",
    )
