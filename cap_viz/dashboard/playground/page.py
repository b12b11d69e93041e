"""The Playground page: both continuations, next tokens, the prompt token by token, attention of a head."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from operator import attrgetter

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from cap_viz.dashboard.components.chart import chart
from cap_viz.dashboard.components.head_map import Head, head_boxes
from cap_viz.dashboard.components.job_card import offer_jobs
from cap_viz.dashboard.components.panels import empty, escaped, percent, problem, problems_told, provenance, stale
from cap_viz.dashboard.components.share import share
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.names import mask_name, model_name
from cap_viz.dashboard.playground.controls import head_control, mask_control, prompt_control
from cap_viz.dashboard.playground.data import (
    LEAST,
    Change,
    Outcome,
    ask,
    continuation,
    mask_hindrance,
    mask_seconds,
    outcome,
    pattern,
)
from cap_viz.dashboard.serving import check_prompt
from cap_viz.errors import CapVizError
from cap_viz.figures.next_tokens import (
    CHANGED,
    DENSE,
    attention_map,
    coloured_prompt,
    in_one_line,
    next_token_bars,
    visible,
)
from cap_viz.models.catalogue import DEFAULT_MODEL, ModelRef
from cap_viz.models.loading import ModelShape
from cap_viz.progress import duration
from cap_viz.runs.jobs import JobSpec, PrunedWeights
from cap_viz.runs.queue import shared_queue
from cap_viz.runs.run_queries import score_runs
from cap_viz.runs.spec import MaskSpec
from cap_viz.stats.joint import HeadSet

MOST_ATTENTION_TOKENS = 120
KEPT_TEXTS = 20
ROUNDED = (
    "These weights are 4-bit ones, dequantised: rounding alone can destroy induction heads, so a pattern that is "
    "missing here may be there in the original model."
)
# Room for a title and 24 tokens at half the width.
CARD_HEIGHT = 170
# Session keys: the mask last shown, and continuations written before.
SHOWN_MASK, TEXTS = "play_mask", "play_texts"


def body(view: Frame) -> None:
    if view.install_hint:
        empty("The Playground needs the model", view.install_hint)
        return
    try:
        reason = st.empty()
        with st.spinner("Loading the model …", show_time=True):
            shape = ask(view.model, lambda model: model.shape, on_wait=lambda sentence: reason.info(escaped(sentence)))
        reason.empty()
    except CapVizError as error:
        problem(str(error))
        return
    # The exact head scores of the task with the most examples.
    run = next(iter(score_runs(view.runs, view.model, view.task.name)), None)
    facts, menu = st.columns([6, 1], vertical_alignment="center")
    left, right = st.columns([5, 4], gap="medium")
    with left:
        prompt = prompt_control(view)
        wrong = st.container()
        asked = mask_control(view, run)
        mask = applied(view, asked)
        answers = st.container()
    with right:
        off, top_head = head_control(view, shape, run)
    change = Change(off, mask)
    with facts:
        provenance([model_name(view.model.id), str(change)], origin="live" if mask in (None, asked) else "stale")
    with menu:
        share("playground")
    try:
        check_prompt(prompt)
        found = outcome(view.model, prompt, change)
    except CapVizError as error:
        with wrong:
            problem(str(error))
        return
    with answers:
        cards = continuation_cards(change)
        next_token(found, change)
    with right:
        prompt_tokens(found, change)
    with problems_told():
        attention(view, shape, prompt, off, found, top_head)
        for one, card in cards.items():
            with card:
                written(view, prompt, one)


def applied(view: Frame, asked: MaskSpec | None) -> MaskSpec | None:
    """Return the mask if its pruned weights are in memory; else draw the job for them, and return the one before."""
    models = shared_queue().models
    if asked is None or models.has_pruned(view.model, asked):
        st.session_state[SHOWN_MASK] = asked
        return asked
    name, seconds = mask_name(asked), mask_seconds(view, asked)
    titles: dict[JobSpec, str] = {PrunedWeights(view.model, asked): f"Pruning by {name}"}
    said = f"{f'About {duration(seconds)}. ' if seconds > 0 else ''}Kept in memory, not stored."
    label, blocked = f"Apply {name}", mask_hindrance(view.model, asked)
    offer_jobs(titles, label, said, key="play_apply", blocked=blocked, type="primary")
    former: MaskSpec | None = st.session_state.get(SHOWN_MASK)
    if former is None or not models.has_pruned(view.model, former):
        return None
    stale(f"Below is {mask_name(former)}, until {mask_name(asked)} is applied.")
    return former


def continuation_cards(change: Change) -> dict[Change, DeltaGenerator]:
    """Draw an empty card for each continuation; return where to write each."""
    sides = {Change(): "Dense"} | ({} if change.is_none else {change: f"Changed: {change}"})
    cards = {}
    for place, (one, title) in zip(st.columns(len(sides)), sides.items(), strict=True):
        cards[one] = place.container(border=True, height=CARD_HEIGHT)
        cards[one].caption(title, help="Greedy: always the likeliest next token, up to 24 of them. ⏎: a line break.")
    return cards


def written(view: Frame, prompt: str, change: Change) -> None:
    """Draw a continuation: from the session if it was shown before, else token by token."""
    known: dict[tuple[str, str, Change], str] = st.session_state.setdefault(TEXTS, {})
    key, place = (view.model.fingerprint, prompt, change), st.empty()
    text = known.get(key, "")
    if key not in known:
        for text in continuation(view.model, prompt, change):
            place.text(in_one_line(text))
        st.session_state[TEXTS] = dict([*known.items(), (key, text)][-KEPT_TEXTS:])
    place.text(in_one_line(text) or "(writes nothing)")


def next_token(found: Outcome, change: Change) -> None:
    before, after = (max(found.candidates, key=attrgetter(side)) for side in (DENSE, CHANGED))
    said = f"The likeliest next token is **{quoted(before.text)}** ({percent(before.dense)})"
    now = f"with {change} it is **{quoted(after.text)}** ({percent(after.changed)})"
    st.markdown(
        f"{said}. Switch heads off or prune weights to see what changes."
        if change.is_none
        else f"{said}; {now}. KL divergence: {found.divergence:.3f} nats."
    )
    chart(
        partial(next_token_bars, found.candidates, both=not change.is_none),
        key="play_next",
        alt="Probabilities of the likeliest next tokens, dense and changed; the table of numbers holds them.",
    )
    legend = "" if change.is_none else "Grey: dense. Indigo: changed. "
    st.caption(f"{legend}Tokens below {percent(LEAST, 0)} are left out. ␣: a space.")


def quoted(token: str) -> str:
    return f"“{escaped(visible(token))}”"


def prompt_tokens(found: Outcome, change: Change) -> None:
    if not change.is_none:
        st.markdown("#### How expected the prompt's own tokens are")
        st.html(coloured_prompt(found.tokens, found.token_change))
        st.caption("Teal: less than to the dense model. Brown: more. Full colour from 2 nats on; hover for the value.")
    with st.expander("The numbers"):
        tokens = {
            "token": [visible(token) for token in found.tokens],
            "dense, nats": found.dense.token_logprobs.round(3),
            "changed, nats": found.changed.token_logprobs.round(3),
            "change": found.token_change.round(3),
        }
        st.dataframe(tokens, hide_index=True, key="play_tokens")
        following = [replace(one, text=visible(one.text)) for one in found.candidates]
        st.dataframe(pd.DataFrame(following), hide_index=True, key="play_candidates")


def attention(view: Frame, shape: ModelShape, prompt: str, off: HeadSet, found: Outcome, start: Head) -> None:
    """Draw the attention of a head, of `start` unless the address names one."""
    st.markdown("#### What one head looks at", help="Attention is where a head reads, not what it does with it.")
    inputs, figure = st.columns([2, 5], gap="medium")
    with inputs:
        with st.container(horizontal=True, gap="small"):
            chosen = head_boxes(view.selection, shape.n_layers, shape.n_heads, default=start)
        st.caption("Each row is a token that looks back at the columns; rows sum to 1. Pruned weights are not applied.")
        rounding_note(view.model)
    with figure:
        attention_chart(view.model, prompt, found.tokens, chosen, off, key="play_attention")


def attention_chart(
    model: ModelRef, text: str, tokens: tuple[str, ...], head: Head, off: HeadSet = (), *, key: str
) -> None:
    """Draw the attention of a head on a text, with the heads `off` ablated. Raises `CapVizError` with its message."""
    if len(tokens) > MOST_ATTENTION_TOKENS:
        st.caption(f"Shown for texts of up to {MOST_ATTENTION_TOKENS} tokens; this one has {len(tokens)}.")
        return
    figure = partial(attention_map, tokens, pattern(model, text, *head, off))
    alt = f"Attention pattern of head {head[1]} of layer {head[0]}, token by token"
    chart(figure, key=key, alt=alt)


def rounding_note(model: ModelRef) -> None:
    """Say where attention patterns are shown that the default model's weights are rounded ones."""
    if model.id == DEFAULT_MODEL:
        st.caption(ROUNDED)
