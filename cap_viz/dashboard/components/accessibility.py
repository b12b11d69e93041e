"""What Streamlit leaves out on all pages: for keyboards, screen readers and weak eyes, and links to a heading."""

from __future__ import annotations

import json
import re

import streamlit as st

from cap_viz.dashboard.selection import LANDING
from cap_viz.figures.theme import ACCENT, HELPS, HURTS, NEUTRAL
from cap_viz.settings import ASSETS

# Colours made for marks, where they colour words: the share that is mixed with the text's colour, which is the theme's,
# so that they get darker in light and lighter in dark. The last is that of words in figures without a colour of their
# own, too pale in light.
SHARES = {HURTS: 65, HELPS: 65, NEUTRAL: 50, ACCENT: 60, "#808495": 40}


def accessibility() -> None:
    """Draw the style and the script; the script runs once for each opened page of the browser."""
    style = f":root {{ --cap-viz-accent: {ACCENT}; }}\n{minified('accessibility.css')}\n{words()}"
    st.html(f"<style>{style}</style><script>{minified('accessibility.js')}</script>", unsafe_allow_javascript=True)


def scroll_to_landing() -> None:
    """Scroll to the heading that the link to this page named, if it named one; call it at the end of a page."""
    if anchor := st.session_state.pop(LANDING, ""):
        script = minified("landing.js").replace("ANCHOR", json.dumps(anchor))
        st.html(f"<script>{script}</script>", unsafe_allow_javascript=True)


def words() -> str:
    """Return the rules for words that are written in a mark's colour, in figures and in Markdown."""
    rules = []
    for colour, share in SHARES.items():
        written = f"rgb({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))})"
        mixed = f"color-mix(in srgb, {colour} {share}%, currentColor) !important"
        rules.append(f'[data-testid="stPlotlyChart"] text[style*="{written}"] {{ fill: {mixed}; }}')
        rules.append(f'.stMarkdownColoredText[style*="color: {written}"] {{ color: {mixed}; }}')
    return "\n".join(rules)


def minified(name: str) -> str:
    """Read a style or script without its comments and indentation, since every script run sends it."""
    text = (ASSETS / name).read_text(encoding="utf-8")
    return re.sub(r"^\s*//[^\n]*\n|/\*.*?\*/\s*|^[ \t]+", "", text, flags=re.MULTILINE | re.DOTALL)
