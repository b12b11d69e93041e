"""The Compare page's controls: measure, criteria, reference, and behind More what the masks are built on."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from cap_viz.dashboard.compare.data import ComparisonChoice, Stored
from cap_viz.dashboard.names import basis_words, criteria_help, criteria_in_groups, criterion_group
from cap_viz.dashboard.selection import Selection
from cap_viz.evaluation.eval_metrics import ACC, ACC_NORM, MEASURES, Measure, measure_named
from cap_viz.figures.reported import MODEL, reported_accuracy
from cap_viz.pruning import criterion_title
from cap_viz.runs.comparison import DENSE, SUBJECT, counts_weights
from cap_viz.runs.fixed_question import RIVAL
from cap_viz.runs.mask_provenance import ProvenanceGroup
from cap_viz.tasks import Task

# Shown at first, beside dense; everything else is a tick away.
FIRST_SHOWN = (SUBJECT, RIVAL, "cap_fine")


def controls(selection: Selection, task: Task, stored: Stored) -> ComparisonChoice:
    places = st.columns([3.6, 4.0, 2.0, 1.1], vertical_alignment="bottom")
    with places[0]:
        measure = measure_named(
            selection.segmented(
                "Measure",
                "measure",
                {name: "Normalised" if one == ACC_NORM else one.title for name, one in MEASURES.items()},
                default=ACC.name,
                width="stretch",
                help="\n".join(f"- {one.title} (`{one.name}`): {one.summary}" for one in MEASURES.values()),
            )
        )
    with places[3], st.popover("More", width="stretch", key="compare_more"):
        group = group_control(selection, stored.groups)
        paper = paper_control(selection, task, measure)
    if group is None:
        return ComparisonChoice(measure, (), DENSE[0], None, paper)
    options = criteria_in_groups(group.criteria)
    with places[1]:
        criteria = selection.multiselect(
            "Criteria",
            "criteria",
            options,
            default=[name for name in FIRST_SHOWN if name in options] or options[: len(FIRST_SHOWN)],
            names=lambda name: f"{criterion_title(name)}{' (control)' if criterion_group(name) == 'control' else ''}",
            placeholder="Choose at least one criterion",
            help=criteria_help(options),
        )
    with places[2]:
        rivals = {name: criterion_title(name) for name in options if counts_weights(name)}
        reference = selection.selectbox(
            "Compare with",
            "reference",
            {**rivals, DENSE[0]: "Dense model"},
            default=RIVAL if RIVAL in rivals else DENSE[0],
            help="Differences are against this criterion at the same sparsity, or against the dense model.",
        )
    return ComparisonChoice(measure, criteria, reference, group, paper)


def group_control(selection: Selection, groups: Sequence[ProvenanceGroup]) -> ProvenanceGroup | None:
    """Draw the choice of what masks are built on; the fullest comparison comes first."""
    if not groups:
        st.caption("Nothing pruned is stored on these questions.")
        return None
    said = [basis_words(group.basis) for group in groups]
    names = {
        group.name: words if said.count(words) == 1 else f"{words} ({group.name})"
        for group, words in zip(groups, said, strict=True)
    }
    help = (
        "Calibration examples and unusual options behind the masks. Only criteria built on the same things are shown "
        "together."
    )
    chosen = selection.selectbox("Masks built on", "basis", names, help=help)
    return next(group for group in groups if group.name == chosen)


def paper_control(selection: Selection, task: Task, measure: Measure) -> bool:
    """Draw the toggle for the paper's points; only for accuracy, and for tasks the paper reports."""
    if measure != ACC or not reported_accuracy(task.name):
        return False
    return selection.toggle(
        "Show the paper’s points",
        "paper",
        help=f"Hollow diamonds: what the paper reports for {MODEL}, second-hand.",
    )
