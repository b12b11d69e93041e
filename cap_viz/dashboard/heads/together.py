"""Joint ablation of chosen heads, compared with the sum of their single effects and with random sets.

Measured on evaluation questions, which were not used to rank heads: a set chosen for its large effects looks better
on the examples it was chosen on.
"""

from __future__ import annotations

from functools import partial

import streamlit as st

from cap_viz.dashboard.components.chart import chart
from cap_viz.dashboard.components.head_map import Head, head_name, named_heads
from cap_viz.dashboard.components.panels import problems_told
from cap_viz.dashboard.heads.data import HeadView
from cap_viz.dashboard.heads.new_run import offer_runs
from cap_viz.dashboard.heads.sentences import interval_at
from cap_viz.dashboard.names import texts_missing
from cap_viz.dashboard.selection import choose, go_button
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.figures.ranked_bars import joint_effect
from cap_viz.figures.theme import signed
from cap_viz.progress import duration
from cap_viz.runs.kinds.joint import judged, load_joint
from cap_viz.runs.run_labels import AblationWords
from cap_viz.runs.sample_plan import seconds_of_passes
from cap_viz.runs.spec import JointSpec
from cap_viz.stats import JointEffect
from cap_viz.tasks.example_sets import evaluation_set

KEY = "together"
MOST_HEADS = 40
N_QUESTIONS = 32
TOP = (2, 4, 8)


def together_section(view: HeadView, selected: Head) -> None:
    """Draw the selector of heads, and the result of ablating them together or the button that measures it."""
    heads_by_name = named_heads(view.scores.n_layers, view.scores.n_heads)
    st.markdown("#### What if all of these")
    picked = view.frame.selection.multiselect(
        f"Heads {view.words.done} together",
        KEY,
        list(heads_by_name),
        max_selections=MOST_HEADS,
        placeholder="Choose heads, or take them from below",
        help=GLOSSARY["together"],
    )
    shortcuts(view, picked, head_name(*selected))
    if not picked:
        st.caption("Two heads may do the same work, or stand in for each other: then single effects do not add up.")
    elif not view.task.is_local():
        st.caption(texts_missing(view.task))
    else:
        result(view, joint_spec(view, tuple(sorted(heads_by_name[name] for name in picked))))


def shortcuts(view: HeadView, picked: tuple[str, ...], selected: str) -> None:
    """Draw buttons that change the selection: add the selected head, take the top of the ranking, or clear."""
    estimate = view.stats.estimate
    sets: dict[str, tuple[str, list[str] | None]] = {
        "Add the selected head": ("add", list(dict.fromkeys([*picked, selected]))[:MOST_HEADS])
    }
    for count in TOP if view.ranks_heads else ():
        if count <= estimate.mean.size // 2:
            sets[f"Top {count}"] = (str(count), [head_name(*head) for head in estimate.top_heads(count)])
    if picked:
        sets["Clear"] = ("clear", None)
    with st.container(horizontal=True, gap="small"):
        for label, (key, names) in sets.items():
            st.button(label, key=f"together_{key}", on_click=choose, args=({KEY: names},))
        go_button("Circuit of the strongest heads", "circuit", key="together_circuit")


def joint_spec(view: HeadView, heads: tuple[Head, ...]) -> JointSpec:
    """Make the spec on evaluation questions, with values from the same reference examples as the head scores."""
    held_out = evaluation_set(view.task.name, min(N_QUESTIONS, len(view.task.splits.evaluation)))
    return JointSpec(view.spec.model, held_out, heads, view.spec.ablation, view.spec.values_from)


def result(view: HeadView, spec: JointSpec) -> None:
    """Draw the stored result, else offer to measure it."""
    run, n = view.frame.store.get(spec), len(spec.heads)
    if run is not None:
        with problems_told():
            show(view, judged(spec, load_joint(view.frame.store, run), view.metric), len(spec.examples.ids))
        return
    label = "Measure this head" if n == 1 else f"Measure these {n} heads together"
    said = (
        f"On {len(spec.examples.ids)} evaluation questions, with {spec.draws} random sets of as many other heads for "
        f"comparison{expected_time(view, spec)}."
    )
    offer_runs(view.frame, label, spec, key="together_start", said=said, type="primary")


def expected_time(view: HeadView, spec: JointSpec) -> str:
    """Return the expected time in words, at the pace of a stored run of head scores; empty if none was timed."""
    # The intact model, the set, each of its heads alone, and the random sets.
    passes, n_heads = len(spec.examples.ids) * (2 + len(spec.heads) + spec.draws), view.stats.estimate.mean.size
    seconds = seconds_of_passes(view.frame.runs, view.frame.model, spec.examples.task, passes, n_heads)
    return "" if seconds is None else f": {passes} passes, about **{duration(seconds)}**"


def show(view: HeadView, found: JointEffect, n: int) -> None:
    st.markdown(verdict(found, view.words, view.unit, n))
    chart(
        partial(joint_effect, found, view.unit),
        key="together_figure",
        alt="Joint effect of the chosen heads, the sum of their single effects, and random sets of as many heads; the "
        "sentence above holds the numbers.",
    )


def verdict(found: JointEffect, words: AblationWords, unit: str, n: int) -> str:
    """Report the joint effect, the range of random sets, and whether the single effects add up."""
    joint, singles, excess = (float(one.mean) for one in (found.joint, found.singles, found.excess))
    which, by = (f"these {found.size} heads", words.each) if found.size > 1 else ("this head", words.by)
    said = (
        f"With {which} {words.done}{by}: **{signed(joint)} {unit}** {interval_at(found.joint)} on {n} evaluation "
        f"questions. {found.n_random} random groups of {found.size} other heads: {signed(found.random_low)} to "
        f"{signed(found.random_high)} (95 %, p = {found.p_value:.2g})."
    )
    if found.size == 1:
        return said
    meaning = "the effects overlap, or the answer was already lost"
    if found.excess.unclear:
        meaning = "the effects add up, within noise"
    elif excess > 0:
        meaning = "more than the sum, as when each stands in for the others"
    return (
        f"{said} Together {signed(joint)}, single effects {signed(singles)}: {meaning} (difference {signed(excess)} "
        f"{interval_at(found.excess)})."
    )
