"""Would other choices have said the same? A ranking of heads, or one head, over many ways to score heads.

A specification is one such way: metric, ablation, draw of the examples, estimator, wording of the prompt. The curve
shows a claim ("this head is among the first k", "this head helps") under all of them (specification curve, Simonsohn et
al. 2020; multiverse analysis). Specifications are no independent samples: their share is a description and no p-value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from cap_viz.attribution.effect_metrics import METRICS
from cap_viz.attribution.result_base import Result, drawing
from cap_viz.attribution.results import Tables
from cap_viz.errors import CapVizError, UsageError
from cap_viz.stats import HeadEstimate, rank_heads
from cap_viz.stats.joint import Head
from cap_viz.stats.ranking import usual_top
from cap_viz.tasks.base import TaskVersion

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Heads in the small table of a notebook.
MOST_SHOWN = 5
INDEX = ("specification", "layer", "head")
# Prompt of a specification that asks the questions as the task does.
OWN_PROMPT = "own"


@dataclass(frozen=True)
class Specification:
    """One way to score heads; the draw is that of `n` calibration examples with `seed`.

    `prompt` is the wording of another prompt, its line breaks as backslash and n.
    """

    metric: str
    ablation: str
    seed: int
    n: int
    estimator: str
    prompt: str = OWN_PROMPT

    def __str__(self) -> str:
        asked = "" if self.prompt == OWN_PROMPT else f", {self.prompt}"
        return f"{self.metric}, {self.ablation}, draw {self.seed} of {self.n}, {self.estimator}{asked}"


@dataclass(frozen=True, repr=False)
class SpecificationCurve(Result):
    """Mean effects of every head under every specification, with 95 % intervals, each in its metric's unit.

    `missing` are specifications of the same choices that were not computed.
    """

    specifications: tuple[Specification, ...]
    mean: Float[np.ndarray, "specification layer head"]
    low: Float[np.ndarray, "specification layer head"]
    high: Float[np.ndarray, "specification layer head"]
    missing: tuple[Specification, ...] = ()
    tasks: tuple[TaskVersion, ...] = ()

    @classmethod
    def of(
        cls,
        estimates: Mapping[Specification, HeadEstimate],
        *,
        missing: tuple[Specification, ...] = (),
        tasks: tuple[TaskVersion, ...] = (),
    ) -> Self:
        """Collect estimates of one model. Raises `CapVizError` for fewer than two, or models of other shapes."""
        if len(estimates) < 2:
            raise CapVizError(
                f"A specification curve compares at least 2 ways to score heads, not {len(estimates)}; score another "
                "draw, or by another ablation, estimator or prompt."
            )
        shapes = {estimate.mean.shape for estimate in estimates.values()}
        if len(shapes) > 1:
            raise CapVizError(f"The scores are of models of different shapes: {sorted(shapes)}.")
        bounds = ("mean", "low", "high")
        arrays = {name: np.stack([getattr(one, name) for one in estimates.values()]) for name in bounds}
        return cls(tuple(estimates), **arrays, missing=missing, tasks=tasks)

    @cached_property
    def rank(self) -> Int[np.ndarray, "specification layer head"]:
        """Rank of every head under every specification, 1 = largest effect."""
        return np.stack([rank_heads(mean) for mean in self.mean])

    def share_in_top(self, top: int | None = None) -> Float[np.ndarray, "layer head"]:
        """Return the share of specifications that have a head among the first `top`, by default a tenth of all.

        Raises `UsageError` for a `top` that is not between 1 and the number of heads.
        """
        n_heads = self.mean[0].size
        chosen = usual_top(n_heads) if top is None else top
        if not 1 <= chosen <= n_heads:
            raise UsageError(f"The top {chosen} of {n_heads} heads: choose between 1 and {n_heads}.")
        return (self.rank <= chosen).mean(axis=0)

    @property
    def headline(self) -> str:
        layers, heads = self.mean.shape[1:]
        top = usual_top(layers * heads)
        agreed = int((self.share_in_top(top) == 1).sum())
        missing = f", {len(self.missing)} missing" if self.missing else ""
        return (
            f"{len(self.specifications)} specifications{missing}, {layers} layers × {heads} heads, "
            f"{agreed} of the first {top} heads are the same in all"
        )

    def overview(self) -> pd.DataFrame:
        """Return the heads with the best median rank."""
        return self.to_pandas().nsmallest(MOST_SHOWN, "rank_median")

    def to_pandas(self, top: int | None = None) -> pd.DataFrame:
        """Tabulate the heads, one row each.

        Columns: layer, head, share_top (of the specifications that have it among the first `top`, by default a tenth
        of all heads), share_helps and share_hurts (whose 95 % interval lies above or below zero), rank_low, rank_median
        and rank_high (over the specifications), n_specifications.
        """
        layer, head = np.indices(self.mean.shape[1:])
        columns = {
            "layer": layer,
            "head": head,
            "share_top": self.share_in_top(top),
            "share_helps": (self.low > 0).mean(axis=0),
            "share_hurts": (self.high < 0).mean(axis=0),
            "rank_low": self.rank.min(axis=0),
            "rank_median": np.median(self.rank, axis=0),
            "rank_high": self.rank.max(axis=0),
        }
        table = pd.DataFrame({name: values.ravel() for name, values in columns.items()})
        return table.assign(n_specifications=len(self.specifications))

    def of_head(self, layer: int, head: int) -> pd.DataFrame:
        """Tabulate one head, a row per specification, best rank first, those that are missing last.

        Columns: metric, ablation, seed, n, estimator, prompt, mean_effect, ci_low, ci_high (in the metric's unit),
        unit, rank. Raises `UsageError` for a head the model does not have.
        """
        n_layers, n_heads = self.mean.shape[1:]
        if not (0 <= layer < n_layers and 0 <= head < n_heads):
            raise UsageError(f"There is no head {head} in layer {layer}: the model has {n_layers} layers × {n_heads}.")
        table = specification_table(self.specifications).assign(
            mean_effect=self.mean[:, layer, head],
            ci_low=self.low[:, layer, head],
            ci_high=self.high[:, layer, head],
            unit=[METRICS[one.metric].unit for one in self.specifications],
            rank=self.rank[:, layer, head],
        )
        found = table.sort_values("rank", kind="stable")
        if not self.missing:
            return found.reset_index(drop=True)
        return pd.concat([found, specification_table(self.missing)], ignore_index=True)

    @property
    def first_head(self) -> Head:
        """The head with the best median rank."""
        place = int(np.argmin(np.median(self.rank, axis=0)))
        return divmod(place, self.mean.shape[2])

    def plot(self, head: Head | None = None) -> go.Figure:
        """Draw one head's rank under every specification, by default of the head with the best median rank."""
        with drawing():
            from cap_viz.figures.specification import specification_curve
        return specification_curve(self.of_head(*(head or self.first_head)), n_heads=self.mean[0].size)

    def to_tables(self) -> dict[str, pd.DataFrame]:
        places = {name: axis.ravel() for name, axis in zip(INDEX, np.indices(self.mean.shape), strict=True)}
        bounds = {name: getattr(self, name).ravel() for name in ("mean", "low", "high")}
        listed = [*self.specifications, *self.missing]
        computed = np.arange(len(listed)) < len(self.specifications)
        specifications = specification_table(tuple(listed)).assign(computed=computed)
        return {"specifications": specifications, "effects": pd.DataFrame({**places, **bounds})}

    @classmethod
    def from_tables(cls, tables: Tables, *, tasks: tuple[TaskVersion, ...] = ()) -> Self:
        effects, listed = tables["effects"], tables["specifications"]
        shape = tuple(int(effects[name].to_numpy().max()) + 1 for name in INDEX)
        arrays = {name: effects[name].to_numpy(dtype=np.float64).reshape(shape) for name in ("mean", "low", "high")}
        names = [field.name for field in fields(Specification)]
        # Curves of the first version knew no other prompt.
        listed = listed if "prompt" in listed else listed.assign(prompt=OWN_PROMPT)
        computed, missing = (
            tuple(Specification(**row) for row in listed.loc[listed["computed"] == is_there, names].to_dict("records"))
            for is_there in (True, False)
        )
        return cls(computed, **arrays, missing=missing, tasks=tasks)


def specification_table(specifications: tuple[Specification, ...]) -> pd.DataFrame:
    """Tabulate specifications, a row each, a column per choice."""
    names = [field.name for field in fields(Specification)]
    return pd.DataFrame([astuple(one) for one in specifications], columns=names)
