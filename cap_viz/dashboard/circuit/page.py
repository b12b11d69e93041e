"""Body of the Circuit page: the strongest heads as a graph with the selected one beside it, their pairs below."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from cap_viz.attribution.effect_metrics import applicable_metrics
from cap_viz.attribution.pair_scores import BACK_UP, CEILING, OVERLAP, sets_of_pairs
from cap_viz.attribution.path_scores import HeadPath, strongest_heads
from cap_viz.dashboard.circuit.data import USUAL_LEAST, Circuit, circuit_of, interval, stored_for
from cap_viz.dashboard.circuit.play import play_section
from cap_viz.dashboard.circuit.positions import positions_section
from cap_viz.dashboard.circuit.removal import cost_words, removal_section
from cap_viz.dashboard.components.chart import chart
from cap_viz.dashboard.components.head_map import Head, head_name
from cap_viz.dashboard.components.panels import empty, escaped, examples_fact, p_words, problems_told, provenance_of
from cap_viz.dashboard.components.share import Download, share
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.new_run import offer_runs
from cap_viz.dashboard.names import metric_name, model_name
from cap_viz.dashboard.overview.data import default_scores
from cap_viz.dashboard.selection import Selection, choose, go_button
from cap_viz.dashboard.stored import statistics_of, texts_of
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.figures.circuit import circuit_graph, pair_matrix
from cap_viz.figures.compare import figure_html
from cap_viz.figures.theme import signed
from cap_viz.runs.run_queries import pair_spec, path_spec, position_spec
from cap_viz.runs.spec import PairSpec, PathSpec, ScoreSpec
from cap_viz.runs.spreadsheet import csv_text
from cap_viz.runs.store import StoredRun
from cap_viz.stats import HeadEstimate, mean_with_ci
from cap_viz.tasks.example_sets import evaluation_set

# Heads of a circuit: the most, and how many at first. Questions on which a new one is measured.
MOST_HEADS, USUAL_HEADS, N_QUESTIONS = 16, 8, 32
GRAPH, SELECTED = "circuit_graph", "shown"
LEFT_WIDTH = 560
MOST_PATHS, MOST_QUESTIONS, QUESTION_CHARACTERS = 6, 4, 110


def body(view: Frame) -> None:
    scores = default_scores(view, view.task)
    if scores is None:
        empty(
            f"No head scores of {model_name(view.model.id)} on {view.task.title} yet",
            "A circuit is drawn among the heads with the largest effects: measure the effects first.",
        )
        go_button("Measure on the Heads page", "heads", key="circuit_start")
        return
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        metric, k, least = controls(view, scores)
        share_place = st.container(width=104)
    with problems_told():
        estimate = statistics_of(view.store, scores, metric).estimate
        heads = strongest_heads(estimate, k)
        paths, pairs = stored_for(view, PathSpec, scores.spec, heads), stored_for(view, PairSpec, scores.spec, heads)
        offer(view, scores.spec, heads, paths, pairs, estimate.mean.size)
        if paths is None:
            return
        circuit = circuit_of(view.store, paths, pairs, heads, metric)
        facts = [examples_fact(paths.spec.examples), f"{paths.spec.ablation} ablation", metric_name(view.task, metric)]
        provenance_of([run for run in (paths, pairs) if run], view.runs, [model_name(view.model.id), *facts])
        st.markdown(answer(circuit), help=GLOSSARY["path"])
        graph = draw(view, circuit, shape_of(scores), least / 100)
        by_span = position_spec(scores.spec, paths.spec.examples, metric)
        positions_section(view, by_span, heads, metric)
        removal_section(view, scores.spec, estimate.mean, paths.spec.examples, metric)
        with share_place:
            share("circuit", downloads(view, circuit, graph))


def controls(view: Frame, scores: StoredRun[ScoreSpec]) -> tuple[str, int, int]:
    """Draw the selectors of the metric, the number of heads and the least effect of a path that is drawn."""
    n_layers, n_heads = shape_of(scores)
    with st.container(width=400):
        offered = applicable_metrics(view.task)
        metric = view.selection.segmented("Metric", "metric", offered, names=partial(metric_name, view.task))
    most = min(MOST_HEADS, n_layers * n_heads)
    with st.container(width="stretch"):
        help = "Those with the largest effects on calibration examples; their paths are measured on other questions."
        k = view.selection.slider("Heads", "k", 2, most, default=min(USUAL_HEADS, most), help=help)
    with st.container(width="stretch"):
        help = "In percent of the largest path among these heads."
        least = view.selection.slider("Smallest path drawn, %", "least", 0, 100, default=USUAL_LEAST, help=help)
    return metric, k, least


def shape_of(scores: StoredRun[ScoreSpec]) -> tuple[int, int]:
    shape = scores.provenance["shape"]
    return shape["n_layers"], shape["n_heads"]


def offer(
    view: Frame,
    scores: ScoreSpec,
    heads: tuple[Head, ...],
    paths: StoredRun[PathSpec] | None,
    pairs: StoredRun[PairSpec] | None,
    n_heads: int,
) -> None:
    """Offer to measure what is not stored of these heads: their paths, their pairs, or both."""
    if paths is not None and pairs is not None:
        return
    if not view.task.is_local():
        empty("Nothing stored about these heads", view.hindrance(view.task))
        return
    examples = evaluation_set(view.task, min(N_QUESTIONS, len(view.task.splits.evaluation)))
    missing = {
        "paths": None if paths else path_spec(scores, heads, examples=examples),
        "pairs": None if pairs else pair_spec(scores, heads, examples=examples),
    }
    specs = {name: spec for name, spec in missing.items() if spec is not None}
    label = f"Measure the {' and '.join(specs)} of these {len(heads)} heads"
    n_sets = len(sets_of_pairs(heads)) if pairs is None else 0
    said = cost_words(view, n_sets, len(examples.ids), n_heads) if n_sets else f"On {len(examples.ids)} questions."
    offer_runs(view, label, *specs.values(), key="circuit_measure", said=said, type="primary")


def answer(circuit: Circuit) -> str:
    """Name the strongest path between heads, and count those beyond chance."""
    between = [path for path in circuit.named.values() if path.receiver.kind == "head"]
    counts = {kind: survivors(circuit, kind) for kind in ("head", "answer")}
    said = f"**{counts['answer'][0]} of {len(circuit.paths.senders)}** heads act on the answer directly beyond chance"
    if not between:
        return f"{said}; no path leads from one of these heads to another."
    return (
        f"{said}, **{counts['head'][0]} of {counts['head'][1]}** paths between them do. Strongest: **{between[0]}**, "
        f"{circuit.effect_of(between[0])} {circuit.unit} on {circuit.n} questions."
    )


def survivors(circuit: Circuit, kind: str) -> tuple[int, int]:
    """Count the paths to receivers of a kind that survive the false-discovery control, and all of them."""
    places = [place for place, n in enumerate(circuit.paths.single) if circuit.paths.paths[n].receiver.kind == kind]
    return int(circuit.single.survives[places].sum()), len(places)


def draw(view: Frame, circuit: Circuit, shape: tuple[int, int], least: float) -> partial[go.Figure]:
    """Draw graph, detail and pairs; return the graph."""
    with st.container(horizontal=True, gap="medium"):
        left, right = st.container(width=LEFT_WIDTH), st.container(width="stretch")
    with right:
        chosen = selected(view.selection, circuit)
        path, heads = circuit.named.get(chosen), {head_name(*head): head for head in circuit.paths.senders}
        head = heads[chosen] if path is None else path.sender
        if path is None:
            head_detail(circuit, head)
        else:
            path_detail(view, circuit, path)
    with left:
        marks = list(circuit.path_marks(least))
        graph = partial(circuit_graph, circuit.head_marks(), marks, shape, selected=chosen)
        alt = f"Graph of {len(circuit.paths.senders)} heads and {len(marks)} paths; the list beside it has the same."
        chart(graph, key=GRAPH, alt=alt, on_pick=take_point)
        st.caption("Layers run downwards. Teal: removing it hurts. Brown: it helps. Faded: may be zero. Wide: large.")
        with st.popover("What these numbers are", icon=":material/help:"):
            st.markdown("\n\n".join(GLOSSARY[term] for term in ("path", "direct_effect", "pair_effect")))
    play_section(view, circuit, head)
    pairs_section(circuit)
    return graph


def selected(selection: Selection, circuit: Circuit) -> str:
    """Draw the list of heads and paths, the keyboard's way to choose; the first is the head of the largest effect."""
    order = np.argsort(-np.abs(circuit.totals.mean), kind="stable")
    heads = {head_name(*head): head for head in (circuit.paths.senders[place] for place in order)}
    paths = {name: str(path) for name, path in circuit.named.items()}
    return selection.selectbox("Head or path", SELECTED, {**{name: f"Head {name}" for name in heads}, **paths})


def take_point() -> None:
    """Choose the clicked head or path; a cleared selection changes nothing."""
    points = st.session_state[GRAPH]["selection"]["points"]
    if points and "customdata" in points[0]:
        choose({SELECTED: points[0]["customdata"][0]})


def head_detail(circuit: Circuit, head: Head) -> None:
    """Say how the effect of a head splits, and list its largest paths."""
    total, direct = circuit.total(head), circuit.direct(head)
    rest = mean_with_ci(total - direct)
    st.markdown(
        f"Removing **head {head[1]} of layer {head[0]}** costs {interval(mean_with_ci(total))} {circuit.unit}. Of this "
        f"it writes {interval(mean_with_ci(direct))} into the answer itself; {interval(rest)} go through later layers.",
        help=GLOSSARY["direct_effect"],
    )
    if rest.high < 0 < float(direct.mean()):
        repaired = f"**{signed(-float(rest.mean))} {circuit.unit}**"
        st.markdown(f"Later layers make up for {repaired} of what is lost directly.")
    of_head = [path for path in circuit.named.values() if path.sender == head]
    into = [path for path in circuit.named.values() if (path.receiver.layer, path.receiver.head) == head]
    for title, paths in (("Its largest paths", of_head), ("Largest paths into it", into)):
        if paths:
            st.markdown(f"##### {title}")
            st.table(path_table(circuit, paths[:MOST_PATHS]), border="horizontal", hide_index=True)
    if circuit.paths.has_sums:
        sums = circuit.paths.balance(circuit.metric).set_index("sender").loc[head_name(*head)]
        st.caption(
            f"Its paths sum to {signed(sums['paths'])} {circuit.unit}, {signed(sums['remainder'])} remain: "
            "the part of heads not shown, and of paths that act together."
        )
    go_button("Open it on Heads", "heads", key="circuit_head", params={"layer": head[0], "head": head[1]})


def path_table(circuit: Circuit, paths: Sequence[HeadPath]) -> pd.DataFrame:
    return pd.DataFrame({"Path": list(map(str, paths)), f"Effect, {circuit.unit}": list(map(circuit.effect_of, paths))})


def path_detail(view: Frame, circuit: Circuit, path: HeadPath) -> None:
    """Say what a path does, and on which questions most."""
    effects = circuit.effects[circuit.number(path)]
    place = circuit.paths.single.index(circuit.number(path))
    st.markdown(
        f"**{path}**: where only this receiver sees the head's output replaced, the loss changes by "
        f"{circuit.effect_of(path)} {circuit.unit} (q: {p_words(float(circuit.single.q_value[place]))}, over "
        f"{len(circuit.paths.single)} paths).",
        help=GLOSSARY["path"],
    )
    st.markdown("##### Questions on which it matters most")
    ids, texts = circuit.paths.questions.ids, texts_of(view.task.name, circuit.paths.questions.ids)
    for row in np.argsort(-np.abs(effects), kind="stable")[:MOST_QUESTIONS]:
        question = ids[row] if texts is None else " ".join(texts[ids[row]].question.split())[:QUESTION_CHARACTERS]
        st.markdown(f"{signed(float(effects[row]), 2)} {circuit.unit}: {escaped(question)}")


def pairs_section(circuit: Circuit) -> None:
    """Draw the matrix of pairs, and say which back each other up."""
    if circuit.pairs is None or len(circuit.pairs.heads) < 2:
        return
    st.markdown("#### Pairs", help=GLOSSARY["pair_effect"])
    estimate, kinds = circuit.pairs.estimated(circuit.metric), circuit.pairs.kinds(circuit.metric)
    with st.container(horizontal=True, gap="medium"):
        left, right = st.container(width=LEFT_WIDTH), st.container(width="stretch")
    with left:
        chart(
            partial(pair_matrix, circuit.pairs.heads, circuit.pairs.pairs, estimate, kinds, unit=circuit.unit),
            key="circuit_pairs",
            alt="Pair effect of every two heads; the list beside it names the largest.",
        )
    with right:
        st.markdown(pair_words(circuit, estimate, kinds))
        rows = circuit.pairs.to_pandas(circuit.metric)
        order = np.argsort(-np.abs(rows["pair_effect"].to_numpy()), kind="stable")[:MOST_PATHS]
        st.table(
            pd.DataFrame(
                {
                    "Heads": [f"{rows['first'][at]} + {rows['second'][at]}" for at in order],
                    f"Pair effect, {circuit.unit}": [interval(estimate, (int(at),)) for at in order],
                    "Kind": [kinds[at] for at in order],
                }
            ),
            border="horizontal",
            hide_index=True,
        )


def pair_words(circuit: Circuit, estimate: HeadEstimate, kinds: Sequence[str]) -> str:
    """Count the kinds of pairs."""
    counts = {kind: list(kinds).count(kind) for kind in (BACK_UP, OVERLAP, CEILING)}
    return (
        f"Of {estimate.mean.size} pairs, **{counts[BACK_UP]}** back each other up: removing both costs more than the "
        f"sum. **{counts[OVERLAP]}** overlap: it costs less. **{counts[CEILING]}** are at the ceiling: one head alone "
        "already makes the model guess."
    )


def downloads(view: Frame, circuit: Circuit, graph: partial[go.Figure]) -> list[Download]:
    name = f"circuit-{view.task.name}-{circuit.metric}"
    title = (
        f"Paths among {len(circuit.paths.senders)} heads of {view.model.id} on {view.task.name}, {circuit.n} questions"
    )
    return [
        Download("Paths (CSV)", lambda: csv_text(circuit.paths.to_pandas()), f"{name}.csv", "text/csv"),
        Download("Figure (HTML)", lambda: figure_html(graph(), title), f"{name}.html", "text/html"),
    ]
