"""Which heads gained or lost a role by pruning: effects of all heads, dense against pruned, on the same questions."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import streamlit as st

from cap_viz.attribution.effect_changes import EffectChanges
from cap_viz.attribution.effect_metrics import METRICS
from cap_viz.dashboard.components.head_map import head_boxes, head_map, pick_head
from cap_viz.dashboard.components.panels import problems_told
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.new_run import cost_sentence, offer_runs
from cap_viz.dashboard.heads.sentences import interval_at
from cap_viz.dashboard.names import mask_name, metric_name
from cap_viz.dashboard.prune.setting import PruneSetting, eval_spec
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.errors import CapVizError
from cap_viz.figures.head_grid import Grid
from cap_viz.figures.results import CHANGE_ENDS
from cap_viz.figures.theme import signed
from cap_viz.pruning.options import USUAL
from cap_viz.runs.kinds.scores import load_changes
from cap_viz.runs.run_queries import masked_pair, missing_tasks
from cap_viz.runs.spec import EvalSpec, MaskSpec, ScoreSpec
from cap_viz.tasks.example_sets import evaluation_set

N_QUESTIONS = 32  # Of evaluation, which no mask has seen; as many as the shell takes.
changes_of = lru_cache(16)(load_changes)


def changed_roles_section(view: Frame, setting: PruneSetting) -> None:
    """Draw the changes of all heads under the first criterion, or the button that measures what is missing."""
    try:
        wanted = eval_spec(setting, setting.criteria[0])
    except CapVizError:  # `zeros_section` shows the error.
        return
    if wanted.mask is None or setting.sparsity == 0:
        return
    pair = masked_pair(view.runs, view.model, view.task.name, wanted.mask)
    if pair is None and missing_tasks(wanted):  # The section of accuracies names the texts.
        return
    with st.expander("Heads whose role changed", key="prune_roles"), problems_told():
        if pair is not None:
            draw(view, wanted.mask, changes_of(view.store, *pair), setting.options.metric or USUAL["metric"])
        else:
            offer(view, wanted)


def offer(view: Frame, wanted: EvalSpec) -> None:
    """Offer to score the heads of the dense and the pruned model, whichever is not stored."""
    n = min(N_QUESTIONS, len(view.task.splits.evaluation))
    dense = ScoreSpec(view.model, evaluation_set(view.task, n))
    missing = [spec for spec in (dense, replace(dense, mask=wanted.mask)) if view.store.get(spec) is None]
    sides = " and ".join("pruned" if spec.mask else "dense" for spec in missing)
    said = f"{n} evaluation questions, {sides}. {cost_sentence(view, n * len(missing), view.task.name)}"
    offer_runs(view, f"Score the heads under {mask_name(wanted.mask)}", *missing, key="prune_roles_start", said=said)


def draw(view: Frame, mask: MaskSpec, found: EffectChanges, metric: str) -> None:
    """Count the kinds of change, and draw the map of changes with the selected head, at first that of the largest."""
    change, kinds, unit = found.estimated(metric), np.array(found.kinds(metric)), METRICS[metric].unit
    st.markdown(
        f"{mask_name(mask)}, {change.n} evaluation questions, {metric_name(view.task, metric).lower()}: of "
        f"{change.mean.size} heads **{found.counted(metric)}**.",
        help=GLOSSARY["effect_change"],
    )
    largest = divmod(int(np.abs(change.mean).argmax()), change.mean.shape[1])
    before, after = found.before.mean_effect(metric), found.after.mean_effect(metric)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        head = head_boxes(view.selection, *change.mean.shape, default=largest)
        st.markdown(
            f"Head {head[1]} of layer {head[0]}: {signed(before[head])} before, {signed(after[head])} after, "
            f"**{signed(change.mean[head])} {unit}** {interval_at(change, head)}, {kinds[head]}."
        )
    grid = Grid.of(change, ends=CHANGE_ENDS, selected=head, also={"before": before, "after": after})
    head_map(grid, key="prune_roles_map", unit=unit, label=f"Changes under {mask_name(mask)}", on_pick=pick_head)
