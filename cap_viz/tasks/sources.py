"""Sources of a task's rows: JSON lines on this machine, or the hub (Parquet files through `datasets`)."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from cap_viz.errors import UsageError
from cap_viz.models.hub import hub_snapshot
from cap_viz.settings import ASSETS, data_folder
from cap_viz.tasks.base import Example, Splits
from cap_viz.tasks.rows import Fields, SourceRow, splits_from

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SplitFile:
    """Files of one split: in a local data folder, and in the hub repository with the same rows."""

    local: str
    hub: str


@dataclass(frozen=True)
class PublicData:
    """Location of a public data set: its folder under `CAP_VIZ_DATA`, and repository and revision on the hub."""

    folder: str
    repository: str
    revision: str
    calibration: SplitFile
    evaluation: SplitFile


@dataclass(frozen=True)
class PublicRows:
    """Rows of both splits; `origin` names the copy they were read from."""

    calibration: list[SourceRow]
    evaluation: list[SourceRow]
    origin: str


def read_json_lines(path: Path) -> list[SourceRow]:
    """Read one JSON object per line. Raises `UsageError` when the file is missing or not as in `json_lines`."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist; check CAP_VIZ_DATA.") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); check CAP_VIZ_DATA.") from error
    return json_lines(content, path)


def json_lines(content: bytes, path: Path) -> list[SourceRow]:
    r"""Parse one JSON object per line; lines end at "\n" only, since U+2028 and the like occur inside texts.

    A byte-order mark, Windows line ends and blank lines are accepted. Raises `UsageError` naming the file and line when
    the content of the file `path` is empty or malformed.
    """
    rows: list[SourceRow] = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            place = f"{path}, line {number}"
            rows.append(SourceRow(parsed_object(line, place), place))
    if not rows:
        raise UsageError(f"{path} is empty; every line should hold one example as JSON.")
    return rows


def parsed_object(line: bytes, place: str) -> Fields:
    def refused(literal: str) -> NoReturn:
        raise ValueError(f"{literal} is no JSON value")

    try:
        value = json.loads(line.decode("utf-8"), parse_constant=refused)
    except UnicodeDecodeError as error:
        raise UsageError(f"{place}: not valid JSON in UTF-8 ({error.reason} at byte {error.start + 1}).") from error
    except json.JSONDecodeError as error:
        raise UsageError(f"{place}: not valid JSON ({error.msg} at character {error.pos + 1}).") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{place}: not valid JSON ({error}).") from error
    if not isinstance(value, dict):
        raise UsageError(f"{place}: expected a JSON object.")
    return value


def written_splits(name: str, to_example: Callable[[Fields], Example]) -> Splits:
    """Read the splits of a task written for this project."""
    folder = ASSETS / name
    return splits_from(
        read_json_lines(folder / "calibration.jsonl"), read_json_lines(folder / "evaluation.jsonl"), to_example
    )


def public_splits(data: PublicData, to_example: Callable[[Fields], Example]) -> Splits:
    """Read the splits of a public data set, one example per row."""
    rows = public_rows(data)
    return splits_from(rows.calibration, rows.evaluation, to_example, rows.origin)


def public_rows(data: PublicData) -> PublicRows:
    """Read the rows of a public data set from the folder named by `CAP_VIZ_DATA`, else from the hub.

    Raises `UsageError` when that folder does not exist, and `CapVizError` when the hub fails to deliver.
    """
    folder = data_folder()
    if folder is not None and not folder.is_dir():
        raise UsageError(f"CAP_VIZ_DATA={str(folder)!r} is not a folder; correct or unset it.")
    if folder is not None and (folder / data.folder).is_dir():
        return PublicRows(
            calibration=read_json_lines(folder / data.folder / data.calibration.local),
            evaluation=read_json_lines(folder / data.folder / data.evaluation.local),
            origin="the folder named by CAP_VIZ_DATA",
        )
    return hub_rows(data)


def rows_are_local(data: PublicData) -> bool:
    """Return whether `public_rows` needs no network: the data folder has the task, or the hub's files are cached."""
    folder = data_folder()
    if folder is not None and not folder.is_dir():
        return False
    if folder is not None and (folder / data.folder).is_dir():
        return True
    from huggingface_hub import try_to_load_from_cache

    return all(
        isinstance(try_to_load_from_cache(data.repository, name, revision=data.revision, repo_type="dataset"), str)
        for name in (data.calibration.hub, data.evaluation.hub)
    )


def hub_rows(data: PublicData) -> PublicRows:
    """Read rows from the hub, both splits from the same commit."""
    files = (data.calibration.hub, data.evaluation.hub)
    local, own = f"{data.folder}/{data.calibration.local} and {data.evaluation.local}", data_folder()
    lacking = "" if own is None else f" ({own} has no folder {data.folder})"
    folder = hub_snapshot(
        "dataset",
        data.repository,
        revision=data.revision,
        patterns=files,
        needed=files,
        instead=f"set CAP_VIZ_DATA to a folder with {local}{lacking}, or use the offline task mini_science",
    )
    origin = f"{data.repository}@{folder.name}"
    log.info("Read %s", origin)
    calibration, evaluation = (read_hub_file(folder / file) for file in files)
    return PublicRows(calibration, evaluation, origin)


def read_hub_file(path: Path) -> list[SourceRow]:
    if path.suffix == ".jsonl":
        return read_json_lines(path)
    from datasets import Dataset

    rows = Dataset.from_parquet(str(path)).to_list()
    return [SourceRow(dict(row), f"{path}, row {number}") for number, row in enumerate(rows, start=1)]
