"""Stability of the ranking across ablations, from runs of other ablations on the same examples."""

from __future__ import annotations

from cap_viz.dashboard.heads.detail import HeadView
from cap_viz.dashboard.stored import statistics_of
from cap_viz.runs.run_queries import score_runs
from cap_viz.runs.spec import ScoreSpec
from cap_viz.stats import rank_stability


def stability_sentence(view: HeadView) -> str:
    """Report the rank correlation with other ablations on the same examples, or how to measure one."""
    this = view.source.spec
    others = {
        run.spec.ablation: run
        for run in score_runs(view.frame.runs, view.frame.model, this.examples.task)
        if isinstance(run.spec, ScoreSpec)
        and set(run.spec.examples.ids) == set(this.examples.ids)
        and run.spec.ablation != this.ablation
    }
    if not others:
        return (
            f"Measured with {this.ablation} ablation only: start a new run on the same examples with another to see "
            "whether the ranking depends on it."
        )
    means = {name: statistics_of(view.frame.store, run, view.metric).estimate.mean for name, run in others.items()}
    found = rank_stability({this.ablation: view.stats.estimate.mean, **means})
    said = ", ".join(
        f"{name} ρ = {found.spearman[0, i]:.2f}, {round(found.overlap[0, i] * found.top)} of the top {found.top} shared"
        for i, name in enumerate(found.names)
        if i > 0
    )
    return f"Rank stability, {this.ablation} against other ablations of the same examples: {said}."
