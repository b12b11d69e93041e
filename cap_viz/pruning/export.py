"""Export of pruned models and masks as files that can be used without CAP Viz.

A model becomes a folder in Hugging Face layout: weights in safetensors (in the dtype they were computed with), config,
tokenizer, and a model card README.md. The mask alone becomes one
safetensors file: per matrix the kept weights as bits, row-major, most significant first (`numpy.packbits`), and in the
metadata the recipe, the shapes and the share of zeros reached.

Both are written under a temporary name and renamed; existing files are never overwritten.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

from cap_viz.errors import CapVizError, UsageError
from cap_viz.models.catalogue import ModelRef
from cap_viz.models.loading import readable_folder
from cap_viz.models.tensors import Tensor
from cap_viz.models.weight_files import check_memory, weight_bytes
from cap_viz.pruning.mask import Mask
from cap_viz.settings import CPU

if TYPE_CHECKING:
    from cap_viz.models.loading import ReasoningModel

MASK_FORMAT = "cap-viz mask 1"
# A generous bound on the size of config, tokenizer and card.
OTHER_BYTES = 64 << 20


def export_model(model: ReasoningModel, mask: Mask, target: Path, *, card: str) -> Path:
    """Write the pruned model, with `card` as its README.md, as a folder that `from_pretrained` loads.

    The model in memory does not change: the weights come from its source files, and the pruned matrices replace theirs.
    Raises `UsageError` when the folder exists and `CapVizError` when disk or memory do not suffice.
    """
    source = readable_folder(model.source)
    check_absent(target)
    check_memory(model.ref.id, source, model.ref.dtype, CPU)
    check_disk(target, weight_bytes(source, model.ref.dtype) + OTHER_BYTES)
    with model.lease:
        names = parameter_names(model)
        weights = {names[name]: data for name, data in model.pruned_weights(mask.keep, mask.updated).items()}

    def write(building: Path) -> None:
        building.mkdir()
        write_network(source, model.ref.dtype, weights, building)
        model.tokenizer.save_pretrained(building)
        (building / "README.md").write_text(card, encoding="utf-8")

    return written_whole(target, write)


def export_mask(mask: Mask, recipe: dict[str, Any], model: ModelRef, target: Path) -> Path:
    """Write the mask as bits, with its recipe as JSON types.

    Raises `UsageError` when the file exists and `CapVizError` when the disk does not suffice.
    """
    from safetensors.numpy import save_file

    check_absent(target)
    check_disk(target, sum(kept.numel() for kept in mask.keep.values()) // 8 + OTHER_BYTES)
    bits = {name: np.packbits(kept.cpu().numpy()) for name, kept in mask.keep.items()}
    metadata = {
        "format": MASK_FORMAT,
        "model": json.dumps({"id": model.id, "fingerprint": model.fingerprint}),
        "spec": json.dumps(recipe),
        "shapes": json.dumps({name: list(kept.shape) for name, kept in mask.keep.items()}),
        "reached": repr(mask.reached),
    }
    return written_whole(target, lambda building: save_file(bits, building, metadata=metadata))


def read_mask(file: Path) -> tuple[dict[str, Bool[np.ndarray, "output input"]], dict[str, Any]]:
    """Read an exported mask: kept weights per matrix, and the recipe. Raises `UsageError` for any other file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as content:
            metadata = content.metadata() or {}
            if metadata.get("format") != MASK_FORMAT:
                raise UsageError(f"{file} is not a mask written by CAP Viz; write one with: export --mask-only.")
            shapes = json.loads(metadata["shapes"])
            keep = {name: unpacked(content.get_tensor(name), rows, columns) for name, (rows, columns) in shapes.items()}
            return keep, json.loads(metadata["spec"])
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{file} cannot be read as a mask: {error}") from error


def unpacked(bits: np.ndarray, rows: int, columns: int) -> Bool[np.ndarray, "output input"]:
    """Unpack the bits of one matrix. Raises `ValueError` where their number does not match the claimed shape."""
    if min(rows, columns) < 1 or bits.dtype != np.uint8 or bits.size != -(-rows * columns // 8):
        raise ValueError(f"{bits.size} bytes are no matrix of {rows} x {columns} bits")
    return np.unpackbits(bits, count=rows * columns).astype(bool).reshape(rows, columns)


def parameter_names(model: ReasoningModel) -> dict[str, str]:
    """Map matrix names to parameter names of the plain Hugging Face model. The caller holds the lease."""
    # TransformerBridge wraps modules in place and adds its own level to every name.
    plain = {
        id(parameter): name.replace("_original_component.", "")
        for name, parameter in model.bridge.original_model.named_parameters()
    }
    return {matrix.name: plain[id(matrix.weight)] for matrix in model.matrices()}


def write_network(source: Path, dtype: str, weights: dict[str, Tensor], building: Path) -> None:
    """Save a fresh copy of the source's network with some weights replaced; a wrapped network cannot be saved."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()
    network = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, dtype), local_files_only=True)
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for name, data in weights.items():
            parameters[name].copy_(data)
    network.save_pretrained(building)


def written_whole(target: Path, write: Callable[[Path], None]) -> Path:
    """Call `write` with a temporary path beside the target, then rename it; nothing is left behind on failure."""
    from safetensors import SafetensorError

    building = target.with_name(f".{target.name}.building")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove(building)
        write(building)
        building.rename(target)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CapVizError(
            f"{target} cannot be written ({reason}); nothing was left behind, choose another place or free some disk."
        ) from error
    finally:
        remove(building)
    return target


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_absent(target: Path) -> None:
    if target.exists():
        raise UsageError(f"{target} exists already and is not overwritten; choose a new name.")


def check_disk(target: Path, needed: int) -> None:
    """Raise `CapVizError` when fewer than `needed` bytes are free on the disk."""
    place = next(parent for parent in target.absolute().parents if parent.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise CapVizError(
            f"{target} needs about {needed / 2**20:,.0f} MiB and only {free / 2**20:,.0f} MiB are free on its disk; "
            "choose another place or free some disk."
        )
