"""Selection of a view, held in the URL: model, task, size, run, head, criterion, sparsity and what else is chosen.

The address is the state: a page reads its values from it, and a widget writes its value into it. Widgets are drawn by
`Selection`, which sets each to the value of the address first, so that links, Back, Share and a fresh tab agree.
Addresses hold ids, pages show names.

    selection = view.selection
    criterion = selection.selectbox("Criterion", "criterion", list(CRITERIA), default="cap", names=criterion_title)

An address changes once for each choice (`choose`, in a widget's callback), never by drawing; each change is one step
of the browser's history.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlencode

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.scriptrunner_utils.script_run_context import ThreadState, get_script_run_ctx

from cap_viz.dashboard.components.panels import note

T = TypeVar("T")
# Values of an address: a key may hold several.
Address = dict[str, tuple[str, ...]]

# Session keys. ADDRESS: what is chosen. FORMER: the address before the last choice, until the browser has the new one.
# ASKED: keys that came with a link, so that the link is named where they are wrong. SHOWN: values in effect, defaults
# included. VISITED: the last address of every page. LANDING: the anchor to land at, since links carry no #anchor.
ADDRESS, FORMER, ASKED = "address", "address_former", "address_asked"
SHOWN, VISITED, PAGE, LANDING = "address_shown", "address_visited", "address_page", "landing"
# Pages by name, in the order of the navigation.
PAGE_ICONS = {
    "overview": ":material/dashboard:",
    "heads": ":material/grid_on:",
    "tasks": ":material/view_module:",
    "prune": ":material/content_cut:",
    "compare": ":material/show_chart:",
    "circuit": ":material/account_tree:",
    "playground": ":material/science:",
    "runs": ":material/history:",
    "learn": ":material/school:",
    "glossary": ":material/menu_book:",
}
# Keys that every page has.
SHARED_KEYS = ("model", "task", "n")
# How weights are chosen, and how results are shown, which another task leaves as they are.
METHOD_KEYS = ("criterion", "against", "sparsity", "scope")
DISPLAY_KEYS = ("metric", "measure", "reference", "view", "scale")
KEPT_WITH_TASK = ("model", *METHOD_KEYS, *DISPLAY_KEYS)


def open_address(page: str) -> None:
    """Take over the browser's address; call it once at the start of a script run."""
    found: Address = {key: tuple(st.query_params.get_all(key)) for key in st.query_params}
    held: Address | None = st.session_state.get(ADDRESS)
    # The address before the last choice is the one that the browser had when it sent this rerun.
    if held is not None and found == st.session_state.get(FORMER) != held and not is_back():
        write(held)
    else:
        if found != held:
            st.session_state[ASKED] = set(found)
        st.session_state[ADDRESS] = found
        st.session_state.pop(FORMER, None)
    st.session_state[SHOWN] = {}
    st.session_state[PAGE] = page
    remember()


def is_back() -> bool:
    """Whether the browser's Back or Forward caused this script run."""
    context = get_script_run_ctx()
    return context is not None and context.is_history_navigation


def write(address: Address) -> None:
    st.query_params.from_dict({key: list(values) for key, values in address.items()})


def remember() -> None:
    visited: dict[str, Address] = st.session_state.setdefault(VISITED, {})
    visited[st.session_state.get(PAGE, "")] = st.session_state[ADDRESS]


def choose(changes: Mapping[str, object], *, keep: Iterable[str] | None = None) -> None:
    """Change keys of the address, None removes one; of the other keys only those in `keep` stay, if it is given.

    Call it from callbacks: widgets that are drawn already keep their value otherwise.
    """
    held: Address = st.session_state.get(ADDRESS, {})
    address = {key: values for key, values in held.items() if keep is None or key in set(keep)}
    for key, value in changes.items():
        address.pop(key, None)
        if value is not None:
            address[key] = texts(value)
    st.session_state[FORMER] = held
    st.session_state[ADDRESS] = address
    st.session_state[ASKED] = set() if keep is not None else st.session_state.get(ASKED, set()) - set(changes)
    write(address)
    remember()


def texts(value: object) -> tuple[str, ...]:
    """Format a value for the address: several for a list, an empty text for an empty one."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        return (str(value).lower() if isinstance(value, bool) else str(value),)
    return tuple(str(one) for one in value) or ("",)


def take(key: str, changes: Mapping[str, object], keep: Iterable[str] | None) -> None:
    if is_choice():
        choose({**changes, key: st.session_state[key]}, keep=keep)


def is_choice() -> bool:
    """Whether the user made the change for which a widget's callback is called.

    With Back, and with the ticks of fragments, the browser sends all widgets as it holds them: one whose value was just
    set here still has its former value there.
    """
    context = get_script_run_ctx()
    fragments = context.fragment_ids_this_run if context is not None else None
    return not is_back() and (not fragments or ThreadState.get().fragment_id in fragments)


def address_of(page: str) -> dict[str, list[str]]:
    """Return the query of a link to a page: as it was left for this model and task, else these alone."""
    here: Address = st.session_state.get(ADDRESS, {})
    shared = {key: here[key] for key in SHARED_KEYS if key in here}
    left: Address = st.session_state.get(VISITED, {}).get(page, {})
    same = all(left.get(key) == shared.get(key) for key in ("model", "task"))
    return {key: list(values) for key, values in ({**left, **shared} if same else shared).items()}


def link_here() -> str:
    """Return the URL of this view with every value in effect, defaults included."""
    values = {**st.session_state.get(ADDRESS, {}), **st.session_state.get(SHOWN, {})}
    return f"{st.context.url or ''}?{urlencode(values, doseq=True)}"


def page_file(page: str) -> str:
    return "app.py" if page == "overview" else f"pages/{page}.py"


def go_button(label: str, page: str, *, key: str, params: Mapping[str, object] | None = None, anchor: str = "") -> None:
    """Draw a button to another page (see `go`), with its icon."""
    if st.button(label, key=key, icon=PAGE_ICONS[page], type="tertiary"):
        go(page, params=params, anchor=anchor)


def go(page: str, *, params: Mapping[str, object] | None = None, anchor: str = "") -> None:
    """Switch to the page of this name, where model, task and size stay unless `params` changes them.

    Do not call it from a callback. The page lands at the heading named by `anchor`.
    """
    held: Address = st.session_state.get(ADDRESS, {})
    stays = {name: held[name] for name in SHARED_KEYS if name in held}
    if params and {"model", "task"} & set(params):
        stays.pop("n", None)
    chosen = {name: texts(value) for name, value in (params or {}).items() if value is not None}
    st.session_state[LANDING] = anchor
    st.switch_page(page_file(page), query_params={name: list(values) for name, values in {**stays, **chosen}.items()})


@dataclass(frozen=True)
class Selection:
    """Values of the address, and the widgets that change them; `notes` is where a wrong link is reported.

    The readers return a default where the address has no such key or a wrong value. The widgets take what their
    Streamlit counterparts take, an id for a key, and return the value in effect. A choice also makes the changes of
    `also`, and drops keys not in `keep` if that is given.
    """

    notes: DeltaGenerator

    def choice(self, key: str, options: Collection[str], default: str | None = None) -> str:
        """Return the option that the address names, else the default (the first option)."""
        usual = next(iter(options)) if default is None else default
        asked = asked_for(key)
        if asked is None or asked[-1] in options:
            return shown(key, usual if asked is None else asked[-1])
        self.report(key, asked[-1], f"is not available here; showing {usual} instead")
        return shown(key, usual)

    def choices(self, key: str, options: Sequence[str], default: Sequence[str] = ()) -> tuple[str, ...]:
        """Return the options that the address names, without unknown ones; the default where it names none."""
        asked = asked_for(key)
        if asked is None:
            return shown(key, tuple(default))
        named = [one for one in asked if one]
        known = tuple(one for one in named if one in options)
        if len(known) < len(named):
            unknown = next(one for one in named if one not in options)
            self.report(key, unknown, "is not available here and left out")
        return shown(key, known if known or not named else tuple(default))

    def number(self, key: str, low: int, high: int, default: int) -> int:
        """Return the number that the address names, else the default."""
        asked = asked_for(key)
        if asked is not None and asked[-1].isdecimal() and low <= int(asked[-1]) <= high:
            return shown(key, int(asked[-1]))
        if asked is not None:
            self.report(key, asked[-1], f"is not available: there are {low} to {high}")
        return shown(key, default)

    def flag(self, key: str, default: bool = False) -> bool:
        asked = asked_for(key)
        return shown(key, default if asked is None else asked[-1] == "true")

    def text(self, key: str, default: str = "") -> str:
        asked = asked_for(key)
        return shown(key, default if asked is None else asked[-1])

    def report(self, key: str, asked: str, wrong: str) -> None:
        """Say what is wrong with a value of the link, under the name that it has there."""
        if key in st.session_state.get(ASKED, ()):
            with self.notes:
                note(f"The link asks for {key} “{asked[:60]}”, which {wrong}.")

    def selectbox(
        self,
        label: str,
        key: str,
        options: Collection[str],
        *,
        default: str | None = None,
        names: Callable[[str], str] = str,
        draw: Callable[..., Any] = st.selectbox,
        **more: Any,
    ) -> str:
        """Offer ids by their `names`, or as a mapping of ids to names."""
        value = self.choice(key, options, default)
        named = options.__getitem__ if isinstance(options, Mapping) else names
        draw(label, list(options), format_func=named, **controlled(key, value, more))
        return value

    def segmented(self, label: str, key: str, options: Collection[str], **more: Any) -> str:
        return self.selectbox(label, key, options, draw=st.segmented_control, required=True, **more)

    def multiselect(
        self,
        label: str,
        key: str,
        options: Sequence[str],
        *,
        default: Sequence[str] = (),
        names: Callable[[str], str] = str,
        **more: Any,
    ) -> tuple[str, ...]:
        value = self.choices(key, options, default)
        st.multiselect(label, options, format_func=names, **controlled(key, list(value), more))
        return value

    def slider(
        self,
        label: str,
        key: str,
        low: int,
        high: int,
        *,
        default: int,
        draw: Callable[..., Any] = st.slider,
        **more: Any,
    ) -> int:
        value = self.number(key, low, high, default)
        draw(label, low, high, **controlled(key, value, more))
        return value

    def number_input(self, label: str, key: str, low: int, high: int, **more: Any) -> int:
        return self.slider(label, key, low, high, draw=st.number_input, **more)

    def toggle(self, label: str, key: str, *, default: bool = False, **more: Any) -> bool:
        value = self.flag(key, default)
        st.toggle(label, **controlled(key, value, more))
        return value

    def text_input(self, label: str, key: str, **more: Any) -> str:
        value = self.text(key)
        st.text_input(label, **controlled(key, value, more))
        return value


def asked_for(key: str) -> tuple[str, ...] | None:
    return st.session_state.get(ADDRESS, {}).get(key)


def shown(key: str, value: T) -> T:
    """Note a value in effect, for the shared link."""
    st.session_state.setdefault(SHOWN, {})[key] = texts(value)
    return value


def controlled(key: str, value: object, more: Mapping[str, Any]) -> dict[str, Any]:
    """Set a widget to the value of the address; return its keyword arguments, with the callback that writes there."""
    if st.session_state.get(key) != value or key not in st.session_state:
        st.session_state[key] = value
    given = dict(more)
    changes, keep = given.pop("also", {}), given.pop("keep", None)
    return {**given, "key": key, "on_change": take, "args": (key, changes, keep)}
