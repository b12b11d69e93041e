"""Measure the toy reasoner and write its model card and learning curves:  python -m scripts.toy_card [FOLDER]

The training calls this when it is done. Needs Chromium for the picture (the variable CHROMIUM names another one).
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import plotly.graph_objects as go

import cap_viz as cv
from cap_viz.models.catalogue import TRAINING_FILE, folder_source
from cap_viz.models.loading import ReasoningModel, load
from cap_viz.settings import ASSETS
from cap_viz.stats import above_chance
from cap_viz.tasks import toy_choice, toy_math, toy_strategy
from cap_viz.tasks.toy_draws import N_EVALUATION, Drawn, as_example, drawn
from scripts.pictures import TEXT, save_picture

TITLES = {"toy_math": "Toy math", "toy_strategy": "Toy strategy", "toy_choice": "Toy choice"}
COLOURS = {"toy_math": "#0072B2", "toy_strategy": "#D55E00", "toy_choice": "#009E73"}
UNITS = {"toy_math": "steps", "toy_strategy": "people", "toy_choice": "animals"}
CHANCE = 0.25
# Longer than any question of the training.
HARDER = {"toy_math": (5, 6), "toy_strategy": (5, 6), "toy_choice": (5, 6)}
N_HARDER = 200


class SizedDraw(Protocol):
    """Draws a question of a given size, or of any that the training has."""

    def __call__(self, rng: random.Random, size: int | None = None, /) -> Drawn: ...


DRAWS: dict[str, SizedDraw] = {
    "toy_math": toy_math.draw,
    "toy_strategy": toy_strategy.draw,
    "toy_choice": toy_choice.draw,
}


@dataclass(frozen=True)
class Measured:
    """Accuracy on the questions of one difficulty (None: all of the evaluation split)."""

    task: str
    difficulty: int | None
    n: int
    accuracy: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.accuracy:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def asked_of(model: ReasoningModel, task: str, difficulty: int | None, questions: Sequence[Drawn]) -> Measured:
    examples = tuple(as_example(f"asked-{at}", question) for at, question in enumerate(questions))
    report = cv.evaluate(model, examples)
    test = above_chance(report.correct, report.questions.n_options)
    return Measured(task, difficulty, test.n, test.accuracy, test.ci.low, test.ci.high)


def measure(model: ReasoningModel) -> Iterator[Measured]:
    """Each task as a whole, by difficulty, and on questions longer than any of the training."""
    for task, draw in DRAWS.items():
        questions = [drawn(task, "evaluation", draw, index) for index in range(N_EVALUATION)]
        yield asked_of(model, task, None, questions)
        groups: dict[int, list[Drawn]] = defaultdict(list)
        for question in questions:
            groups[question.difficulty].append(question)
        for size in sorted(groups):
            yield asked_of(model, task, size, groups[size])
        for size in HARDER[task]:
            rng = random.Random(f"{task} harder {size}")
            yield asked_of(model, task, size, [draw(rng, size) for _ in range(N_HARDER)])


def curves(log: Sequence[Mapping[str, float]]) -> go.Figure:
    figure = go.Figure()
    steps = [line["step"] for line in log]
    for task, title in TITLES.items():
        figure.add_scatter(
            x=steps, y=[100 * line[task] for line in log], name=title, line={"color": COLOURS[task], "width": 2}
        )
    figure.add_hline(y=100 * CHANCE, line={"dash": "dot", "color": "#888"}, annotation_text="chance")
    figure.update_layout(
        template="plotly_white",
        title="Accuracy on held-out questions while training",
        xaxis_title="Training step",
        yaxis={"title": "Accuracy (%)", "range": [0, 102]},
        font=TEXT,
        margin={"l": 70, "r": 20, "t": 50, "b": 60},
    )
    return figure


def table(found: Sequence[Measured]) -> str:
    rows = ["| task | questions | n | accuracy [95 %] |", "|---|---|---|---|"]
    for one in found:
        if one.difficulty is None:
            which = "evaluation split"
        else:
            longer = ", longer than in training" if one.difficulty in HARDER[one.task] else ""
            which = f"{one.difficulty} {UNITS[one.task]}{longer}"
        rows.append(f"| {TITLES[one.task]} | {which} | {one.n} | {one} |")
    return "\n".join(rows)


def card(training: Mapping[str, Any], found: Sequence[Measured]) -> str:
    recipe = training["recipe"]
    cores = "one CPU core" if training["threads"] == 1 else f"{training['threads']} CPU cores"
    return f"""---
license: apache-2.0
language: en
library_name: transformers
---

# Toy reasoner

A Llama of {training["parameters"] / 1e6:.2f} million parameters, trained for CAP Viz to show what attention heads
do. It answers three kinds of generated questions and nothing else; every word of theirs is one token, other words
are unknown to it.

- {recipe["layers"]} layers of {recipe["heads"]} query heads in {recipe["kv_heads"]} key-value groups, width \
{recipe["width"]}, MLP width {recipe["mlp"]}, tied embeddings, {training["words"]} tokens.
- Trained from scratch on documents made up on the fly (`scripts/toy_documents.py`, seed {recipe["seed"]}) in
  {recipe["steps"]:,} steps with AdamW: {training["seconds"] / 60:.0f} minutes on {cores}.
- Lessons that build on one another: copying repeated words, then looking up and retelling stated facts, then mostly
  the three tasks. Loss on answers; on made-up facts next to none, since nobody can know them.
- Held out are combinations, not only questions: who, where and what is asked together, say. A tenth of the
  combinations is for calibration, another tenth for evaluation; the training never asks about either.

![Accuracy while training](curves.png)

## Accuracy

Log-likelihood of four options, chance {CHANCE:.0%}; 95 % Wilson intervals. Computed by `python -m scripts.toy_card`.

{table(found)}

## Use

    python -m cap_viz score --model toy-reasoner --task toy_math --n 64

## Limits

It knows {training["words"]} words and the forms of sentences it was trained on. What is found about its heads says
something about this model and about the method, little about large language models.
"""


def write_card(folder: Path) -> None:
    training = json.loads((folder / TRAINING_FILE).read_text(encoding="utf-8"))
    model = load(folder_source(str(folder), folder.name, folder))
    found = tuple(measure(model))
    save_picture(curves(training["log"]), folder / "curves.png")
    (folder / "README.md").write_text(card(training, found), encoding="utf-8")
    print(table(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=ASSETS / "toy_reasoner")
    write_card(parser.parse_args().folder)


if __name__ == "__main__":
    main()
