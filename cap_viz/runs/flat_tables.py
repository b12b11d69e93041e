"""Results of a stored run as one flat table, for CSV, Parquet, JSON and notebooks. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from cap_viz.attribution.effect_metrics import METRICS
from cap_viz.attribution.results import BLOCK_PARTS
from cap_viz.evaluation.generation import ENDINGS, GenerationReport
from cap_viz.runs.protocols import protocol_of
from cap_viz.runs.run_loading import (
    read_answers,
    read_blocks,
    read_gradient,
    read_head_zeros,
    read_joint,
    read_report,
    read_scores,
    read_zeros,
)
from cap_viz.runs.spec import EvalSpec, JointSpec, ProfileSpec, RoleSpec, ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.stats import false_discovery, mean_with_ci
from cap_viz.tasks import load_task


def numbers_of(store: Store, run: StoredRun) -> pd.DataFrame:
    """Tabulate the results of a run.

    Scores: one row per metric, layer and head (or block). Evaluations: per question, window or solution. Profiles: per
    sparsity and matrix (or head). Roles: per layer and head. Joint ablation: per metric and set of heads.

    Raises `DamagedRun` when a file of the run cannot be trusted.
    """
    spec = run.spec
    if isinstance(spec, ScoreSpec):
        return score_numbers(store, run, spec)
    if isinstance(spec, EvalSpec):
        return evaluation_numbers(store, run)
    if isinstance(spec, RoleSpec):
        return store.table(run, "roles")
    if isinstance(spec, JointSpec):
        return joint_numbers(store, run, spec)
    return profile_numbers(store, run, spec)


def score_numbers(store: Store, run: StoredRun, spec: ScoreSpec) -> pd.DataFrame:
    if spec.estimator == "gradient":
        metric = spec.metric or "nll"
        return effect_rows(metric, read_gradient(store, run).effects(metric))
    metrics = ["nll"] if load_task(spec.examples.task).kind == "text" else list(METRICS)
    if spec.parts == "blocks":
        blocks = read_blocks(store, run)
        return pd.concat([effect_rows(metric, blocks.effects(metric), parts=BLOCK_PARTS) for metric in metrics])
    scores = read_scores(store, run)
    return pd.concat([effect_rows(metric, scores.effects(metric)) for metric in metrics], ignore_index=True)


def joint_numbers(store: Store, run: StoredRun, spec: JointSpec) -> pd.DataFrame:
    """Tabulate the mean effect of every set of heads on every metric: the set, its single heads, random sets."""
    scores = read_joint(store, run)
    rows = []
    for metric in ["nll"] if load_task(spec.examples.task).kind == "text" else list(METRICS):
        estimate = mean_with_ci(scores.effects(metric)[1:])
        for at, heads in enumerate(scores.sets[1:]):
            what = "set" if at == 0 else "head" if at <= len(spec.heads) else "random"
            rows.append(
                {
                    "metric": metric,
                    "what": what,
                    "heads": " ".join(f"L{layer}H{head}" for layer, head in heads),
                    "mean_effect": estimate.mean[at],
                    "ci_low": estimate.low[at],
                    "ci_high": estimate.high[at],
                    "n": estimate.n,
                }
            )
    return pd.DataFrame(rows)


def effect_rows(
    metric: str, effects: Float[np.ndarray, "layer part example"], *, parts: Sequence[str] | None = None
) -> pd.DataFrame:
    """Tabulate the mean effect of every head (or named part) with t interval, p and q value, in the metric's unit."""
    estimate = mean_with_ci(effects)
    layers, places = (axis.ravel() for axis in np.indices(estimate.mean.shape))
    return pd.DataFrame(
        {
            "metric": metric,
            "layer": layers,
            **({"head": places} if parts is None else {"part": [parts[place] for place in places.tolist()]}),
            "mean_effect": estimate.mean.ravel(),
            "ci_low": estimate.low.ravel(),
            "ci_high": estimate.high.ravel(),
            "p_value": estimate.p_value.ravel(),
            "q_value": false_discovery(estimate.p_value).adjusted.ravel(),
            "n": estimate.n,
        }
    )


def evaluation_numbers(store: Store, run: StoredRun) -> pd.DataFrame:
    """Tabulate an evaluation: choices and log-likelihoods, written answers, or losses of windows or solutions."""
    if isinstance(run.spec, EvalSpec) and protocol_of(run.spec) is not None:
        return written_numbers(read_answers(store, run))
    report = read_report(store, run)
    if isinstance(run.spec, EvalSpec) and run.spec.protocol is not None:
        return pd.DataFrame(
            {
                "id": report.questions.ids,
                "tokens": report.questions.tokens[:, 0],
                "loglik": report.logliks[:, 0],
                "nll": report.losses("nll"),
            }
        )
    return pd.DataFrame(
        {
            "id": report.questions.ids,
            "gold": report.questions.gold,
            "chosen": report.chosen,
            "right": report.correct,
            "chosen_norm": report.chosen_norm,
            "right_norm": report.correct_norm,
            "choice_nll": report.losses("choice_nll"),
            **{f"loglik_{k}": report.logliks[:, k] for k in range(report.logliks.shape[1])},
        }
    )


def written_numbers(report: GenerationReport) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": report.ids,
            "text": report.texts,
            "strict": report.strict,
            "flexible": report.flexible,
            "gold": report.gold,
            "right": report.correct,
            "right_flexible": report.correct_flexible,
            "ended": [ENDINGS[number] for number in report.ended],
            "tokens": report.tokens,
            "dropped": report.dropped,
        }
    )


def profile_numbers(store: Store, run: StoredRun, spec: ProfileSpec) -> pd.DataFrame:
    if spec.parts == "heads":
        read_head_zeros(store, run)
        return store.table(run, "heads")
    read_zeros(store, run)
    return store.table(run, "zeros")
