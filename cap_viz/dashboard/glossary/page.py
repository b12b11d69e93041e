"""The Glossary page: terms by section with a search, limits of the method, how to cite. Needs no run."""

from __future__ import annotations

import streamlit as st

from cap_viz.dashboard.components.panels import empty, escaped
from cap_viz.dashboard.glossary.data import search
from cap_viz.dashboard.selection import Selection

WIDTH = 860
COLUMNS = (1, 3)
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
        shown = search(asked)
        if not shown:
            empty("No term matches", "Clear the search to see all of them.")
        for section, terms in shown.items():
            st.subheader(section, anchor=False)
            for entry in terms.values():
                left, right = st.columns(COLUMNS)
                also = f"  \n:small[{escaped(', '.join(entry.aliases))}]" if entry.aliases else ""
                left.markdown(f"**{entry.name}**{also}")
                right.markdown(entry.text)
        if not asked:
            limits()
            cite()


def limits() -> None:
    st.subheader("What this can say", anchor=False)
    st.markdown("\n".join(f"- {sentence}" for sentence in CAN_SAY))
    st.subheader("What this cannot say", anchor=False)
    st.markdown("\n".join(f"- {sentence}" for sentence in CANNOT_SAY))


def cite() -> None:
    st.subheader("How to cite", anchor=False)
    st.markdown("The software, and the paper whose method it implements; add the key of the runs you used.")
    st.code(CITATION, language="bibtex", wrap_lines=True)
