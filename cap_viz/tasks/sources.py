"""Reading a task's rows: from JSON lines on this machine, or from the hub through `datasets`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cap_viz.errors import CapVizError, UsageError
from cap_viz.settings import data_folder, limit_hub_waiting


@dataclass(frozen=True)
class HubFiles:
    """Where a public data set lives: `files` maps a split to its Parquet file in the hub repository."""

    repository: str
    revision: str
    files: dict[str, str]


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """One JSON object a line; lines end at "\\n" only, since U+2028 and its like occur inside texts.

    Raises `UsageError` naming the file and line when the file is missing, empty or malformed.
    """
    rows: list[dict[str, Any]] = []
    try:
        with path.open(encoding="utf-8", newline="\n") as stream:
            for number, line in enumerate(stream, start=1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise UsageError(f"{path}, line {number}: expected a JSON object.")
                rows.append(row)
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist; check CAP_VIZ_DATA.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UsageError(f"{path}, line {len(rows) + 1}: not valid JSON ({error}).") from error
    if not rows:
        raise UsageError(f"{path} is empty; every line should hold one example as JSON.")
    return rows


def public_rows(name: str, split: str, hub: HubFiles) -> list[dict[str, Any]]:
    """Rows of a public data set: the folder `CAP_VIZ_DATA` first, then the hub."""
    folder = data_folder()
    if folder is not None and (folder / name).is_dir():
        return read_json_lines(folder / name / f"{split}.jsonl")
    return hub_rows(name, split, hub)


def rows_are_local(name: str, hub: HubFiles) -> bool:
    """Whether `public_rows` needs no network: the data folder has the task, or the hub's files are cached."""
    folder = data_folder()
    if folder is not None and (folder / name).is_dir():
        return True
    from huggingface_hub import try_to_load_from_cache

    return all(
        isinstance(try_to_load_from_cache(hub.repository, file, revision=hub.revision, repo_type="dataset"), str)
        for file in hub.files.values()
    )


def hub_rows(name: str, split: str, hub: HubFiles) -> list[dict[str, Any]]:
    """Rows from the hub's Parquet file, cached by the hub library; gives up quickly without network."""
    patience = limit_hub_waiting()
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    file = partial(hf_hub_download, hub.repository, hub.files[split], repo_type="dataset", revision=hub.revision)
    try:
        path = file(local_files_only=True)
    except LocalEntryNotFoundError:
        try:
            HfApi().dataset_info(hub.repository, revision=hub.revision, timeout=patience)
            path = file()
        except Exception as error:
            # Connection, proxy, offline and hub errors share no base class; all mean the same to the user.
            raise CapVizError(
                f"Task {name} needs data that is not on this machine and the hub did not deliver it "
                f"({type(error).__name__}); set CAP_VIZ_DATA to a folder with {name}/{split}.jsonl, "
                "or use the offline task mini_science."
            ) from error
    from datasets import Dataset

    return [dict(row) for row in Dataset.from_parquet(str(path)).to_list()]
