"""Folders and environment variables; no other module of the package reads or sets a variable.

Each is read when it is asked for, so that one set later counts. One of ours that is set to nothing counts as not set.

`CAP_VIZ_DATA` local data sets · `CAP_VIZ_CACHE` moves cache/local · `CAP_VIZ_LOG` the log file ·
`CAP_VIZ_THREADS` torch threads · `CAP_VIZ_DEVICE` and `CAP_VIZ_DTYPE` where to compute and in which precision
(`models/devices.py`) · `CAP_VIZ_OFFLOAD` a folder for weights that fit nowhere else (`models/offload.py`) ·
`CAP_VIZ_BACKEND`, `CAP_VIZ_RAY` and `CAP_VIZ_WORKERS` who computes (`runs/backends`) · `CAP_VIZ_SERVER` and
`CAP_VIZ_MODELS` a server shared with strangers (`dashboard/serving.py`).
"""

from __future__ import annotations

import logging
import os
import warnings
from logging.handlers import RotatingFileHandler
from pathlib import Path

from cap_viz.errors import UsageError, check_choice

PROJECT = Path(__file__).resolve().parent.parent
HUB_TIMEOUT_SECONDS = 5
ASSETS = Path(__file__).resolve().parent / "assets"

DATA, CACHE, LOG, THREADS = "CAP_VIZ_DATA", "CAP_VIZ_CACHE", "CAP_VIZ_LOG", "CAP_VIZ_THREADS"
DEVICE, DTYPE, OFFLOAD = "CAP_VIZ_DEVICE", "CAP_VIZ_DTYPE", "CAP_VIZ_OFFLOAD"
BACKEND, ADDRESS, WORKERS = "CAP_VIZ_BACKEND", "CAP_VIZ_RAY", "CAP_VIZ_WORKERS"
# Until version 0.2.
FORMER_BACKEND = "CAP_VIZ_ENGINE"
SERVER, MODELS = "CAP_VIZ_SERVER", "CAP_VIZ_MODELS"

FULL_PRECISION = "float32"
PRECISIONS = (FULL_PRECISION, "bfloat16", "float16")
AUTO, CPU = "auto", "cpu"
KINDS = (AUTO, CPU, "cuda", "mps")

# What a report for an issue shows with its value, and of what it only says whether it is set.
REPORTED = (DEVICE, DTYPE, THREADS, SERVER, MODELS, "HF_HUB_OFFLINE", "OMP_NUM_THREADS")
SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
# What workers on other machines are told of the variables of this process.
TOLD_TO_WORKERS = (DEVICE, DTYPE, OFFLOAD, DATA, CACHE, "HF_HUB_OFFLINE", "HF_HOME")


def shipped_folder() -> Path:
    """Runs that come with the project; never written by the app."""
    return PROJECT / "cache" / "shipped"


def local_folder() -> Path:
    """Runs, converted models and quarantine of this machine."""
    return Path(os.environ.get(CACHE) or PROJECT / "cache" / "local")


def data_folder() -> Path | None:
    """Local copies of public data sets (one folder each, JSON lines in the hub's field names)."""
    value = os.environ.get(DATA)
    return Path(value).expanduser() if value else None


def thread_count() -> int | None:
    """The number of torch threads asked for, or None for torch's own choice."""
    value = os.environ.get(THREADS)
    if not value:
        return None
    if not value.isdecimal() or int(value) < 1:
        raise UsageError(f"{THREADS}={value!r} is not a whole number of at least 1; correct or unset it.")
    return int(value)


def requested_dtype() -> str:
    """The precision asked for. Raises `UsageError` for an unknown one."""
    asked = os.environ.get(DTYPE) or FULL_PRECISION
    check_choice(f"precision in {DTYPE}:", asked, PRECISIONS)
    return asked


def requested_device() -> str:
    """The device asked for, or "auto". Raises `UsageError` for what is no device's name."""
    asked = os.environ.get(DEVICE) or AUTO
    kind, _, number = asked.partition(":")
    if kind not in KINDS or (number and not (kind == "cuda" and number.isdecimal())) or asked.endswith(":"):
        raise UsageError(f"{DEVICE}={asked!r} is no device; choose one of {', '.join(KINDS)}, or cuda:1.")
    return asked


def ask_for(*, device: str, dtype: str) -> None:
    """Set device and precision for this process and those it starts; "" changes nothing."""
    os.environ.update({name: value for name, value in ((DEVICE, device), (DTYPE, dtype)) if value})


def offload_folder() -> str | None:
    """The folder for weights that fit neither on the device nor into memory, or None."""
    return os.environ.get(OFFLOAD) or None


def backend_name() -> str:
    """The name of the backend as it is typed, or ""."""
    former = os.environ.get(FORMER_BACKEND)
    if not former:
        return os.environ.get(BACKEND, "")
    note = f"{FORMER_BACKEND} is called {BACKEND} now; the next version reads only that."
    warnings.warn(note, FutureWarning, stacklevel=2)
    return os.environ.get(BACKEND) or former


def ray_address() -> str:
    """The address of the Ray cluster as it is typed, or ""."""
    return os.environ.get(ADDRESS, "")


def worker_count() -> str:
    """The number of workers as it is typed, or ""."""
    return os.environ.get(WORKERS, "")


def is_shared() -> bool:
    """Whether strangers share this server.

    Raises `UsageError` for a value that is neither yes nor no: an open server must not come from a typing error.
    """
    value = os.environ.get(SERVER, "").strip().lower()
    if value in ("1", "true", "yes"):
        return True
    if value in ("", "0", "false", "no"):
        return False
    raise UsageError(f"{SERVER}={value!r} is neither 1 nor 0; correct or unset it.")


def listed_models() -> tuple[str, ...]:
    """The ids on the list of models for visitors; none where there is no list."""
    return tuple(name.strip() for name in os.environ.get(MODELS, "").split(",") if name.strip())


def told_to_workers() -> dict[str, str]:
    """The variables of this process that workers on other machines need."""
    return {name: os.environ[name] for name in TOLD_TO_WORKERS if os.environ.get(name)}


def reported() -> dict[str, str]:
    """The variables as a report for an issue shows them; no value of a secret is given away."""
    values = {name: os.environ.get(name, "not set") for name in REPORTED}
    return values | {name: "set" if os.environ.get(name) else "not set" for name in SECRETS}


def prepare_torch() -> None:
    """Have waiting threads sleep; call before torch is first imported, which reads it only then.

    With the default (spinning) threads, another busy process makes every parallel region wait for a descheduled thread:
    measured 105 s against 18 s for sequential Wanda.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def prepare_ray() -> None:
    """Keep Ray from reporting its use to its makers, and have it do what its next version does anyway.

    Without the latter every start warns of that. Call before Ray is first imported, which reads both only then.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def limit_hub_waiting() -> float:
    """Seconds to wait for the model hub; call before the hub library is first imported, which reads it only then."""
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(HUB_TIMEOUT_SECONDS))
    return HUB_TIMEOUT_SECONDS


def log_file() -> Path:
    return Path(os.environ.get(LOG) or local_folder() / "cap_viz.log")


def start_logging() -> logging.Logger:
    """The project's logger, writing to `log_file()`; safe to call more than once."""
    logger = logging.getLogger("cap_viz")
    path = log_file()
    if any(getattr(handler, "baseFilename", None) == str(path.absolute()) for handler in logger.handlers):
        return logger
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError as error:
        # With no handler of its own, logging puts this on stderr.
        logger.warning("No log is written: %s cannot be written (%s).", path, error.strerror)
        return logger
    handler = RotatingFileHandler(path, maxBytes=2_000_000, backupCount=2, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    return logger
