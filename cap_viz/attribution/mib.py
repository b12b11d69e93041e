"""Importances of heads in the file format of MIB's circuit leaderboard (Mueller et al. 2025, arXiv 2504.13151).

The format is that of a graph of `EAP-IG` as JSON (`Graph.to_json`, and the README of `hannamw/MIB-circuit-track`): the
configuration `cfg`, `nodes` by name with a floating-point `score` each, and all `edges` by name. Nodes are the input,
every head (`a3.h5`), every MLP (`m3`) and the logits. Heads have their effect as score: positive means that ablating
the head hurts. Input and MLPs have none, which that code reads as always kept. Edges are there with score 0, since the
circuit is one of nodes: evaluate it with `--level node`. The leaderboard wants one folder per task and model, such as
`arc-easy_llama3`, with the file in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from cap_viz.attribution.results import EffectResult
from cap_viz.errors import UsageError

if TYPE_CHECKING:
    from cap_viz.models.loading import ReasoningModel

INPUT, LOGITS = "input", "logits"


def mib_importances(model: ReasoningModel, scores: EffectResult, metric: str = "nll") -> dict[str, Any]:
    """Return the effects of heads on a metric as a graph of MIB, to be written as JSON.

    Raises `UsageError` for effects of blocks, of a model of another shape, or that are not finite.
    """
    if scores.parts is not None:
        raise UsageError("These effects are of whole attention layers and MLPs; MIB's importances here are of heads.")
    return graph_of(model, scores.estimated(metric).mean)


def graph_of(model: ReasoningModel, effects: Float[np.ndarray, "layer head"]) -> dict[str, Any]:
    """Build the graph of a model's heads. Raises `UsageError` as `mib_importances` does."""
    from cap_viz.attribution.forward.path_replay import side_by_side

    shape = model.shape
    if effects.shape != (shape.n_layers, shape.n_heads):
        layers, heads = effects.shape
        raise UsageError(
            f"The effects are of {layers} layers × {heads} heads, {model.ref.id} has {shape.n_layers} × "
            f"{shape.n_heads}; export them with the model that was scored."
        )
    return mib_graph(effects, d_model=shape.d_model, parallel=side_by_side(model))


def mib_graph(effects: Float[np.ndarray, "layer head"], *, d_model: int, parallel: bool) -> dict[str, Any]:
    """Build the graph; `parallel`: attention and MLP of a layer read the same input, so that no edge joins them."""
    if not np.isfinite(effects).all():
        raise UsageError("Some effects are not finite numbers; the leaderboard's files need a number for every head.")
    n_layers, n_heads = effects.shape
    nodes: dict[str, dict[str, Any]] = {INPUT: {"in_graph": False}}
    for layer in range(n_layers):
        for head in range(n_heads):
            nodes[head_node(layer, head)] = {"in_graph": False, "score": float(effects[layer, head])}
        nodes[f"m{layer}"] = {"in_graph": False}
    nodes[LOGITS] = {"in_graph": True}
    return {
        "cfg": {"n_layers": n_layers, "n_heads": n_heads, "parallel_attn_mlp": parallel, "d_model": d_model},
        "nodes": nodes,
        "edges": {name: {"score": 0.0, "in_graph": False} for name in edges(n_layers, n_heads, parallel=parallel)},
    }


def head_node(layer: int, head: int) -> str:
    return f"a{layer}.h{head}"


def edges(n_layers: int, n_heads: int, *, parallel: bool) -> Iterator[str]:
    """Name the edges from every node to each later one that reads it; heads read three times."""
    before = [INPUT]
    for layer in range(n_layers):
        heads = [head_node(layer, head) for head in range(n_heads)]
        yield from (f"{node}->{head}<{part}>" for node in before for head in heads for part in "qkv")
        read_by_mlp = before if parallel else [*before, *heads]
        yield from (f"{node}->m{layer}" for node in read_by_mlp)
        before += [*heads, f"m{layer}"]
    yield from (f"{node}->{LOGITS}" for node in before)
