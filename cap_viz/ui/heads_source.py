"""What the Heads page shows: a stored run or one being computed, chosen by a name that is the same for both.

The name (`n48-seed0-zero`) says how the run was made, stands in the URL, and stays when a job turns into a run.
"""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from cap_viz.errors import CapVizError
from cap_viz.finding import score_runs
from cap_viz.jobs import Job, shared_queue
from cap_viz.models import ModelShape
from cap_viz.runs import calibration_set
from cap_viz.spec import ScoreSpec, spec_key
from cap_viz.store import StoredRun
from cap_viz.ui.frame import Frame
from cap_viz.ui.jobs_view import active_jobs
from cap_viz.ui.panels import GLOSSARY, duration, problem
from cap_viz.ui.state import bad_choice, keep_valid

WATCHED_JOB, SUBMIT_PROBLEM, NEW_RUN_OPEN = "heads_job", "heads_problem", "heads_new_run"
ABLATIONS = ("zero", "mean")


@dataclass(frozen=True)
class Source:
    """A run by its name; exactly one of `run` and `job` is there."""

    name: str
    spec: ScoreSpec
    run: StoredRun | None = None
    job: Job | None = None


def run_name(spec: ScoreSpec) -> str:
    n, seed = len(spec.examples.ids), spec.examples.seed
    drawn = f"seed{seed}" if spec.examples.split == "calibration" else f"{spec.examples.split}-{spec_key(spec)[:6]}"
    estimator = "" if spec.estimator == "exact" else f"-{spec.estimator}"
    return f"n{n}-{drawn}-{spec.ablation}{estimator}"


def sources(view: Frame) -> list[Source]:
    """Stored runs of this model and task, most examples first and zero ablation before others, then active jobs."""
    found = [
        Source(run_name(run.spec), run.spec, run=run)
        for run in score_runs(view.runs, view.model, view.task.name)
        if isinstance(run.spec, ScoreSpec)
    ]
    found.sort(key=lambda source: source.spec.ablation != "zero")
    found += [
        Source(run_name(job.spec), job.spec, job=job)
        for job in active_jobs(lambda spec: concerns(view, spec))
        if isinstance(job.spec, ScoreSpec)
    ]
    return list({source.name: source for source in reversed(found)}.values())[::-1]


def concerns(view: Frame, spec: object) -> bool:
    return isinstance(spec, ScoreSpec) and spec.model == view.model and spec.examples.task == view.task.name


def pick_source(available: list[Source]) -> tuple[Source | None, str]:
    """The run selector, and a note when the link named a run that is not there."""
    names = [source.name for source in available]
    if not names:
        return None, ""
    sentence = bad_choice("run", names, names[0], "the run")
    keep_valid("run", names)
    chosen = st.selectbox(
        "Run",
        names,
        key="run",
        bind="query-params",
        help="Stored and running measurements: number of examples, seed of their draw, what replaces a head's output.",
    )
    return available[names.index(chosen)], sentence


def watched_end() -> Job | None:
    """The job this session started last, once it has ended without a result."""
    number = st.session_state.get(WATCHED_JOB)
    job = next((job for job in shared_queue().listing() if job.number == number), None)
    return job if job is not None and job.state in ("failed", "cancelled") else None


def new_run(view: Frame) -> None:
    """The popover that starts a run: settings, what it will cost, the button or the reason why there is none."""
    popover = st.popover("New run", icon=":material/play_arrow:", width="stretch", key=NEW_RUN_OPEN, on_change="rerun")
    with popover, st.container(width=340):
        if not view.installed:
            st.markdown(view.install_hint)
            return
        if not view.task.is_local():
            st.markdown(missing_texts(view))
            return
        most = len(view.task.splits.calibration)
        n = st.number_input("Examples", 1, most, min(16, most), key="heads_n", help=GLOSSARY["calibration"])
        seed = st.number_input("Seed of the draw", 0, 9999, 0, key="heads_seed")
        ablation = st.segmented_control(
            "Replace a head's output by",
            ABLATIONS,
            default="zero",
            required=True,
            key="heads_ablation",
            help=GLOSSARY["ablation"],
        )
        st.caption(cost_sentence(view, int(n)))
        st.button(
            "Start",
            type="primary",
            width="stretch",
            key="heads_start",
            on_click=submit,
            args=(view, int(n), int(seed), str(ablation)),
        )


def missing_texts(view: Frame) -> str:
    name = view.task.name
    return (
        f"The questions of {view.task.title} are not on this machine. Set CAP_VIZ_DATA to a folder that holds "
        f"{name}/train.jsonl and {name}/test.jsonl, or choose the task mini_science, which works offline."
    )


def submit(view: Frame, n: int, seed: int, ablation: str) -> None:
    """Queue the run and show it; runs as a callback, so that the bound run selector may be set."""
    st.session_state[NEW_RUN_OPEN] = False
    try:
        spec = ScoreSpec(
            model=view.model, examples=calibration_set(view.task.name, n, seed), estimator="exact", ablation=ablation
        )
        if view.store.get(spec) is None:
            title = f"Head scores, {view.task.name}, n = {n}"
            st.session_state[WATCHED_JOB] = shared_queue().submit(spec, title).number
        st.session_state["run"] = run_name(spec)
    except CapVizError as error:
        st.session_state[SUBMIT_PROBLEM] = str(error)


def submit_problem() -> None:
    sentence = st.session_state.pop(SUBMIT_PROBLEM, "")
    if sentence:
        problem(sentence)


def cost_sentence(view: Frame, n: int) -> str:
    """Forwards and time, and what the estimate rests on."""
    basis = timed_run(view)
    if basis is None:
        return "Every head is removed in turn on every example. No run has been timed here yet, so the time is unknown."
    shape = shape_of(basis)
    seconds = basis.provenance["seconds"] / len(basis.spec.examples.ids)
    forwards = n * shape.n_layers * shape.n_heads
    return (
        f"{forwards:,} ablated passes ({n} × {shape.n_layers * shape.n_heads} heads), "
        f"about **{duration(n * seconds)}**, "
        f"judged from {seconds:.1f} s per example in the stored run of {len(basis.spec.examples.ids)} on "
        f"{basis.spec.examples.task} ({basis.provenance.get('threads', '?')} threads; other machines differ)."
    )


def timed_run(view: Frame) -> StoredRun | None:
    """The run that tells the pace best: uninterrupted, of this task, made on this machine, with most examples."""
    timed = [
        run
        for run in view.runs
        if isinstance(run.spec, ScoreSpec) and run.spec.model == view.model and not run.provenance["resumed_batches"]
    ]
    return max(
        timed,
        key=lambda run: (
            run.spec.examples.task == view.task.name,
            run.origin == "live",
            len(run.spec.examples.ids),
        ),
        default=None,
    )


def shape_of(run: StoredRun) -> ModelShape:
    return ModelShape(**run.provenance["shape"])


def known_shape(view: Frame) -> ModelShape | None:
    """The model's dimensions as any of its stored runs recorded them."""
    return next((shape_of(run) for run in view.runs if run.spec.model == view.model), None)
