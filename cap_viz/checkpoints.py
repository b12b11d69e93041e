"""The unfinished part of a run on disk: the batch plan, and one file per finished batch.

The plan is written before the first forward and followed on resume, which keeps resumed results bit-identical.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cap_viz.files import write_bytes, write_json
from cap_viz.plan import BatchPlan

log = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray]


class Checkpoints:
    """Plan and finished batches of one run, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def plan(self) -> BatchPlan | None:
        """The stored plan; None when there is none or it cannot be read (then the run starts over)."""
        path = self.folder / "plan.json"
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            batches = tuple(tuple(batch) for batch in content["batches"])
            return BatchPlan(batches, **{name: content[name] for name in ("packed", "direct", "most_tokens")})
        except (ValueError, KeyError, TypeError) as error:
            log.warning("unreadable plan in %s (%s): starting over", self.folder, error)
            self.discard()
            return None

    def start(self, plan: BatchPlan) -> None:
        write_json(self.folder / "plan.json", asdict(plan))

    def finished(self) -> dict[int, Arrays]:
        """Batch number -> its arrays. A damaged file is logged and its batch computed again."""
        found: dict[int, Arrays] = {}
        for path in sorted(self.folder.glob("batch-*.safetensors")):
            try:
                found[int(path.stem.removeprefix("batch-"))] = load(path.read_bytes())
            except (SafetensorError, ValueError) as error:
                log.warning("damaged checkpoint %s (%s): computing it again", path, error)
        return found

    def add(self, batch: int, arrays: Arrays) -> None:
        # safetensors writes the memory as it lies, so strided views would come back scrambled.
        content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        write_bytes(self.folder / f"batch-{batch:05}.safetensors", content)

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
