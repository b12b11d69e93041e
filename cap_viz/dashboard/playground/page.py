"""The Playground page: next tokens, the prompt token by token, both continuations, attention of a head."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from cap_viz.dashboard.components.head_map import head_boxes
from cap_viz.dashboard.components.job_card import ended_view, job_view, ticking
from cap_viz.dashboard.components.panels import empty, escaped, note, problem, provenance
from cap_viz.dashboard.components.submission import submit_run
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.playground.controls import LINK_KEYS, head_control, prompt_and_mask
from cap_viz.dashboard.playground.data import Change, Outcome, ask, continuation, outcome, pattern
from cap_viz.dashboard.serving import check_prompt
from cap_viz.dashboard.state import link_here
from cap_viz.errors import CapVizError
from cap_viz.figures.next_tokens import attention_map, coloured_prompt, next_token_bars, visible
from cap_viz.figures.theme import CONFIG
from cap_viz.models.loading import ModelShape
from cap_viz.pruning import CRITERIA
from cap_viz.runs.jobs import PrunedWeights
from cap_viz.runs.queue import shared_queue
from cap_viz.runs.spec import MaskSpec

MOST_ATTENTION_TOKENS = 120
KEPT_TEXTS = 20
REFUSED = "play_refused"


def body(view: Frame) -> None:
    if not view.installed:
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
    facts, share = st.columns([6, 1], vertical_alignment="center")
    left, right = st.columns([5, 4], gap="medium")
    with left:
        prompt, asked, notes = prompt_and_mask(view)
        mask = applied(view, asked)
        answers = st.container()
    with right:
        heads, head_notes = head_control(view, shape)
    change = Change(heads, mask)
    with facts:
        provenance([view.model.id, changes_in_words(change)], origin="live")
    with share, st.popover("Share", icon=":material/ios_share:", width="stretch"), st.container(width=360):
        st.caption("Link to this view, prompt included")
        st.code(link_here(LINK_KEYS), language=None, wrap_lines=True)
    for sentence in [*head_notes, *notes]:
        note(sentence)
    try:
        check_prompt(prompt)
        with answers:
            with st.spinner("Reading the prompt …", show_time=True):
                found = outcome(view.model, prompt, change)
            next_token(found, change)
        with right:
            prompt_change(found, change)
        continuations(view, prompt, change)
        attention(view, shape, prompt, change, found)
    except CapVizError as error:
        problem(str(error))


def applied(view: Frame, asked: MaskSpec | None) -> MaskSpec | None:
    """Return the mask if its pruned weights are in memory; else draw the job or button for them, return None."""
    if asked is None or shared_queue().models.has_pruned(view.model, asked):
        return asked
    spec = PrunedWeights(view.model, asked)
    job = shared_queue().find(spec)
    live = job is not None and job.active
    ticking(lambda: pruning(spec, live), live=live)
    return None


def pruning(spec: PrunedWeights, live: bool) -> None:
    """Draw the pruning job, or the button that starts it, since some criteria take minutes."""
    job = shared_queue().find(spec)
    if live != (job is not None and job.active):
        st.rerun()
    if job is not None and live:
        job_view(job, key="play")
        return
    if job is not None:
        ended_view(job)
    if refused := st.session_state.pop(REFUSED, ""):
        problem(refused)
    name = f"{CRITERIA[spec.mask.criterion].title} at {100 * spec.mask.sparsity:.0f} %"
    st.button(
        f"Apply {name}",
        key="play_apply",
        icon=":material/content_cut:",
        on_click=start_pruning,
        args=(spec, f"Pruning by {name}"),
    )
    st.caption("Below is the model without it. The pruned weights stay in memory; nothing is stored.")


def start_pruning(spec: PrunedWeights, title: str) -> None:
    try:
        submit_run(spec, title)
    except CapVizError as error:
        st.session_state[REFUSED] = str(error)


def changes_in_words(change: Change) -> str:
    parts = []
    if change.heads:
        parts.append(f"{len(change.heads)} {'head' if len(change.heads) == 1 else 'heads'} off")
    if change.mask is not None:
        parts.append(f"{CRITERIA[change.mask.criterion].title} at {100 * change.mask.sparsity:.0f} %")
    return " and ".join(parts) or "nothing changed yet"


def next_token(found: Outcome, change: Change) -> None:
    st.markdown(verdict(found, change))
    st.plotly_chart(
        next_token_bars(found.candidates, both=not change.is_none),
        key="play_next",
        config=CONFIG,
        alt="Probabilities of the likeliest next tokens, dense and changed; the table on the right holds the numbers.",
    )
    legend = "" if change.is_none else "Grey: dense. Indigo: changed. "
    st.caption(f"{legend}␣ stands for a space, ⏎ for a line break.")


def prompt_change(found: Outcome, change: Change) -> None:
    if not change.is_none:
        st.markdown("#### How expected the prompt's own tokens are")
        st.html(coloured_prompt(found.tokens, found.token_change))
        st.caption("Teal: less than to the dense model. Brown: more. Full colour from 2 nats on; hover for the value.")
    with st.expander("The numbers"):
        st.dataframe(token_table(found), hide_index=True, key="play_tokens")
        st.dataframe(candidate_table(found), hide_index=True, key="play_candidates")


def verdict(found: Outcome, change: Change) -> str:
    before, after = found.favourite(False), found.favourite(True)
    if change.is_none:
        return (
            f"The likeliest next token is **{quoted(before.text)}** ({before.dense:.1%}). Switch heads off or prune "
            "weights to see what changes."
        )
    same = before.text == after.text
    change_words = (
        f"stays **{quoted(before.text)}** ({before.dense:.1%} → {before.changed:.1%})"
        if same
        else f"changes from **{quoted(before.text)}** ({before.dense:.1%} → {before.changed:.1%}) to "
        f"**{quoted(after.text)}** ({after.dense:.1%} → {after.changed:.1%})"
    )
    return (
        f"With {changes_in_words(change)}, the likeliest next token {change_words}. The whole distribution moves by "
        f"{found.divergence:.3f} nats (KL divergence)."
    )


def quoted(token: str) -> str:
    return f"“{escaped(visible(token))}”"


def token_table(found: Outcome) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "token": [visible(token) for token in found.tokens],
            "dense, nats": found.dense.token_logprobs.round(3),
            "changed, nats": found.changed.token_logprobs.round(3),
            "change": found.token_change.round(3),
        }
    )


def candidate_table(found: Outcome) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "next token": [visible(one.text) for one in found.candidates],
            "dense": [one.dense for one in found.candidates],
            "changed": [one.changed for one in found.candidates],
        }
    )


def continuations(view: Frame, prompt: str, change: Change) -> None:
    st.markdown("#### How it goes on", help="Greedy: always the likeliest next token, up to 24 of them.")
    sides = [("Dense", Change())]
    if not change.is_none:
        sides.append(("Changed", change))
    for place, (name, one) in zip(st.columns(2), sides, strict=False):
        with place, st.container(border=True):
            st.caption(name)
            written(view, prompt, one)


def written(view: Frame, prompt: str, change: Change) -> None:
    """Draw a continuation: from the session if it was shown before, else token by token."""
    known: dict[tuple[str, str, Change], str] = st.session_state.setdefault("play_texts", {})
    key, text, place = (view.model.fingerprint, prompt, change), "", st.empty()
    if key not in known:
        for text in continuation(view.model, prompt, change):
            place.text(text)
        known[key] = text
        for old in list(known)[:-KEPT_TEXTS]:
            del known[old]
    place.text(known[key] or "The text ends here.")


def attention(view: Frame, shape: ModelShape, prompt: str, change: Change, found: Outcome) -> None:
    st.markdown("#### What one head looks at", help="Attention is where a head reads, not what it does with it.")
    inputs, figure = st.columns([2, 5], gap="medium")
    with inputs:
        layer, head = head_boxes(view.selection, shape.n_layers, shape.n_heads, default=(0, 0))
        st.caption("Each row is a token that looks back at the columns; rows sum to 1. Pruned weights are not applied.")
    with figure:
        if len(found.tokens) > MOST_ATTENTION_TOKENS:
            st.caption(f"Shown for prompts of up to {MOST_ATTENTION_TOKENS} tokens; this one has {len(found.tokens)}.")
            return
        st.plotly_chart(
            attention_map(found.tokens, pattern(view.model, prompt, layer, head, change.heads)),
            key="play_attention",
            config=CONFIG,
            alt=f"Attention pattern of head {head} of layer {layer} on the prompt",
        )
