"""Folders, defaults and environment variables; no other module of the package reads or sets a variable.

Variables are read on every call, so that later changes count. A `CAP_VIZ_*` variable that is set but empty counts as
unset.

`CAP_VIZ_DATA` local data sets · `CAP_VIZ_CACHE` moves cache/local · `CAP_VIZ_LOG` the log file ·
`CAP_VIZ_THREADS` torch threads · `CAP_VIZ_DEVICE` and `CAP_VIZ_DTYPE` device and precision of the computation
(`models/devices.py`) · `CAP_VIZ_OFFLOAD` a folder for weights that fit nowhere else (`models/offload.py`) ·
`CAP_VIZ_BACKEND`, `CAP_VIZ_RAY` and `CAP_VIZ_WORKERS` the backend (`runs/backends`) · `CAP_VIZ_SERVER` and
`CAP_VIZ_MODELS` a server shared with strangers (`dashboard/serving.py`) · `CAP_VIZ_MODEL` the model that the dashboard
shows first · `CAP_VIZ_PLUGINS` the packages whose plug-ins are loaded (`integrations/plugins.py`).
"""

from __future__ import annotations

import logging
import os
import warnings
from logging.handlers import RotatingFileHandler
from pathlib import Path

from platformdirs import user_cache_path

from cap_viz.errors import UsageError, choose

PACKAGE = Path(__file__).resolve().parent
PROJECT = PACKAGE.parent
ASSETS = PACKAGE / "assets"
# The dashboard's scripts: beside the package in a checkout, inside it where it was installed (see pyproject.toml).
IS_CHECKOUT = (PROJECT / "app.py").is_file() and (PROJECT / "cache" / "shipped").is_dir()
SITE = PROJECT if IS_CHECKOUT else PACKAGE / "site"
HUB_TIMEOUT_SECONDS = 5

DATA, CACHE, LOG, THREADS = "CAP_VIZ_DATA", "CAP_VIZ_CACHE", "CAP_VIZ_LOG", "CAP_VIZ_THREADS"
DEVICE, DTYPE, OFFLOAD = "CAP_VIZ_DEVICE", "CAP_VIZ_DTYPE", "CAP_VIZ_OFFLOAD"
BACKEND, ADDRESS, WORKERS = "CAP_VIZ_BACKEND", "CAP_VIZ_RAY", "CAP_VIZ_WORKERS"
# Read until version 0.2.
FORMER_BACKEND = "CAP_VIZ_ENGINE"
SERVER, MODELS, MODEL, PLUGINS = "CAP_VIZ_SERVER", "CAP_VIZ_MODELS", "CAP_VIZ_MODEL", "CAP_VIZ_PLUGINS"

# Defaults of the command line and the dashboard; shipped runs are made with the same values.
N_CALIBRATION, SEED = 48, 0
MAIN_CRITERIA = ("cap", "wanda", "magnitude", "global_magnitude")
SPARSITIES = (0.1, 0.2, 0.5)

FULL_PRECISION = "float32"
PRECISIONS = (FULL_PRECISION, "bfloat16", "float16")
AUTO, CPU = "auto", "cpu"
KINDS = (AUTO, CPU, "cuda", "mps")

# Variables that an issue report shows with their values, and those it shows only as set or not set.
REPORTED = (DEVICE, DTYPE, THREADS, SERVER, MODELS, "HF_HUB_OFFLINE", "OMP_NUM_THREADS")
SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
# Variables of this process that are passed to workers on other machines.
TOLD_TO_WORKERS = (DEVICE, DTYPE, OFFLOAD, DATA, CACHE, PLUGINS, "HF_HUB_OFFLINE", "HF_HOME")


def shipped_folder() -> Path:
    """Return the folder of runs that come with the project; never written by the app."""
    return SITE / "cache" / "shipped"


def local_folder() -> Path:
    """Return the folder of this machine's runs, converted models and quarantine.

    `CAP_VIZ_CACHE`, else `cache/local` of the checkout (this one, or the current folder), else the user's cache.
    """
    if value := os.environ.get(CACHE):
        return Path(value)
    if IS_CHECKOUT:
        return PROJECT / "cache" / "local"
    here = Path.cwd() / "cache" / "local"
    return here if here.is_dir() and (Path.cwd() / "cap_viz").is_dir() else user_cache_path("cap-viz")


def data_folder() -> Path | None:
    """Return the folder of local data sets (one folder each, JSON lines in the hub's field names), or None."""
    value = os.environ.get(DATA)
    return Path(value).expanduser() if value else None


def thread_count() -> int | None:
    """Return the requested number of torch threads, or None for torch's own choice."""
    value = os.environ.get(THREADS)
    if not value:
        return None
    if not value.isdecimal() or int(value) < 1:
        raise UsageError(f"{THREADS}={value!r} is not a whole number of at least 1; correct or unset it.")
    return int(value)


def requested_dtype() -> str:
    """Return the requested precision. Raises `UsageError` for an unknown one."""
    asked = os.environ.get(DTYPE) or FULL_PRECISION
    choose(f"precision in {DTYPE}:", asked, PRECISIONS)
    return asked


def requested_device() -> str:
    """Return the requested device, or "auto". Raises `UsageError` for an invalid device name."""
    asked = os.environ.get(DEVICE) or AUTO
    kind, _, number = asked.partition(":")
    if kind not in KINDS or (number and not (kind == "cuda" and number.isdecimal())) or asked.endswith(":"):
        raise UsageError(f"{DEVICE}={asked!r} is no device; choose one of {', '.join(KINDS)}, or cuda:1.")
    return asked


def ask_for(*, device: str, dtype: str) -> None:
    """Set device and precision for this process and its child processes; "" changes nothing."""
    os.environ.update({name: value for name, value in ((DEVICE, device), (DTYPE, dtype)) if value})


def offload_folder() -> str | None:
    """Return the folder for weights that fit neither on the device nor into memory, or None."""
    return os.environ.get(OFFLOAD) or None


def backend_name() -> str:
    """Return the backend's name as typed, or ""; the former variable still counts, with a warning."""
    former = os.environ.get(FORMER_BACKEND)
    if not former:
        return os.environ.get(BACKEND, "")
    note = f"{FORMER_BACKEND} is called {BACKEND} now; the next version reads only that."
    warnings.warn(note, FutureWarning, stacklevel=2)
    return os.environ.get(BACKEND) or former


def ray_address() -> str:
    """Return the address of the Ray cluster as typed, or ""."""
    return os.environ.get(ADDRESS, "")


def worker_count() -> str:
    """Return the number of workers as typed, or ""."""
    return os.environ.get(WORKERS, "")


def is_shared() -> bool:
    """Return whether strangers share this server.

    Raises `UsageError` for a value that is neither yes nor no: a typing error must not leave a server open.
    """
    value = os.environ.get(SERVER, "").strip().lower()
    if value in ("1", "true", "yes"):
        return True
    if value in ("", "0", "false", "no"):
        return False
    raise UsageError(f"{SERVER}={value!r} is neither 1 nor 0; correct or unset it.")


def listed_models() -> tuple[str, ...]:
    """Return the ids of the models offered to visitors; empty without a list."""
    return listed(MODELS)


def listed_plugins() -> tuple[str, ...]:
    """Return the packages whose plug-ins are loaded; empty without a list."""
    return listed(PLUGINS)


def listed(variable: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in os.environ.get(variable, "").split(",") if name.strip())


def first_model() -> str:
    """Return the id of the model that the dashboard shows first, or ""."""
    return os.environ.get(MODEL, "")


def serve_with(*, model: str, data: Path | None) -> None:
    """Set the dashboard's first model and the folder of data sets for this process; "" and None change nothing."""
    os.environ.update({name: str(value) for name, value in ((MODEL, model), (DATA, data)) if value})


def told_to_workers() -> dict[str, str]:
    """Return the variables of this process that workers on other machines need."""
    return {name: os.environ[name] for name in TOLD_TO_WORKERS if os.environ.get(name)}


def python_path() -> str:
    """Return the PYTHONPATH of workers on this machine: this checkout or installation, then what this process has."""
    return os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))


def reported() -> dict[str, str]:
    """Return the variables for an issue report; secrets show only as set or not set."""
    values = {name: os.environ.get(name, "not set") for name in REPORTED}
    return values | {name: "set" if os.environ.get(name) else "not set" for name in SECRETS}


def prepare_torch() -> None:
    """Make waiting threads sleep; call before the first import of torch, which reads the setting only then.

    With the default (spinning) threads, another busy process makes every parallel region wait for a descheduled thread:
    measured 105 s against 18 s for sequential Wanda.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def prepare_ray() -> None:
    """Turn off Ray's usage reports to its makers, and opt in to a default of its next version.

    Without the second setting every start warns of that change. Call before the first import of Ray, which reads both
    only then.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def limit_hub_waiting() -> float:
    """Limit the wait for the hub and return it in seconds; call before the first import of the hub library.

    The library reads the limit only then.
    """
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(HUB_TIMEOUT_SECONDS))
    return HUB_TIMEOUT_SECONDS


def log_file() -> Path:
    return Path(os.environ.get(LOG) or local_folder() / "cap_viz.log")


def start_logging() -> logging.Logger:
    """Return the project's logger, set up to write to `log_file()`; safe to call more than once."""
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
