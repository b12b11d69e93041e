"""Links that land at a section of a page: the link names a heading, the page scrolls there once it is drawn."""

from __future__ import annotations

import json

import streamlit as st

from cap_viz.dashboard.selection import LANDING

# What is drawn above the heading may still grow: follow it for a moment, until the reader moves.
SCROLL = """<script>
(() => {
  const until = Date.now() + 4000;
  let moved = false;
  for (const event of ["wheel", "touchstart", "keydown", "pointerdown"])
    window.addEventListener(event, () => { moved = true; }, {once: true});
  const follow = () => {
    const heading = document.getElementById(ANCHOR);
    if (moved || Date.now() > until) return;
    if (heading) heading.scrollIntoView({block: "start"});
    setTimeout(follow, 100);
  };
  follow();
})();
</script>"""


def scroll_to_landing() -> None:
    """Scroll to the heading that the link to this page named, if it named one; call it at the end of a page."""
    if anchor := st.session_state.pop(LANDING, ""):
        st.html(SCROLL.replace("ANCHOR", json.dumps(anchor)), unsafe_allow_javascript=True)
