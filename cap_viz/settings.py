"""Folders and environment variables: the one place that reads them.

`CAP_VIZ_DATA` local data sets · `CAP_VIZ_CACHE` moves cache/local · `CAP_VIZ_LOG` the log file ·
`CAP_VIZ_THREADS` torch threads. (`CAP_VIZ_DEVICE` and `CAP_VIZ_DTYPE`: `devices.py`.)
"""

from __future__ import annotations

import logging
import os
from logging.handlers import RotatingFileHandler
from pathlib import Path

from cap_viz.errors import UsageError

PROJECT = Path(__file__).resolve().parent.parent
HUB_TIMEOUT_SECONDS = 5
ASSETS = Path(__file__).resolve().parent / "assets"


def shipped_folder() -> Path:
    """Runs that come with the project; never written by the app."""
    return PROJECT / "cache" / "shipped"


def local_folder() -> Path:
    """Runs, converted models and quarantine of this machine."""
    return Path(os.environ.get("CAP_VIZ_CACHE") or PROJECT / "cache" / "local")


def data_folder() -> Path | None:
    """Local copies of public data sets (one folder each, JSON lines in the hub's field names)."""
    value = os.environ.get("CAP_VIZ_DATA")
    return Path(value).expanduser() if value else None


def thread_count() -> int | None:
    """The number of torch threads asked for, or None for torch's own choice."""
    value = os.environ.get("CAP_VIZ_THREADS")
    if not value:
        return None
    if not value.isdecimal() or int(value) < 1:
        raise UsageError(f"CAP_VIZ_THREADS={value!r} is not a whole number of at least 1; correct or unset it.")
    return int(value)


def limit_hub_waiting() -> float:
    """Seconds to wait for the model hub; call before the hub library is first imported, which reads it only then."""
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(HUB_TIMEOUT_SECONDS))
    return HUB_TIMEOUT_SECONDS


def log_file() -> Path:
    return Path(os.environ.get("CAP_VIZ_LOG") or local_folder() / "cap_viz.log")


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
