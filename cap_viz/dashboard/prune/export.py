"""Export of the pruned model from the page, as a job."""

from __future__ import annotations

import streamlit as st

from cap_viz.dashboard.components.job_card import ended_view, has_ended, jobs_view, ticking
from cap_viz.dashboard.components.measured_column import title_of
from cap_viz.dashboard.components.panels import note, percent, problem
from cap_viz.dashboard.components.submission import refusal, submit_all
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.prune.setting import PruneSetting, mask_spec
from cap_viz.dashboard.serving import REFUSAL, is_shared
from cap_viz.errors import CapVizError
from cap_viz.models.devices import BYTES
from cap_viz.runs.exports import check_room, export_folder
from cap_viz.runs.jobs import ExportedModel, Job
from cap_viz.runs.queue import shared_queue
from cap_viz.runs.zero_counts import shape_from
from cap_viz.tasks import load_task

KEY = "prune_export"


def export_section(view: Frame, setting: PruneSetting) -> None:
    """Draw the export menu, the jobs under way and the folders that are there, with updates while jobs run."""
    active = active_exports(view, setting)
    ticking(lambda: draw_export(view, setting, len(active)), live=bool(active))


def draw_export(view: Frame, setting: PruneSetting, n_active: int) -> None:
    jobs = active_exports(view, setting)
    if len(jobs) != n_active:
        st.rerun()
    with st.popover("Export the pruned model", icon=":material/download:"), st.container(width=480):
        if is_shared():
            st.caption(REFUSAL.format(what="exporting models"))
        else:
            st.caption("Writes a folder on this machine that other programs load without CAP Viz.")
            for name in dict.fromkeys(setting.criteria):
                export_choice(view, setting, name)
    jobs_view(jobs, key=KEY)
    found = [shared_queue().find(spec) for spec in export_specs(view, setting).values()]
    ended_view(*(job for job in found if job is not None))
    refusal(KEY)


def export_specs(view: Frame, setting: PruneSetting) -> dict[str, ExportedModel]:
    """Return the exports that the setting asks for, by criterion; none of a criterion that has no mask."""
    specs = {}
    for name in dict.fromkeys(setting.criteria):
        try:
            specs[name] = ExportedModel(view.model, mask_spec(setting, name))
        except CapVizError:
            continue  # The section on zeros says why.
    return specs


def active_exports(view: Frame, setting: PruneSetting) -> list[Job]:
    found = [shared_queue().find(spec) for spec in export_specs(view, setting).values()]
    return [job for job in found if job is not None and job.active]


def export_choice(view: Frame, setting: PruneSetting, name: str) -> None:
    """Draw the button that exports a criterion's model with its size, why it cannot be, or where it already is."""
    spec = export_specs(view, setting).get(name)
    title = f"{title_of(name)} at {percent(setting.sparsity, 0)}"
    if spec is None:
        st.caption(f"{title} needs head scores or examples that are not here.")
        return
    folder, job = export_folder(view.store, spec), shared_queue().find(spec)
    if folder.is_dir():
        st.markdown(f"**{title}** is in this folder, with a README.md on how it was made:")
        st.code(str(folder), language=None, wrap_lines=True)
        st.caption("Load it without CAP Viz:")
        st.code(f'AutoModelForCausalLM.from_pretrained("{folder}")', language="python", wrap_lines=True)
        return
    if job is not None and (job.active or has_ended(job)):
        st.caption(f"{title}: see below.")
        return
    lacking = [load_task(one.task) for one in (spec.mask.calibration, spec.mask.text) if one is not None]
    lacking = [task for task in lacking if not task.is_local()]
    if lacking or not view.installed:
        note(f"{title} needs {lacking[0].title}, which is not on this machine." if lacking else view.install_hint)
        return
    shape = shape_from(view.runs, view.model)
    size = None if shape is None else shape.n_params * BYTES[view.model.dtype]
    try:
        check_room(view.store, spec, size or 0)
    except CapVizError as error:
        problem(str(error))
        return
    label = title if size is None else f"{title} ({size / 2**20:,.0f} MiB)"
    st.button(label, key=f"{KEY}_{name}", on_click=submit_all, args=({spec: f"Export of {title}"}, KEY))
