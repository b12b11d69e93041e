"""Lesson page: one step at a time, a guess before each answer; step and guesses are kept in the URL.

Large type and few words, for a projector; the keys 1 to 3 guess, the arrow keys go back and forward.
"""

from __future__ import annotations

import re

import streamlit as st

from cap_viz.dashboard.components.landing import LANDING
from cap_viz.dashboard.components.panels import empty, escaped, note, problem
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.learn.data import Lesson, NotStored
from cap_viz.dashboard.learn.steps import STEPS, Answer, LessonStep, Link
from cap_viz.dashboard.state import bad_choice, choose, go_button
from cap_viz.errors import CapVizError

GUESSES = "guesses"
NUMBERS = [str(number) for number in range(1, len(STEPS) + 1)]
LETTERS = "abc"
WIDTH = 860


def body(view: Frame) -> None:
    guesses = remembered()
    if sentence := bad_choice("step", NUMBERS, "1", "step"):
        note(sentence)
    with st.container(width=WIDTH):
        number = int(
            st.segmented_control(
                "Step",
                NUMBERS,
                default="1",
                required=True,
                key="step",
                bind="query-params",
                label_visibility="collapsed",
            )
            or 1
        )
        step = STEPS[number - 1]
        with st.container(border=True, gap="medium"):
            st.subheader(f"{number}. {step.title}", anchor=False)
            st.markdown(step.text)
            lesson = Lesson(view)
            try:
                guess_and_reveal(lesson, step, number, guesses.get(number))
            except NotStored as missing:
                not_stored(lesson, step, missing)
            except CapVizError as error:
                problem(str(error))
        navigation(number, bool(guesses))


def remembered() -> dict[int, int]:
    """Return guesses (counted from 0) by step (counted from 1); a new session reads them from the URL."""
    if GUESSES not in st.session_state:
        st.session_state[GUESSES] = guesses_in(st.query_params.get(GUESSES, ""))
    return st.session_state[GUESSES]


def guesses_in(text: str) -> dict[int, int]:
    """Parse guesses: `1a3c` is the first choice at step 1 and the third at step 3. Ignore anything else."""
    found = {int(number): LETTERS.index(letter) for number, letter in re.findall(r"(\d{1,2})([abc])", text)}
    return {number: choice for number, choice in found.items() if 1 <= number <= len(STEPS)}


def in_address(guesses: dict[int, int]) -> str:
    return "".join(f"{number}{LETTERS[choice]}" for number, choice in sorted(guesses.items()))


def guess_and_reveal(lesson: Lesson, step: LessonStep, number: int, guess: int | None) -> None:
    """Draw the question with its choices as buttons; once guessed, the answer and a link to see it."""
    st.markdown(f"#### {escaped(step.question(lesson))}")
    answer = step.answer(lesson)
    if guess is None:
        st.caption("Take a guess first. There is no score.")
        for place, choice in enumerate(step.choices):
            st.button(
                choice,
                key=f"learn_{number}_{place}",
                width="stretch",
                shortcut=str(place + 1),
                on_click=take_guess,
                args=(number, place),
            )
        return
    st.markdown("  \n".join(choice_line(step, answer, guess, place) for place in range(len(step.choices))))
    st.success(answer.because, icon=":material/lightbulb:")
    go(lesson, step.link, number)


def choice_line(step: LessonStep, answer: Answer, guess: int, place: int) -> str:
    """Format a choice, marked as right or not and as the guess or not."""
    mark = ":material/check_circle:" if place == answer.right else ":material/radio_button_unchecked:"
    words = f"**{step.choices[place]}**" if place == answer.right else step.choices[place]
    return f"{mark} {words}{' (your guess)' if place == guess else ''}"


def take_guess(number: int, place: int) -> None:
    st.session_state[GUESSES][number] = place
    st.query_params[GUESSES] = in_address(st.session_state[GUESSES])


def forget() -> None:
    st.session_state[GUESSES] = {}
    st.query_params.pop(GUESSES, None)
    st.session_state["step"] = "1"


def turn_to(number: int) -> None:
    st.session_state["step"] = str(number)


def go(lesson: Lesson, link: Link, number: int) -> None:
    go_button(
        link.label,
        link.page,
        key=f"learn_go_{number}",
        selection={"model": lesson.view.model.id, "task": lesson.view.task.name, LANDING: link.anchor},
        params=link.params(lesson),
        icon=":material/arrow_outward:",
    )


def navigation(number: int, any_guess: bool) -> None:
    with st.container(horizontal=True, horizontal_alignment="distribute"):
        st.button(
            "Back",
            key="learn_back",
            icon=":material/arrow_back:",
            disabled=number == 1,
            shortcut="Left",
            on_click=turn_to,
            args=(number - 1,),
        )
        if any_guess:
            st.button("Start over", key="learn_over", type="tertiary", on_click=forget)
        st.button(
            "Next",
            key="learn_next",
            icon=":material/arrow_forward:",
            icon_position="right",
            type="primary",
            disabled=number == len(STEPS),
            shortcut="Right",
            on_click=turn_to,
            args=(number + 1,),
        )


def not_stored(lesson: Lesson, step: LessonStep, missing: NotStored) -> None:
    """Say which run is missing; offer where to measure it, and the nearest lesson for which it is stored."""
    view = lesson.view
    empty("This step has nothing to show for the chosen model and task yet", f"It needs {missing}.")
    with st.container(horizontal=True):
        if (other := lesson.with_answer(step.answer)) is not None:
            chosen = {"model": other.view.model.id, "task": other.view.task.name, "n": str(other.view.n)}
            st.button(beside(view, other.view), key="learn_usual", type="primary", on_click=choose, args=(chosen,))
        if missing.page and view.installed:
            go_button(
                f"Measure it on {missing.page}",
                f"pages/{missing.page.lower()}.py",
                key="learn_measure",
                selection={"model": view.model.id, "task": view.task.name},
                params=missing.params,
                icon=":material/arrow_outward:",
            )


def beside(view: Frame, other: Frame) -> str:
    """Name what changes with another view: the model, else the task, else the number of questions."""
    if other.model != view.model:
        return f"Take {other.task.title} on {other.model.id}"
    return f"Take {other.task.title}" if other.task != view.task else f"Use {other.n} questions"
