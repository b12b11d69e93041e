"""Device and precision of the computation. The requested ones (`settings.py`) are known without torch.

`CAP_VIZ_DEVICE`: auto (a GPU if there is one, else the CPU), cpu, cuda, cuda:1, mps.
`CAP_VIZ_DTYPE`: float32, bfloat16 or float16. Everything is computed in the requested precision except
log-likelihoods, norms and sums, which are never below float32. The precision is part of every run's key, since it
changes numbers; the device is recorded with the run.
"""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from cap_viz.errors import CapVizError
from cap_viz.settings import AUTO, CPU, PRECISIONS, requested_device, requested_dtype

BYTES: dict[str, int] = dict(zip(PRECISIONS, (4, 2, 2), strict=True))


@dataclass(frozen=True)
class Device:
    """A device by torch's name, and the reason for choosing it."""

    name: str
    reason: str


def check_asked() -> None:
    """Raise `UsageError` if the environment requests an unknown device or precision."""
    requested_dtype()
    requested_device()


def chosen_device() -> Device:
    """Return the requested device, or the best one on "auto". Raises `CapVizError` if this machine lacks it."""
    asked, here = requested_device(), available()
    if asked == AUTO:
        return Device(here[0], "a GPU is here" if here[0] != CPU else "there is no GPU here")
    name = "cuda:0" if asked == "cuda" else asked
    if name not in here:
        raise CapVizError(
            f"There is no device {asked} here, only {', '.join(here)}; set CAP_VIZ_DEVICE to one of these, or unset it."
        )
    return Device(name, "asked for by CAP_VIZ_DEVICE")


def expected_device() -> str:
    """Predict the kind of device that will be chosen, without torch, from visible hardware."""
    asked = requested_device()
    if asked != AUTO:
        return asked
    if Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi"):
        return "cuda"
    return "mps" if (platform.system(), platform.machine()) == ("Darwin", "arm64") else CPU


def available() -> tuple[str, ...]:
    """List the devices of this machine, the best first."""
    import torch

    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return (*gpus, *(["mps"] if torch.backends.mps.is_available() else []), CPU)


def free_memory(device: str) -> int:
    """Return the free bytes on a device; CPU and mps share the machine's memory."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return psutil.virtual_memory().available
