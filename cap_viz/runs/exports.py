"""Export of a pruned model as a job: a folder under the results folder, named by what is in it."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

from cap_viz.errors import CapVizError
from cap_viz.progress import Progress
from cap_viz.pruning.export import OTHER_BYTES, check_disk, export_model
from cap_viz.runs.backends.local import HERE
from cap_viz.runs.batched_runs import Backend
from cap_viz.runs.execute import mask_steps
from cap_viz.runs.jobs import ExportedModel
from cap_viz.runs.model_card import model_card
from cap_viz.runs.store import Store

if TYPE_CHECKING:
    from cap_viz.models.loading import ReasoningModel


def export_folder(store: Store, spec: ExportedModel) -> Path:
    """Return the folder that a pruned model is written to; it exists once the export is complete."""
    name = spec.model.id.rstrip("/").rpartition("/")[2]
    return (
        store.local.parent
        / "exports"
        / f"{name}-{spec.mask.criterion}-{round(100 * spec.mask.sparsity)}-{spec.key[:8]}"
    )


def check_room(store: Store, spec: ExportedModel, weight_bytes: int) -> None:
    """Raise `CapVizError` when the disk has no room for the folder."""
    check_disk(export_folder(store, spec), weight_bytes + OTHER_BYTES)


def export_steps(
    spec: ExportedModel, model: ReasoningModel, store: Store, backend: Backend = HERE
) -> Generator[Progress, None, None]:
    """Build the mask and write the pruned model; the model in memory does not change.

    Raises `CapVizError` when disk or memory do not suffice, or when the loaded weights are other ones.
    """
    if spec.model != model.ref:
        raise CapVizError(f"The mask is for {spec.model.id} with other weights than those on this machine.")
    mask = yield from mask_steps(spec.mask, model, store, backend)
    yield Progress(1, 1, "writing the files")
    export_model(model, mask, export_folder(store, spec), card=model_card(model, mask, spec.mask, store))
