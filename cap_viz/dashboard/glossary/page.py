"""The Glossary page: terms by group with a search, limits of the method, how to cite. Needs no run."""

from __future__ import annotations

from collections.abc import Iterable

import streamlit as st

from cap_viz.dashboard.components.panels import empty, escaped
from cap_viz.dashboard.frame import PAGE_FILES
from cap_viz.dashboard.glossary.data import all_groups, search
from cap_viz.dashboard.selection import Selection, address_of
from cap_viz.dashboard.terms import Term
from cap_viz.settings import ASSETS

WIDTH = 920
COLUMNS = (1, 3)
LIMITS = "Limits"


def body(selection: Selection) -> None:
    with st.container(width=WIDTH):
        asked = selection.text_input("Find a term", "term", placeholder="reliability, cap_fine, Holm, …", max_chars=60)
        if asked:
            found = search(asked)
            if not found:
                empty("No term matches", "Clear the search to see all of them.")
            show(found)
            return
        groups = {group.title: group.terms for group in all_groups()}
        group = selection.segmented("Group", "group", [*groups, LIMITS], label_visibility="collapsed")
        if group == LIMITS:
            st.markdown((ASSETS / "limits.md").read_text("utf-8"))
        else:
            show(groups[group].values())


def show(terms: Iterable[Term]) -> None:
    """Draw terms with their other names, and a link to where each can be seen."""
    for term in terms:
        left, right = st.columns(COLUMNS)
        also = f"  \n:small[{escaped(', '.join(term.aliases))}]" if term.aliases else ""
        left.markdown(f"**{term.name}**{also}")
        with right.container(gap="xxsmall"):
            st.markdown(term.line)
            if term.more:
                st.caption(term.more)
            if term.page:
                # Another task or model is shown with what it has, not at the size and place of this one.
                here = {} if {"model", "task"} & set(term.params) else address_of("")
                st.page_link(
                    PAGE_FILES[term.page],
                    label=f"See it on {term.page.capitalize()}",
                    icon=":material/arrow_outward:",
                    query_params={**here, **term.params},
                )
