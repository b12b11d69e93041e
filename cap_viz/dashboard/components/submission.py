"""Submission of runs by this browser session; all pages submit here, so a shared server's limits hold everywhere."""

from __future__ import annotations

import uuid

import streamlit as st

from cap_viz.dashboard.serving import check_job, is_shared
from cap_viz.runs.jobs import Job, JobSpec
from cap_viz.runs.queue import shared_queue

OWN_JOBS, SESSION = "own_jobs", "queue_session"


def submit_run(spec: JobSpec, title: str) -> Job:
    """Queue a job for this session. Raises `CapVizError` if the queue or a shared server refuses it."""
    check_job(spec, own_jobs())
    session: str = st.session_state.setdefault(SESSION, uuid.uuid4().hex)
    job = shared_queue().submit(spec, title, session)
    st.session_state[OWN_JOBS] = {*st.session_state.get(OWN_JOBS, ()), job.number}
    return job


def own_jobs() -> list[Job]:
    """Return this session's jobs that the queue still remembers."""
    numbers = st.session_state.get(OWN_JOBS, ())
    return [job for job in shared_queue().listing() if job.number in numbers]


def may_cancel(job: Job) -> bool:
    """Return whether this session may cancel the job: on a shared server only its own."""
    return not is_shared() or job.number in st.session_state.get(OWN_JOBS, ())
