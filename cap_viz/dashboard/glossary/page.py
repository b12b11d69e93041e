"""The Glossary page: terms by group with a search, limits of the method, how to cite. Needs no run."""

from __future__ import annotations

from collections.abc import Iterable

import streamlit as st

from cap_viz.dashboard.components.panels import empty, escaped
from cap_viz.dashboard.frame import PAGE_FILES
from cap_viz.dashboard.glossary.data import all_groups, search
from cap_viz.dashboard.selection import Selection, address_of
from cap_viz.dashboard.terms import Term

WIDTH = 920
COLUMNS = (1, 3)
LIMITS = "Limits"
CAN_SAY = (
    "What removing a head (or a set of heads, or weights) does to this model's answers on these questions, with an "
    "interval for other questions of the same kind.",
    "Whether two models answer the same questions differently by more than chance, question by question.",
    "How well a ranking of heads would come out again with other questions.",
)
CANNOT_SAY = (
    "What a head computes. A large effect says that the answer depends on it, not how.",
    "That a head with no effect is useless: others may stand in for it. Removing several together shows it.",
    "Anything about other models, other prompts or tasks not measured here.",
    "That pruned weights make a model smaller or faster: scattered zeros do neither; whole heads do.",
)
CITATION = """@software{cap_viz,
  title = {CAP Viz},
  author = {{CAP Viz developers}},
  year = {2026}
}
@misc{cap_2026,
  title = {Causal Attribution Pruning},
  year = {2026},
  eprint = {2606.19350},
  archivePrefix = {arXiv}
}"""


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
            limits()
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


def limits() -> None:
    for title, sentences in (("What this can say", CAN_SAY), ("What this cannot say", CANNOT_SAY)):
        st.subheader(title, anchor=False)
        st.markdown("\n".join(f"- {sentence}" for sentence in sentences))
    st.subheader("How to cite", anchor=False)
    st.markdown("The software, and the paper whose method it implements; add the key of the runs you used.")
    st.code(CITATION, language="bibtex", wrap_lines=True)
