"""The Playground's controls: prompt, heads to switch off and mask to apply, all bound to the URL."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from cap_viz.dashboard.components.head_map import head_name, named_heads
from cap_viz.dashboard.components.panels import caution
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.serving import most_prompt_characters
from cap_viz.dashboard.state import bad_choice, bad_choices, clicked, keep_valid, keep_valid_ones
from cap_viz.dashboard.stored import HeadStatistics, statistics_of
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.defaults import N_CALIBRATION
from cap_viz.errors import CapVizError
from cap_viz.figures.head_grid import Grid, colour_limit, grid_width, head_grid
from cap_viz.figures.theme import CONFIG, signed
from cap_viz.models.loading import ModelShape
from cap_viz.pruning import CRITERIA
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.run_labels import ablation_words
from cap_viz.runs.run_queries import score_runs
from cap_viz.runs.spec import MaskSpec, ScoreSpec
from cap_viz.runs.store import StoredRun
from cap_viz.stats import rank_heads
from cap_viz.stats.joint import HeadSet
from cap_viz.tasks import load_task
from cap_viz.tasks.readable import own_tasks_of

NO_MASK = "none"
# Session key of the model that the prompt was last shown with.
PROMPTED = "play_prompted"
EXAMPLES = {
    "science": "Question: Which gas do plants take in from the air?\nAnswer:",
    "copying": "Mr. Okafor met Ms. Lindqvist. They talked. Mr. Okafor thanked Ms.",
    "arithmetic": "Question: Tom has 3 apples and buys 4 more. How many apples does he have?\nAnswer:",
    "facts": "The capital of France is",
}
LINK_KEYS = ("model", "task", "prompt", "off", "mask", "zeros", "layer", "head")
TALLEST = 330


def prompt_and_mask(view: Frame) -> tuple[str, MaskSpec | None, list[str]]:
    """Draw prompt and mask controls; return prompt, mask and notes on invalid values in the URL."""
    forget_foreign_example(view.model.id)
    prompt = prompt_control(examples_for(view.model.id))
    mask, notes = mask_control(view, task_scores(view))
    return prompt, mask, notes


def task_scores(view: Frame) -> StoredRun[ScoreSpec] | None:
    """Return the exact head scores of the sidebar's task with the most examples, if any are stored."""
    return next(iter(score_runs(view.runs, view.model, view.task.name)), None)


def examples_for(model_id: str) -> dict[str, str]:
    """Example prompts in the model's vocabulary: from its own tasks if it is limited to them, else `EXAMPLES`."""
    own = own_tasks_of(model_id)
    return {name: load_task(name).evaluation(1)[0].prompt for name in own} if own else EXAMPLES


def forget_foreign_example(model_id: str) -> None:
    """Clear the prompt if it is an example of the previous model: its words would be unknown, or nonsense."""
    before = st.session_state.get(PROMPTED)
    if before not in (None, model_id) and st.session_state.get("prompt") in examples_for(before).values():
        del st.session_state["prompt"]
    st.session_state[PROMPTED] = model_id


def prompt_control(examples: Mapping[str, str]) -> str:
    keep_valid("play_example", list(examples))
    st.pills(
        "Examples",
        list(examples),
        key="play_example",
        on_change=take_example,
        args=(examples,),
        help="Each fills the prompt. copying: names that a head can copy from earlier in the text.",
    )
    return st.text_area(
        "Prompt",
        next(iter(examples.values())),
        key="prompt",
        bind="query-params",
        height=112,
        max_chars=most_prompt_characters(),
        help="The model goes on from here; it is not told that it is being asked anything.",
    )


def take_example(examples: Mapping[str, str]) -> None:
    if (name := st.session_state.get("play_example")) is not None:
        st.session_state["prompt"] = examples[name]


def head_control(view: Frame, shape: ModelShape) -> tuple[HeadSet, list[str]]:
    """Draw list, top-k buttons and map; return the heads switched off, and notes on invalid URL values or scores."""
    run = task_scores(view)
    names = named_heads(shape.n_layers, shape.n_heads)
    notes = [bad_choices("off", list(names), "the head")]
    keep_valid_ones("off", list(names))
    chosen = st.multiselect(
        "Heads switched off",
        list(names),
        key="off",
        bind="query-params",
        placeholder="None: type a name such as L3H8, or click the map",
        help="Their output (hook_z) is set to zero at every token. L3H8 is head 8 of layer 3, both counted from 0.",
    )
    heads = tuple(sorted(names[name] for name in chosen))
    statistics = None
    if run is not None:
        try:
            statistics = statistics_of(view.store, run, "nll")
        except CapVizError as error:
            notes.append(str(error))
    top_control(view, statistics)
    if run is not None and statistics is not None:
        toggle_map(statistics, heads, view.task.title, ablation_words(run.spec).ends)
    return heads, [sentence for sentence in notes if sentence]


def top_control(view: Frame, statistics: HeadStatistics | None) -> None:
    """Draw the buttons that switch off the task's top k heads, or switch all heads on."""
    number, take, clear = st.columns([3, 6, 2], vertical_alignment="bottom")
    k = number.number_input("k", 1, 50, 3, key="play_k", help=GLOSSARY["rank"])
    take.button(
        f"Switch off the top {k} of {view.task.name}",
        disabled=statistics is None,
        help=None if statistics is not None else "No head scores of this task are stored; measure them on Heads.",
        key="play_top",
        on_click=switch_off_top,
        args=(statistics, int(k)),
        width="stretch",
    )
    clear.button("All on", key="play_clear", on_click=set_off, args=([],), width="stretch")


def switch_off_top(statistics: HeadStatistics, k: int) -> None:
    rank = rank_heads(statistics.estimate.mean)
    order = rank.ravel().argsort()[:k]
    set_off([head_name(*map(int, divmod(int(place), rank.shape[1]))) for place in order])


def set_off(names: list[str]) -> None:
    st.session_state["off"] = names


def toggle_map(statistics: HeadStatistics, off: HeadSet, title: str, ends: tuple[str, str]) -> None:
    """Draw the task's head effects as a map; a click switches a head off or on again."""
    mean = statistics.estimate.mean
    marked = mean != mean
    for layer, head in off:
        marked[layer, head] = True
    hover = [
        [
            f"<b>Layer {layer}, head {head}</b><br>{signed(mean[layer, head])} nats per token on {title}<br>"
            f"click to switch {'on' if marked[layer, head] else 'off'}"
            for head in range(mean.shape[1])
        ]
        for layer in range(mean.shape[0])
    ]
    grid = Grid(mean=mean, limit=colour_limit(mean), hover=hover, ends=ends, marked=marked)
    # A new key after each click: Plotly would take a second click on a selected cell for an unselect.
    key = f"play_map_{st.session_state.get('play_turn', 0)}"
    st.plotly_chart(
        head_grid(grid, unit="nats", tallest=TALLEST),
        key=key,
        width=grid_width(*grid.shape, TALLEST),
        config=CONFIG,
        on_select=lambda: toggle(key),
        selection_mode="points",
        alt=f"Effects of all heads on {title}; the list above switches heads, too.",
    )
    st.caption(f"Effect of each head on {title}; dots: switched off.")


def toggle(key: str) -> None:
    point = clicked(key)
    if point is None:
        return
    address = point["customdata"]
    name = head_name(int(address["0"]), int(address["1"]))
    off = list(st.session_state.get("off") or [])
    set_off([one for one in off if one != name] if name in off else [*off, name])
    st.session_state["play_turn"] = st.session_state.get("play_turn", 0) + 1


def mask_control(view: Frame, run: StoredRun[ScoreSpec] | None) -> tuple[MaskSpec | None, list[str]]:
    """Draw the mask controls; return the mask (calibrated on the sidebar's task) or None, and notes."""
    options = [NO_MASK, *CRITERIA]
    note = bad_choice("mask", options, NO_MASK, "the criterion")
    keep_valid("mask", options)
    left, right = st.columns(2)
    criterion = left.selectbox(
        "Pruned by",
        options,
        key="mask",
        bind="query-params",
        help=f"{GLOSSARY['criterion']} Calibrated on {view.task.name}, as on the Prune page.",
    )
    percent = right.slider(
        "Sparsity", 0, 90, 20, 5, format="%d %%", key="zeros", bind="query-params", disabled=criterion == NO_MASK
    )
    notes = [note] if note else []
    if criterion == NO_MASK or percent == 0:
        return None, notes
    scores = None if run is None else run.spec
    if CRITERIA[criterion].needs_scores and scores is None:
        caution(f"{criterion} needs head scores of {view.task.name}; measure them on the Heads page first.")
        return None, notes
    try:
        spec = mask_spec_for(view.model, criterion, percent / 100, task=view.task.name, n=N_CALIBRATION, scores=scores)
    except CapVizError as error:
        return None, [*notes, str(error)]
    return spec, notes
