"""The Playground's controls: prompt, heads to switch off and mask to apply, all held in the address."""

from __future__ import annotations

import streamlit as st

from cap_viz.dashboard.components.head_map import head_map, head_name, named_heads
from cap_viz.dashboard.components.panels import caution, problems_told
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.names import criteria_in_groups, criterion_option, task_name
from cap_viz.dashboard.selection import choose, controlled, go_button
from cap_viz.dashboard.serving import most_prompt_characters
from cap_viz.dashboard.stored import statistics_of
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.figures.head_grid import Grid
from cap_viz.models.loading import ModelShape
from cap_viz.pruning import CRITERIA
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.run_labels import ablation_words
from cap_viz.runs.spec import MaskSpec, ScoreSpec
from cap_viz.runs.store import StoredRun
from cap_viz.settings import N_CALIBRATION
from cap_viz.stats.joint import HeadSet
from cap_viz.tasks import load_task
from cap_viz.tasks.readable import own_tasks_of

NO_MASK = "none"
MOST_TOP = 50
EXAMPLES = {
    "science": "Question: Which gas do plants take in from the air?\nAnswer:",
    "copying": "Mr. Okafor met Ms. Lindqvist. They talked. Mr. Okafor thanked Ms.",
    "arithmetic": "Question: Tom has 3 apples and buys 4 more. How many apples does he have?\nAnswer:",
    "facts": "The capital of France is",
}


def prompt_control(view: Frame) -> str:
    """Draw examples and prompt; the address holds an example by its id, any other prompt as it is.

    The examples are in the model's vocabulary: from its own tasks if it is limited to them.
    """
    own = own_tasks_of(view.model.id)
    examples = {name: load_task(name).evaluation(1)[0].prompt for name in own} if own else EXAMPLES
    example = view.selection.choice("example", examples)
    prompt = view.selection.text("prompt", examples[example])
    st.pills(
        "Examples",
        list(examples),
        format_func=task_name if own else str.capitalize,
        label_visibility="collapsed",
        **controlled(
            "example", next((name for name in examples if examples[name] == prompt), None), {"also": {"prompt": None}}
        ),
    )
    st.text_area(
        "Prompt",
        height=96,
        max_chars=most_prompt_characters(),
        help="The model continues this text as it stands, without a chat template.",
        **controlled("prompt", prompt, {"also": {"example": None}}),
    )
    return prompt


def mask_control(view: Frame, run: StoredRun[ScoreSpec] | None) -> MaskSpec | None:
    """Draw criterion and sparsity; return the mask, calibrated on the sidebar's task and its head scores, or None."""
    left, right = st.columns(2)
    with left:
        criterion = view.selection.selectbox(
            "Prune by",
            "mask",
            {NO_MASK: "Nothing", **{name: criterion_option(name) for name in criteria_in_groups(list(CRITERIA))}},
            help=f"{GLOSSARY['criterion']} Calibrated on {view.task.title}, as on the Prune page.",
        )
    chosen = CRITERIA.get(criterion)
    label, off = "Share of heads" if chosen is not None and chosen.structured else "Sparsity", chosen is None
    with right:
        percent = view.selection.slider(label, "zeros", 5, 90, default=20, step=5, format="%d %%", disabled=off)
    if chosen is None:
        return None
    scores = None if run is None else run.spec
    if chosen.needs_scores and scores is None:
        caution(f"{chosen.title} needs exact head scores of {view.task.title}, and none are stored.")
        go_button("Measure them on Heads", "heads", key="play_measure")
        return None
    with problems_told():
        return mask_spec_for(view.model, criterion, percent / 100, task=view.task.name, n=N_CALIBRATION, scores=scores)
    return None


def head_control(view: Frame, shape: ModelShape, run: StoredRun[ScoreSpec] | None) -> tuple[HeadSet, tuple[int, int]]:
    """Draw list, buttons and map of the task's head effects; return the heads switched off, and the top head."""
    names = named_heads(shape.n_layers, shape.n_heads)
    chosen = view.selection.multiselect(
        "Heads switched off",
        "off",
        list(names),
        placeholder="None: type a name such as L3H8, or click the map",
        help="Their output (hook_z) is set to zero at every token. L3H8 is head 8 of layer 3, both counted from 0.",
    )
    estimate = None
    with problems_told():
        estimate = None if run is None else statistics_of(view.store, run, "nll").estimate
    number, take, clear = st.columns([3, 4, 3], vertical_alignment="bottom")
    with number:
        k = view.selection.number_input("How many", "top", 1, min(MOST_TOP, len(names)), default=3)
    top = [] if estimate is None else [head_name(*head) for head in estimate.top_heads(k)]
    help = f"The heads with the largest effects on {view.task.title}, once these are measured on Heads."
    going = {"on_click": choose, "args": ({"off": top},), "help": help, "disabled": not top}
    take.button(f"Switch off top {k}", key="play_top", width="stretch", **going)
    clear.button("All on", key="play_clear", width="stretch", on_click=choose, args=({"off": None},))
    off = tuple(sorted(names[name] for name in chosen))
    if run is None or estimate is None:
        return off, (0, 0)

    def switch(layer: int, head: int) -> None:
        switched = {*chosen} ^ {head_name(layer, head)}
        choose({"off": [name for name in names if name in switched] or None})

    effect = f"Effect of each head on {view.task.title}"
    head_map(
        Grid.of(estimate, ends=ablation_words(run.spec).ends),
        key="play_map",
        unit="nats per token",
        label=f"{effect}; picking one switches it off or on",
        on_pick=switch,
        off=off,
    )
    st.caption(f"{effect}. ✕: switched off; a click switches.")
    return off, estimate.top_head
