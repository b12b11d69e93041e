"""Path effects: what a head does through one receiver of its output (path patching, arXiv 2304.05969).

For a sender A and a receiver in a later layer, A's output is replaced as that receiver reads it: a head's queries, keys
or values, or all of them, or an MLP. Everything else is dense up to the receiver, and the rest of the model responds.

1. Encode the examples and fix the batch plan.
2. For each batch, run one dense pass and compute what replacing each sender changes in the residual stream.
3. For each layer and kind of receiver, compute all paths into it side by side (`attribution/forward/path_replay.py`)
   and yield a block, or several where there are many.

The path to the answer is the direct effect, the path to everything the total one (`attribution/exact.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cap_viz.attribution.batch_plan import BatchPlan, plan_batches
from cap_viz.attribution.effect_metrics import MetricName
from cap_viz.attribution.exact import (
    MOST_TOKENS_PER_STEP,
    TOKENS_PER_FORWARD,
    ScorePlan,
    encode_all,
    head_groups,
    make_score_plan,
    replacing,
)
from cap_viz.attribution.forward.dense_pass import DensePass, dense_pass, read_logliks
from cap_viz.attribution.forward.packing import PackedBatch
from cap_viz.attribution.forward.patching import heads_site
from cap_viz.attribution.forward.path_replay import path_runner, side_by_side
from cap_viz.attribution.forward.replay import block_runner
from cap_viz.attribution.forward.shortcut_checks import (
    batch_of,
    check_paths,
    check_replay,
    check_writes,
    checked,
    direct_paths_are_valid,
    packing_is_valid,
)
from cap_viz.attribution.joint_ablation import check_sets
from cap_viz.attribution.path_scores import (
    ANSWER,
    DEFAULT_K,
    EVERYTHING,
    HeadPath,
    PathPart,
    PathScores,
    check_circuit,
    circuit_paths,
    strongest_heads,
)
from cap_viz.attribution.pruned_weights import MaskLike, Weights, weights_under
from cap_viz.attribution.results import Ablation, EffectResult
from cap_viz.errors import UsageError
from cap_viz.models.batch_size import tokens_at_once
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import Progress, Steps, finish_with_bar
from cap_viz.stats.joint import Head, plain_heads
from cap_viz.tasks.base import Example

# From example numbers to the values that replace z [layer, row, position, head, d_head], both inner axes 1 where all
# tokens get the same.
ZValues = Callable[[Sequence[int]], Tensor]


@dataclass(frozen=True)
class PathGroup:
    """Paths of one kind into one layer (for total and direct effects: out of it), by their numbers in the plan."""

    layer: int
    kind: str
    paths: tuple[int, ...]


@dataclass(frozen=True)
class PathBlock:
    """Log-likelihoods of one batch under some paths: `ablated[p, i, k]` belongs to path number `paths[p]`.

    `work` is the block's portion of `PathPlan.batch_work`; `last` marks the last block of the batch.
    """

    batch: int
    paths: tuple[int, ...]
    dense: Float[np.ndarray, "example option"]
    ablated: Float[np.ndarray, "path example option"]
    work: float
    last: bool


@dataclass(frozen=True)
class PathPlan:
    """Everything fixed before the first forward: `sample` holds examples, batches and ablation."""

    sample: ScorePlan
    paths: tuple[HeadPath, ...]

    @property
    def batches(self) -> BatchPlan:
        return self.sample.batches

    def groups(self) -> list[PathGroup]:
        return path_groups(self.paths)

    def work(self, batch: int, group: PathGroup, n_layers: int) -> int:
        """Cost of a group, in blocks × tokens."""
        blocks = 1 if group.kind == "answer" else n_layers - group.layer
        return self.sample.n_tokens(batch) * len(group.paths) * blocks

    def batch_work(self, batch: int, n_layers: int) -> int:
        return sum(self.work(batch, group, n_layers) for group in self.groups())


def path_groups(paths: Sequence[HeadPath]) -> list[PathGroup]:
    """Group the paths that are computed side by side, in the order of layers."""
    found: dict[tuple[int, str], list[int]] = {}
    for number, path in enumerate(paths):
        layer = path.sender[0] if path.receiver in (ANSWER, EVERYTHING) else path.receiver.layer
        found.setdefault((layer, path.receiver.kind), []).append(number)
    return [PathGroup(layer, kind, tuple(numbers)) for (layer, kind), numbers in sorted(found.items())]


def paths_between(
    model: ReasoningModel,
    senders: Sequence[Head],
    receivers: Sequence[Head] | None = None,
    parts: Sequence[PathPart | str] = ("all",),
) -> tuple[HeadPath, ...]:
    """List the paths from the senders to all that reads them; receiving heads are the senders unless named.

    Raises `UsageError` for a head the model does not have, and as `check_circuit` does.
    """
    check_circuit(senders, receivers, parts)
    others = senders if receivers is None else receivers
    check_sets([tuple(senders), tuple(others)], model.shape)
    return circuit_paths(senders, others, parts, model.shape.n_layers, reads_own_attention=not side_by_side(model))


def make_path_plan(
    model: ReasoningModel,
    examples: Sequence[Example],
    paths: Sequence[HeadPath],
    *,
    ablation: str = "zero",
    reference: Sequence[Example] | None = None,
    seed: int = 0,
    batches: BatchPlan | None = None,
) -> PathPlan:
    """Encode the examples and fix the batches (or follow `batches`, when a run is resumed).

    `reference` and `seed` are those of `make_score_plan`. Raises `UsageError` as it does, and for a path the model does
    not have; `CapVizError` for a family whose heads cannot be told apart from the rest of their block.
    """
    for path in paths:
        check_path(path, model)
    if batches is None:
        encoded = encode_all(model, examples)
        packed = packing_is_valid(model, encoded)
        for check in (check_replay, check_writes, check_paths):
            check(model, encoded, packed=packed)
        # Layers have few or many paths into them: on average one forward is as large as in exact scores.
        each = len(paths) / len(path_groups(paths))
        budget = max(1, int(tokens_at_once(TOKENS_PER_FORWARD, model) / each))
        batches = BatchPlan(
            plan_batches([example.row_length for example in encoded], budget),
            packed=packed,
            direct=direct_paths_are_valid(model, encoded, packed=packed),
            most_tokens=tokens_at_once(MOST_TOKENS_PER_STEP, model),
        )
    sample = make_score_plan(model, examples, ablation=ablation, reference=reference, seed=seed, batches=batches)
    return PathPlan(sample, tuple(paths))


def check_path(path: HeadPath, model: ReasoningModel) -> None:
    """Raise `UsageError` for a sender or receiver the model does not have, and for a receiver that is not later."""
    receiver, n_layers = path.receiver, model.shape.n_layers
    receiving = [(receiver.layer, receiver.head)] if receiver.kind == "head" else []
    check_circuit([path.sender], receiving, [path.part])
    check_sets([(path.sender, *receiving)], model.shape)
    first = path.sender[0] + side_by_side(model)
    if receiver.kind == "mlp" and not first <= receiver.layer < n_layers:
        raise UsageError(
            f"No path leads from layer {path.sender[0]} to the MLP of layer {receiver.layer}: MLPs of layers {first} "
            f"to {n_layers - 1} read that layer's heads."
        )


@dataclass(frozen=True)
class PathBatch:
    """A batch with its dense pass, the values that replace z, and what they change in each sender's write."""

    batch: PackedBatch
    dense: DensePass
    z: Float[Tensor, "layer #row #position head d_head"]
    changes: Mapping[Head, Float[Tensor, "row position d_model"]]

    def logliks(
        self, model: ReasoningModel, layer: int, paths: Sequence[HeadPath], *, direct: bool
    ) -> Float[Tensor, "path example option"]:
        """Compute paths of one group side by side; the lease is held by the caller, inside `torch.inference_mode`."""
        kind, here = paths[0].receiver.kind, (self.batch, self.dense, layer)
        senders = [path.sender[1] for path in paths]
        if kind == "everything":
            return block_runner(model, direct=direct).ablate_heads(*here, self.z[layer], senders)
        if kind == "answer":
            return block_runner(model, direct=direct).ablate_writes(*here, self.z[layer], senders)
        changes = torch.stack([self.changes[path.sender] for path in paths])
        if kind == "mlp":
            return path_runner(model, direct=direct).into_mlp(*here, changes)
        heads, parts = [path.receiver.head for path in paths], [path.part for path in paths]
        return path_runner(model, direct=direct).into_heads(*here, changes, heads, parts)


def begun_batch(model: ReasoningModel, plan: PathPlan, members: Sequence[int], z: Tensor) -> PathBatch:
    """Run the dense pass of a batch and compute the change that each sender's receivers are to read."""
    batch = batch_of(model, [plan.sample.encoded[i] for i in members], packed=plan.batches.packed)
    runner, dense = path_runner(model, direct=plan.batches.direct), dense_pass(model, batch)
    by_layer: dict[int, list[int]] = {}
    for layer, head in dict.fromkeys(path.sender for path in plan.paths if path.receiver.kind in ("head", "mlp")):
        by_layer.setdefault(layer, []).append(head)
    changes = {
        (layer, head): change
        for layer, heads in by_layer.items()
        for head, change in zip(heads, runner.writes(batch, dense, layer, z[layer], heads), strict=True)
    }
    return PathBatch(batch, dense, z, changes)


def path_steps(
    model: ReasoningModel,
    plan: PathPlan,
    *,
    weights: Weights | None = None,
    only: Iterable[int] | None = None,
    values: ZValues | None = None,
) -> Generator[PathBlock, None, None]:
    """Yield blocks of log-likelihoods, batch by batch, of all batches or `only` some, with `weights` swapped in.

    The lease is held within a step only, and the model is dense again at every yield.
    """
    held, groups = weights or {}, plan.groups()
    values = values or replaced_z(model, plan, held)
    for number in plan.batches.numbers(only):
        members = plan.batches.batches[number]
        with model.swapped(held):
            z = values(members)
            with torch.inference_mode():
                begun = begun_batch(model, plan, members, z)
                whole = read_logliks(model, begun.batch, begun.dense.final[:, None])[0]
                dense = checked(model, begun.batch, whole)
        for group in groups:
            pieces = head_groups(len(group.paths), begun.batch.tokens.numel(), plan.batches.most_tokens)
            for piece in pieces:
                chosen = group.paths[piece.start : piece.stop]
                paths = [plan.paths[path] for path in chosen]
                with model.swapped(held), torch.inference_mode():
                    logliks = begun.logliks(model, group.layer, paths, direct=plan.batches.direct)
                    ablated = checked(model, begun.batch, logliks)
                yield PathBlock(
                    batch=number,
                    paths=chosen,
                    dense=dense,
                    ablated=ablated,
                    work=plan.work(number, group, model.shape.n_layers) * len(piece) / len(group.paths),
                    last=group == groups[-1] and piece == pieces[-1],
                )


def replaced_z(model: ReasoningModel, plan: PathPlan, weights: Weights) -> ZValues:
    """Make the values that replace z; mean ablation runs a forward of all reference examples, under the weights."""
    with model.swapped(weights):
        return replacing(model, plan.sample, heads_site(model.shape))


class PathArrays:
    """Whole arrays assembled from blocks; NaN where no block has arrived yet."""

    def __init__(self, plan: PathPlan) -> None:
        self.plan = plan
        n, k = plan.sample.questions.tokens.shape
        self.dense = np.full((n, k), np.nan, dtype=np.float32)
        self.ablated = np.full((len(plan.paths), n, k), np.nan, dtype=np.float32)

    def add(self, block: PathBlock) -> None:
        members, width = list(self.plan.batches.batches[block.batch]), block.dense.shape[1]
        self.dense[members, :width] = block.dense
        self.ablated[np.ix_(block.paths, members, range(width))] = block.ablated

    def batch(self, number: int) -> dict[str, np.ndarray]:
        """Return the part of the arrays that belongs to one batch."""
        members = list(self.plan.batches.batches[number])
        return {"dense": self.dense[members], "ablated": self.ablated[:, members]}

    def restore(self, number: int, content: dict[str, np.ndarray]) -> None:
        """Put the content of one batch back: the inverse of `batch`."""
        members = list(self.plan.batches.batches[number])
        self.dense[members], self.ablated[:, members] = content["dense"], content["ablated"]

    def result(self) -> PathScores:
        return PathScores(self.plan.sample.questions, self.plan.paths, self.dense.copy(), self.ablated.copy())


def path_effects(
    model: ReasoningModel,
    examples: Sequence[Example],
    heads: Sequence[Head] | None = None,
    *,
    scores: EffectResult | None = None,
    k: int = DEFAULT_K,
    metric: MetricName | str = "nll",
    receivers: Sequence[Head] | None = None,
    parts: Sequence[PathPart | str] = ("all",),
    mask: MaskLike | None = None,
    ablation: Ablation = "zero",
    reference: Sequence[Example] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> PathScores:
    """Measure the paths between heads, from heads to MLPs, and from heads to the answer.

    The senders are `heads`, pairs of layer and head, or the `k` heads of the largest effects on `metric` in `scores`;
    use other examples than those of the scores. Each is also ablated as a whole. Receivers are the MLPs from the
    sender's layer on (after it, where a family computes attention and MLP side by side), the answer, and the heads in
    later layers among `receivers`, by default among the senders.

    `parts` of a receiving head see the change: its queries "q", keys "k" or values "v", each alone, or "all" of them.
    Under grouped queries, keys and values are changed for that head only, as if it had its own: its siblings of the KV
    group keep the dense ones.

    With `mask` all is measured on the pruned model. `ablation`, `reference` and `seed` are those of `make_score_plan`;
    `progress` shows a bar. Raises `UsageError` for heads or parts that are not there, a k out of range, receivers
    before all senders, a mask of another model, and as `make_score_plan` does.
    """
    if (heads is None) == (scores is None):
        raise UsageError("Paths are measured between heads; name them, or give the scores to choose them by.")
    if scores is not None:
        if scores.parts is not None:
            raise UsageError("These effects are of whole attention layers and MLPs; choose by effects of heads.")
        heads = strongest_heads(scores.estimated(metric), k)
    paths = paths_between(model, plain_heads(heads or ()), None if receivers is None else plain_heads(receivers), parts)
    plan = make_path_plan(model, examples, paths, ablation=ablation, reference=reference, seed=seed)
    return finish_with_bar(path_score_steps(model, plan, weights_under(model, mask)), progress)


def path_score_steps(model: ReasoningModel, plan: PathPlan, weights: Weights) -> Steps[PathScores]:
    """Measure all paths on all examples, step by step."""
    n_layers, arrays = model.shape.n_layers, PathArrays(plan)
    done, total = 0.0, float(sum(plan.batch_work(batch, n_layers) for batch in plan.batches.numbers()))
    for block in path_steps(model, plan, weights=weights):
        arrays.add(block)
        done += block.work
        yield Progress(done, total, "paths between heads")
    return arrays.result()
