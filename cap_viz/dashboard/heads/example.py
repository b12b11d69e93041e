"""One example of a run, intact and with the selected head ablated, and the selector that leads to it."""

from __future__ import annotations

from html import escape
from math import exp
from textwrap import wrap

import numpy as np
import streamlit as st
from jaxtyping import Float
from scipy.special import softmax

from cap_viz.attribution.effect_metrics import nll
from cap_viz.attribution.results import EvalReport, HeadScores
from cap_viz.dashboard.components.panels import escaped
from cap_viz.dashboard.heads.data import HeadView
from cap_viz.dashboard.selection import Selection, choose
from cap_viz.dashboard.stored import texts_of
from cap_viz.figures.options import option_shares
from cap_viz.figures.theme import signed
from cap_viz.runs.run_labels import AblationWords
from cap_viz.tasks import Example, Task

Head = tuple[int, int]
EXTREMES = {"most_hurt": "Most hurt", "most_helped": "Most helped"}
LONGEST_NAME = HOVER_WIDTH = 60


def shown_example(selection: Selection, ids: tuple[str, ...], effects: Float[np.ndarray, " example"]) -> int:
    """Return the index of the chosen example: one id, or the extreme of the selected head."""
    asked = selection.choice("example", [*EXTREMES, *ids], what="the example")
    if asked in ids:
        return ids.index(asked)
    order = sorted_by_effect(effects)
    return int(order[0 if asked == "most_hurt" else -1])


def sorted_by_effect(effects: Float[np.ndarray, " example"]) -> np.ndarray:
    """Return example indices, most hurt first."""
    return np.argsort(-effects, kind="stable")


def clicked_example(key: str, ids: tuple[str, ...]) -> None:
    """Choose the clicked point of a figure; a cleared selection changes nothing."""
    points = st.session_state[key]["selection"]["points"]
    if points and "customdata" in points[0]:
        choose({"example": ids[int(points[0]["customdata"]["0"])]})


def example_selector(view: HeadView, head: Head) -> None:
    """Draw the selector: the extremes of the head, then every example from most hurt to most helped."""
    ids, effects = view.scores.questions.ids, view.stats.effects[head]
    texts, changes = texts_of(view.task.name, ids), changes_of(view, head)
    names = {
        name: f"{signed(effects[i], 2)} {changes[i]}: {name if texts is None else short(texts[name].question)}"
        for i, name in enumerate(ids)
    }
    view.frame.selection.selectbox(
        "Example",
        "example",
        [*EXTREMES, *(ids[i] for i in sorted_by_effect(effects))],
        names=lambda name: {**EXTREMES, **names}.get(name, name),
        what="the example",
        label_visibility="collapsed",
    )


def changes_of(view: HeadView, head: Head) -> list[str]:
    """Say of every example whether the answer is right without the head, and was before; "" of running text."""
    if view.task.kind == "text":
        return [""] * view.n
    before, after = answers(view.scores, *head)
    return [outcome(*one) for one in zip(before, after, view.scores.questions.gold, strict=True)]


def short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_NAME else f"{line[: LONGEST_NAME - 1]}…"


def example_panel(view: HeadView, head: Head) -> None:
    """Draw the chosen example in full."""
    ids = view.scores.questions.ids
    texts = texts_of(view.task.name, ids)
    row = shown_example(view.frame.selection, ids, view.stats.effects[head])
    example = None if texts is None else texts.get(ids[row])
    if view.task.kind == "text":
        passage(view.scores, view.words, head, row, example)
    else:
        option_table(view.scores, view.words, head, row, example)
    if texts is None:
        st.caption(
            f"The texts of {view.task.title} are not on this machine, so only ids are shown. Set CAP_VIZ_DATA to a "
            f"folder that holds {view.task.data_folder}/ to see them."
        )


def option_table(scores: HeadScores, words: AblationWords, head: Head, row: int, example: Example | None) -> None:
    """Draw one question with the probability of every option, intact and with the head ablated."""
    count = int(scores.questions.n_options[row])
    dense, ablated = (
        softmax(values[row, :count].astype(np.float64)) for values in (scores.dense, scores.ablated[head])
    )
    options = [f"Option {i + 1}" for i in range(count)] if example is None else [o.strip() for o in example.options]
    st.markdown(f"**{escaped(scores.questions.ids[row] if example is None else example.question)}**")
    st.html(option_shares(options, dense, ablated, int(scores.questions.gold[row]), words.done))
    st.caption(f"Bold: chosen; ✓: right{words.by and f'; {words.done}{words.by}'}.")


def passage(scores: HeadScores, words: AblationWords, head: Head, row: int, example: Example | None) -> None:
    """Draw one example: its prompt, the scored continuation, and the loss intact and ablated."""
    intact, ablated = (float(values[row]) for values in losses(scores, head))
    n_tokens = int(scores.questions.tokens[row, scores.questions.gold[row]])
    if example is None:
        st.markdown(f"**{escaped(scores.questions.ids[row])}**")
    else:
        st.caption("Given")
        st.markdown(lines_of(example.prompt))
        st.caption(f"Scored: {n_tokens} tokens")
        st.markdown(lines_of(example.options[example.gold]))
    change = ablated - intact
    st.markdown(
        f"| | intact | {words.done} | change |\n|:-|-:|-:|-:|\n"
        f"| loss, nats per token | {intact:.3f} | {ablated:.3f} | {signed(change)} |\n"
        f"| probability per token | {exp(-intact):.3f} | {exp(-ablated):.3f} | × {exp(-change):.3g} |"
    )
    st.caption(
        "The model reads what is given and is scored on every token that follows. Probability: geometric mean over "
        "the tokens."
    )


def lines_of(text: str) -> str:
    """Escape plain text for Markdown, keeping its line breaks."""
    return escaped(text.strip()).replace("\n", "  \n")


def losses(scores: HeadScores, head: Head) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss of every example in nats per token, intact and with the head ablated."""
    gold, tokens = scores.questions.gold, scores.questions.tokens
    return nll(scores.dense, gold, tokens), nll(scores.ablated[head], gold, tokens)


def answers(scores: HeadScores, layer: int, head: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the option chosen on every example, intact and with the head ablated."""
    before = EvalReport(scores.questions, scores.dense).chosen
    after = EvalReport(scores.questions, scores.ablated[layer, head]).chosen
    return before, after


def outcome(before: int, after: int, gold: int) -> str:
    words = {True: "right", False: "wrong"}
    first, second = words[bool(before == gold)], words[bool(after == gold)]
    if first != second:
        return f"{first} → {second}"
    return f"stays {first}" if before == after else "other wrong one"


def strip_hover(task: Task, scores: HeadScores, effects: Float[np.ndarray, " example"], unit: str) -> list[str]:
    ids = scores.questions.ids
    texts = texts_of(task.name, ids)
    shown = [[name] if texts is None else wrap(escape(texts[name].question, quote=False), HOVER_WIDTH) for name in ids]
    return [f"{signed(one)} {unit}<br>{'<br>'.join(lines)}" for one, lines in zip(effects, shown, strict=True)]
