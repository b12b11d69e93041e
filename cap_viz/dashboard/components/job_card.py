"""Display of waiting, running and ended jobs. Draw it inside a repeating fragment (`ticking`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import streamlit as st

from cap_viz.dashboard.components.panels import escaped, note, problem
from cap_viz.dashboard.components.submission import discard_jobs, is_discarded, may_cancel, refusal, submit_all
from cap_viz.progress import duration
from cap_viz.runs.jobs import Job, JobSpec, PrunedWeights, job_key
from cap_viz.runs.queue import shared_queue

TICK_SECONDS = 1.0


def active_jobs(wanted: Callable[[JobSpec], bool]) -> list[Job]:
    """Return the waiting and running jobs of all sessions with a `wanted` spec, oldest first."""
    return [job for job in shared_queue().listing() if job.active and wanted(job.spec)]


def jobs_of(specs: Iterable[JobSpec]) -> list[Job]:
    """Return the jobs of these specs that the queue remembers."""
    found = (shared_queue().find(spec) for spec in specs)
    return [job for job in found if job is not None]


def ticking(draw: Callable[[], None], *, live: bool) -> None:
    """Run `draw` as a fragment that repeats every second while `live`."""
    st.fragment(draw, run_every=TICK_SECONDS if live else None)()


def while_active(specs: Iterable[JobSpec], draw: Callable[[], None]) -> None:
    """Draw every second while jobs of these specs are active, and the whole page once one of them starts or ends."""
    specs = tuple(specs)
    before = [job.number for job in jobs_of(specs) if job.active]

    def tick() -> None:
        if [job.number for job in jobs_of(specs) if job.active] != before:
            st.rerun()
        draw()

    ticking(tick, live=bool(before))


def offer_jobs(
    titles: Mapping[JobSpec, str], label: str, said: str, *, key: str, blocked: str = "", **more: Any
) -> None:
    """Draw an offer (see `draw_offer`) anew every second while its jobs are active."""
    while_active(titles, lambda: draw_offer(titles, label, said, key=key, blocked=blocked, **more))


def draw_offer(
    titles: Mapping[JobSpec, str], label: str, said: str, *, key: str, blocked: str = "", **more: Any
) -> None:
    """Draw the jobs of these specs, by title, and a button that queues the others, or why it cannot (`blocked`)."""
    jobs = jobs_of(titles)
    jobs_view(jobs, key=key)
    ended_view(*jobs, key=key)
    refusal(key)
    shown = {job.key for job in jobs if job.active or has_ended(job)}
    idle = {spec: title for spec, title in titles.items() if job_key(spec) not in shown}
    if idle and blocked:
        note(blocked)
    elif idle:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.button(label, key=key, on_click=submit_all, args=(idle, key), **more)
            if said:
                st.caption(said, width="stretch", help="You can leave the page; it goes on.")


def jobs_view(jobs: Sequence[Job], *, key: str) -> None:
    """Draw the active jobs of one measurement; of several also the time that is left, and one button to cancel all."""
    active = [job for job in jobs if job.active]
    if len(active) > 1:
        text, button = st.columns([5, 1], vertical_alignment="center")
        text.caption(together_sentence(active))
        own = [job for job in active if may_cancel(job) and not job.cancel_asked.is_set()]
        with button:
            st.button(
                "Cancel all", key=f"{key}_cancel_all", disabled=not own, width="stretch", on_click=cancel, args=own
            )
    for job in active:
        job_view(job, key=key, timed=len(active) == 1)


def job_view(job: Job, *, key: str, timed: bool = True) -> None:
    """Draw the title, progress with remaining time (if `timed`) or queue position, and the cancel button."""
    text, button = st.columns([5, 1], vertical_alignment="center")
    text.progress(job.progress.share, text=f"**{escaped(job.title)}** · {job_sentence(job, timed=timed)}")
    if may_cancel(job):
        asked, own_key = job.cancel_asked.is_set(), f"{key}_cancel_{job.number}"
        label = "Stopping" if asked else "Cancel"
        button.button(label, key=own_key, disabled=asked, width="stretch", on_click=cancel, args=(job,))


def cancel(*jobs: Job) -> None:
    for job in jobs:
        shared_queue().cancel(job)


def together_sentence(jobs: Sequence[Job]) -> str:
    """Say how many jobs are left and for how long; they take turns, so their times add up."""
    turns = [job.turns_left for job in jobs]
    known = [seconds for seconds in turns if seconds is not None]
    left = f", about {duration(sum(known))} left" if len(known) == len(jobs) else ""
    return f"{len(jobs)} jobs, {sum(job.progress.share for job in jobs) / len(jobs):.0%} done{left}"


def job_sentence(job: Job, *, timed: bool = True) -> str:
    if job.cancel_asked.is_set() and job.active:
        return "stopping at the next step"
    if job.waits_for:
        return escaped(job.waits_for)
    if job.state == "queued":
        ahead = shared_queue().position(job)
        return "starts next" if not ahead else f"{ahead} {'job goes' if ahead == 1 else 'jobs go'} first"
    left = job.seconds_left if timed else None
    remaining = "" if left is None else f", about {duration(left)} left"
    return f"{escaped(job.progress.note)}, {job.progress.share:.0%}{remaining}"


def has_ended(job: Job) -> bool:
    """Whether a job failed or was cancelled and is still shown, with buttons to go on and to discard it."""
    return job.state in ("failed", "cancelled") and not is_discarded(job)


def ended_view(*jobs: Job, key: str) -> None:
    """Report failed and cancelled jobs, those of one reason together, with buttons to go on and to discard."""
    reasons: dict[str, list[Job]] = {}
    for job in jobs:
        if has_ended(job):
            reasons.setdefault(job.error, []).append(job)
    for reason, ended in reasons.items():
        whose, own_key = "; ".join(job.title for job in ended), f"{key}_{ended[0].number}"
        if reason:
            problem(f"{whose} stopped: {reason}")
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            if not reason:
                st.caption(f"{escaped(whose)} {'was' if len(ended) == 1 else 'were'} cancelled. {kept_words(ended)}")
            again = {job.spec: job.title for job in ended}
            label = "Try again" if reason else "Resume"
            st.button(label, key=f"{own_key}_again", on_click=submit_all, args=(again, own_key))
            st.button("Discard", key=f"{own_key}_discard", on_click=discard_jobs, args=(ended,))
        refusal(own_key)


def kept_words(jobs: Sequence[Job]) -> str:
    """Say at what share cancelled jobs stopped, and whether their finished parts are kept."""
    share = f"{max(job.progress.share for job in jobs):.0%} was done"
    return f"{share}." if all(isinstance(job.spec, PrunedWeights) for job in jobs) else f"{share} and is kept."
