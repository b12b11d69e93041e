"""Pictures of the lesson, by the name under which a lesson file asks for them.

Each shows the numbers of its step, and keeps back what would give the answer away until the guess.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import plotly.graph_objects as go
import streamlit as st
from scipy.special import softmax

from cap_viz.dashboard.components.chart import chart
from cap_viz.dashboard.components.head_map import Head, head_map, head_name, named_heads
from cap_viz.dashboard.components.panels import escaped
from cap_viz.dashboard.learn.data import HALF_PRUNED, TOP, Evidence
from cap_viz.dashboard.selection import choose
from cap_viz.dashboard.stored import level_in, report_of, texts_of
from cap_viz.evaluation.eval_metrics import ACC, against_guessing
from cap_viz.figures import lesson as figures
from cap_viz.figures.circuit import circuit_graph
from cap_viz.figures.head_grid import Grid, colour_limit
from cap_viz.figures.theme import criterion_colour
from cap_viz.pruning import criterion_title
from cap_viz.runs.run_labels import ablation_words
from cap_viz.stats import HeadEstimate

QUESTION_CHARACTERS = 320
# On a laptop, and on a projector with its larger text.
SCREEN, PROJECTOR = figures.Canvas(440, 14), figures.Canvas(430, 22)


@dataclass(frozen=True)
class Stage:
    """What a picture is about and how large it is drawn; `key` is that of the step's widgets."""

    evidence: Evidence
    key: str
    revealed: bool
    canvas: figures.Canvas

    def chart(self, figure: partial[go.Figure], name: str, alt: str) -> None:
        chart(figure, key=f"{self.key}_{name}", alt=alt)


def lesson_map(
    stage: Stage,
    estimates: Mapping[str, HeadEstimate],
    said: str,
    *,
    hidden: str | None = None,
    framed: Collection[Head] = (),
    off: Collection[Head] = (),
    one_scale: bool = True,
) -> None:
    """Draw maps of heads side by side, whose cells can be picked; below, the effect of the picked head.

    The map of the name `hidden` shows the picked cell only. `said` stands below until there is one.
    """
    heads = named_heads(*next(iter(estimates.values())).mean.shape)
    picked = heads.get(stage.evidence.view.selection.choice("pick", ["", *heads]))
    limit = colour_limit(*(one.mean for one in estimates.values())) if one_scale else None
    ends, effects = ablation_words(stage.evidence.score_run.spec).ends, []
    for column, (title, one) in zip(st.columns(len(estimates), gap="small"), estimates.items(), strict=True):
        grid = Grid.of(one, ends=ends, limit=limit, selected=picked)
        if picked is not None:
            effects.append(f"{f'**{escaped(title)}** ' * bool(title)}{grid.says(*picked, figures.NATS)}.")
        with column:
            if title:
                st.markdown(f"**{escaped(title)}**")
            head_map(
                alone(grid, picked) if title == hidden else grid,
                key=f"{stage.key}_map_{title}",
                unit=figures.NATS,
                label=f"Effect of removing each head {title}",
                on_pick=lambda layer, head: choose({"pick": head_name(layer, head)}),
                off=off,
                framed=() if title == hidden else framed,
                small=bool(title),
                tallest=stage.canvas.height,
                text=stage.canvas.text,
            )
    st.caption("  \n".join(effects) or said)


def alone(grid: Grid, picked: Head | None) -> Grid:
    """Keep the effect of the picked head only."""
    shown = np.zeros(grid.shape, dtype=bool)
    if picked is not None:
        shown[picked] = True
    return replace(grid, mean=np.where(shown, grid.mean, np.nan), marked=grid.marked & shown)


def hidden_map(stage: Stage) -> None:
    """All heads neutral until the guess: a click removes one and lights it up."""
    heads = {"": stage.evidence.heads.estimate}
    lesson_map(stage, heads, "Click a cell to remove that head.", hidden=None if stage.revealed else "")


def effect_map(stage: Stage) -> None:
    """The map of all heads; the head with the largest effect is framed after the guess."""
    framed = [stage.evidence.top_head] if stage.revealed else []
    heads = {"": stage.evidence.heads.estimate}
    lesson_map(stage, heads, "Click a cell for the effect of that head.", framed=framed)


def two_maps(stage: Stage, estimates: Mapping[str, HeadEstimate], *, one_scale: bool) -> None:
    """Two maps, the second hidden until the guess; then the heads at the top of both are framed."""
    first, both = (set(one.top_heads(min(TOP, one.rank.size))) for one in estimates.values())
    both &= first
    said = f"{len(both)} heads are among the {TOP} largest of both" if stage.revealed else f"the {TOP} largest effects"
    lesson_map(
        stage,
        estimates,
        f"Framed: {said}.{'' if one_scale else ' Each map has its own scale.'}",
        framed=both if stage.revealed else first,
        hidden=None if stage.revealed else list(estimates)[1],
        one_scale=one_scale,
    )


def half_maps(stage: Stage) -> None:
    first, second = stage.evidence.halves()
    two_maps(stage, {f"first {first.n} questions": first, f"other {second.n} questions": second}, one_scale=True)


def control_maps(stage: Stage) -> None:
    """Task and text beside each other, each on its own scale: a loss per token of an answer, and of any text."""
    name, control = stage.evidence.control()
    two_maps(stage, {stage.evidence.view.task.title: stage.evidence.heads.estimate, name: control}, one_scale=False)


def answers(stage: Stage) -> None:
    """A question whose answer changes without the top head, and a square for every question."""
    evidence, changed = stage.evidence, stage.evidence.changed()
    questions, effects = evidence.scores.questions, evidence.scores.effects("choice_nll")[evidence.top_head]
    shown = int(np.argmax(np.where(changed, effects + np.ptp(effects) + 1, effects)))
    n_options = int(questions.n_options[shown])
    example = (texts_of(evidence.view.task.name, questions.ids) or {}).get(questions.ids[shown])
    options = [f"option {place + 1}" for place in range(n_options)] if example is None else example.options
    if example is not None:
        st.caption(escaped(" ".join(example.question.split())[:QUESTION_CHARACTERS]))
    shares = [softmax(one[shown, :n_options]) for one in evidence.logliks()]
    gold = int(questions.gold[shown])
    figure = partial(
        figures.answers_before_after, options, gold, shares, changed, stage.canvas, revealed=stage.revealed
    )
    stage.chart(figure, "answers", "Probability of each option, intact and without the head, and a square per question")
    st.caption(f"Below: {len(changed)} questions{', filled where the answer changes' * stage.revealed}.")


def zeros(stage: Stage) -> None:
    found = stage.evidence.zeros()
    shares = {"attention": found.by_layer("attention")[0], "MLPs": found.by_layer("mlp")[0]}
    figure = partial(figures.zeros_by_layer, shares, HALF_PRUNED, stage.canvas, revealed=stage.revealed)
    stage.chart(figure, "zeros", "Share of the attention and of the MLP weights that CAP removes in each layer")


def accuracies(stage: Stage) -> None:
    evidence, store, bars = stage.evidence, stage.evidence.view.store, []
    runs = {"dense": evidence.dense(), "cap": evidence.pruned("cap"), "wanda": evidence.pruned("wanda")}
    for name, run in runs.items():
        level, colour = level_in(store, run, ACC), criterion_colour(name)
        bars.append(figures.Bar.percent(criterion_title(name), level.value, level.ci.low, level.ci.high, colour))
    chance = 100 * against_guessing(evidence.view.task, report_of(store, runs["dense"])).chance
    figure = partial(figures.accuracy_bars, bars, chance, stage.canvas, revealed=stage.revealed)
    stage.chart(figure, "accuracies", "Accuracy of the dense model, and with half of the weights removed")


def circuit(stage: Stage) -> None:
    """The heads of the largest effects where the map has them; their paths after the guess."""
    found, scores = stage.evidence.circuit(), stage.evidence.scores
    heads, shape = found.head_marks(), (scores.n_layers, scores.n_heads)
    paths = list(found.path_marks()) if stage.revealed else []
    selected = head_name(*stage.evidence.top_head)
    figure = partial(circuit_graph, heads, paths, shape, selected=selected, text=stage.canvas.text)
    stage.chart(figure, "circuit", "The heads of the largest effects, and after the guess their paths")


def together(stage: Stage) -> None:
    """The heads with the largest effects; after the guess their joint effect where it is stored, else crossed out."""
    heads, top = {"": stage.evidence.heads.estimate}, sorted(stage.evidence.top_heads)
    if not stage.revealed:
        lesson_map(stage, heads, f"Framed: the {len(top)} largest effects.", framed=top)
    elif (joint := stage.evidence.joint()) is None:
        lesson_map(stage, heads, f"Crossed out: the {len(top)} largest effects.", off=top)
    else:
        figure = partial(figures.joint_bars, [head_name(*head) for head in top], *joint, stage.canvas)
        stage.chart(figure, "together", "Effects of the heads one by one, their sum, and all of them together")


PICTURES: dict[str, Callable[[Stage], None]] = {
    picture.__name__.replace("_", " "): picture
    for picture in (hidden_map, effect_map, answers, half_maps, control_maps, zeros, accuracies, circuit, together)
}
