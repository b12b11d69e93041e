"""Joint ablation of chosen heads, compared with the sum of their single effects and with random sets.

Measured on evaluation questions, which were not used to rank heads: a set chosen for its large effects looks better
on the examples it was chosen on.
"""

from __future__ import annotations

import plotly.graph_objects as go
import streamlit as st

from cap_viz.dashboard.components.head_map import head_name, named_heads
from cap_viz.dashboard.components.job_card import active_jobs, job_view, ticking
from cap_viz.dashboard.components.panels import problem
from cap_viz.dashboard.heads.detail import HeadView, interval
from cap_viz.dashboard.heads.sample_plan import seconds_each, timed_run
from cap_viz.dashboard.heads.source import submitting, watch
from cap_viz.dashboard.state import bad_choices, keep_valid_ones
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.errors import CapVizError
from cap_viz.figures.theme import ACCENT, CONFIG, FAINT, NEUTRAL, blank, signed
from cap_viz.progress import duration
from cap_viz.runs.jobs import Job
from cap_viz.runs.kinds.joint import judged, load_joint
from cap_viz.runs.run_labels import AblationWords
from cap_viz.runs.spec import JointSpec
from cap_viz.stats import JointEffect
from cap_viz.tasks.example_sets import ExampleSet, evaluation_set

KEY = "together"
MOST_HEADS = 40
N_QUESTIONS = 32
TOP = (2, 4, 8)


def together_section(view: HeadView, selected: tuple[int, int]) -> None:
    """Draw the selector of heads, and the result of ablating them together or the button that measures it."""
    heads_by_name = named_heads(view.scores.n_layers, view.scores.n_heads)
    names = list(heads_by_name)
    st.markdown("#### What if all of these", help=GLOSSARY["together"])
    if sentence := bad_choices(KEY, names, "head"):
        st.caption(sentence)
    keep_valid_ones(KEY, names)
    chosen, figure = st.columns([11, 10], gap="medium")
    with chosen:
        picked = st.multiselect(
            f"Heads {view.words.done} together",
            names,
            key=KEY,
            bind="query-params",
            max_selections=MOST_HEADS,
            placeholder="Choose heads, or take them from below",
        )
        shortcuts(view, selected)
    heads = tuple(sorted(heads_by_name[name] for name in picked))
    if not heads:
        figure.caption("Two heads may do the same work, or stand in for each other: then single effects do not add up.")
        return
    spec = spec_of(view, heads)
    with figure:
        ticking(lambda: outcome(view, spec), live=spec is not None and bool(under_way(spec)))


def shortcuts(view: HeadView, selected: tuple[int, int]) -> None:
    """Draw buttons that change the selection: add the selected head, take the top of the ranking, or clear."""
    with st.container(horizontal=True, gap="small"):
        st.button("Add the selected head", key="together_add", type="tertiary", on_click=add, args=(selected,))
        for count in TOP if view.ranks_heads else ():
            if count <= view.n_heads // 2:
                top = view.stats.estimate.top_heads(count)
                st.button(f"Top {count}", key=f"together_{count}", type="tertiary", on_click=put, args=(top,))
        st.button("Clear", key="together_clear", type="tertiary", on_click=put, args=([],))


def put(heads: list[tuple[int, int]]) -> None:
    st.session_state[KEY] = [head_name(*head) for head in heads]


def add(head: tuple[int, int]) -> None:
    st.session_state[KEY] = list(dict.fromkeys([*(st.session_state.get(KEY) or []), head_name(*head)]))[:MOST_HEADS]


def spec_of(view: HeadView, heads: tuple[tuple[int, int], ...]) -> JointSpec | None:
    """Return the spec on evaluation questions; None if the task's texts are not on this machine."""
    if not view.task.is_local():
        return None
    held_out = held_out_set(view)
    spec = view.source.spec
    # Mean and resample ablation take their values from the same reference examples as the head scores.
    reference = None if spec.ablation == "zero" else spec.reference or spec.examples
    return JointSpec(spec.model, held_out, heads, ablation=spec.ablation, reference=reference)


def held_out_set(view: HeadView) -> ExampleSet:
    return evaluation_set(view.task.name, min(N_QUESTIONS, len(view.task.splits.evaluation)))


def outcome(view: HeadView, spec: JointSpec | None) -> None:
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
    if not view.frame.installed:
        st.caption(view.frame.install_hint)
        return
    st.button(
        f"Measure {'this head' if len(spec.heads) == 1 else f'these {len(spec.heads)} heads together'}",
        key="together_start",
        type="primary",
        on_click=submit,
        args=(spec,),
    )
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
    return f": {passes} passes, about **{duration(passes * seconds_each(basis) / view.n_heads)}**"


def submit(spec: JointSpec) -> None:
    with submitting():
        watch(spec, f"{len(spec.heads)} heads together, {spec.examples.task}, n = {len(spec.examples.ids)}")


def show(view: HeadView, spec: JointSpec, found: JointEffect) -> None:
    st.markdown(verdict(found, view.words, view.unit, len(spec.examples.ids)))
    st.plotly_chart(
        joint_figure(found, view.unit),
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
        f"Of {found.n_random} random sets of as many other heads, 95 % lie between {signed(found.random_low)} and "
        f"{signed(found.random_high)} (p = {found.p_value:.2g}).",
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


def joint_figure(found: JointEffect, unit: str) -> go.Figure:
    """Draw three rows: the joint effect, the sum of the single effects, and the range of random sets."""
    figure = blank(height=170, left=110, top=8, bottom=42)
    rows = [("together", found.joint, ACCENT), ("sum of singles", found.singles, NEUTRAL)]
    for name, estimate, colour in rows:
        mean, low, high = (float(value) for value in (estimate.mean, estimate.low, estimate.high))
        figure.add_trace(
            go.Scatter(
                x=[mean],
                y=[name],
                mode="markers",
                marker={"size": 11, "color": colour},
                error_x={"type": "data", "array": [high - mean], "arrayminus": [mean - low], "color": colour},
                hovertemplate=f"{name}: {signed(mean)} {unit} {interval(low, high)}<extra></extra>",
            )
        )
    figure.add_trace(
        go.Scatter(
            x=[found.random_low, found.random_high],
            y=["random sets"] * 2,
            mode="lines+markers",
            line={"color": NEUTRAL, "width": 6},
            marker={"size": 6, "color": NEUTRAL},
            hovertemplate="95 % of random sets: %{x:.3f}<extra></extra>",
        )
    )
    figure.add_vline(x=0, line={"color": NEUTRAL, "width": 1})
    figure.update_xaxes(title=f"effect, {unit}", showgrid=True, gridcolor=FAINT, zeroline=False)
    figure.update_yaxes(autorange="reversed", ticks="")
    figure.update_layout(showlegend=False)
    return figure
