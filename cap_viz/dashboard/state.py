"""Selection kept in the URL: `model`, `task`, `n` (sidebar), and each page's own keys.

Widgets are bound with `key=name, bind="query-params"`; Streamlit then keeps URL and widget together. Three facts of
Streamlit 1.67 shape this module:

- The URL holds an option's label, not its value: bound selects use plain names (`nll`, `arc_easy`) as labels, so
  that a link reads like the command line.
- A value the widget does not know is dropped silently: `bad_choice` and `bad_number`, called before the widget,
  report it.
- `page_link` and `switch_page` cannot change a bound key: `go_button` sets it in a callback, then switches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import streamlit as st


def bad_choice(key: str, options: Sequence[str], fallback: str, what: str) -> str:
    """Return a note if a link asks for an unavailable option, else "". Call it before the bound widget."""
    asked = asked_by_link(key)
    if asked is None or asked in options:
        return kept_note(key)
    sentence = f"The link asks for {what} “{asked[:60]}”, which is not available here; showing {fallback} instead."
    return keep_note(key, sentence, fallback)


def asked_by_link(key: str) -> str | None:
    """Return the URL's value of a bound key; None for one that was chosen on the page, or blanked (`forget_with`)."""
    asked, held = st.query_params.get(key), st.session_state.get(key, "")
    return None if held is None or str(held) == asked else asked


def bad_choices(key: str, options: Sequence[str], what: str) -> str:
    """As `bad_choice`, for a bound multiselect, which keeps the options it knows and drops the others."""
    asked = st.query_params.get_all(key)
    unknown = [one for one in asked if one and one not in options]
    if not unknown:
        return kept_note(key)
    known = [one for one in asked if one in options]
    sentence = f"The link asks for {what} “{unknown[0][:60]}”, which is not available here and left out."
    return keep_note(key, sentence, str(known or list(options)))


def bad_number(key: str, low: int, high: int, what: str) -> str:
    """Return a note if a link asks for a number out of range, else "". Call it before the bound widget."""
    asked = asked_by_link(key)
    if asked is None or (asked.isdecimal() and low <= int(asked) <= high):
        return kept_note(key)
    sentence = f"The link asks for {what} “{asked[:20]}”, which is not available: there are {low} to {high}."
    return keep_note(key, sentence, "")


def keep_note(key: str, sentence: str, fallback: str) -> str:
    """Store and return a note: Streamlit cleans the URL at once, so the next rerun could not produce it."""
    st.session_state[f"url_note_{key}"] = (sentence, fallback)
    return sentence


def kept_note(key: str) -> str:
    """Return the stored note about a key until a value other than the fallback is chosen."""
    sentence, fallback = st.session_state.get(f"url_note_{key}", ("", ""))
    if sentence and not fallback:
        # A number's fallback is the value its widget shows first.
        if key in st.session_state:
            st.session_state[f"url_note_{key}"] = (sentence, str(st.session_state[key]))
        return sentence
    if sentence and str(st.session_state.get(key, fallback)) != fallback:
        del st.session_state[f"url_note_{key}"]
        return ""
    return sentence


def keep_valid(key: str, options: Sequence[object], default: object = None) -> None:
    """Replace a bound select's value that is no longer among its options by its default; drop it if none is given.

    A browser told nothing keeps the old value in the box and in its address; a default that is written reaches both.
    """
    if key not in st.session_state or st.session_state[key] in options:
        return
    if default is None:
        del st.session_state[key]
    else:
        st.session_state[key] = default


def forget_with(owner: str, value: str, blank: Mapping[str, object]) -> None:
    """Blank the values of bound keys when they were chosen under another value of `owner`, e.g. another model."""
    former = st.session_state.get(f"{owner}_before", value)
    st.session_state[f"{owner}_before"] = value
    if former != value:
        choose({key: empty for key, empty in blank.items() if key in st.session_state})


def keep_valid_ones(key: str, options: Sequence[object]) -> None:
    """Drop a bound multiselect's values that are no longer options; its default shows when none is left."""
    values = st.session_state.get(key)
    if not values or all(value in options for value in values):
        return
    kept = [value for value in values if value in options]
    if kept:
        st.session_state[key] = kept
    else:
        del st.session_state[key]


def keep_in_range(key: str, low: int, high: int) -> None:
    """Clamp a bound number to its range, which depends on the model."""
    if isinstance(value := st.session_state.get(key), int) and not low <= value <= high:
        st.session_state[key] = min(max(value, low), high)


def choose(selection: Mapping[str, object]) -> None:
    """Set bound keys; call it from callbacks, where widgets may still be changed."""
    for key, value in selection.items():
        st.session_state[key] = value


def clicked(key: str) -> dict[str, Any] | None:
    """Return the clicked point of a figure; None if the selection was cleared."""
    points = (st.session_state.get(key) or {}).get("selection", {}).get("points", [])
    return points[0] if points else None


def go_button(
    label: str,
    page: str,
    *,
    key: str,
    selection: Mapping[str, object] | None = None,
    params: Mapping[str, str | Sequence[str]] | None = None,
    icon: str | None = None,
) -> None:
    """Link to another page and carry state: `selection` for the sidebar's keys, `params` for the page's own."""
    if st.button(label, key=key, icon=icon, type="tertiary", on_click=choose, args=(selection or {},)):
        st.switch_page(page, query_params=dict(params or {}))


def link_here(keys: Sequence[str]) -> str:
    """Return the URL of this view with the current values of the named keys (defaults are spelt out)."""
    values = {key: st.session_state[key] for key in keys if st.session_state.get(key) is not None}
    return f"{st.context.url or ''}?{urlencode(values, doseq=True)}"
