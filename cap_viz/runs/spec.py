"""Specs: the full description of a run, one frozen object for store key, CLI, jobs and URL.

A spec names everything that can change a number. Its key is the SHA-256 of its canonical JSON together with
`ENGINE_VERSION` (bumped when numbers change) and `SCHEMA_VERSION` (bumped when stored files change).
Fields that are None are left out of both, so that a new optional field changes no key.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any, Literal, get_args

from pydantic import ValidatorFunctionWrapHandler, WrapValidator

from cap_viz.models.catalogue import ModelRef
from cap_viz.pruning.options import MaskOptions
from cap_viz.tasks.example_sets import ExampleSet
from cap_viz.validation import from_json

ENGINE_VERSION = 1
SCHEMA_VERSION = 1
# Schemas this version can read; a new schema is added and the old ones stay.
READABLE_SCHEMAS = (1,)


def kept_as_written(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Check a value without converting it: 1 and 1.0 differ in a key."""
    check(value)
    return value


@dataclass(frozen=True)
class ScoreSpec:
    """Head scores of a model, dense or pruned, on a set of examples.

    `metric` is None for exact scores: they store raw log-likelihoods from which every metric follows.
    `reference` are the examples that mean and resample ablation take values from, None for `examples` themselves; the
    seed of these examples also draws the partners for resample ablation. `parts` is None for heads, "blocks" for whole
    attention layers and MLPs, "writes" for the direct effects of heads (what they write into the last residual stream).
    `frozen_norm` is True for direct effects under the final norm's dense scale. `mask` is None for the dense model;
    `removed` are heads that are out while all are scored (their own effects are 0), None for none.
    """

    model: ModelRef
    examples: ExampleSet
    estimator: str = "exact"
    ablation: str = "zero"
    metric: str | None = None
    reference: ExampleSet | None = None
    parts: str | None = None
    frozen_norm: Literal[True] | None = None
    mask: MaskSpec | None = None
    removed: tuple[tuple[int, int], ...] | None = None

    kind = "score"

    @property
    def values_from(self) -> ExampleSet | None:
        """The examples that ablation takes values from; None for zero ablation."""
        return None if self.ablation == "zero" else self.reference or self.examples


@dataclass(frozen=True)
class MaskSpec(MaskOptions):
    """Recipe of a mask: which weights become zero.

    `criterion` ranks weights, `sparsity` is the requested share of zeros. `scores` are the head scores of criteria
    built on them, `calibration` the examples on which activations or gradients are measured, `text` the passages of
    running text that some criteria measure as well; what the criterion does not use is None.
    """

    criterion: str
    sparsity: Annotated[float, WrapValidator(kept_as_written)]
    scores: ScoreSpec | None = None
    calibration: ExampleSet | None = None
    text: ExampleSet | None = None


@dataclass(frozen=True)
class EvalSpec:
    """Evaluation of a model, dense (`mask` is None) or pruned, on a set of examples.

    `protocol` is None where options are compared by their log-likelihoods. "perplexity-1024" scores windows of 1,024
    tokens of running text (`evaluation/perplexity.py`), "generate-fewshot-256" written answers
    (`evaluation/generation.py`), "solution" the given continuation of a task without options
    (`evaluation/solution_loss.py`).
    """

    model: ModelRef
    examples: ExampleSet
    mask: MaskSpec | None = None
    protocol: str | None = None

    kind = "eval"


@dataclass(frozen=True)
class ProfileSpec:
    """Zeros at many sparsities for a criterion with one ranking for all of them (`mask.sparsity` is 0 by convention).

    `parts` is None for zeros per matrix, "heads" for zeros per head.
    """

    model: ModelRef
    examples: ExampleSet
    mask: MaskSpec
    parts: str | None = None

    kind = "profile"


@dataclass(frozen=True)
class RoleSpec:
    """Attention measures of every head on a set of examples, and on repeated random tokens.

    Computed by `attribution/attention_patterns.py`.
    """

    model: ModelRef
    examples: ExampleSet

    kind = "roles"


@dataclass(frozen=True)
class JointSpec:
    """Ablation of a set of heads, of each of them alone, and of random sets of as many others (`runs/kinds/joint.py`).

    `examples` should not be those that ranked the heads. `reference` and `mask` are as in `ScoreSpec`.
    """

    model: ModelRef
    examples: ExampleSet
    heads: tuple[tuple[int, int], ...]
    ablation: str = "zero"
    reference: ExampleSet | None = None
    draws: int = 19
    seed: int = 0
    mask: MaskSpec | None = None

    kind = "joint"


@dataclass(frozen=True)
class PairSpec:
    """Ablation of heads one at a time and two at a time (`runs/kinds/joint.py`), as in `JointSpec`."""

    model: ModelRef
    examples: ExampleSet
    heads: tuple[tuple[int, int], ...]
    ablation: str = "zero"
    reference: ExampleSet | None = None
    mask: MaskSpec | None = None

    kind = "pairs"


@dataclass(frozen=True)
class PathSpec:
    """Paths from every head of a set to all that reads it (`runs/kinds/paths.py`), of a dense or pruned model.

    `receivers` are the receiving heads, None for `heads` themselves; `parts` of them are changed ("all", or "q", "k",
    "v"). `examples` should not be those that ranked the heads. `reference` is as in `ScoreSpec`.
    """

    model: ModelRef
    examples: ExampleSet
    heads: tuple[tuple[int, int], ...]
    receivers: tuple[tuple[int, int], ...] | None = None
    parts: tuple[str, ...] = ("all",)
    ablation: str = "zero"
    reference: ExampleSet | None = None
    mask: MaskSpec | None = None

    kind = "paths"


@dataclass(frozen=True)
class PositionSpec:
    """Effects of heads split by position (`runs/kinds/positions.py`).

    `by` is "span" where z is replaced at one named span at a time, "step" where the loss of each step of the worked
    solution is read. With `metric` the effects of all heads on spans are those of its gradient; without, effects are
    exact, of `heads` or of every head. `reference` and `mask` are as in `ScoreSpec`.
    """

    model: ModelRef
    examples: ExampleSet
    by: Literal["span", "step"]
    heads: tuple[tuple[int, int], ...] | None = None
    metric: str | None = None
    ablation: str = "zero"
    reference: ExampleSet | None = None
    mask: MaskSpec | None = None

    kind = "positions"


@dataclass(frozen=True)
class RemovalSpec:
    """Removal of heads in an order, from either end, and in random ones (`runs/kinds/removal.py`).

    `heads` are all heads of the model, the most important first; `by_size` is their order by the size of the scores,
    None for `heads`. `counts` are the numbers of heads that are removed, or kept. `ranked_on` are the examples that
    gave the order, None where they are not known; `examples` should be others. `reference` is as in `ScoreSpec`.
    """

    model: ModelRef
    examples: ExampleSet
    heads: tuple[tuple[int, int], ...]
    counts: tuple[int, ...]
    by_size: tuple[tuple[int, int], ...] | None = None
    ablation: str = "zero"
    reference: ExampleSet | None = None
    draws: int = 20
    seed: int = 0
    ranked_on: ExampleSet | None = None
    mask: MaskSpec | None = None

    kind = "removal"


# Specs of runs that replace outputs of the model, and name the ablation.
AblationSpec = ScoreSpec | JointSpec | PairSpec | PathSpec | PositionSpec | RemovalSpec
RunSpec = ScoreSpec | EvalSpec | ProfileSpec | RoleSpec | JointSpec | PairSpec | PathSpec | PositionSpec | RemovalSpec


def spec_dict(spec: RunSpec) -> dict[str, Any]:
    """Convert a spec to plain JSON types, with its kind and without fields that are None."""
    return {"kind": spec.kind, **json.loads(json.dumps(asdict(spec, dict_factory=present)))}


def mask_dict(mask: MaskSpec) -> dict[str, Any]:
    """Convert the recipe of a mask to plain JSON types, without fields that are None."""
    return json.loads(json.dumps(asdict(mask, dict_factory=present)))


def present(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in pairs if value is not None}


def spec_key(spec: RunSpec) -> str:
    """Return the key of a spec: 16 hex digits that change whenever any number of the run could change."""
    return key_of(spec_dict(spec), ENGINE_VERSION, SCHEMA_VERSION)


def spec_fields() -> str:
    """List the classes of specs and of their parts with the fields each reads, as text."""
    parts = (*SPECS.values(), MaskSpec, ExampleSet, ModelRef)
    return json.dumps({part.__name__: [[field.name, str(field.type)] for field in fields(part)] for part in parts})


def stem_of(spec: RunSpec) -> str:
    """Return a key that specs share which differ in the ids of their examples only."""
    return key_of({**spec_dict(replace(spec, examples=replace(spec.examples, ids=()))), "ids": "any"}, 0, 0)


def key_of(content: dict[str, Any], engine: int, schema: int) -> str:
    """Return the key of a spec's JSON, as written by the given engine and schema versions."""
    payload = {"spec": content, "engine": engine, "schema": schema}
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def spec_from_dict(data: dict[str, Any]) -> RunSpec:
    """The inverse of `spec_dict`. Raises ValueError on foreign content, to be put into words by `validation.mistake`.

    The first runs were written with the fields that are None; these mean what their absence means now.
    """
    kind = data.get("kind") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in SPECS:
        raise ValueError(f"the kind of a run is one of {', '.join(SPECS)}, not {kind!r:.40}")
    return from_json(SPECS[kind], json.dumps({name: value for name, value in data.items() if name != "kind"}))


SPECS: dict[str, type[Any]] = {spec.kind: spec for spec in get_args(RunSpec)}
