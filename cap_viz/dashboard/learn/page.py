"""Lesson page: one step at a time, a picture beside a question, a guess before each answer.

Lesson, step, guesses and projector mode are kept in the address. The keys 1 to 4 guess, the arrow keys go back and
forward, P switches to large type on the whole screen and back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape

import streamlit as st

from cap_viz.dashboard.components.panels import empty, heading, problems_told
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.learn.data import Evidence, NotStored, nearest
from cap_viz.dashboard.learn.lesson import LETTERS, Lesson, LessonStep, lesson_files, read_lesson
from cap_viz.dashboard.learn.pictures import PICTURES, PROJECTOR, SCREEN, Stage
from cap_viz.dashboard.names import model_name
from cap_viz.dashboard.selection import choose, go_button
from cap_viz.settings import ASSETS

PICTURE_AND_QUESTION = (3, 2)
# Keys that stay where the step needs another model, task or size, and where the lesson begins anew.
PLACE, SETTING = ("lesson", "step", "guesses", "projector"), ("model", "task", "n", "projector", "lesson")


def body(view: Frame) -> None:
    selection, files = view.selection, lesson_files()
    projector = selection.flag("projector")
    for style in ("lesson.css", "projector.css")[: 1 + projector]:
        st.html(ASSETS / style)
    if len(files) == 1:
        name = selection.choice("lesson", files)
    else:
        with st.sidebar:
            name = selection.selectbox("Lesson", "lesson", list(files), keep=SETTING)
    with problems_told():
        draw_lesson(view, read_lesson(files[name]), projector)


def draw_lesson(view: Frame, lesson: Lesson, projector: bool) -> None:
    """Draw the step of the address, or what is missing for it. Raises `CapVizError` if a run of it is damaged."""
    if not projector:
        heading("Learn", lesson.summary)
    guesses = guesses_in(view.selection.text("guesses"), lesson)
    number = navigation(view, lesson, guesses, projector)
    step, evidence = lesson.steps[number - 1], Evidence(view)
    st.header(f"{number}. {step.title}", anchor=False)
    try:
        told = step.told(evidence)
        st.markdown(told.text)
        left, right = st.columns(PICTURE_AND_QUESTION, gap="large")
        with left:
            canvas = PROJECTOR if projector else SCREEN
            PICTURES[step.picture](Stage(evidence, f"learn_{number}", number in guesses, canvas))
        with right, st.container(key="lesson_question"):
            st.subheader(told.question, anchor=False)
            answer(told, number, guesses) if number in guesses else ask(told, number, guesses)
    except NotStored as missing:
        not_stored(view, step, missing)


def guesses_in(text: str, lesson: Lesson) -> dict[int, int]:
    """Parse guesses: `1a3c` is the first choice at step 1 and the third at step 3. Ignore anything else."""
    found = {int(number): LETTERS.index(letter) for number, letter in re.findall(rf"(\d{{1,2}})([{LETTERS}])", text)}
    choices = {number: len(step.choices) for number, step in enumerate(lesson.steps, start=1)}
    return {number: place for number, place in found.items() if place < choices.get(number, 0)}


def in_address(guesses: Mapping[int, int]) -> str:
    return "".join(f"{number}{LETTERS[place]}" for number, place in sorted(guesses.items()))


def navigation(view: Frame, lesson: Lesson, guesses: Mapping[int, int], projector: bool) -> int:
    """Draw steps, arrows and the switch of the projector mode; return the number of the step."""
    numbers, hidden = [str(1 + place) for place in range(len(lesson.steps))], "collapsed"
    with st.container(horizontal=True, vertical_alignment="center"):
        number = int(view.selection.segmented("Step", "step", numbers, also={"pick": None}, label_visibility=hidden))
        for label, to, shortcut in (("Back", number - 1, "Left"), ("Next", number + 1, "Right")):
            st.button(
                label,
                key=f"learn_{label.lower()}",
                shortcut=shortcut,
                type="primary" if label == "Next" else "secondary",
                disabled=str(to) not in numbers,
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


def ask(step: LessonStep, number: int, guesses: Mapping[int, int]) -> None:
    for place, choice in enumerate(step.choices):
        guessed = {"guesses": in_address({**guesses, number: place})}
        key, shortcut = f"learn_{number}_{place}", str(place + 1)
        st.button(choice, key=key, width="stretch", shortcut=shortcut, on_click=choose, args=(guessed,))


def answer(step: LessonStep, number: int, guesses: Mapping[int, int]) -> None:
    """Draw the choices, the right one told by colour, sign and word; then why, and a link to see it."""
    lines = []
    for place, choice in enumerate(step.choices):
        right, guess = place + 1 == step.right, place == guesses[number]
        kind = "right" if right else "wrong" if guess else "other"
        said = "✓ Right answer" if right else "✗ Your guess" if guess else ""
        lines.append(f'<li class="{kind}"><b>{said}</b> {escape(choice)}{" (your guess)" * (right and guess)}</li>')
    st.html(f'<ol class="lesson-choices">{"".join(lines)}</ol>')
    st.markdown(step.because)
    link, key = step.link, f"learn_go_{number}"
    go_button(link.label, link.page, key=key, params=link.params, anchor=link.anchor)


def not_stored(view: Frame, step: LessonStep, missing: NotStored) -> None:
    """Say which run is missing; offer the nearest lesson for which it is stored, and where to measure it."""
    empty("This step has nothing to show for the chosen model and task yet", f"It needs {missing}.")
    with st.container(horizontal=True):
        if (evidence := nearest(view, step.told)) is not None:
            other = evidence.view
            size, on = f"Use {other.n} questions", f" on {model_name(other.model.id)}" * (other.model != view.model)
            label = size if (other.model, other.task) == (view.model, view.task) else f"Take {other.task.title}{on}"
            there = ({"model": other.model.id, "task": other.task.name, "n": other.n},)
            keep = {"keep": PLACE}
            st.button(label, key="learn_usual", type="primary", on_click=choose, args=there, kwargs=keep)
        if missing.page and not view.install_hint:
            label = f"Measure it on {missing.page}"
            go_button(label, missing.page.lower(), key="learn_measure", params=missing.params)
