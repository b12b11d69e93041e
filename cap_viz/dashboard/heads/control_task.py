"""Control text of the Heads page: select a text that asks for no reasoning, or measure one if none is stored."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from cap_viz.dashboard.components.job_card import active_jobs, job_view
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.sample_plan import cost_sentence
from cap_viz.dashboard.heads.source import Source, submitting, watch
from cap_viz.dashboard.state import bad_choice, keep_valid
from cap_viz.runs.jobs import Job
from cap_viz.runs.run_queries import alike, control_runs
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.store import StoredRun
from cap_viz.tasks import load_task
from cap_viz.tasks.example_sets import calibration_set
from cap_viz.tasks.readable import CONTROL_TEXTS, controls_for

TASK_EFFECT, GENERIC_TEXT, SPECIFICITY = "task effect", "generic text", "specificity"
VIEWS = (TASK_EFFECT, GENERIC_TEXT, SPECIFICITY)
CONTROL_EXAMPLES = 16


@dataclass(frozen=True)
class View:
    """View of a run. `control`: the stored run on generic text, None if there is none."""

    name: str = TASK_EFFECT
    control: StoredRun[ScoreSpec] | None = None

    @property
    def needs_control(self) -> bool:
        return self.name != TASK_EFFECT


def views_of(task: str, estimator: str) -> tuple[str, ...]:
    """Return the views on offer; only the task effect for a control text or an estimator other than exact.

    A control text has nothing to be compared with, and specificity is defined for exact effects.
    """
    return VIEWS[:1] if task in CONTROL_TEXTS or estimator != "exact" else VIEWS


def pick_control(frame: Frame, source: Source | None) -> tuple[StoredRun[ScoreSpec] | None, str]:
    """Draw the control text selector; return the run, and a note if the link named an unknown text."""
    found = {} if source is None else control_runs(frame.runs, source.spec)
    names = list(found)
    if not names:
        return None, ""
    sentence = bad_choice("control", names, names[0], "the control text")
    keep_valid("control", names, names[0])
    chosen = st.selectbox(
        "Control text",
        names,
        key="control",
        bind="query-params",
        help="Text that asks for no reasoning, measured with the same estimator and ablation. generic_text: passages "
        "of WikiText-2. mini_text: prose written for this project, the offline stand-in.",
    )
    return found[chosen], sentence


def best_control(frame: Frame, source: Source | None) -> StoredRun[ScoreSpec] | None:
    """Return the first stored control run, for the view without a selector.

    None if there is none, for a control text, and for an estimator other than exact.
    """
    exact = source is not None and source.estimator == "exact"
    found = (
        {} if source is None or not exact or frame.task.name in CONTROL_TEXTS else control_runs(frame.runs, source.spec)
    )
    return next(iter(found.values()), None)


def control_jobs(source: Source) -> list[Job]:
    """Return the active jobs whose run can become the control of this one."""
    return active_jobs(
        lambda spec: isinstance(spec, ScoreSpec) and spec.examples.task in CONTROL_TEXTS and alike(spec, source.spec)
    )


def no_control(frame: Frame, source: Source) -> None:
    """Draw the placeholder of a view that lacks its control: the purpose of a control, and ways to measure it."""
    jobs = control_jobs(source)
    for job in jobs:
        job_view(job, key="heads_control")
    texts = controls_for(source.spec.model.id)
    text = next((name for name in texts if load_task(name).is_local()), texts[-1])
    with st.container(border=True):
        st.markdown(f"**No generic text has been measured for this model yet ({method_of(source)})**")
        st.markdown(
            "A head that matters on this task may simply be one that any text needs. To tell the two apart, the same "
            f"measurement is made on {load_task(text).title.lower()}, which asks for no reasoning."
        )
        if jobs:
            st.caption("It is being measured now; this view appears when it is complete.")
            return
        if frame.installed:
            n = min(CONTROL_EXAMPLES, len(load_task(text).splits.calibration))
            st.button(
                f"Measure {text} ({n} passages)",
                type="primary",
                key="heads_control_start",
                on_click=submit_control,
                args=(source, text, n),
            )
            st.caption(cost_sentence(frame, n, text))
        else:
            st.caption(frame.install_hint)
        # In the shell, reference examples come from the task that is scored.
        if source.spec.reference is None:
            st.caption("Or from the shell:")
            st.code(shell_command(source, text), language="sh", wrap_lines=True)


def method_of(source: Source) -> str:
    return f"{source.spec.estimator}, {source.spec.ablation} ablation"


def shell_command(source: Source, text: str) -> str:
    spec = source.spec
    changed = "" if spec.ablation == "zero" else f" --ablation {spec.ablation}"
    changed += "" if spec.estimator == "exact" else f" --estimator {spec.estimator}"
    return f"python -m cap_viz score --model {spec.model.id} --task {text} --n {CONTROL_EXAMPLES}{changed}"


def submit_control(source: Source, text: str, n: int) -> None:
    spec = source.spec
    with submitting():
        wanted = ScoreSpec(
            model=spec.model,
            examples=calibration_set(text, n),
            estimator=spec.estimator,
            ablation=spec.ablation,
            metric=spec.metric,
            reference=spec.reference,
        )
        watch(wanted, f"Head scores, {text}, n = {n}")
