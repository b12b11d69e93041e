"""Joint ablation of chosen heads, compared with the sum of their single effects and with random sets.

Measured on evaluation questions, which were not used to rank heads: a set chosen for its large effects looks better
on the examples it was chosen on.
"""

from __future__ import annotations

import streamlit as st

from cap_viz.dashboard.components.head_map import head_name, named_heads
from cap_viz.dashboard.components.job_card import active_jobs, job_view, ticking
from cap_viz.dashboard.components.panels import problem
from cap_viz.dashboard.heads.data import HeadView
from cap_viz.dashboard.heads.detail import interval
from cap_viz.dashboard.heads.new_run import measure_button, seconds_each, timed_run
from cap_viz.dashboard.selection import choose
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.errors import CapVizError
from cap_viz.figures.ranked_bars import joint_effect
from cap_viz.figures.theme import CONFIG, signed
from cap_viz.progress import duration
from cap_viz.runs.jobs import Job
from cap_viz.runs.kinds.joint import judged, load_joint
from cap_viz.runs.run_labels import AblationWords
from cap_viz.runs.spec import JointSpec
from cap_viz.stats import JointEffect
from cap_viz.tasks.example_sets import evaluation_set

KEY = "together"
MOST_HEADS = 40
N_QUESTIONS = 32
TOP = (2, 4, 8)


def together_section(view: HeadView, selected: tuple[int, int]) -> None:
    """Draw the selector of heads, and the result of ablating them together or the button that measures it."""
    heads_by_name = named_heads(view.scores.n_layers, view.scores.n_heads)
    st.markdown("#### What if all of these")
    picked = view.frame.selection.multiselect(
        f"Heads {view.words.done} together",
        KEY,
        list(heads_by_name),
        what="head",
        max_selections=MOST_HEADS,
        placeholder="Choose heads, or take them from below",
        help=GLOSSARY["together"],
    )
    shortcuts(view, picked, head_name(*selected))
    heads = tuple(sorted(heads_by_name[name] for name in picked))
    if not heads:
        st.caption("Two heads may do the same work, or stand in for each other: then single effects do not add up.")
        return
    spec = spec_of(view, heads)
    ticking(lambda: result(view, spec), live=spec is not None and bool(under_way(spec)))


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


def spec_of(view: HeadView, heads: tuple[tuple[int, int], ...]) -> JointSpec | None:
    """Return the spec on evaluation questions; None if the task's texts are not on this machine."""
    if not view.task.is_local():
        return None
    held_out = evaluation_set(view.task.name, min(N_QUESTIONS, len(view.task.splits.evaluation)))
    spec = view.source.spec
    # Mean and resample ablation take their values from the same reference examples as the head scores.
    reference = None if spec.ablation == "zero" else spec.reference or spec.examples
    return JointSpec(spec.model, held_out, heads, ablation=spec.ablation, reference=reference)


def result(view: HeadView, spec: JointSpec | None) -> None:
    if spec is None:
        st.caption(f"The texts of {view.task.title} are not on this machine; set CAP_VIZ_DATA to measure here.")
        return
    run = view.frame.store.get(spec)
    if run is not None:
        try:
            show(view, spec, judged(spec, load_joint(view.frame.store, run), view.metric))
        except CapVizError as error:
            problem(str(error))
        return
    jobs = under_way(spec)
    for job in jobs:
        job_view(job, key="together")
    if not jobs:
        offer(view, spec)


def under_way(spec: JointSpec) -> list[Job]:
    return active_jobs(lambda one: one == spec)


def offer(view: HeadView, spec: JointSpec) -> None:
    n = len(spec.heads)
    label = "Measure this head" if n == 1 else f"Measure these {n} heads together"
    measure_button(view.frame, label, f"{n} heads together", spec, key="together_start", type="primary")
    st.caption(
        f"On {len(spec.examples.ids)} evaluation questions, with {spec.draws} random sets of as many other heads for "
        f"comparison{expected_time(view, spec)}."
    )


def expected_time(view: HeadView, spec: JointSpec) -> str:
    """Return the expected time in words, at the pace of a stored run of head scores; empty if none was timed."""
    basis = timed_run(view.frame, spec.examples.task)
    if basis is None:
        return ""
    # The intact model, the set, each of its heads alone, and the random sets.
    passes = len(spec.examples.ids) * (2 + len(spec.heads) + spec.draws)
    seconds = passes * seconds_each(basis) / view.stats.estimate.mean.size
    return f": {passes} passes, about **{duration(seconds)}**"


def show(view: HeadView, spec: JointSpec, found: JointEffect) -> None:
    st.markdown(verdict(found, view.words, view.unit, len(spec.examples.ids)))
    st.plotly_chart(
        joint_effect(found, view.unit),
        key="together_figure",
        config=CONFIG,
        alt="Joint effect of the chosen heads, the sum of their single effects, and random sets of as many heads; the "
        "sentence above holds the numbers.",
    )


def verdict(found: JointEffect, words: AblationWords, unit: str, n: int) -> str:
    """Report the joint effect, the range of random sets, and whether the single effects add up."""
    joint, excess = found.joint, found.excess
    which, by = (f"these {found.size} heads", words.each) if found.size > 1 else ("this head", words.by)
    parts = [
        f"With {which} {words.done}{by}: **{signed(float(joint.mean))} {unit}** "
        f"{interval(float(joint.low), float(joint.high))} on {n} evaluation questions.",
        f"{found.n_random} random groups of {found.size} other heads: {signed(found.random_low)} to "
        f"{signed(found.random_high)} (95 %, p = {found.p_value:.2g}).",
    ]
    if found.size > 1:
        meaning = (
            "the effects add up, within noise"
            if excess.unclear
            else "more than the sum, as when each stands in for the others"
            if float(excess.mean) > 0
            else "the effects overlap, or the answer was already lost"
        )
        parts.append(
            f"Together {signed(float(joint.mean))}, single effects {signed(float(found.singles.mean))}: {meaning} "
            f"(difference {signed(float(excess.mean))} {interval(float(excess.low), float(excess.high))})."
        )
    return " ".join(parts)
