"""The full description of a run: one frozen object behind store key, CLI, jobs and URL.

A spec names everything that can change a number. Its key is the SHA-256 of its canonical JSON together with
`ENGINE_VERSION` (bumped when numbers change) and `SCHEMA_VERSION` (bumped when stored files change).
The metric is not part of a `ScoreSpec`: a run stores raw log-likelihoods from which every metric follows.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

ENGINE_VERSION = 1
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ModelRef:
    """Which weights: catalogue or hub id, fingerprint of config and weight files, dtype of the computation."""

    id: str
    fingerprint: str
    dtype: str = "float32"


@dataclass(frozen=True)
class ExampleSet:
    """Which questions: task, its version, and the example ids in order. `seed` records how they were drawn."""

    task: str
    version: int
    ids: tuple[str, ...]
    split: str
    seed: int | None = None


@dataclass(frozen=True)
class ScoreSpec:
    """Head scores of a model on a set of examples."""

    model: ModelRef
    examples: ExampleSet
    estimator: str = "exact"
    ablation: str = "zero"

    kind = "score"


@dataclass(frozen=True)
class MaskSpec:
    """Which weights become zero.

    `criterion` ranks weights, `sparsity` is the asked share of zeros, `scope` the matrices that take part.
    `scores`, `metric` and `kv_combine` matter to criteria built on head scores; `calibration` to those built
    on activations; both are None elsewhere.
    """

    criterion: str
    sparsity: float
    scope: str = "both"
    scores: ScoreSpec | None = None
    metric: str | None = None
    kv_combine: str | None = None
    calibration: ExampleSet | None = None


@dataclass(frozen=True)
class EvalSpec:
    """Accuracy of a model, dense (`mask` is None) or pruned, on a set of examples."""

    model: ModelRef
    examples: ExampleSet
    mask: MaskSpec | None = None

    kind = "eval"


@dataclass(frozen=True)
class ProfileSpec:
    """Zeros per matrix at every sparsity for a criterion with a fixed score (`mask.sparsity` is 0 by convention)."""

    model: ModelRef
    examples: ExampleSet
    mask: MaskSpec

    kind = "profile"


RunSpec = ScoreSpec | EvalSpec | ProfileSpec


def spec_dict(spec: RunSpec) -> dict[str, Any]:
    """The spec as plain JSON types, with its kind."""
    return {"kind": spec.kind, **json.loads(json.dumps(asdict(spec)))}


def spec_key(spec: RunSpec) -> str:
    """16 hex digits that change whenever any number of the run could change."""
    payload = {"spec": spec_dict(spec), "engine": ENGINE_VERSION, "schema": SCHEMA_VERSION}
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def spec_from_dict(data: dict[str, Any]) -> RunSpec:
    """The inverse of `spec_dict`. Raises KeyError or TypeError on foreign content."""
    body = {name: value for name, value in data.items() if name != "kind"}
    if data["kind"] == "score":
        return score_spec(body)
    model, examples = ModelRef(**body["model"]), example_set(body["examples"])
    mask = None if body["mask"] is None else mask_spec(body["mask"])
    if data["kind"] == "eval":
        return EvalSpec(model=model, examples=examples, mask=mask)
    if data["kind"] == "profile" and mask is not None:
        return ProfileSpec(model=model, examples=examples, mask=mask)
    raise KeyError(data["kind"])


def score_spec(body: dict[str, Any]) -> ScoreSpec:
    return ScoreSpec(**{**body, "model": ModelRef(**body["model"]), "examples": example_set(body["examples"])})


def mask_spec(body: dict[str, Any]) -> MaskSpec:
    scores, calibration = body["scores"], body["calibration"]
    return MaskSpec(
        **{
            **body,
            "scores": None if scores is None else score_spec(scores),
            "calibration": None if calibration is None else example_set(calibration),
        }
    )


def example_set(body: dict[str, Any]) -> ExampleSet:
    return ExampleSet(**{**body, "ids": tuple(body["ids"])})
