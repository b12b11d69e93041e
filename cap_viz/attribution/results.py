"""Results of scoring and evaluation: raw log-likelihoods with their labels, and metrics derived from them.

Reading them needs no torch, so that pages can show stored runs at once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self, get_args

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from cap_viz.attribution.effect_metrics import METRICS, metric_named
from cap_viz.attribution.result_base import Result, drawing
from cap_viz.errors import UsageError
from cap_viz.stats import HeadEstimate, mean_with_ci, wilson
from cap_viz.tasks.base import Example, TaskVersion, tasks_of
from cap_viz.tasks.pairing import Items

if TYPE_CHECKING:
    import plotly.graph_objects as go

Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Questions:
    """Labels of the examples needed to turn log-likelihoods into metrics. Absent options count 0 tokens.

    `chars` is the length of an option's text without the space that joins it to the prompt. `tasks` are the tasks the
    examples come from.
    """

    ids: tuple[str, ...]
    gold: Int[np.ndarray, " example"]
    tokens: Int[np.ndarray, "example option"]
    chars: Int[np.ndarray, "example option"]
    tasks: tuple[TaskVersion, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def __str__(self) -> str:
        return sample_words(len(self), self.tasks)

    @property
    def items(self) -> Items:
        """Identity of the examples for pairing: id, gold option and the options' lengths in characters.

        A text without alternatives is identified by its number of tokens, too, since its loss is per token.
        """
        facts = []
        for gold, tokens, chars in zip(
            *(array.tolist() for array in (self.gold, self.tokens, self.chars)), strict=True
        ):
            lengths = [length for length, n_tokens in zip(chars, tokens, strict=True) if n_tokens]
            facts.append((gold, *lengths, *tokens[: len(lengths)]) if len(lengths) == 1 else (gold, *lengths))
        return Items(self.tasks, self.ids, tuple(facts))

    @property
    def n_options(self) -> Int[np.ndarray, " example"]:
        return (self.tokens > 0).sum(axis=1)

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics, or the token loss alone for texts without options."""
        return tuple(METRICS) if (self.n_options > 1).all() else ("nll",)

    def take(self, rows: Sequence[int]) -> Questions:
        index = np.asarray(rows, dtype=np.int64)
        return Questions(
            ids=tuple(self.ids[i] for i in index),
            gold=self.gold[index],
            tokens=self.tokens[index],
            chars=self.chars[index],
            tasks=self.tasks,
        )


def sample_words(n: int, tasks: Sequence[TaskVersion]) -> str:
    """Name a sample: "200 examples of arc_easy version 2"."""
    return f"{n} examples{' of ' if tasks else ''}{' and '.join(map(str, tasks))}"


def questions_of(examples: Sequence[Example], answer_lengths: Sequence[Sequence[int]]) -> Questions:
    """Collect the labels; `answer_lengths[i][k]` is the number of scored tokens of option k of example i."""
    width = max(len(example.options) for example in examples)
    tokens = np.zeros((len(examples), width), dtype=np.int64)
    chars = np.zeros((len(examples), width), dtype=np.int64)
    for row, (example, lengths) in enumerate(zip(examples, answer_lengths, strict=True)):
        tokens[row, : len(lengths)] = lengths
        chars[row, : len(lengths)] = [len(option.removeprefix(" ")) for option in example.options]
    return Questions(
        ids=tuple(example.id for example in examples),
        gold=np.array([example.gold for example in examples], dtype=np.int64),
        tokens=tokens,
        chars=chars,
        tasks=tasks_of(examples),
    )


# Replacement values of an ablated output (`attribution/forward/patching.py`), kinds of parts that are ablated one after
# the other, and the parts of one layer in the order of `BlockScores`.
Ablation = Literal["zero", "mean", "resample"]
ABLATIONS: tuple[Ablation, ...] = get_args(Ablation)
PARTS = ("heads", "blocks", "writes", "sets")
BLOCK_PARTS = ("attention", "mlp")


def check_frozen_norm(frozen_norm: bool, parts: str | None) -> None:
    """Raise `UsageError` for a frozen final norm with other parts than writes: later layers would move it anyway."""
    if frozen_norm and parts != "writes":
        raise UsageError(
            f'The final norm is frozen for direct effects alone (parts "writes"), and the parts are '
            f"{parts or 'heads'!r}; leave frozen_norm out."
        )


# Types of the columns that index a table's values.
INDEX_TYPES = {name: np.int16 for name in ("layer", "head", "part", "set", "option", "metric")} | {
    name: np.int32 for name in ("example", "unit", "path")
}


class AboutQuestions:
    """A result that holds the labels of its examples."""

    questions: Questions

    @property
    def tasks(self) -> tuple[TaskVersion, ...]:
        """The tasks of the examples; empty for examples made by hand."""
        return self.questions.tasks

    @property
    def sample(self) -> str:
        """The examples in words."""
        return str(self.questions)


class EffectResult(Result):
    """Effects of every head, or of the attention and MLP of every layer."""

    # Names of the parts of a layer where they are not heads.
    parts: ClassVar[tuple[str, ...] | None] = None

    @property
    @abstractmethod
    def sample(self) -> str:
        """The examples in words."""

    @property
    @abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """The metrics on which there are effects."""

    @abstractmethod
    def estimated(self, metric: str) -> HeadEstimate:
        """Return the mean effects on a metric with their 95 % intervals and tests against zero."""

    @property
    def headline(self) -> str:
        n_layers, n_parts = self.estimated(self.metrics[0]).mean.shape
        what = f"{n_parts} heads" if self.parts is None else " and ".join(self.parts)
        return f"{n_layers} layers × {what}, {self.sample}, {', '.join(self.metrics)}"

    def overview(self) -> pd.DataFrame:
        """Return the five parts with the largest effects on the first metric."""
        table = self.to_pandas(self.metrics[0])
        return table.nlargest(5, "mean_effect").drop(columns=["p_value", "n"])

    def to_pandas(self, metric: str | None = None) -> pd.DataFrame:
        """Tabulate the mean effects: one row per metric, layer and head (or part), in the metric's unit.

        Columns: metric, layer, head or part, mean_effect (positive: the part helps), ci_low and ci_high (95 %),
        p_value (two-sided, against zero), q_value (Benjamini-Hochberg over the parts), n examples.
        """
        chosen = self.metrics if metric is None else (metric,)
        rows = [effect_rows(one, self.estimated(one), self.parts) for one in chosen]
        return pd.concat(rows, ignore_index=True)

    def plot(self, metric: str | None = None) -> go.Figure:
        """Draw the map of effects on a metric: faded where the interval includes zero, a dot where it survives FDR."""
        with drawing():
            from cap_viz.figures.results import effect_map
        chosen = metric or self.metrics[0]
        return effect_map(self.estimated(chosen), unit=METRICS[chosen].unit, parts=self.parts)


def effect_rows(metric: str, estimate: HeadEstimate, parts: Sequence[str] | None) -> pd.DataFrame:
    layers, places = (axis.ravel() for axis in np.indices(estimate.mean.shape))
    return pd.DataFrame(
        {
            "metric": metric,
            "layer": layers,
            **({"head": places} if parts is None else {"part": [parts[place] for place in places.tolist()]}),
            "mean_effect": estimate.mean.ravel(),
            "ci_low": estimate.low.ravel(),
            "ci_high": estimate.high.ravel(),
            "p_value": estimate.p_value.ravel(),
            "q_value": estimate.q_value.ravel(),
            "n": estimate.n,
        }
    )


def largest_first(table: pd.DataFrame) -> pd.DataFrame:
    """Sort a table by the size of its effects."""
    return table.sort_values("mean_effect", key=lambda effects: effects.abs(), ascending=False, kind="stable")


@dataclass(frozen=True, repr=False)
class Ablations(AboutQuestions, EffectResult):
    """Log-likelihood of every option, dense and with each part ablated; NaN where an option does not exist."""

    questions: Questions
    dense: Float[np.ndarray, "example option"]
    ablated: Float[np.ndarray, "layer part example option"]

    @property
    def n_layers(self) -> int:
        return self.ablated.shape[0]

    @property
    def metrics(self) -> tuple[str, ...]:
        return self.questions.metrics

    def estimated(self, metric: str = "nll") -> HeadEstimate:
        return mean_with_ci(self.effects(metric))

    def effects(self, metric: str = "nll") -> Float[np.ndarray, "layer part example"]:
        """`metric(ablated) - metric(dense)` per example: positive means the part helps. In nats, or errors."""
        loss, gold, tokens = metric_named(metric), self.questions.gold, self.questions.tokens
        return loss(self.ablated, gold, tokens) - loss(self.dense, gold, tokens)

    def mean_effect(self, metric: str = "nll") -> Float[np.ndarray, "layer part"]:
        """The mean effect over the examples: of a head, its score."""
        return self.effects(metric).mean(axis=-1)


@dataclass(frozen=True, repr=False)
class HeadScores(Ablations):
    """Every attention head ablated in turn: `ablated[l, h, i, k]` belongs to head h of layer l."""

    @property
    def n_heads(self) -> int:
        return self.ablated.shape[1]

    def arrived_effects(self, metric: str) -> Float[np.ndarray, "layer head example"]:
        """Return the effects of an unfinished run, with NaN for examples a layer has not seen yet."""
        missing = np.isnan(self.ablated[..., np.arange(len(self.questions)), self.questions.gold])
        with np.errstate(all="ignore"):
            return np.where(missing, np.nan, self.effects(metric))

    def to_tables(self) -> dict[str, pd.DataFrame]:
        ablated = values_table(self.ablated, "layer", "head", "example", "option")
        return {"options": options_table(self.questions, self.dense), "ablated": ablated}

    @classmethod
    def from_tables(cls, tables: Tables, *, tasks: tuple[TaskVersion, ...] = ()) -> Self:
        dense = EvalReport.from_tables(tables, tasks=tasks)
        ablated = values_from(tables["ablated"], "layer", "head", "example", "option", last=dense.logliks.shape)
        return cls(questions=dense.questions, dense=dense.logliks, ablated=ablated)


@dataclass(frozen=True, repr=False)
class DirectScores(HeadScores):
    """As `HeadScores`, but only what a head writes into the last residual stream is replaced: its direct effect."""


@dataclass(frozen=True, repr=False)
class BlockScores(Ablations):
    """The whole attention and the whole MLP of every layer ablated in turn: the parts are those of `BLOCK_PARTS`."""

    parts = BLOCK_PARTS

    def to_tables(self) -> dict[str, pd.DataFrame]:
        blocks = values_table(self.ablated, "layer", "part", "example", "option")
        blocks["part"] = np.array(BLOCK_PARTS, dtype=object)[blocks["part"]]
        return {"options": options_table(self.questions, self.dense), "blocks": blocks}

    @classmethod
    def from_tables(cls, tables: Tables, *, tasks: tuple[TaskVersion, ...] = ()) -> Self:
        dense, blocks = EvalReport.from_tables(tables, tasks=tasks), tables["blocks"]
        blocks = blocks.assign(part=[BLOCK_PARTS.index(name) for name in blocks["part"]])
        ablated = values_from(blocks, "layer", "part", "example", "option", last=dense.logliks.shape)
        return cls(questions=dense.questions, dense=dense.logliks, ablated=ablated)


@dataclass(frozen=True, repr=False)
class GradientEffects(AboutQuestions, EffectResult):
    """First-order effects of every head on one metric, with the untouched model's log-likelihoods behind that metric.

    `known_logliks` is NaN for options that do not exist and, where the metric is nll, for all but the gold one:
    accuracies cannot be computed from it. `per_example[l, h, i]` estimates `metric(ablated) - metric(dense)` on
    example i, in nats: positive means the head helps. `units[l, u]` estimates the mean effect of silencing hidden unit
    u of the MLP of layer l; None where not asked for, or where the model's MLPs do not expose their units.
    """

    questions: Questions
    known_logliks: Float[np.ndarray, "example option"]
    per_example: Float[np.ndarray, "layer head example"]
    metric: str
    units: Float[np.ndarray, "layer unit"] | None = None

    @property
    def n_layers(self) -> int:
        return self.per_example.shape[0]

    @property
    def n_heads(self) -> int:
        return self.per_example.shape[1]

    @property
    def metrics(self) -> tuple[str, ...]:
        return (self.metric,)

    def estimated(self, metric: str) -> HeadEstimate:
        return mean_with_ci(self.effects(metric))

    def effects(self, metric: str) -> Float[np.ndarray, "layer head example"]:
        """Estimated effect per example. Raises `UsageError` for another metric than the one differentiated."""
        if metric != self.metric:
            raise UsageError(
                f"These gradient effects are about metric {self.metric!r}, not {metric!r}; a gradient run is made for "
                "one metric, so start one for the other."
            )
        return self.per_example

    def mean_effect(self, metric: str) -> Float[np.ndarray, "layer head"]:
        """Head score: the mean estimated effect over the examples."""
        return self.effects(metric).mean(axis=-1)

    def to_tables(self) -> dict[str, pd.DataFrame]:
        tables = {
            "options": options_table(self.questions, self.known_logliks),
            "effects": values_table(self.per_example, "layer", "head", "example", column="effect"),
        }
        if self.units is not None:
            tables["units"] = values_table(self.units, "layer", "unit", column="effect")
        return tables

    @classmethod
    def from_tables(cls, tables: Tables, *, metric: str, tasks: tuple[TaskVersion, ...] = ()) -> Self:
        dense = EvalReport.from_tables(tables, tasks=tasks)
        return cls(
            questions=dense.questions,
            known_logliks=dense.logliks,
            per_example=values_from(tables["effects"], "layer", "head", "example", column="effect"),
            metric=metric,
            units=values_from(tables["units"], "layer", "unit", column="effect") if "units" in tables else None,
        )


@dataclass(frozen=True, repr=False)
class EvalReport(AboutQuestions, Result):
    """Log-likelihood of every option of every evaluated example, and the accuracies that follow from them."""

    questions: Questions
    logliks: Float[np.ndarray, "example option"]

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def items(self) -> Items:
        return self.questions.items

    def first(self, n: int) -> EvalReport:
        """Return the report of the first n examples."""
        return EvalReport(self.questions.take(range(n)), self.logliks[:n])

    @property
    def has_options(self) -> bool:
        """Whether there are options to choose from, and not one given text each."""
        return self.questions.tokens.shape[1] > 1

    @property
    def headline(self) -> str:
        if not self.has_options:
            return f"{self.sample}, mean loss {self.losses('nll').mean():.4g} nats per token"
        ci = wilson(int(self.correct.sum()), len(self))
        return f"{self.sample}, accuracy {self.acc:.1%} [{ci.low:.1%}, {ci.high:.1%}]"

    @property
    def chosen(self) -> Int[np.ndarray, " example"]:
        """The option with the highest summed log-likelihood."""
        return np.argmax(self.filled(), axis=1)

    @property
    def chosen_norm(self) -> Int[np.ndarray, " example"]:
        """The option with the highest log-likelihood per character (`acc_norm` of lm-evaluation-harness)."""
        return np.argmax(self.filled() / np.maximum(self.questions.chars, 1), axis=1)

    @property
    def correct(self) -> Bool[np.ndarray, " example"]:
        return self.chosen == self.questions.gold

    @property
    def correct_norm(self) -> Bool[np.ndarray, " example"]:
        return self.chosen_norm == self.questions.gold

    @property
    def acc(self) -> float:
        return float(self.correct.mean())

    @property
    def acc_norm(self) -> float:
        return float(self.correct_norm.mean())

    def filled(self) -> Float[np.ndarray, "example option"]:
        return np.where(np.isnan(self.logliks), -np.inf, self.logliks)

    def losses(self, metric: str = "choice_nll") -> Float[np.ndarray, " example"]:
        return metric_named(metric)(self.logliks, self.questions.gold, self.questions.tokens)

    def overview(self) -> pd.DataFrame:
        """Return the levels of both accuracies and the mean loss, with 95 % intervals."""
        if self.has_options:
            return pd.DataFrame([{"measure": name, **level} for name, level in self.accuracies().items()])
        loss = mean_with_ci(self.losses("nll"))
        level = {"value": float(loss.mean), "ci_low": float(loss.low), "ci_high": float(loss.high)}
        return pd.DataFrame([{"measure": "nll", **level}])

    def accuracies(self) -> dict[str, dict[str, float]]:
        levels = {}
        for name, correct in (("acc", self.correct), ("acc_norm", self.correct_norm)):
            ci = wilson(int(correct.sum()), len(self))
            levels[name] = {"value": float(correct.mean()), "ci_low": ci.low, "ci_high": ci.high}
        return levels

    def to_pandas(self) -> pd.DataFrame:
        """Tabulate the items, one row each.

        Columns for questions with options: id, gold (index of the right option), chosen and right (by summed
        log-likelihood), chosen_norm and right_norm (per character), choice_nll (nats), and the log-likelihood of
        every option (loglik_0 …; NaN where there is none). For texts: id, tokens, loglik, nll (nats per token).
        """
        questions = self.questions
        if not self.has_options:
            return pd.DataFrame(
                {
                    "id": questions.ids,
                    "tokens": questions.tokens[:, 0],
                    "loglik": self.logliks[:, 0],
                    "nll": self.losses("nll"),
                }
            )
        return pd.DataFrame(
            {
                "id": questions.ids,
                "gold": questions.gold,
                "chosen": self.chosen,
                "right": self.correct,
                "chosen_norm": self.chosen_norm,
                "right_norm": self.correct_norm,
                "choice_nll": self.losses("choice_nll"),
                **{f"loglik_{k}": self.logliks[:, k] for k in range(self.logliks.shape[1])},
            }
        )

    def plot(self) -> go.Figure:
        """Draw both accuracies with their intervals over the level of uniform guessing, or the loss of every text."""
        with drawing():
            from cap_viz.figures.results import NamedLevel, loss_strip, share_levels
        if not self.has_options:
            return loss_strip(self.losses("nll"), self.questions.ids, unit=METRICS["nll"].unit)
        levels = [
            NamedLevel(name, one["value"], one["ci_low"], one["ci_high"]) for name, one in self.accuracies().items()
        ]
        return share_levels(levels, guessing=float((1 / self.questions.n_options).mean()))

    def to_tables(self) -> dict[str, pd.DataFrame]:
        return {"options": options_table(self.questions, self.logliks)}

    @classmethod
    def from_tables(cls, tables: Tables, *, tasks: tuple[TaskVersion, ...] = ()) -> Self:
        table = tables["options"]
        first = table.drop_duplicates("example").sort_values("example")
        shape = (len(first), int(table["option"].to_numpy().max()) + 1)
        place = table["example"].to_numpy(), table["option"].to_numpy()
        tokens, chars = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        logliks = np.full(shape, np.nan, dtype=np.float32)
        tokens[place], chars[place], logliks[place] = table["tokens"], table["chars"], table["loglik"]
        questions = Questions(
            ids=tuple(first["id"]), gold=first["gold"].to_numpy(dtype=np.int64), tokens=tokens, chars=chars, tasks=tasks
        )
        return cls(questions=questions, logliks=logliks)


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


def values_table(values: Float[np.ndarray, "..."], *axes: str, column: str = "loglik") -> pd.DataFrame:
    """Tabulate an array, one row per value that is not NaN: its index along each of the named axes, then the value."""
    places = np.nonzero(~np.isnan(values))
    indices = {axis: place.astype(INDEX_TYPES[axis]) for axis, place in zip(axes, places, strict=True)}
    return pd.DataFrame({**indices, column: values[places].astype(np.float32)})


def values_from(
    table: pd.DataFrame, *axes: str, column: str = "loglik", last: tuple[int, ...] = ()
) -> Float[np.ndarray, "..."]:
    """Invert `values_table`; `last` gives the lengths of the last axes, the other lengths follow from the indices."""
    places = tuple(table[axis].to_numpy() for axis in axes)
    lengths = [int(place.max()) + 1 for place in places[: len(axes) - len(last)]]
    values = np.full((*lengths, *last), np.nan, dtype=np.float32)
    values[places] = table[column]
    return values
