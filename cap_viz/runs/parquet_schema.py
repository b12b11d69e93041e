"""Conversion of results to tables and back: the Parquet layout of stored runs.

`options`  one row per example and option: example (number), id, gold, option, tokens, chars, loglik (of the dense or
           pruned model; NaN where a gradient run did not need the option)
`ablated`  one row per layer, head, example and option: loglik with that head ablated (exact runs)
`blocks`   one row per layer, part (attention or mlp), example and option: loglik with that part ablated (block runs)
`effects`  one row per layer, head and example: first-order effect on the run's metric (gradient runs)
`units`    one row per layer and MLP hidden unit: mean first-order effect (gradient runs)
`answers`  one row per example of a run of written answers: example (number), id, text, strict and flexible (the answer
           each reading found, or null), gold, tokens, ended (index into `evaluation.generation.ENDINGS`), dropped
`zeros`    one row per sparsity and matrix, in ascending sparsity: layer, kind, part, rows, columns, zeros
`joint`    one row per set of heads (index in `runs.kinds.joint.sets_of`), example and option: loglik with it ablated
`roles`    one row per layer and head: the `MEASURES` of `attribution/attention_patterns.py`
`heads`    one row per sparsity, layer and head, in that order: zeros among the `size` weights of the head
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from cap_viz.attribution.attention_patterns import MEASURES, HeadRoles
from cap_viz.attribution.results import (
    BLOCK_PARTS,
    BlockScores,
    EvalReport,
    GradientEffects,
    HeadScores,
    JointScores,
    Questions,
)
from cap_viz.evaluation.generation import GenerationReport
from cap_viz.pruning.head_sparsity import HeadZeros
from cap_viz.pruning.mask import MatrixSize, ZeroCounts
from cap_viz.stats.joint import HeadSet


def options_table(questions: Questions, logliks: Float[np.ndarray, "example option"]) -> pd.DataFrame:
    example, option = np.nonzero(questions.tokens)
    return pd.DataFrame(
        {
            "example": example.astype(np.int32),
            "id": np.array(questions.ids, dtype=object)[example],
            "gold": questions.gold[example].astype(np.int16),
            "option": option.astype(np.int16),
            "tokens": questions.tokens[example, option].astype(np.int32),
            "chars": questions.chars[example, option].astype(np.int32),
            "loglik": logliks[example, option].astype(np.float32),
        }
    )


def report_from(table: pd.DataFrame) -> EvalReport:
    """Invert `options_table`."""
    first = table.drop_duplicates("example").sort_values("example")
    shape = (len(first), int(table["option"].to_numpy().max()) + 1)
    place = table["example"].to_numpy(), table["option"].to_numpy()
    tokens, chars = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    logliks = np.full(shape, np.nan, dtype=np.float32)
    tokens[place], chars[place], logliks[place] = table["tokens"], table["chars"], table["loglik"]
    questions = Questions(
        ids=tuple(first["id"]), gold=first["gold"].to_numpy(dtype=np.int64), tokens=tokens, chars=chars
    )
    return EvalReport(questions=questions, logliks=logliks)


def answers_table(report: GenerationReport) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "example": np.arange(len(report), dtype=np.int32),
            "id": report.ids,
            "text": report.texts,
            "strict": pd.Series(report.strict, dtype="string"),
            "flexible": pd.Series(report.flexible, dtype="string"),
            "gold": report.gold,
            "tokens": report.tokens.astype(np.int32),
            "ended": report.ended.astype(np.int8),
            "dropped": report.dropped.astype(np.int32),
        }
    )


def answers_from(table: pd.DataFrame) -> GenerationReport:
    """Invert `answers_table`."""
    strict, flexible = (
        tuple(None if pd.isna(answer) else str(answer) for answer in table[name]) for name in ("strict", "flexible")
    )
    tokens, ended, dropped = (table[name].to_numpy(dtype=np.int64) for name in ("tokens", "ended", "dropped"))
    return GenerationReport(
        ids=tuple(table["id"]),
        texts=tuple(table["text"]),
        gold=tuple(table["gold"]),
        strict=strict,
        flexible=flexible,
        tokens=tokens,
        ended=ended,
        dropped=dropped,
    )


def ablated_table(scores: HeadScores) -> pd.DataFrame:
    return ablations_table(scores.ablated, "head", np.arange(scores.n_heads, dtype=np.int16))


def blocks_table(scores: BlockScores) -> pd.DataFrame:
    return ablations_table(scores.ablated, "part", np.array(BLOCK_PARTS, dtype=object))


def ablations_table(
    ablated: Float[np.ndarray, "layer part example option"], column: str, names: np.ndarray
) -> pd.DataFrame:
    """Tabulate ablated log-likelihoods, one row per value that is not NaN; `names[part]` fills the named column."""
    layer, part, example, option = np.nonzero(~np.isnan(ablated))
    return pd.DataFrame(
        {
            "layer": layer.astype(np.int16),
            column: names[part],
            "example": example.astype(np.int32),
            "option": option.astype(np.int16),
            "loglik": ablated[layer, part, example, option].astype(np.float32),
        }
    )


def scores_from(options: pd.DataFrame, ablated: pd.DataFrame) -> HeadScores:
    """Invert `options_table` and `ablated_table`."""
    dense = report_from(options)
    values = ablations_from(ablated, ablated["head"].to_numpy(), dense.logliks.shape)
    return HeadScores(questions=dense.questions, dense=dense.logliks, ablated=values)


def blocks_from(options: pd.DataFrame, blocks: pd.DataFrame) -> BlockScores:
    """Invert `options_table` and `blocks_table`."""
    dense = report_from(options)
    part = np.array([BLOCK_PARTS.index(name) for name in blocks["part"]])
    values = ablations_from(blocks, part, dense.logliks.shape)
    return BlockScores(questions=dense.questions, dense=dense.logliks, ablated=values)


def ablations_from(
    table: pd.DataFrame, part: Int[np.ndarray, " row"], shape: tuple[int, ...]
) -> Float[np.ndarray, "layer part example option"]:
    layer, example, option = (table[name].to_numpy() for name in ("layer", "example", "option"))
    values = np.full((layer.max() + 1, part.max() + 1, *shape), np.nan, dtype=np.float32)
    values[layer, part, example, option] = table["loglik"]
    return values


def effects_table(gradient: GradientEffects) -> pd.DataFrame:
    layer, head, example = np.indices(gradient.per_example.shape).reshape(3, -1)
    return pd.DataFrame(
        {
            "layer": layer.astype(np.int16),
            "head": head.astype(np.int16),
            "example": example.astype(np.int32),
            "effect": gradient.per_example.reshape(-1).astype(np.float32),
        }
    )


def units_table(units: Float[np.ndarray, "layer unit"]) -> pd.DataFrame:
    layer, unit = np.indices(units.shape).reshape(2, -1)
    return pd.DataFrame(
        {"layer": layer.astype(np.int16), "unit": unit.astype(np.int32), "effect": units.reshape(-1).astype(np.float32)}
    )


def gradient_from(
    options: pd.DataFrame, effects: pd.DataFrame, units: pd.DataFrame | None, metric: str
) -> GradientEffects:
    """Invert `options_table`, `effects_table` and `units_table`."""
    dense = report_from(options)
    return GradientEffects(
        questions=dense.questions,
        known_logliks=dense.logliks,
        per_example=array_from(effects, "layer", "head", "example"),
        metric=metric,
        units=None if units is None else array_from(units, "layer", "unit"),
    )


def array_from(table: pd.DataFrame, *axes: str) -> Float[np.ndarray, "*axis"]:
    """Return column `effect` as an array with the named columns as axes."""
    place = tuple(table[axis].to_numpy() for axis in axes)
    values = np.full([index.max() + 1 for index in place], np.nan, dtype=np.float32)
    values[place] = table["effect"]
    return values


def roles_table(roles: HeadRoles) -> pd.DataFrame:
    layer, head = (axis.ravel() for axis in np.indices(roles.values[MEASURES[0]].shape))
    measures = {name: values.ravel().astype(np.float32) for name, values in roles.values.items()}
    return pd.DataFrame({"layer": layer.astype(np.int16), "head": head.astype(np.int16), **measures})


def roles_from(table: pd.DataFrame, n: int) -> HeadRoles:
    """Invert `roles_table`; `n` is the number of examples."""
    n_layers = int(table["layer"].to_numpy().max()) + 1
    values = {name: table[name].to_numpy(dtype=np.float64).reshape(n_layers, -1) for name in MEASURES}
    return HeadRoles(values, n)


def joint_table(scores: JointScores) -> pd.DataFrame:
    number, example, option = np.nonzero(~np.isnan(scores.ablated))
    return pd.DataFrame(
        {
            "set": number.astype(np.int16),
            "example": example.astype(np.int32),
            "option": option.astype(np.int16),
            "loglik": scores.ablated[number, example, option].astype(np.float32),
        }
    )


def joint_from(options: pd.DataFrame, joint: pd.DataFrame, sets: tuple[HeadSet, ...]) -> JointScores:
    """Invert `options_table` and `joint_table`."""
    dense = report_from(options)
    number, example, option = (joint[name].to_numpy() for name in ("set", "example", "option"))
    ablated = np.full((len(sets), *dense.logliks.shape), np.nan, dtype=np.float32)
    ablated[number, example, option] = joint["loglik"]
    return JointScores(questions=dense.questions, sets=sets, ablated=ablated)


def zeros_table(counts: ZeroCounts) -> pd.DataFrame:
    n_sparsities, n_matrices = counts.zeros.shape
    matrices = counts.matrices * n_sparsities
    return pd.DataFrame(
        {
            "sparsity": np.repeat(counts.sparsities, n_matrices),
            "layer": np.array([m.layer for m in matrices], dtype=np.int16),
            "kind": [m.kind for m in matrices],
            "part": [m.part for m in matrices],
            "rows": np.array([m.rows for m in matrices], dtype=np.int32),
            "columns": np.array([m.columns for m in matrices], dtype=np.int32),
            "zeros": counts.zeros.reshape(-1),
        }
    )


def zeros_from(table: pd.DataFrame) -> ZeroCounts:
    """Invert `zeros_table`."""
    sparsities = np.unique(table["sparsity"].to_numpy())
    first = table[table["sparsity"] == sparsities[0]]
    matrices = tuple(
        MatrixSize(layer=layer, kind=kind, part=part, rows=rows, columns=columns)
        for layer, kind, part, rows, columns in zip(
            *(first[name].tolist() for name in ("layer", "kind", "part", "rows", "columns")), strict=True
        )
    )
    zeros = table["zeros"].to_numpy().reshape(len(sparsities), len(matrices))
    return ZeroCounts(sparsities=sparsities, matrices=matrices, zeros=zeros)


def head_zeros_table(counts: HeadZeros) -> pd.DataFrame:
    sparsity, layer, head = np.indices(counts.zeros.shape).reshape(3, -1)
    return pd.DataFrame(
        {
            "sparsity": counts.sparsities[sparsity],
            "layer": layer.astype(np.int16),
            "head": head.astype(np.int16),
            "zeros": counts.zeros.reshape(-1).astype(np.int32),
            "size": np.int32(counts.size),
        }
    )


def head_zeros_from(table: pd.DataFrame) -> HeadZeros:
    """Invert `head_zeros_table`."""
    n_layers, n_heads = (1 + int(table[name].to_numpy().max()) for name in ("layer", "head"))
    return HeadZeros(
        sparsities=table["sparsity"].to_numpy()[:: n_layers * n_heads],
        zeros=table["zeros"].to_numpy(dtype=np.int64).reshape(-1, n_layers, n_heads),
        size=int(table["size"].iloc[0]),
    )
