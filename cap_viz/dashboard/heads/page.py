"""Body of the Heads page: the grid, the selected head beside it, ranked heads and examples below."""

from __future__ import annotations

from functools import partial

import streamlit as st

from cap_viz.attribution.results import EvalReport
from cap_viz.dashboard.components.head_map import head_inputs, selected_head
from cap_viz.dashboard.components.job_card import ticking
from cap_viz.dashboard.components.panels import caution, problem
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.attention_patterns import role_line, roles_of, roles_section
from cap_viz.dashboard.heads.blocks import add_blocks, block_effects, offer_blocks
from cap_viz.dashboard.heads.control_task import GENERIC_TEXT, SPECIFICITY, View, control_jobs, no_control
from cap_viz.dashboard.heads.detail import HeadView, count, detail
from cap_viz.dashboard.heads.estimates import estimate_body
from cap_viz.dashboard.heads.examples import example_panel
from cap_viz.dashboard.heads.interpretation import reading_section
from cap_viz.dashboard.heads.joint_ablation import together_section
from cap_viz.dashboard.heads.live import live_body
from cap_viz.dashboard.heads.map import draw_bars, draw_grid, effect_map
from cap_viz.dashboard.heads.source import Source, run_name
from cap_viz.dashboard.heads.specificity import overlap_sentence, specificity_body
from cap_viz.dashboard.heads.widgets import Chosen
from cap_viz.dashboard.overview.data import dense_evaluation
from cap_viz.dashboard.stored import report_of, scores_of, statistics_of
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.errors import CapVizError
from cap_viz.evaluation.eval_metrics import against_guessing
from cap_viz.figures.head_grid import colour_limit
from cap_viz.models.rounding_noise import noise_floor
from cap_viz.runs.run_queries import score_runs
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.store import StoredRun
from cap_viz.stats import rank_stability

TARGET_RELIABILITY = 0.8
FEWEST_FOR_BANNER = 8


def is_live(source: Source, view: View) -> bool:
    """Return whether the body must follow a job: the run's own, or one that measures a missing control."""
    waiting = view.needs_control and view.control is None
    return source.job is not None or (waiting and bool(control_jobs(source)))


def body(frame: Frame, chosen: Chosen) -> None:
    """Draw grid and detail of a stored run, or the filling grid of a running one; refresh while jobs run."""
    ticking(lambda: content(frame, chosen.source, chosen.metric, chosen.view), live=is_live(chosen.source, chosen.view))


def content(frame: Frame, source: Source, metric: str, view: View) -> None:
    if source.job is not None:
        live_body(frame, source, metric)
        return
    assert source.run is not None
    if view.needs_control and view.control is None:
        no_control(frame, source)
        return
    try:
        if source.estimator != "exact":
            estimate_body(frame, source, source.run)
        else:
            draw(frame, source, source.run, metric, view)
    except CapVizError as error:
        problem(str(error))


def draw(frame: Frame, source: Source, run: StoredRun, metric: str, view: View) -> None:
    """Draw the chosen view. Raises `CapVizError` if a run cannot be read or compared."""
    shown = head_view(frame, source, run, metric)
    control = None if view.control is None else control_view(frame, view.control)
    baseline_banner(shown)
    if view.name == SPECIFICITY and control is not None:
        specificity_body(shown, control)
    elif view.name == GENERIC_TEXT and control is not None:
        effect_body(control, shown, above=overlap_sentence(shown, control))
    else:
        effect_body(shown, control)


def head_view(frame: Frame, source: Source, run: StoredRun, metric: str) -> HeadView:
    return HeadView(frame, source, metric, scores_of(frame.store, run), statistics_of(frame.store, run, metric))


def control_view(frame: Frame, control: StoredRun[ScoreSpec]) -> HeadView:
    return head_view(frame, Source(run_name(control.spec), control.spec, run=control), control, "nll")


def effect_body(view: HeadView, other: HeadView | None, *, above: str = "") -> None:
    """Draw the effects of heads on one task or text; `other` at the same metric shares the colour scale."""
    alike = [view] if other is None or other.metric != view.metric else [view, other]
    # The wider of the two scales, so that neither text has more heads beyond the scale than on its own.
    limit = max(colour_limit(one.stats.estimate.mean) for one in alike)
    estimate, spec = view.stats.estimate, view.source.spec
    shown = effect_map(estimate, view.words, view.task, view.metric, limit=limit, ranks=view.ranks_heads)
    left, right = st.columns([11, 10], gap="medium")
    # The inputs come first: the grid frames the head they select.
    with right:
        layer, head = head_inputs(view.scores.n_layers, view.scores.n_heads, estimate.top_head)
        detail(view, layer, head)
        roles = roles_of(view)
        if roles is not None:
            role_line(roles, layer, head)
    with left:
        if above:
            st.markdown(above, help=GLOSSARY["ceiling"])
        st.markdown(reliability_sentence(view), help=GLOSSARY["reliability"])
        rounding = noise_floor(spec.model.dtype, view.metric, estimate.mean, view.n)
        if rounding is not None and rounding.below:
            caution(str(rounding))
        blocks = block_effects(view.frame.store, spec, view.metric)
        draw_grid(
            shown, (layer, head), None if blocks is None else partial(add_blocks, estimate=blocks, unit=view.unit)
        )
        offer_blocks(view.frame, spec)
        if view.ranks_heads:
            st.caption(stability_sentence(view), help=GLOSSARY["ablation"])
        if not above and other is not None and other.metric == view.metric:
            st.caption(overlap_sentence(view, other), help=GLOSSARY["ceiling"])
    lower_left, lower_right = st.columns([11, 10], gap="medium")
    with lower_left:
        draw_bars(shown)
    with lower_right:
        example_panel(view.task, view.scores, view.words, view.stats.effects, view.unit, *selected_head())
    reading_section(view, layer, head)
    together_section(view, (layer, head))
    roles_section(view, roles, (layer, head))


def baseline_banner(view: HeadView) -> None:
    """Warn if the intact model is not clearly above guessing, by its stored accuracy, else on these examples."""
    if view.task.kind == "text":
        return
    run = dense_evaluation(view.frame, view.frame.task)
    report = EvalReport(view.scores.questions, view.scores.dense)
    if run is not None:
        report = report_of(view.frame.store, run)
    test = against_guessing(view.frame.task, report)
    if not test.clearly_above and test.n >= FEWEST_FOR_BANNER:
        caution(
            f"The intact model is right on {test.accuracy:.0%} of {test.n} questions, not clearly above guessing "
            f"({test.chance:.0%}): there may be little here for a head to carry."
        )


def reliability_sentence(view: HeadView) -> str:
    found = view.stats.reliability
    if not view.ranks_heads:
        return "Errors change on few questions: this view shows where, and is not used to rank heads."
    if found is None:
        return f"{count(view.n)}: too few to tell how stable this ranking is (at least 4 are needed)."
    needed = found.n_for(TARGET_RELIABILITY)
    if found.full >= TARGET_RELIABILITY:
        outlook = "stable under other examples"
    elif needed is None:
        outlook = "other examples would give another ranking"
    else:
        outlook = f"about {needed} examples would reach {TARGET_RELIABILITY}"
    return f"Ranking reliability **{found.full:.2f}** at n = {view.n}: {outlook}."


def stability_sentence(view: HeadView) -> str:
    """Report the rank correlation with other ablations on the same examples, or how to measure one."""
    this = view.source.spec
    others = {
        run.spec.ablation: run
        for run in score_runs(view.frame.runs, view.frame.model, this.examples.task)
        if set(run.spec.examples.ids) == set(this.examples.ids) and run.spec.ablation != this.ablation
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
