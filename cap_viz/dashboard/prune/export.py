"""What leaves the Prune page: its numbers as files, and the pruned model as a folder, written by a job."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from cap_viz.attribution.results import EvalReport
from cap_viz.dashboard.components.job_card import offer_jobs
from cap_viz.dashboard.components.measured_column import Column
from cap_viz.dashboard.components.panels import is_refused_here
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
    """Draw the export menu: for each criterion the offer to write its model, or the folder that holds it."""
    specs: list[ExportedModel] = []
    for name in setting.criteria:
        try:
            specs.append(ExportedModel(view.model, mask_spec(setting, name)))
        except CapVizError:
            continue  # The section on zeros says why.
    if not specs:
        return
    with st.popover("Export the pruned model", icon=":material/download:"), st.container(width=480):
        if not is_refused_here("exporting models"):
            st.caption("Writes a folder on this machine that other programs load without CAP Viz.")
            for spec in specs:
                export_choice(view, spec)


def export_choice(view: Frame, spec: ExportedModel) -> None:
    """Draw where a model was exported to, or offer to do so with its size, or say why that cannot be."""
    title, folder, missing = mask_name(spec.mask), export_folder(view.store, spec), missing_tasks(spec.mask)
    if folder.is_dir():
        st.markdown(f"**{title}** is in this folder, with a README.md on how it was made:")
        st.code(str(folder), language=None, wrap_lines=True)
        st.caption("Load it without CAP Viz:")
        st.code(f'AutoModelForCausalLM.from_pretrained("{folder}")', language="python", wrap_lines=True)
        return
    shape, blocked = shape_from(view.runs, view.model), view.install_hint
    size = 0 if shape is None else shape.n_params * BYTES[view.model.dtype]
    if missing:
        blocked = f"{title} needs {missing[0].title}, which is not on this machine."
    try:
        check_room(view.store, spec, size)
    except CapVizError as error:
        blocked = blocked or str(error)
    label, key = f"{title} ({size / 2**20:,.0f} MiB)" if size else title, f"prune_export_{spec.mask.criterion}"
    offer_jobs({spec: f"Export of {title}"}, label, "", key=key, blocked=blocked)
