"""Importance behind CAP, and how to read the page's numbers: caveats, rules and what zeros save."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import numpy as np
import streamlit as st

from cap_viz.dashboard.components.measured_column import named
from cap_viz.dashboard.components.panels import caution, problem
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.names import model_name
from cap_viz.dashboard.prune.setting import PruneSetting
from cap_viz.dashboard.stored import scores_of
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.figures.prune import importance_histogram
from cap_viz.figures.theme import CONFIG
from cap_viz.pruning import CRITERIA, importance
from cap_viz.pruning.options import USUAL
from cap_viz.runs.run_labels import ablation_words
from cap_viz.runs.store import DamagedRun
from cap_viz.settings import ASSETS
from cap_viz.stats import widest_outlier

# Measured by `benchmarks.pruned_cost`.
COST = ASSETS / "pruned_cost.json"
# An outlier gets a warning when the other heads span less than this share of the scale of I.
NARROW = 0.6
ACCURACY_NOTES = (
    "At 10 and 20 % most differences are within noise on a few hundred items: look at the interval, not the mark.",
    "Items come in the task's order and took no part in scoring heads or measuring activations.",
)


def importance_section(view: Frame, setting: PruneSetting) -> None:
    """Draw the histogram of importance I, if one of the criteria scales head effects to it."""
    if setting.scores is None or not any(CRITERIA[name].scales_importance for name in setting.criteria):
        return
    words = ablation_words(setting.scores)
    st.markdown(
        "##### Importance behind CAP",
        help="CAP multiplies every weight's magnitude with the importance I of its head: the mean effect of "
        f"{words.doing} the head{words.by}, scaled so that the least helpful head has I = 1 and the most helpful "
        "I = 10.",
    )
    run = view.store.get(setting.scores)
    if run is None:
        st.caption("The head scores are no longer stored.")
        return
    try:
        effect = scores_of(view.store, run).mean_effect(setting.options.metric or USUAL["metric"])
    except DamagedRun as error:
        problem(str(error))
        return
    scaled = importance(effect)
    outlier = widest_outlier(scaled)
    st.plotly_chart(importance_histogram(scaled, outlier), config=CONFIG, key="prune_importance", alt="Histogram of I")
    low, high = np.quantile(scaled, [0.05, 0.95])
    span = f"Nine heads in ten lie between I = {low:.1f} and {high:.1f}: a factor of {high / low:.1f}."
    if outlier.range_left < NARROW:
        caution(
            f"One head (layer {outlier.layer}, head {outlier.head}) stretches the scale: without it the effects span "
            f"{outlier.range_left:.0%} of their range. {span} CAP is then close to global magnitude."
        )
    else:
        st.caption(span + " The closer to 1, the more CAP resembles global magnitude.")


def notes_section(setting: PruneSetting, *, has_accuracy: bool) -> None:
    """Draw the caveats of these numbers and the rules of the criteria."""
    with st.expander("Reading these numbers"):
        said = [*criteria_notes(setting), *(ACCURACY_NOTES if has_accuracy else ())]
        st.markdown("\n".join(f"- {one}" for one in said))
        rules = [
            f"{named(name)}: {CRITERIA[name].summary} *{CRITERIA[name].source}*"
            for name in dict.fromkeys(setting.criteria)
        ]
        st.markdown("  \n".join(rules))
        st.caption(cost_sentence(setting.criteria))
        if has_accuracy:
            st.caption(f"Chance: {GLOSSARY['chance']}")


def criteria_notes(setting: PruneSetting) -> list[str]:
    """Collect the criteria's notes under the chosen spread; a note not shared by all is prefixed with its criteria."""
    whose: dict[str, list[str]] = {}
    shown = [CRITERIA[name] for name in dict.fromkeys(setting.criteria)]
    for one in shown:
        for note in one.notes(setting.options_of(one.name).pattern):
            whose.setdefault(note, []).append(one.title)
    return [note if len(titles) == len(shown) else f"{' and '.join(titles)}: {note}" for note, titles in whose.items()]


@lru_cache(maxsize=1)
def measured_cost() -> dict[str, Any]:
    return json.loads(COST.read_text(encoding="utf-8"))


def cost_sentence(criteria: tuple[str, ...]) -> str:
    """State what the kinds of zeros the criteria make save in file size and time, as measured on one model."""
    cost, structured = measured_cost(), {CRITERIA[name].structured for name in criteria}
    parts = []
    if False in structured:
        parts.append(f"At 50 % zeros: {saved(cost['unstructured 50 %'])}.")
    if True in structured:
        few, half = cost["whole heads 20 %"], cost["whole heads 50 %"]
        parts.append(f"Without 20 % of the heads: {saved(few)}; without 50 %: {saved(half)}.")
    where = f"{model_name(cost['model'])}, {cost['tokens']} tokens, {cost['threads']} threads"
    return f"{' '.join(parts)} Measured on {where}."


def saved(cost: dict[str, float]) -> str:
    return f"file ×{cost['bytes_ratio']:.2f}, time ×{cost['seconds_ratio']:.2f}"
