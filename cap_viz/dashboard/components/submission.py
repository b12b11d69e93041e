"""Submission of runs by this browser session; all pages submit here, so a shared server's limits hold everywhere."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

import streamlit as st

from cap_viz.dashboard.components.panels import problem
from cap_viz.dashboard.serving import check_job, is_shared
from cap_viz.errors import CapVizError
from cap_viz.runs.jobs import Job, JobSpec, PrunedWeights
from cap_viz.runs.queue import shared_queue
from cap_viz.runs.unfinished import discard

OWN_JOBS, SESSION, REFUSED, DISCARDED = "own_jobs", "queue_session", "queue_refused", "discarded_jobs"


def submit_run(spec: JobSpec, title: str) -> Job:
    """Queue a job for this session. Raises `CapVizError` if the queue or a shared server refuses it."""
    check_job(spec, own_jobs())
    session: str = st.session_state.setdefault(SESSION, uuid.uuid4().hex)
    job = shared_queue().submit(spec, title, session)
    st.session_state[OWN_JOBS] = {*st.session_state.get(OWN_JOBS, ()), job.number}
    return job


def submit_all(titles: Mapping[JobSpec, str], key: str) -> None:
    """Queue the jobs of a button, by title; call it in its callback. `refusal` shows why one was refused."""
    try:
        for spec, title in titles.items():
            submit_run(spec, title)
    except CapVizError as error:
        st.session_state[REFUSED] = (key, str(error))


def refusal(key: str) -> None:
    """Show, once, why the jobs of the button with this key were refused."""
    owner, sentence = st.session_state.get(REFUSED, ("", ""))
    if owner == key:
        del st.session_state[REFUSED]
        problem(sentence)


def own_jobs() -> list[Job]:
    """Return this session's jobs that the queue still remembers."""
    numbers = st.session_state.get(OWN_JOBS, ())
    return [job for job in shared_queue().listing() if job.number in numbers]


def may_cancel(job: Job) -> bool:
    """Return whether this session may cancel the job: on a shared server only its own."""
    return not is_shared() or job.number in st.session_state.get(OWN_JOBS, ())


def discard_jobs(jobs: list[Job]) -> None:
    """Stop showing ended jobs to this session, and drop their finished parts, which a shared server keeps."""
    st.session_state[DISCARDED] = {*st.session_state.get(DISCARDED, ()), *(job.number for job in jobs)}
    for job in jobs:
        if not is_shared() and not isinstance(job.spec, PrunedWeights):
            discard(shared_queue().store, job.spec)


def is_discarded(job: Job) -> bool:
    return job.number in st.session_state.get(DISCARDED, ())
