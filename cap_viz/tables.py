"""Results as tables and back: the Parquet layout of stored runs.

`options`  one row per example and option: example (number), id, gold, option, tokens, chars, loglik (dense or pruned)
`ablated`  one row per layer, head, example and option: loglik with that head ablated
`zeros`    one row per sparsity and matrix, in ascending sparsity: layer, kind, part, rows, columns, zeros
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float

from cap_viz.pruning.masks import MatrixSize, ZeroCounts
from cap_viz.results import EvalReport, HeadScores, Questions


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
    """The inverse of `options_table`."""
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


def ablated_table(scores: HeadScores) -> pd.DataFrame:
    layer, head, example, option = np.nonzero(~np.isnan(scores.ablated))
    return pd.DataFrame(
        {
            "layer": layer.astype(np.int16),
            "head": head.astype(np.int16),
            "example": example.astype(np.int32),
            "option": option.astype(np.int16),
            "loglik": scores.ablated[layer, head, example, option].astype(np.float32),
        }
    )


def scores_from(options: pd.DataFrame, ablated: pd.DataFrame) -> HeadScores:
    """The inverse of `options_table` and `ablated_table`."""
    dense = report_from(options)
    layer, head, example, option = (ablated[name].to_numpy() for name in ("layer", "head", "example", "option"))
    values = np.full((layer.max() + 1, head.max() + 1, *dense.logliks.shape), np.nan, dtype=np.float32)
    values[layer, head, example, option] = ablated["loglik"]
    return HeadScores(questions=dense.questions, dense=dense.logliks, ablated=values)


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
    """The inverse of `zeros_table`."""
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
