"""Pictures of the lesson, by the name under which a lesson file asks for them.

Each shows the numbers of its step, and keeps back what would give the answer away until the guess.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
import streamlit as st
from scipy.special import softmax

from cap_viz.dashboard.components.panels import escaped
from cap_viz.dashboard.learn.data import HALF_PRUNED, TOP, Evidence, Head, head_name
from cap_viz.dashboard.selection import choose
from cap_viz.dashboard.stored import level_in, report_of, texts_of
from cap_viz.evaluation.eval_metrics import ACC, against_guessing
from cap_viz.figures import lesson as figures
from cap_viz.figures.head_grid import colour_limit
from cap_viz.figures.theme import CONFIG, criterion_colour, signed
from cap_viz.pruning import criterion_title
from cap_viz.stats import HeadEstimate

QUESTION_CHARACTERS = 320
# On a laptop, and on a projector with its larger text.
SCREEN, PROJECTOR = figures.Canvas(440, 14), figures.Canvas(430, 22)


@dataclass(frozen=True)
class Stage:
    """What a picture is about and how it is shown; `key` is that of the step's widgets."""

    evidence: Evidence
    key: str
    revealed: bool
    projector: bool

    @property
    def canvas(self) -> figures.Canvas:
        return PROJECTOR if self.projector else SCREEN

    def picked(self, estimate: HeadEstimate) -> Head | None:
        """Return the head picked on a map."""
        heads = {head_name(head): head for head in np.ndindex(estimate.mean.shape)}
        return heads.get(self.evidence.view.selection.choice("pick", ["", *heads], what="head"))

    def chart(self, figure: go.Figure, name: str, alt: str, **more: Any) -> None:
        st.plotly_chart(figure, key=f"{self.key}_{name}", config=CONFIG, alt=alt, **more)


def lesson_map(
    stage: Stage,
    estimate: HeadEstimate,
    *,
    title: str = "",
    hidden: bool = False,
    framed: Collection[Head] = (),
    off: Collection[Head] = (),
    limit: float | None = None,
) -> None:
    """Draw a map of heads whose cells can be picked; a hidden one shows the picked cell only."""
    picked = stage.picked(estimate)
    grid = figures.lesson_grid(estimate, hidden=hidden, picked=picked, off=off, limit=limit)
    # A new key for each picked head: under an old one a second click on a cell counts as a deselection.
    name = f"map_{title}_{'' if picked is None else head_name(picked)}"
    stage.chart(
        figures.lesson_map(grid, stage.canvas, title=title, framed=framed, off=off),
        name,
        f"Effect of every head {title}: {grid.shape[0]} layers by {grid.shape[1]} heads. The link of the step opens a "
        "page with number boxes.",
        on_select=lambda: pick(f"{stage.key}_{name}"),
        selection_mode="points",
    )


def pick(key: str) -> None:
    """Take a clicked head into the address; a cleared selection changes nothing."""
    points = (st.session_state.get(key) or {}).get("selection", {}).get("points", [])
    if points:
        place = points[0]["customdata"]
        choose({"pick": head_name((int(place["0"]), int(place["1"])))})


def picked_line(stage: Stage, estimates: Mapping[str, HeadEstimate], invitation: str) -> None:
    """Say the effect of the picked head by each estimate; before there is one, what the map shows."""
    picked = stage.picked(next(iter(estimates.values())))
    effects = [
        f"{signed(float(one.mean[picked]))} nats{f' on {escaped(name)}' * bool(name)}, rank {one.rank[picked]} of "
        f"{one.rank.size}{', beyond chance' * bool(one.survives[picked])}"
        for name, one in estimates.items()
        if picked is not None
    ]
    st.caption(f"**{head_name(picked)}** removed: {'; '.join(effects)}." if picked is not None else invitation)


def hidden_map(stage: Stage) -> None:
    """All heads neutral until the guess: a click removes one and lights it up."""
    estimate = stage.evidence.heads.estimate
    lesson_map(stage, estimate, hidden=not stage.revealed)
    picked_line(stage, {"": estimate}, "Click a cell to remove that head.")


def effect_map(stage: Stage) -> None:
    """The map of all heads; the head with the largest effect is framed after the guess."""
    estimate = stage.evidence.heads.estimate
    lesson_map(stage, estimate, framed=[estimate.top_head] if stage.revealed else [])
    picked_line(stage, {"": estimate}, "Click a cell for the effect of that head.")


def answers(stage: Stage) -> None:
    """A question whose answer changes without the top head, and a square for every question."""
    evidence = stage.evidence
    questions, logliks = evidence.scores.questions, evidence.logliks()
    changed = evidence.changed()
    effects = evidence.scores.effects("choice_nll")[evidence.top_head]
    shown = int(np.argmax(np.where(changed, effects + np.ptp(effects) + 1, effects)))
    n_options = int(questions.n_options[shown])
    example = (texts_of(evidence.view.task.name, questions.ids) or {}).get(questions.ids[shown])
    options = [f"option {place + 1}" for place in range(n_options)] if example is None else example.options
    if example is not None:
        st.caption(escaped(" ".join(example.question.split())[:QUESTION_CHARACTERS]))
    shares = [softmax(one[shown, :n_options]) for one in logliks]
    gold = int(questions.gold[shown])
    figure = figures.answers_before_after(options, gold, shares, changed, stage.canvas, revealed=stage.revealed)
    stage.chart(figure, "answers", "Probability of each option, intact and without the head, and a square per question")
    st.caption(f"Below: {len(changed)} questions{', filled where the answer changes' * stage.revealed}.")


def two_maps(stage: Stage, estimates: Mapping[str, HeadEstimate]) -> None:
    """Two maps on one scale, the second hidden until the guess; the heads at the top of both are framed then."""
    tops = [set(one.top_heads(min(TOP, one.rank.size))) for one in estimates.values()]
    both, limit = tops[0] & tops[1], colour_limit(*(one.mean for one in estimates.values()))
    framed = [both, both] if stage.revealed else [tops[0], set[Head]()]
    for column, (name, one), heads in zip(st.columns(2, gap="small"), estimates.items(), framed, strict=True):
        with column:
            lesson_map(stage, one, title=name, hidden=not (stage.revealed or heads), framed=heads, limit=limit)
    said = f"{len(both)} heads are among the {TOP} largest of both" if stage.revealed else f"the {TOP} largest effects"
    picked_line(stage, estimates, f"Framed: {said}.")


def half_maps(stage: Stage) -> None:
    first, second = stage.evidence.halves()
    two_maps(stage, {f"first {first.n} questions": first, f"other {second.n} questions": second})


def control_maps(stage: Stage) -> None:
    name, control = stage.evidence.control()
    two_maps(stage, {stage.evidence.view.task.title: stage.evidence.heads.estimate, name: control})


def zeros(stage: Stage) -> None:
    found = stage.evidence.zeros()
    shares = {"attention": found.by_layer("attention")[0], "MLPs": found.by_layer("mlp")[0]}
    figure = figures.zeros_by_layer(shares, HALF_PRUNED, stage.canvas, revealed=stage.revealed)
    stage.chart(figure, "zeros", "Share of the attention and of the MLP weights that CAP removes in each layer")


def accuracies(stage: Stage) -> None:
    evidence, store = stage.evidence, stage.evidence.view.store
    runs = {"dense": evidence.dense(), **{name: evidence.pruned(name) for name in ("cap", "wanda")}}
    bars = [
        figures.Bar.percent(criterion_title(name), level.value, level.ci.low, level.ci.high, criterion_colour(name))
        for name, level in ((name, level_in(store, run, ACC)) for name, run in runs.items())
    ]
    chance = 100 * against_guessing(evidence.view.task, report_of(store, runs["dense"])).chance
    figure = figures.accuracy_bars(bars, chance, stage.canvas, revealed=stage.revealed)
    stage.chart(figure, "accuracies", "Accuracy of the dense model, and with half of the weights removed")


def together(stage: Stage) -> None:
    """The heads with the largest effects; after the guess their joint effect where it is stored, else crossed out."""
    estimate, joint = stage.evidence.heads.estimate, stage.evidence.joint()
    top = sorted(stage.evidence.top_heads)
    if stage.revealed and joint is not None:
        figure = figures.joint_bars([head_name(head) for head in top], *joint, stage.canvas)
        stage.chart(figure, "together", "Effects of the heads one by one, their sum, and all of them together")
        return
    lesson_map(stage, estimate, framed=[] if stage.revealed else top, off=top if stage.revealed else [])
    said = "Crossed out" if stage.revealed else "Framed"
    picked_line(stage, {"": estimate}, f"{said}: the {len(top)} largest effects.")


PICTURES: dict[str, Callable[[Stage], None]] = {
    "hidden map": hidden_map,
    "map": effect_map,
    "answers": answers,
    "half maps": half_maps,
    "control maps": control_maps,
    "zeros": zeros,
    "accuracies": accuracies,
    "together": together,
}
