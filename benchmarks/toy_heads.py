"""Which heads of the toy reasoner carry which task: python -m benchmarks.toy_heads [--json]

Heads are ranked by the shipped scores (64 calibration questions). On `--n` evaluation questions the first `--size` of
each task are removed together and compared with 19 random sets of as many other heads: on their own task, and on the
others. Size and seed were fixed before the first look. What the first heads attend to is told beside them.

accuracy   of the whole model, without the set, and the range without random sets
p_value    share of random sets (with the set itself) that hurt at least as much
shared     heads among the first of more than one task
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from benchmarks.guards import shipped_only
from cap_viz.attribution.attention_patterns import MEASURES
from cap_viz.attribution.exact import make_score_plan
from cap_viz.attribution.joint_ablation import joint_steps
from cap_viz.attribution.joint_scores import JointScores
from cap_viz.models.catalogue import TOY_MODEL
from cap_viz.models.loading import ReasoningModel, load_model
from cap_viz.progress import finish
from cap_viz.runs.kinds.joint import judged, sets_of
from cap_viz.runs.kinds.patterns import load_patterns
from cap_viz.runs.kinds.scores import load_scores
from cap_viz.runs.run_queries import role_spec, score_runs
from cap_viz.runs.spec import JointSpec, ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.stats import mean_with_ci
from cap_viz.stats.circuits import order_of
from cap_viz.stats.joint import HeadSet
from cap_viz.tasks.example_sets import evaluation_set, examples_of

TASKS = ("toy_math", "toy_strategy", "toy_choice")
METRIC = "nll"
SIZE, N, DRAWS, SEED = 4, 200, 19, 0


@dataclass(frozen=True)
class TopHead:
    """A head among the first of a task: its effect in nats and what it attends to."""

    name: str
    effect: float
    low: float
    high: float
    roles: dict[str, float]


@dataclass(frozen=True)
class Removal:
    """The first heads of `ranked_on` removed together, measured on evaluation questions of `measured_on`."""

    ranked_on: str
    measured_on: str
    accuracy_dense: float
    accuracy_removed: float
    accuracy_random: tuple[float, float]
    effect: float
    effect_random: tuple[float, float]
    p_value: float


def score_run(store: Store, model: ReasoningModel, task: str) -> StoredRun:
    return score_runs(store.runs(), model.ref, task)[0]


def top_heads(store: Store, run: StoredRun, heads: HeadSet) -> list[TopHead]:
    assert isinstance(run.spec, ScoreSpec)
    roles_run = store.get(role_spec(run.spec))
    assert roles_run is not None
    roles = load_patterns(store, roles_run)
    estimate = mean_with_ci(load_scores(store, run).effects(METRIC))
    return [
        TopHead(
            name=f"L{layer}H{head}",
            effect=round(float(estimate.mean[layer, head]), 3),
            low=round(float(estimate.low[layer, head]), 3),
            high=round(float(estimate.high[layer, head]), 3),
            roles={name: round(float(roles.values[name][layer, head]), 2) for name in MEASURES},
        )
        for layer, head in heads
    ]


def accuracy(scores: JointScores, number: int) -> float:
    return float((np.nanargmax(scores.ablated[number], axis=-1) == scores.questions.gold).mean())


def removals(model: ReasoningModel, task: str, sets: dict[str, HeadSet], n: int) -> list[Removal]:
    """Every task's first heads on the questions of one task, against random sets of other heads."""
    examples, found = evaluation_set(task, n), []
    plan = make_score_plan(model, examples_of(examples), parts="sets")
    for ranked_on, heads in sets.items():
        spec = JointSpec(model=model.ref, examples=examples, heads=heads, draws=DRAWS, seed=SEED)
        scores = finish(joint_steps(model, plan, sets_of(spec, model.shape.n_layers, model.shape.n_heads)))
        effect = judged(spec, scores, METRIC)
        chance = [accuracy(scores, number) for number in range(len(scores.sets) - DRAWS, len(scores.sets))]
        found.append(
            Removal(
                ranked_on=ranked_on,
                measured_on=task,
                accuracy_dense=round(accuracy(scores, 0), 3),
                accuracy_removed=round(accuracy(scores, 1), 3),
                accuracy_random=(round(min(chance), 3), round(max(chance), 3)),
                effect=round(float(effect.joint.mean), 3),
                effect_random=(round(effect.random_low, 3), round(effect.random_high, 3)),
                p_value=round(effect.p_value, 3),
            )
        )
    return found


@dataclass(frozen=True)
class Findings:
    """The first heads of each task, those of more than one task, and what removing them does."""

    heads: dict[str, list[TopHead]]
    shared: list[str]
    removals: list[Removal]
    size: int
    n: int


def measure(size: int, n: int) -> Findings:
    model = load_model(TOY_MODEL)
    with shipped_only() as store:
        runs = {task: score_run(store, model, task) for task in TASKS}
        sets = {task: order_of(load_scores(store, run).mean_effect(METRIC))[:size] for task, run in runs.items()}
        heads = {task: top_heads(store, run, sets[task]) for task, run in runs.items()}
    every = [head for chosen in sets.values() for head in chosen]
    return Findings(
        heads=heads,
        shared=sorted({f"L{layer}H{head}" for layer, head in every if every.count((layer, head)) > 1}),
        removals=[one for task in TASKS for one in removals(model, task, sets, n)],
        size=size,
        n=n,
    )


def table(removed: Sequence[Removal]) -> str:
    lines = [
        "| first heads of | measured on | accuracy | without them | without random sets | p |",
        "|---|---|---|---|---|---|",
    ]
    for one in removed:
        low, high = one.accuracy_random
        lines.append(
            f"| {one.ranked_on} | {one.measured_on} | {one.accuracy_dense} | {one.accuracy_removed} | "
            f"{low} to {high} | {one.p_value} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=SIZE)
    parser.add_argument("--n", type=int, default=N)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.size, options.n)
    if options.json:
        print(json.dumps(asdict(found)))
    else:
        for task, heads in found.heads.items():
            print(
                task, *(f"{one.name} {one.effect:+} [{one.low}, {one.high}] {one.roles}" for one in heads), sep="\n  "
            )
        print("shared:", ", ".join(found.shared) or "none")
        print(table(found.removals))
    return 0


if __name__ == "__main__":
    sys.exit(main())
