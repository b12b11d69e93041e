"""Lesson page: one step at a time, a picture beside a question, a guess before each answer.

Lesson, step, guesses and projector mode are kept in the address. The keys 1 to 4 guess, the arrow keys go back and
forward, P switches to large type on the whole screen and back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape

import streamlit as st

from cap_viz.dashboard.components.panels import empty, heading, problem
from cap_viz.dashboard.frame import PAGE_FILES, Frame
from cap_viz.dashboard.learn.data import Evidence, NotStored
from cap_viz.dashboard.learn.lesson import LETTERS, Lesson, LessonStep, lesson_files, read_lesson
from cap_viz.dashboard.learn.pictures import PICTURES, Stage
from cap_viz.dashboard.names import model_name
from cap_viz.dashboard.selection import choose, go_button
from cap_viz.errors import CapVizError
from cap_viz.settings import ASSETS

PICTURE_AND_QUESTION = (3, 2)
# Keys that stay where the step needs another model, task or size, and where the lesson begins anew.
PLACE, SETTING = ("lesson", "step", "guesses", "projector"), ("model", "task", "n", "projector", "lesson")


def body(view: Frame) -> None:
    selection, files = view.selection, lesson_files()
    projector = selection.flag("projector")
    st.html(ASSETS / "lesson.css")
    if projector:
        st.html(ASSETS / "projector.css")
    try:
        lesson = read_lesson(files[selection.choice("lesson", list(files), what="lesson")])
    except CapVizError as error:
        problem(str(error))
        return
    if not projector:
        heading("Learn", lesson.summary)
    if len(files) > 1:
        selection.selectbox("Lesson", "lesson", list(files), keep=SETTING)
    guesses = guesses_in(selection.text("guesses"), lesson)
    number = navigation(view, lesson, guesses, projector)
    step, evidence = lesson.steps[number - 1], Evidence(view)
    st.subheader(f"{number}. {step.title}", anchor=False)
    try:
        draw_step(step, number, evidence, guesses, projector)
    except NotStored as missing:
        not_stored(evidence, step, missing)
    except CapVizError as error:
        problem(str(error))


def guesses_in(text: str, lesson: Lesson) -> dict[int, int]:
    """Parse guesses: `1a3c` is the first choice at step 1 and the third at step 3. Ignore anything else."""
    found = {int(number): LETTERS.index(letter) for number, letter in re.findall(rf"(\d{{1,2}})([{LETTERS}])", text)}
    choices = {number: len(step.choices) for number, step in enumerate(lesson.steps, start=1)}
    return {number: place for number, place in found.items() if place < choices.get(number, 0)}


def in_address(guesses: Mapping[int, int]) -> str:
    return "".join(f"{number}{LETTERS[place]}" for number, place in sorted(guesses.items()))


def navigation(view: Frame, lesson: Lesson, guesses: Mapping[int, int], projector: bool) -> int:
    """Draw steps, arrows and the switch of the projector mode; return the number of the step."""
    numbers = [str(number) for number in range(1, len(lesson.steps) + 1)]
    with st.container(horizontal=True, vertical_alignment="center", key="lesson_navigation"):
        number = int(
            view.selection.segmented(
                "Step", "step", numbers, what="step", also={"pick": None}, label_visibility="collapsed"
            )
        )
        for label, key, icon, shortcut, to in (
            ("Back", "learn_back", ":material/arrow_back:", "Left", number - 1),
            ("Next", "learn_next", ":material/arrow_forward:", "Right", number + 1),
        ):
            st.button(
                label,
                key=key,
                icon=icon,
                shortcut=shortcut,
                type="primary" if to > number else "secondary",
                disabled=not 1 <= to <= len(numbers),
                on_click=choose,
                args=({"step": to, "pick": None},),
            )
        if guesses:
            st.button("Start over", key="learn_over", on_click=choose, args=({},), kwargs={"keep": SETTING})
        st.button(
            "Leave projector" if projector else "Projector",
            key="learn_projector",
            icon=":material/close_fullscreen:" if projector else ":material/open_in_full:",
            shortcut="P",
            help="Large type, the whole screen, no sidebar",
            on_click=choose,
            args=({"projector": None if projector else True},),
        )
    return number


def draw_step(step: LessonStep, number: int, evidence: Evidence, guesses: Mapping[int, int], projector: bool) -> None:
    """Draw text, picture and question; once guessed, the answer and a link to see it. Raises `CapVizError`."""
    told, guess = step.told(evidence), guesses.get(number)
    st.markdown(told.text)
    left, right = st.columns(PICTURE_AND_QUESTION, gap="large")
    with left:
        PICTURES[step.picture](Stage(evidence, f"learn_{number}", guess is not None, projector))
    with right, st.container(key="lesson_question"):
        st.markdown(f"#### {told.question}")
        if guess is None:
            for place, choice in enumerate(step.choices):
                st.button(
                    choice,
                    key=f"learn_{number}_{place}",
                    width="stretch",
                    shortcut=str(place + 1),
                    on_click=choose,
                    args=({"guesses": in_address({**guesses, number: place})},),
                )
            return
        st.html(choices_after(step.choices, told.right, guess))
        st.markdown(told.because)
        go_button(
            step.link.label,
            PAGE_FILES[step.link.page],
            key=f"learn_go_{number}",
            params=told.params,
            anchor=step.link.anchor,
            icon=":material/arrow_outward:",
        )


def choices_after(choices: tuple[str, ...], right: int, guess: int) -> str:
    """Format the choices after the guess: the right one by colour, sign and word, the guess by sign and word."""
    lines = []
    for place, choice in enumerate(choices):
        kind = "right" if place == right else "wrong" if place == guess else "other"
        said = {"right": "✓ Right answer", "wrong": "✗ Your guess", "other": ""}[kind]
        too = " (your guess)" * (place == guess == right)
        lines.append(f'<li class="{kind}"><b>{said}</b> {escape(choice)}{too}</li>')
    return f'<ol class="lesson-choices">{"".join(lines)}</ol>'


def not_stored(evidence: Evidence, step: LessonStep, missing: NotStored) -> None:
    """Say which run is missing; offer where to measure it, and the nearest lesson for which it is stored."""
    view = evidence.view
    empty("This step has nothing to show for the chosen model and task yet", f"It needs {missing}.")
    with st.container(horizontal=True):
        if (other := evidence.nearest(step.told)) is not None:
            st.button(
                beside(view, other.view),
                key="learn_usual",
                type="primary",
                on_click=choose,
                args=({"model": other.view.model.id, "task": other.view.task.name, "n": other.view.n},),
                kwargs={"keep": PLACE},
            )
        if missing.page and view.installed:
            go_button(
                f"Measure it on {missing.page}",
                PAGE_FILES[missing.page.lower()],
                key="learn_measure",
                params=missing.params,
                icon=":material/arrow_outward:",
            )


def beside(view: Frame, other: Frame) -> str:
    """Name what changes with another view: the model, else the task, else the number of questions."""
    if other.model != view.model:
        return f"Take {other.task.title} on {model_name(other.model.id)}"
    return f"Take {other.task.title}" if other.task != view.task else f"Use {other.n} questions"
