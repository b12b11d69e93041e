"""Checkpoints of an unfinished run on disk: the batch plan, and one file ("part") per finished batch.

The plan is written before the first forward and followed on resume, which keeps resumed results bit-identical. A part
names its examples, their layout and a digest of its arrays, so that it is used only for its own batch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cap_viz.attribution.batch_plan import BatchPlan
from cap_viz.files import write_bytes, write_json
from cap_viz.validation import from_json, mistake

PLAN, DAMAGED_PLAN = "plan.json", "plan.damaged.json"

log = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray]


class Checkpoints:
    """Plan and finished batches of one run, in `folder`; `ids[i]` is the id of example number i."""

    def __init__(self, folder: Path, ids: Sequence[str]) -> None:
        self.folder, self.ids = folder, ids

    def plan(self) -> BatchPlan | None:
        """Return the stored plan, or None if there is none. A damaged plan is set aside, and counts as none."""
        path = self.folder / PLAN
        if not path.is_file():
            return None
        try:
            plan = from_json(BatchPlan, path.read_bytes())
            if not all(plan.batches) or sorted(i for batch in plan.batches for i in batch) != [*range(len(self.ids))]:
                raise ValueError(f"its batches do not hold each of {len(self.ids)} examples once")
            if plan.most_tokens is not None and plan.most_tokens < 1:
                raise ValueError(f"{plan.most_tokens} tokens in a step")
        except ValueError as error:
            aside = path.replace(path.with_name(DAMAGED_PLAN))
            log.warning("damaged plan set aside as %s (%s): making a new one", aside, mistake(error))
            return None
        return plan

    def start(self, plan: BatchPlan) -> None:
        write_json(self.folder / PLAN, asdict(plan))

    def finished(self, plan: BatchPlan) -> dict[int, Arrays]:
        """Load the finished batches by number. A part that is damaged or of another batch is logged and skipped."""
        found: dict[int, Arrays] = {}
        for path in sorted(self.folder.glob("batch-*.safetensors")):
            try:
                number = int(path.stem.removeprefix("batch-"))
                found[number] = read_part(path, self.label(plan, number))
            except (SafetensorError, ValueError, IndexError) as error:
                log.warning("part %s is not used (%s): its examples are computed again", path, error)
        return found

    def add(self, plan: BatchPlan, batch: int, arrays: Arrays) -> None:
        # safetensors writes raw memory, so strided views would come back scrambled.
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        content = save(arrays, metadata={"of": self.label(plan, batch), "sha256": digest(arrays)})
        write_bytes(self.folder / f"batch-{batch:05}.safetensors", content)

    def label(self, plan: BatchPlan, batch: int) -> str:
        """Describe the examples and layout of a part. Raises `IndexError` where the plan has no such batch."""
        ids = [self.ids[i] for i in plan.batches[batch]]
        return json.dumps({"ids": ids, "packed": plan.packed, "direct": plan.direct})

    @property
    def has_begun(self) -> bool:
        """Whether there is a plan or a part, sound or not, to go on from."""
        return any(self.folder.glob("plan*.json")) or any(self.folder.glob("batch-*"))

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def read_part(path: Path, label: str) -> Arrays:
    """Load the arrays of a part. Raises `ValueError` or `SafetensorError` if it is damaged or has another label."""
    with safe_open(path, framework="numpy") as content:
        metadata = content.metadata() or {}
        if metadata.get("of") != label:
            raise ValueError("it is of other examples, or of an earlier version that does not name them")
        arrays = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 - not a dictionary
    if metadata.get("sha256") != digest(arrays):
        raise ValueError("it does not match its digest")
    return arrays


def digest(arrays: Arrays) -> str:
    """Hash the file safetensors would write, and with it names, dtypes, shapes and values."""
    return hashlib.sha256(save(arrays)).hexdigest()
