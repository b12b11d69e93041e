"""Checks of weight files before and of weights after loading, and sizes from safetensors headers."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from cap_viz.errors import CapVizError, NotEnoughMemory
from cap_viz.models.devices import BYTES, free_memory

# Room for activations, the tokenizer and Python itself, on top of the weights.
WORKING_MEMORY_BYTES = 1 << 30


def check_complete(model_id: str, missing: Collection[str]) -> None:
    """Refuse weights with missing tensors: transformers would fill these with random numbers and go on."""
    if missing:
        raise CapVizError(
            f"The weights of {model_id} lack {len(missing)} tensors that its config.json asks for, {min(missing)} "
            "among them; its files are damaged or do not belong together."
        )


def check_layers(model_id: str, folder: Path) -> None:
    """Refuse a config with more layers than the weights have tensors, before the layers are built."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CapVizError(f"The config.json of {model_id} cannot be read; fetch it again.") from error
    n_layers = config.get("num_hidden_layers") if isinstance(config, dict) else None
    n_tensors = sum(len(weight_shapes(path)) for path in folder.glob("*.safetensors"))
    if isinstance(n_layers, int | float) and n_layers > n_tensors:
        raise CapVizError(
            f"The config.json of {model_id} asks for {n_layers} layers, but its weights have {n_tensors} tensors; its "
            "files are damaged or do not belong together."
        )


def check_finite(model_id: str, network: Any) -> None:
    for name, parameter in network.named_parameters():
        # Offloaded weights (models/offload.py) can be checked only when they are used.
        if parameter.device.type != "meta" and not bool(parameter.isfinite().all()):
            raise CapVizError(f"Weight {name} of {model_id} holds NaN or infinite values; its files are damaged.")


def check_memory(model_id: str, folder: Path, dtype: str, device: str, *, otherwise: str = "") -> None:
    """Refuse a model that does not fit into the free memory of the device in this precision.

    `otherwise` is appended to the message and names an alternative.
    """
    needed, free = memory_needed(folder, dtype), free_memory(device)
    if needed > free:
        smaller = "" if BYTES[dtype] == 2 else " In bfloat16 (CAP_VIZ_DTYPE) it needs half of that."
        raise NotEnoughMemory(
            f"{model_id} needs about {needed / 2**30:.1f} GiB of memory in {dtype}, and only {free / 2**30:.1f} GiB "
            f"are free on {device}, the one device that has to hold it whole.{smaller}{otherwise}"
        )


def memory_needed(folder: Path, dtype: str) -> int:
    """Return the bytes needed to load and use a model."""
    return weight_bytes(folder, dtype) + WORKING_MEMORY_BYTES


def weight_bytes(folder: Path, dtype: str) -> int:
    """Return the bytes of the weights in that precision, from the safetensors headers."""
    return sum(
        BYTES[dtype] * math.prod(shape)
        for path in folder.glob("*.safetensors")
        for shape in weight_shapes(path).values()
    )


def weight_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read names and shapes of the tensors in a safetensors file from its header alone."""
    try:
        with safe_open(path, framework="numpy") as content:
            return {name: tuple(content.get_slice(name).get_shape()) for name in content.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CapVizError(f"{path} is not a whole safetensors file ({error}); fetch it again.") from error
