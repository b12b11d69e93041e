"""Offloading for models larger than the device: weights wait in memory or on disk and are fetched block by block.

`CAP_VIZ_OFFLOAD` names a folder for weights that fit neither on the device nor into the machine's memory. accelerate
places the weights and fetches them for every forward of their block; scores and accuracies then go through
TransformerLens' own blocks. Masks and gradients are not possible with offloaded weights: masks exchange weights in
place, and gradients would keep every fetched weight for the backward pass.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cap_viz.models.devices import free_memory
from cap_viz.models.weight_files import WORKING_MEMORY_BYTES, check_memory, memory_needed
from cap_viz.settings import CPU, OFFLOAD, offload_folder

OTHERWISE = f" Or name a folder by {OFFLOAD}, which is slower and cannot prune (docs/large_models.md)."


def placement(model_id: str, folder: Path, dtype: str, device: str) -> dict[str, Any]:
    """Return the extra arguments of `from_pretrained` for offloading; none for a model that fits on the device.

    Raises `CapVizError` for a model that does not fit, unless `CAP_VIZ_OFFLOAD` names a folder.
    """
    asked = offload_folder()
    if not asked:
        check_memory(model_id, folder, dtype, device, otherwise=OTHERWISE)
        return {}
    if memory_needed(folder, dtype) <= free_memory(device):
        return {}
    kind, _, number = device.partition(":")
    # accelerate identifies GPUs by number.
    room = {int(number) if number else kind: room_on(device), CPU: room_on(CPU)}
    return {"device_map": "auto", "max_memory": room, "offload_folder": asked}


def room_on(device: str) -> int:
    """Return the free bytes on a device that weights may fill."""
    return max(0, free_memory(device) - WORKING_MEMORY_BYTES)
