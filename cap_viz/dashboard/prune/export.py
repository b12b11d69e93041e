"""What leaves the Prune page: its numbers as files, and the pruned model as a folder, written by a job."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from cap_viz.attribution.results import EvalReport
from cap_viz.dashboard.components.job_card import ended_view, has_ended, jobs_of, jobs_view, while_active
from cap_viz.dashboard.components.measured_column import Column
from cap_viz.dashboard.components.panels import is_refused_here, note, problems_told
from cap_viz.dashboard.components.submission import refusal, submit_all
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.names import mask_name
from cap_viz.dashboard.prune.setting import PruneSetting, mask_spec
from cap_viz.errors import CapVizError
from cap_viz.models.devices import BYTES
from cap_viz.runs.audit import audit_of
from cap_viz.runs.exports import check_room, export_folder
from cap_viz.runs.jobs import ExportedModel
from cap_viz.runs.run_queries import missing_tasks
from cap_viz.runs.spreadsheet import csv_text
from cap_viz.runs.store import Store
from cap_viz.runs.zero_counts import shape_from

KEY = "prune_export"
Columns = Sequence[Column[EvalReport]]


def items_csv(store: Store, columns: Columns) -> str:
    """CSV with one row per model and item: prompt, options and answer (see `audit_of`); without texts only numbers."""
    tables = []
    for column in columns:
        if column.run is None or column.report is None:
            continue
        try:
            table = audit_of(store, column.run)
        except CapVizError:
            table = column.report.to_pandas()
        table = table[table["id"].isin(column.report.questions.ids)]
        tables.append(table.assign(model=column.title, run=column.run.key))
    return csv_text(pd.concat(tables)) if tables else ""


# The pruned model ------------------------------------------------------------------------------------------------


def export_section(view: Frame, setting: PruneSetting) -> None:
    """Draw the export menu, the jobs under way and the folders that are there, with updates while jobs run."""
    specs: list[ExportedModel] = []
    for name in setting.criteria:
        try:
            specs.append(ExportedModel(view.model, mask_spec(setting, name)))
        except CapVizError:
            continue  # The section on zeros says why.
    if specs:
        while_active(specs, lambda: draw_export(view, specs))


def draw_export(view: Frame, specs: Sequence[ExportedModel]) -> None:
    with st.popover("Export the pruned model", icon=":material/download:"), st.container(width=480):
        if not is_refused_here("exporting models"):
            st.caption("Writes a folder on this machine that other programs load without CAP Viz.")
            for spec in specs:
                export_choice(view, spec)
    jobs = jobs_of(specs)
    jobs_view(jobs, key=KEY)
    ended_view(*jobs, key=KEY)
    refusal(KEY)


def export_choice(view: Frame, spec: ExportedModel) -> None:
    """Draw the button that exports a model with its size, why it cannot be, or where it already is."""
    title, folder, missing = mask_name(spec.mask), export_folder(view.store, spec), missing_tasks(spec.mask)
    if folder.is_dir():
        st.markdown(f"**{title}** is in this folder, with a README.md on how it was made:")
        st.code(str(folder), language=None, wrap_lines=True)
        st.caption("Load it without CAP Viz:")
        st.code(f'AutoModelForCausalLM.from_pretrained("{folder}")', language="python", wrap_lines=True)
    elif any(job.active or has_ended(job) for job in jobs_of([spec])):
        st.caption(f"{title}: see below.")
    elif missing or not view.installed:
        note(f"{title} needs {missing[0].title}, which is not on this machine." if missing else view.install_hint)
    else:
        shape = shape_from(view.runs, view.model)
        size = 0 if shape is None else shape.n_params * BYTES[view.model.dtype]
        label, key = f"{title} ({size / 2**20:,.0f} MiB)" if size else title, f"{KEY}_{spec.mask.criterion}"
        with problems_told():
            check_room(view.store, spec, size)
            st.button(label, key=key, on_click=submit_all, args=({spec: f"Export of {title}"}, KEY))
