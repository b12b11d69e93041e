"""Small components shared by all pages: heading, provenance line, tiles with intervals, state boxes, text helpers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from math import isnan

import streamlit as st

from cap_viz.dashboard.serving import REFUSAL, is_shared
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.errors import CapVizError
from cap_viz.runs.store import StoredRun
from cap_viz.tasks.example_sets import ExampleSet


def heading(title: str, sentence: str) -> None:
    """Draw the page's title and a sentence on the question it answers."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        st.title(title, anchor=False, width="content")
        st.markdown(sentence, width="content")


def provenance(facts: Sequence[str], *, origin: str | None = None) -> None:
    """Draw a caption of facts; `origin` (see `origin_words`, or "running", "stale") becomes a badge in front."""
    colour = {"precomputed": "blue", "live": "violet", "running": "orange", "stale": "orange"}
    badge = f":{colour.get(origin.partition(' (')[0], 'gray')}-badge[{origin}] " if origin else ""
    st.caption(badge + " · ".join(escaped(fact) for fact in facts))


def provenance_of(shown: Sequence[StoredRun], runs: Sequence[StoredRun], facts: Sequence[str]) -> None:
    """Draw facts about the results shown, with the age of the newest and the origins of all; `runs` are all stored."""
    newest = max(run.created for run in shown)
    origins = sorted({origin_words(run, runs) for run in shown}, reverse=True)
    provenance([*facts, f"newest {age(newest)}"], origin=" and ".join(origins))


def origin_words(run: StoredRun, runs: Iterable[StoredRun]) -> str:
    """Return the origin of a run; for the first items of a longer one of `runs` the origin of that, and how many."""
    longer = next((one for one in runs if one.key == run.provenance.get("taken_from")), None)
    if longer is None:
        return run.origin
    return f"{longer.origin} (first {len(run.spec.examples.ids)} of {len(longer.spec.examples.ids)})"


def cut_words(run: StoredRun) -> str:
    """Say how many prompts were too long for the model and lost their beginning; "" if none did."""
    cut = run.provenance.get("truncated")
    if not cut:
        return ""
    prompts = "1 prompt was" if cut["examples"] == 1 else f"{cut['examples']} prompts were"
    return f"{prompts} too long for the model; the beginning was cut ({cut['tokens']} tokens in all)."


def examples_fact(examples: ExampleSet) -> str:
    seed = "" if examples.seed is None else f", seed {examples.seed}"
    kinds = {"calibration": "calibration examples", "evaluation": "evaluation examples", "windows": "windows of text"}
    return f"{len(examples.ids)} {kinds.get(examples.split, 'chosen examples')}{seed}"


def tile(label: str, value: str, note: str = "", *, term: str | None = None) -> None:
    """Draw a number with its interval or a comment beneath; `term` adds help from the glossary."""
    st.metric(
        label, value, delta=note or None, delta_color="off", delta_arrow="off", help=GLOSSARY[term] if term else None
    )


def empty(title: str, text: str) -> None:
    """Draw a box for an empty state: what is missing and how to get it."""
    with st.container(border=True):
        st.markdown(f"**{title}**")
        st.caption(text)


def problem(sentence: str) -> None:
    """Show an error as one sentence that says what to do."""
    st.error(escaped(sentence), icon=":material/error:")


@contextmanager
def problems_told() -> Iterator[None]:
    """Show a `CapVizError` of what is drawn within, in its place."""
    try:
        yield
    except CapVizError as error:
        problem(str(error))


def note(sentence: str) -> None:
    """Show information that needs no action."""
    st.info(escaped(sentence), icon=":material/info:")


def caution(sentence: str) -> None:
    """Warn that the numbers below should be read with care."""
    st.warning(escaped(sentence), icon=":material/warning:")


def stale(sentence: str) -> None:
    """Mark the result below as computed with other settings than the controls show."""
    st.caption(f":orange-badge[stale] {escaped(sentence)}")


def is_refused_here(what: str) -> bool:
    """Whether a server shared by strangers refuses this, which the page then says."""
    if is_shared():
        st.caption(REFUSAL.format(what=what))
    return is_shared()


def escaped(text: str) -> str:
    """Escape plain text for Markdown: file names and model output must not turn into formatting."""
    for sign in "\\`*_~[]$<>":
        text = text.replace(sign, f"\\{sign}")
    # A word behind a colon would be a directive, such as :red.
    return re.sub(r"(?<!\S):(?=\w)", r"\:", text)


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def p_words(p: float) -> str:
    """Format a p-value with two or three decimals; a dash for NaN."""
    if isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def listed(parts: Sequence[str]) -> str:
    """Join parts as "a, b and c"."""
    return " and ".join(part for part in (", ".join(parts[:-1]), parts[-1]) if part)


def age(created: str) -> str:
    """Say in words how long ago an ISO time was; return any other text unchanged."""
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds()
    except (ValueError, TypeError):
        return created
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return "just now"
