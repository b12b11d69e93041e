"""Keys and tables that must not change, and the files they are kept in:  python -m tests.golden

`golden_runs.json`   key of every shipped run → a digest of each of its tables
`golden_keys.json`   name of every spec generated here → its key
`golden_specs.json`  key → spec as a manifest holds it, the shortest and the longest of each kind

The command adds what is missing. An entry that is there and comes out differently is named and kept; one of a run that
is no longer shipped is deleted by hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from cap_viz.files import write_bytes
from cap_viz.models.catalogue import ModelRef
from cap_viz.runs.spec import (
    ENGINE_VERSION,
    SCHEMA_VERSION,
    EvalSpec,
    JointSpec,
    MaskSpec,
    PairSpec,
    PathSpec,
    PositionSpec,
    ProfileSpec,
    RemovalSpec,
    RoleSpec,
    RunSpec,
    ScoreSpec,
    key_of,
    spec_dict,
    spec_key,
)
from cap_viz.runs.store import Store
from cap_viz.tasks.example_sets import ExampleSet

RUNS, KEYS, SPECS = (Path(__file__).with_name(f"golden_{name}.json") for name in ("runs", "keys", "specs"))

Made = TypeVar("Made", bound=MaskSpec | RunSpec)

MODEL = ModelRef(id="some/model", fingerprint="0123456789abcdef")
CALIBRATION = ExampleSet(task="gsm8k", version=2, ids=("a", "b", "c"), split="calibration", seed=0)
EVALUATION = ExampleSet(task="arc_easy", version=1, ids=("Mercury_7", "größer?", '"'), split="evaluation")
WINDOWS = ExampleSet(task="generic_text", version=1, ids=(), split="windows")
REWORDED = replace(CALIBRATION, prompt="Q: {question}\nA:")
REFERENCE = replace(CALIBRATION, ids=("d",), seed=3)
SCORES = ScoreSpec(model=MODEL, examples=CALIBRATION)
MASK = MaskSpec(criterion="wanda", sparsity=0.5)
JOINT = JointSpec(model=MODEL, examples=EVALUATION, heads=((0, 1), (12, 0)))
PAIRS = PairSpec(model=MODEL, examples=EVALUATION, heads=((0, 1), (12, 0)))
PATHS = PathSpec(model=MODEL, examples=EVALUATION, heads=((0, 1), (12, 0)))
POSITIONS = PositionSpec(model=MODEL, examples=EVALUATION, by="span")
REMOVAL = RemovalSpec(model=MODEL, examples=EVALUATION, heads=((0, 1), (0, 0), (1, 0), (1, 1)), counts=(1, 2))
SCORE_OPTIONS: dict[str, Any] = {
    "estimator": "gradient",
    "ablation": "mean",
    "metric": "choice_nll",
    "reference": REFERENCE,
    "parts": "blocks",
}
MASK_OPTIONS: dict[str, Any] = {
    "scope": "mlp",
    "scores": SCORES,
    "metric": "nll",
    "kv_combine": "max",
    "calibration": CALIBRATION,
    "text": WINDOWS,
    "control_seed": 0,
    "allocation": "owl",
    "pattern": "2:4",
}
FROZEN = replace(SCORES, parts="writes", frozen_norm=True)
JOINT_OPTIONS: dict[str, Any] = {"ablation": "resample", "reference": REFERENCE, "draws": 5, "seed": 1}
PATH_OPTIONS: dict[str, Any] = {
    "receivers": ((13, 2),),
    "parts": ("q", "k"),
    "ablation": "mean",
    "reference": REFERENCE,
    "mask": MASK,
}
REMOVAL_OPTIONS: dict[str, Any] = {
    "by_size": ((1, 1), (0, 1), (0, 0), (1, 0)),
    "ablation": "mean",
    "reference": REFERENCE,
    "draws": 5,
    "seed": 1,
    "ranked_on": CALIBRATION,
    "mask": MASK,
}

POSITION_OPTIONS: dict[str, Any] = {
    "heads": ((0, 1), (12, 0)),
    "metric": "choice_nll",
    "ablation": "mean",
    "reference": REFERENCE,
}


def generated() -> dict[str, RunSpec]:
    """Specs of every kind, with every combination of the optional fields, by a name that says what is set."""
    dense = EvalSpec(model=MODEL, examples=EVALUATION)
    profile = ProfileSpec(model=MODEL, examples=CALIBRATION, mask=MASK)
    roles = RoleSpec(model=MODEL, examples=CALIBRATION)
    specs: dict[str, RunSpec] = {
        **with_options("score", SCORES, SCORE_OPTIONS),
        **with_options("eval", dense, {"protocol": "perplexity-1024"}),
        **with_options("joint", JOINT, JOINT_OPTIONS),
        **with_options("pairs", PAIRS, {"ablation": "mean", "reference": REFERENCE}),
        **with_options("paths", PATHS, PATH_OPTIONS),
        **with_options("positions", POSITIONS, POSITION_OPTIONS),
        "positions, steps": replace(POSITIONS, by="step"),
        "score, other prompt": replace(SCORES, examples=REWORDED),
        "roles": roles,
        **dict(few_options("removal", REMOVAL, REMOVAL_OPTIONS)),
    }
    for name, mask in with_options("mask", MASK, MASK_OPTIONS).items():
        specs[f"eval, {name}"] = replace(dense, mask=mask)
    for name, mask in few_options("mask", replace(MASK, sparsity=0.0), MASK_OPTIONS):
        specs |= with_options(f"profile, {name}", replace(profile, mask=mask), {"parts": "heads"})
        specs[f"eval, protocol, {name}"] = replace(dense, mask=mask, protocol="generate-fewshot-256")
    for name, scores in few_options("score", SCORES, SCORE_OPTIONS):
        mask = replace(MASK, criterion="cap", scores=scores)
        specs[f"eval, mask scores, {name}"] = replace(dense, mask=mask)
    plain = {
        "score": SCORES,
        "eval": dense,
        "profile": profile,
        "roles": roles,
        "joint": JOINT,
        "pairs": PAIRS,
        "paths": PATHS,
        "positions": POSITIONS,
        "removal": REMOVAL,
    }
    for name, other in plain.items():
        specs[f"{name}, dtype"] = replace(other, model=replace(MODEL, dtype="bfloat16"))
        specs[f"{name}, other model"] = replace(other, model=ModelRef(id="toy", fingerprint="fedcba9876543210"))
        specs[f"{name}, windows"] = replace(other, examples=WINDOWS)
        specs[f"{name}, seed"] = replace(other, examples=replace(other.examples, seed=7))
    for estimator in ("exact", "gradient", "hybrid"):
        specs[f"score, {estimator} resample"] = replace(SCORES, estimator=estimator, ablation="resample")
    specs["score, frozen norm"] = FROZEN
    specs["score, removed"] = replace(SCORES, removed=((1, 0), (2, 3)))
    specs["score, mask"] = replace(SCORES, mask=MASK)
    specs |= {"joint, mask": replace(JOINT, mask=MASK), "pairs, mask": replace(PAIRS, mask=MASK)}
    specs["positions, mask"] = replace(POSITIONS, mask=MASK)
    # As JSON, 1 and 1.0 are two things, and .1 + .2 has all its digits.
    for sparsity in (0, 1, 1.0, 0.1, 0.1 + 0.2, 1e-5):
        specs[f"eval, sparsity {sparsity!r}"] = replace(dense, mask=replace(MASK, sparsity=sparsity))
    specs["removal, other order"] = replace(REMOVAL, heads=REMOVAL.heads[::-1], counts=(3,))
    specs["joint, no heads"] = replace(JOINT, heads=())
    specs["pairs, other heads"] = replace(PAIRS, heads=((3, 2), (0, 0), (1, 1)))
    specs["paths, one head"] = replace(PATHS, heads=((3, 1),))
    return specs


def with_options(name: str, spec: Made, options: dict[str, Any]) -> dict[str, Made]:
    """The spec with every combination of the options set and left out."""
    combinations = product((False, True), repeat=len(options))
    chosen = [
        dict(one for one, is_set in zip(options.items(), states, strict=True) if is_set) for states in combinations
    ]
    return {" ".join([name, *values]): replace(spec, **values) for values in chosen}


def few_options(name: str, spec: Made, options: dict[str, Any]) -> Iterator[tuple[str, Made]]:
    """The spec with none of the options, each alone, and all of them."""
    yield name, spec
    for option, value in options.items():
        yield f"{name} {option}", replace(spec, **{option: value})
    yield f"{name} all", replace(spec, **options)


def generated_keys() -> dict[str, str]:
    return {name: spec_key(spec) for name, spec in generated().items()}


def generated_contents() -> dict[str, dict[str, Any]]:
    """Of each kind the spec with the shortest and the one with the longest JSON, by key."""
    contents = sorted(map(spec_dict, generated().values()), key=lambda content: len(json.dumps(content)))
    # What comes later replaces what came before.
    longest = {content["kind"]: content for content in contents}
    shortest = {content["kind"]: content for content in reversed(contents)}
    chosen = [*longest.values(), *shortest.values()]
    return {key_of(content, ENGINE_VERSION, SCHEMA_VERSION): content for content in chosen}


def shipped_digests() -> dict[str, dict[str, str]]:
    """Digests of the tables of every shipped run, by the names of the tables and the key of the run.

    They stand in the index of the pack; `tests/test_shipped.py` compares them with the tables.
    """
    return {
        run.key: {name: digest[:16] for name, digest in run.digests.items()}
        for run in Store().runs()
        if run.origin == "precomputed"
    }


def kept(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def extend(file: Path, today: dict[str, Any]) -> list[str]:
    """Add new entries to a file, one line each. Returns the names of those that are there and come out differently."""
    entries = sorted({**today, **kept(file)}.items())
    lines = [f"{json.dumps(name)}: {json.dumps(value, sort_keys=True)}" for name, value in entries]
    write_bytes(file, ("{\n" + ",\n".join(lines) + "\n}\n").encode())
    return [name for name, value in entries if today.get(name, value) != value]


def main() -> None:
    today = {RUNS: shipped_digests(), KEYS: generated_keys(), SPECS: generated_contents()}
    changed = [name for file, content in today.items() for name in extend(file, content)]
    if changed:
        sys.exit(f"{len(changed)} entries came out differently and were kept as they are: {', '.join(changed)}.")


if __name__ == "__main__":
    main()
