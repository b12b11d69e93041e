"""Share menu of a page: a link to the view, and its numbers as files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from cap_viz.dashboard.selection import link_here

WIDTH = 360


@dataclass(frozen=True)
class Download:
    """A file made when it is asked for; `content` may not draw."""

    label: str
    content: Callable[[], bytes | str]
    file: str
    mime: str

    @property
    def suffix(self) -> str:
        return self.file.rsplit(".", 1)[-1]


@st.fragment
def share(page: str, downloads: Sequence[Download] = (), *, said: Sequence[str] = ()) -> None:
    """Draw the menu. Its link is made when it is opened, since a click on a figure redraws only a part of the page.

    `said` are captions below the files, in Markdown.
    """
    popover = st.popover("Share", icon=":material/ios_share:", width="stretch", key=f"{page}_share", on_change="rerun")
    if not popover.open:
        return
    with popover, st.container(width=WIDTH):
        st.caption("Link to this view")
        st.code(link_here(), language=None, wrap_lines=True)
        for one in downloads:
            download_button(one, page, width="stretch")
        for sentence in said:
            st.caption(sentence)


def download_button(one: Download, page: str, **more: Any) -> None:
    """Draw the button of a file, which is made on the click: the page stays fast, and damage is reported only then."""
    key = f"{page}_{one.suffix}"
    st.download_button(one.label, one.content, one.file, one.mime, key=key, on_click="ignore", **more)
