"""Display of waiting, running and ended jobs. Call `job_view` inside a repeating fragment (`ticking`)."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from cap_viz.dashboard.components.panels import escaped, problem
from cap_viz.dashboard.components.submission import may_cancel
from cap_viz.progress import duration
from cap_viz.runs.jobs import Job, JobSpec, PrunedWeights
from cap_viz.runs.queue import shared_queue

TICK_SECONDS = 1.0


def active_jobs(wanted: Callable[[JobSpec], bool]) -> list[Job]:
    """Return the waiting and running jobs of all sessions with a `wanted` spec, oldest first."""
    return [job for job in shared_queue().listing() if job.active and wanted(job.spec)]


def ticking(draw: Callable[[], None], *, live: bool) -> None:
    """Run `draw` as a fragment that repeats every second while `live`."""
    st.fragment(draw, run_every=TICK_SECONDS if live else None)()


def job_view(job: Job, *, key: str) -> None:
    """Draw the title, progress with remaining time or queue position, and the cancel button."""
    text, button = st.columns([5, 1], vertical_alignment="center")
    with text:
        st.progress(job.progress.share, text=f"**{escaped(job.title)}** · {job_sentence(job)}")
    with button:
        asked = job.cancel_asked.is_set()
        if not may_cancel(job):
            return
        st.button(
            "Stopping" if asked else "Cancel",
            key=f"{key}_cancel_{job.number}",
            disabled=asked,
            width="stretch",
            on_click=shared_queue().cancel,
            args=(job,),
        )


def job_sentence(job: Job) -> str:
    if job.cancel_asked.is_set() and job.active:
        return "stopping at the next step"
    if job.waits_for:
        return escaped(job.waits_for)
    if job.state == "queued":
        ahead = shared_queue().position(job)
        return "starts next" if not ahead else f"{ahead} {'job goes' if ahead == 1 else 'jobs go'} first"
    left = job.seconds_left
    remaining = "" if left is None else f", about {duration(left)} left"
    return f"{escaped(job.progress.note)}, {job.progress.share:.0%}{remaining}"


def ended_view(job: Job) -> None:
    """Report a failed or cancelled job; draw nothing for a finished one."""
    if job.state == "failed":
        problem(f"{job.title} stopped: {job.error}")
    elif job.state == "cancelled":
        kept = (
            ""
            if isinstance(job.spec, PrunedWeights)
            else " Finished batches are kept: starting it again goes on from there."
        )
        st.caption(f"{escaped(job.title)} was cancelled.{kept}")
