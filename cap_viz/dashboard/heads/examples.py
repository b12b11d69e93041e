"""Example panel of the Heads page: a table sorted by effect, and one example intact and ablated."""

from __future__ import annotations

from math import exp

import numpy as np
import pandas as pd
import streamlit as st
from jaxtyping import Float
from scipy.special import softmax

from cap_viz.attribution.effect_metrics import nll
from cap_viz.attribution.results import EvalReport, HeadScores
from cap_viz.dashboard.components.panels import escaped, percent
from cap_viz.dashboard.state import bad_choice, clicked, keep_valid
from cap_viz.dashboard.stored import texts_of
from cap_viz.figures.theme import signed
from cap_viz.runs.run_labels import AblationWords
from cap_viz.tasks import Example, Task

EXTREMES = ("most_hurt", "most_helped")
SHOWN_EACH = 4


def example_panel(
    task: Task,
    scores: HeadScores,
    words: AblationWords,
    effects: Float[np.ndarray, "layer head example"],
    unit: str,
    layer: int,
    head: int,
) -> None:
    """Draw a table of the head's most hurt and most helped examples, and the chosen example in full."""
    st.markdown("#### Examples")
    ids = scores.questions.ids
    texts = texts_of(task.name, ids)
    order = sorted_by_effect(effects[layer, head])
    chosen = choose_example(ids, order)
    extremes = list(dict.fromkeys([*order[:SHOWN_EACH].tolist(), *order[-SHOWN_EACH:].tolist()]))
    cells = loss_cells if task.kind == "text" else answer_cells
    table = pd.DataFrame(
        {
            "effect": effects[layer, head][extremes],
            **cells(scores, layer, head, extremes),
            "question": [ids[i] if texts is None else texts[ids[i]].question for i in extremes],
        }
    )
    example_table(table, [ids[i] for i in extremes], words, unit, f"{task.name}_{layer}_{head}")
    if texts is None:
        st.caption(
            f"The texts of {task.title} are not on this machine, so only ids are shown. Set CAP_VIZ_DATA to a "
            f"folder that holds {task.data_folder}/ to see them."
        )
    example = None if texts is None else texts.get(ids[chosen])
    if task.kind == "text":
        passage(scores, words, layer, head, chosen, example)
    else:
        option_table(scores, words, layer, head, chosen, example)


def answer_cells(scores: HeadScores, layer: int, head: int, rows: list[int]) -> dict[str, list[str]]:
    """Return the table column that compares the intact with the ablated answer, for the given examples."""
    before, after = answers(scores, layer, head)
    gold = scores.questions.gold
    return {"answer": [outcome(before[i], after[i], gold[i]) for i in rows]}


def answers(scores: HeadScores, layer: int, head: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the option chosen on every example, intact and with the head ablated."""
    before = EvalReport(scores.questions, scores.dense).chosen
    after = EvalReport(scores.questions, scores.ablated[layer, head]).chosen
    return before, after


def choose_example(ids: tuple[str, ...], order: np.ndarray) -> int:
    options = [*EXTREMES, *ids]
    sentence = bad_choice("example", options, "the most hurt one", "the example")
    keep_valid("example", options, options[0])
    if sentence:
        st.caption(sentence)
    asked = st.selectbox(
        "Example shown below",
        options,
        key="example",
        bind="query-params",
        help="Follows the selected head (most_hurt, most_helped) or stays on one id. A click in the table sets it too.",
    )
    return place_of(asked, ids, order)


def place_of(asked: str, ids: tuple[str, ...], order: np.ndarray) -> int:
    if asked in EXTREMES:
        return int(order[0] if asked == EXTREMES[0] else order[-1])
    return ids.index(asked)


def shown_example(ids: tuple[str, ...], effects: Float[np.ndarray, " example"]) -> int:
    """Return the index of the example in the selector, for figures drawn before the selector."""
    asked = st.session_state.get("example") or st.query_params.get("example") or EXTREMES[0]
    known = asked if asked in (*EXTREMES, *ids) else EXTREMES[0]
    return place_of(known, ids, sorted_by_effect(effects))


def sorted_by_effect(effects: Float[np.ndarray, " example"]) -> np.ndarray:
    """Return example indices, most hurt first."""
    return np.argsort(-effects, kind="stable")


def take_example(key: str, ids: tuple[str, ...]) -> None:
    """Copy a clicked point into the selector; a cleared selection changes nothing."""
    point = clicked(key)
    if point is not None and "customdata" in point:
        st.session_state["example"] = ids[int(point["customdata"]["0"])]


def example_table(table: pd.DataFrame, ids: list[str], words: AblationWords, unit: str, suffix: str) -> None:
    """Draw one row per example; a click on a row selects the example."""
    then = f"with the head {words.done}{words.by}."
    key = f"heads_examples_{suffix}"

    def take_row() -> None:
        chosen = st.session_state[key]["selection"]["rows"]
        if chosen:
            st.session_state["example"] = ids[chosen[0]]

    st.dataframe(
        table,
        key=key,
        on_select=take_row,
        selection_mode="single-row",
        hide_index=True,
        column_config={
            "effect": st.column_config.NumberColumn("Effect", format="%+.2f", width=70, help=f"In {unit}."),
            "answer": st.column_config.TextColumn("Answer", width=120, help=f"Intact, then {then}"),
            "intact": st.column_config.NumberColumn("Loss", format="%.2f", width=60, help="Intact, nats per token."),
            "ablated": st.column_config.NumberColumn(
                words.done.capitalize(), format="%.2f", width=80, help=then.capitalize()
            ),
            "question": st.column_config.TextColumn("Passage" if "intact" in table else "Question"),
        },
    )


def outcome(before: int, after: int, gold: int) -> str:
    words = {True: "right", False: "wrong"}
    first, second = words[bool(before == gold)], words[bool(after == gold)]
    if first != second:
        return f"{first} → {second}"
    return f"stays {first}" if before == after else "other wrong one"


def option_table(
    scores: HeadScores, words: AblationWords, layer: int, head: int, row: int, example: Example | None
) -> None:
    """Draw one question with the probability of every option, intact and with the head ablated."""
    count = int(scores.questions.n_options[row])
    dense, ablated = (
        softmax(values[row, :count].astype(np.float64)) for values in (scores.dense, scores.ablated[layer, head])
    )
    gold = int(scores.questions.gold[row])
    names = [f"Option {i + 1}" for i in range(count)] if example is None else [o.strip() for o in example.options]
    lines = [f"| | option | intact | {words.done} | change |", "|:-|:-|-:|-:|-:|"]
    for i, name in enumerate(names):
        shares = [
            f"**{percent(values[i])}**" if i == int(np.argmax(values)) else percent(values[i])
            for values in (dense, ablated)
        ]
        mark = ":material/check:" if i == gold else ""
        # No line break between a number and its unit.
        shares = [share.replace(" %", "\u00a0%") for share in shares]
        change = signed(100 * (ablated[i] - dense[i]), 1)
        lines.append(f"| {mark} | {escaped(name)} | {shares[0]} | {shares[1]} | {change} |")
    with st.container(border=True):
        st.markdown(f"**{escaped(scores.questions.ids[row] if example is None else example.question)}**")
        st.markdown("\n".join(lines))
        st.caption(
            f"Share of each option with the head intact and {words.done}{words.by} (softmax of the log-likelihoods), "
            "change in points; bold: chosen; tick: right answer."
        )


def losses(scores: HeadScores, layer: int, head: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss of every example in nats per token, intact and with the head ablated."""
    gold, tokens = scores.questions.gold, scores.questions.tokens
    return nll(scores.dense, gold, tokens), nll(scores.ablated[layer, head], gold, tokens)


def loss_cells(scores: HeadScores, layer: int, head: int, rows: list[int]) -> dict[str, np.ndarray]:
    intact, ablated = losses(scores, layer, head)
    return {"intact": intact[rows], "ablated": ablated[rows]}


def passage(scores: HeadScores, words: AblationWords, layer: int, head: int, row: int, example: Example | None) -> None:
    """Draw one example: its prompt, the scored continuation, and the loss intact and ablated."""
    intact, ablated = (float(values[row]) for values in losses(scores, layer, head))
    n_tokens = int(scores.questions.tokens[row, scores.questions.gold[row]])
    with st.container(border=True):
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
            "The model reads what is given and is scored on every token that follows; there are no options. "
            "Probability: geometric mean over the tokens."
        )


def lines_of(text: str) -> str:
    """Escape plain text for Markdown, keeping its line breaks."""
    return escaped(text.strip()).replace("\n", "  \n")


def strip_hover(task: Task, scores: HeadScores, effects: Float[np.ndarray, " example"], unit: str) -> list[str]:
    texts = texts_of(task.name, scores.questions.ids)
    return [
        f"{signed(effect)} {unit}<br>{name if texts is None else wrapped(texts[name].question)}"
        for name, effect in zip(scores.questions.ids, effects, strict=True)
    ]


def wrapped(text: str, width: int = 60) -> str:
    """Break text into lines for a hover label, and escape & and < for HTML."""
    lines, line = [], ""
    for word in text.replace("&", "&amp;").replace("<", "&lt;").split():
        if line and len(line) + len(word) > width:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    return "<br>".join([*lines, line])
