"""Paths between heads: the log-likelihoods under each path, and their sums. Reading them needs no torch.

A path leads from a sending head to one receiver of its output: a head or MLP further on, or the answer itself. Its
effect is the change of the metric when that receiver alone sees the sender's output replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float

from cap_viz.attribution.effect_metrics import METRICS, metric_named
from cap_viz.attribution.result_base import Result, drawing
from cap_viz.attribution.results import (
    AboutQuestions,
    EvalReport,
    Questions,
    Tables,
    largest_first,
    options_table,
    values_from,
    values_table,
)
from cap_viz.errors import UsageError, choose
from cap_viz.stats import HeadEstimate, mean_with_ci
from cap_viz.stats.joint import Head
from cap_viz.tasks.base import TaskVersion

if TYPE_CHECKING:
    import plotly.graph_objects as go

# What reads a sender's output: a head, an MLP, the final norm and unembedding, or everything there is.
ReceiverKind = Literal["head", "mlp", "answer", "everything"]
# What of a receiving head is computed from the changed residual stream: all three, or one of queries, keys and values.
PathPart = Literal["all", "q", "k", "v"]
PATH_PARTS: tuple[PathPart, ...] = get_args(PathPart)
# Number of heads between which paths are measured, unless asked otherwise.
DEFAULT_K = 12
NOWHERE = -1
# Paths in the small table of a notebook.
MOST_SHOWN = 5
# Columns of `to_pandas` that repeat in numbers what names say.
PLACES = ("sender_layer", "sender_head", "receiver_layer", "receiver_head")
# Columns of the stored table of paths, after their numbers.
PATH_COLUMNS = ["sender_layer", "sender_head", "receiver", "receiver_layer", "receiver_head", "part"]


@dataclass(frozen=True)
class Receiver:
    """What reads a head's output: `layer` and `head` are -1 where the kind has none."""

    kind: ReceiverKind
    layer: int = NOWHERE
    head: int = NOWHERE

    def __str__(self) -> str:
        return {"head": f"L{self.layer}H{self.head}", "mlp": f"MLP {self.layer}"}.get(self.kind, self.kind)


ANSWER, EVERYTHING = Receiver("answer"), Receiver("everything")


@dataclass(frozen=True)
class HeadPath:
    """From a head (layer, head) to a receiver of its output. `part` belongs to receivers that are heads.

    The path to everything is the ablation of the sender: its effect is the total one, that of the path to the answer
    the direct one.
    """

    sender: Head
    receiver: Receiver
    part: str = "all"

    def __str__(self) -> str:
        part = "" if self.part == "all" else f" ({self.part})"
        return f"L{self.sender[0]}H{self.sender[1]} → {self.receiver}{part}"


def circuit_paths(
    senders: Sequence[Head],
    receivers: Sequence[Head],
    parts: Sequence[str],
    n_layers: int,
    *,
    reads_own_attention: bool = True,
) -> tuple[HeadPath, ...]:
    """List the paths from every sender: to everything, to the answer, to receiving heads in later layers, to every MLP.

    Heads of one layer are computed side by side, so there is no path between them. The MLP of the sender's own layer
    reads it, too, unless the family computes both side by side (`reads_own_attention` is False).
    """
    found: list[HeadPath] = []
    for sender in senders:
        first = sender[0] + (not reads_own_attention)
        found += [HeadPath(sender, EVERYTHING), HeadPath(sender, ANSWER)]
        found += [
            HeadPath(sender, Receiver("head", *head), part)
            for head in receivers
            if head[0] > sender[0]
            for part in parts
        ]
        found += [HeadPath(sender, Receiver("mlp", layer)) for layer in range(first, n_layers)]
    return tuple(found)


def check_circuit(senders: Sequence[Head], receivers: Sequence[Head] | None, parts: Sequence[str]) -> None:
    """Raise `UsageError` for no head or part, one listed twice, an unknown part, or a receiver before all senders."""
    for what, listed in (("head", senders), ("receiver", receivers or ()), ("part of the receiver", parts)):
        if len(set(listed)) < len(listed):
            raise UsageError(f"A {what} is listed twice in {words_of(listed)}; list each once.")
    if not senders or not parts:
        raise UsageError("Paths begin at a head and end at a part of another; name at least one head and one part.")
    for part in parts:
        choose("part of the receiver", part, PATH_PARTS)
    first = min(layer for layer, _ in senders)
    for layer, head in receivers or ():
        if layer <= first:
            raise UsageError(
                f"No path leads to head {head} of layer {layer}: a head reads earlier layers only, and the senders "
                f"begin in layer {first}."
            )


def words_of(listed: Sequence[Head] | Sequence[str]) -> str:
    return ", ".join(one if isinstance(one, str) else f"L{one[0]}H{one[1]}" for one in listed)


def strongest_heads(estimate: HeadEstimate, k: int) -> tuple[Head, ...]:
    """Return the `k` heads of the largest effects, in the order of layers. Raises `UsageError` for a k out of range."""
    n_heads = estimate.mean.size
    if not 1 <= k <= n_heads:
        raise UsageError(f"k = {k}: the model has {n_heads} heads; choose between 1 and {n_heads} of them.")
    return tuple(sorted(estimate.top_heads(k)))


@dataclass(frozen=True, repr=False)
class PathScores(AboutQuestions, Result):
    """Log-likelihood of every option under every path, and with nothing replaced; NaN where an option does not exist.

    `ablated[p, i, k]` belongs to the p-th of `paths`, example i and its option k.
    """

    questions: Questions
    paths: tuple[HeadPath, ...]
    dense: Float[np.ndarray, "example option"]
    ablated: Float[np.ndarray, "path example option"]

    @property
    def metrics(self) -> tuple[str, ...]:
        return self.questions.metrics

    @property
    def senders(self) -> tuple[Head, ...]:
        return tuple(dict.fromkeys(path.sender for path in self.paths))

    def among(self, heads: Sequence[Head]) -> Self:
        """Return the paths from these heads, and of those to heads the paths between them.

        Raises `UsageError` for a head whose paths were not measured.
        """
        if unknown := [head for head in heads if head not in self.senders]:
            raise UsageError(
                f"The paths of {words_of(unknown)} were not measured, those of {words_of(self.senders)} were."
            )
        kept = [
            number
            for number, path in enumerate(self.paths)
            if path.sender in heads
            and (path.receiver.kind != "head" or (path.receiver.layer, path.receiver.head) in heads)
        ]
        return replace(self, paths=tuple(self.paths[number] for number in kept), ablated=self.ablated[kept])

    def effects(self, metric: str = "nll") -> Float[np.ndarray, "path example"]:
        """`metric(replaced) - metric(dense)` per example: positive means the path helps. In nats, or errors."""
        loss, gold, tokens = metric_named(metric), self.questions.gold, self.questions.tokens
        return loss(self.ablated, gold, tokens) - loss(self.dense, gold, tokens)

    @property
    def single(self) -> tuple[int, ...]:
        """Numbers of the paths that lead to one receiver."""
        return tuple(number for number, path in enumerate(self.paths) if path.receiver != EVERYTHING)

    def estimated(self, metric: str = "nll") -> HeadEstimate:
        """Return the mean effects of the paths in `single` with their 95 % intervals and tests against zero."""
        return mean_with_ci(self.effects(metric)[list(self.single)])

    @property
    def headline(self) -> str:
        survive = int(self.estimated(self.metrics[0]).survives.sum())
        n = len(self.single)
        return f"{n} paths from {len(self.senders)} heads, {self.sample}, {survive} beyond chance on {self.metrics[0]}"

    def overview(self) -> pd.DataFrame:
        """Return the five paths with the largest effects on the first metric, by size."""
        table = largest_first(self.to_pandas(self.metrics[0])).head(MOST_SHOWN)
        return table.drop(columns=["metric", *PLACES, "p_value", "n"])

    def to_pandas(self, metric: str | None = None) -> pd.DataFrame:
        """Tabulate the mean effects: one row per metric and path to one receiver, in the metric's unit.

        Columns: metric, sender ("L0H1") with sender_layer and sender_head, receiver ("L2H3", "MLP 2", "answer") with
        receiver_layer and receiver_head (-1 where it has none), part (all, q, k or v), mean_effect (positive: the path
        helps), ci_low and ci_high (95 %), p_value (two-sided, against zero), q_value (Benjamini-Hochberg over the
        paths), n examples.
        """
        chosen = self.metrics if metric is None else (metric,)
        return pd.concat([self.rows(one) for one in chosen], ignore_index=True)

    def rows(self, metric: str) -> pd.DataFrame:
        estimate, paths = self.estimated(metric), [self.paths[number] for number in self.single]
        return pd.DataFrame(
            {
                "metric": metric,
                "sender": [words_of([path.sender]) for path in paths],
                "sender_layer": [path.sender[0] for path in paths],
                "sender_head": [path.sender[1] for path in paths],
                "receiver": [str(path.receiver) for path in paths],
                "receiver_layer": [path.receiver.layer for path in paths],
                "receiver_head": [path.receiver.head for path in paths],
                "part": [path.part for path in paths],
                "mean_effect": estimate.mean,
                "ci_low": estimate.low,
                "ci_high": estimate.high,
                "p_value": estimate.p_value,
                "q_value": estimate.q_value,
                "n": estimate.n,
            }
        )

    @property
    def has_sums(self) -> bool:
        """Whether every sender's total effect and all its paths were measured, heads with all parts at once."""
        ends = [{path.receiver for path in self.paths if path.sender == sender} for sender in self.senders]
        parts = {path.part for path in self.paths if path.receiver.kind == "head"}
        return all({ANSWER, EVERYTHING} <= receivers for receivers in ends) and (not parts or "all" in parts)

    def balance(self, metric: str = "nll") -> pd.DataFrame:
        """Tabulate per sender the sum over its receivers against its total effect: means, in the metric's unit.

        Columns: sender ("L0H1"), total (the sender ablated), answer, heads and mlps (summed over the receivers of that
        kind), paths (the sum of these three), remainder (total minus paths, paired per example) with ci_low and ci_high
        (95 %). Heads outside the chosen set are in the remainder, and so is the interplay of paths, which do not add up
        exactly. Raises `UsageError` where paths to heads were measured for single parts only.
        """
        if not self.has_sums:
            raise UsageError('The paths of a sender add up where heads are changed as a whole; measure the part "all".')
        effects, rows = self.effects(metric), []
        for sender in self.senders:
            total, answer, heads, mlps = (
                effects[[self.is_counted(path, sender, kind) for path in self.paths]].sum(axis=0)
                for kind in ("everything", "answer", "head", "mlp")
            )
            rest = mean_with_ci(total - (answer + heads + mlps))
            means = {"total": total, "answer": answer, "heads": heads, "mlps": mlps, "paths": answer + heads + mlps}
            rows.append(
                {"sender": words_of([sender])}
                | {name: float(values.mean()) for name, values in means.items()}
                | {"remainder": float(rest.mean), "ci_low": float(rest.low), "ci_high": float(rest.high)}
            )
        return pd.DataFrame(rows)

    @staticmethod
    def is_counted(path: HeadPath, sender: Head, kind: str) -> bool:
        return path.sender == sender and path.receiver.kind == kind and path.part == "all"

    def plot(self, metric: str | None = None, part: str | None = None) -> go.Figure:
        """Draw senders × receivers: faded where the interval includes zero, a dot where the path survives the FDR.

        `part` chooses among the parts of receiving heads that were measured, by default the first.
        """
        with drawing():
            from cap_viz.figures.paths import path_matrix
        chosen = metric or self.metrics[0]
        measured = tuple(dict.fromkeys(path.part for path in self.paths if path.receiver.kind == "head"))
        shown = choose("part of the receiver", part or measured[0], measured) if measured else "all"
        single = [self.paths[number] for number in self.single]
        drawn = {n: path for n, path in enumerate(single) if path.receiver.kind != "head" or path.part == shown}
        receivers = sorted({path.receiver for path in drawn.values()}, key=reading_order)
        return path_matrix(
            self.estimated(chosen),
            {n: (self.senders.index(path.sender), receivers.index(path.receiver)) for n, path in drawn.items()},
            senders=[words_of([sender]) for sender in self.senders],
            receivers=list(map(str, receivers)),
            unit=METRICS[chosen].unit,
        )

    def to_tables(self) -> dict[str, pd.DataFrame]:
        rows = [
            (*path.sender, path.receiver.kind, path.receiver.layer, path.receiver.head, path.part)
            for path in self.paths
        ]
        listed = pd.DataFrame(rows, columns=PATH_COLUMNS)
        listed = listed.astype({name: np.int16 for name in PLACES})
        listed.insert(0, "path", np.arange(len(rows), dtype=np.int32))
        ablated = values_table(self.ablated, "path", "example", "option")
        return {"options": options_table(self.questions, self.dense), "paths": listed, "ablated": ablated}

    @classmethod
    def from_tables(cls, tables: Tables, *, tasks: tuple[TaskVersion, ...] = ()) -> Self:
        dense, listed = EvalReport.from_tables(tables, tasks=tasks), tables["paths"].sort_values("path")
        columns = (listed[name].tolist() for name in PATH_COLUMNS)
        paths = tuple(
            HeadPath((layer, head), Receiver(kind, *at), part)
            for layer, head, kind, *at, part in zip(*columns, strict=True)
        )
        shape = (len(paths), *dense.logliks.shape)
        ablated = values_from(tables["ablated"], "path", "example", "option", last=shape)
        return cls(questions=dense.questions, paths=paths, dense=dense.logliks, ablated=ablated)


def reading_order(receiver: Receiver) -> tuple[int, bool, int]:
    """Sort key in the order of the forward pass: heads of a layer before its MLP, the answer last."""
    return (receiver.layer if receiver.layer != NOWHERE else 1 << 30), receiver.kind == "mlp", receiver.head
