"""What scoring and evaluation give back: raw log-likelihoods with their labels, and views on them.

Reading these needs no torch, so that pages can show stored runs at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from cap_viz.metrics import metric_named
from cap_viz.tasks.base import Example


@dataclass(frozen=True)
class Questions:
    """What is needed of the examples to turn log-likelihoods into metrics. Absent options count 0 tokens.

    `chars` is the length of an option's text without the space that joins it to the prompt.
    """

    ids: tuple[str, ...]
    gold: Int[np.ndarray, " example"]
    tokens: Int[np.ndarray, "example option"]
    chars: Int[np.ndarray, "example option"]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_options(self) -> Int[np.ndarray, " example"]:
        return (self.tokens > 0).sum(axis=1)

    def take(self, rows: Sequence[int]) -> Questions:
        index = np.asarray(rows, dtype=np.int64)
        return Questions(
            ids=tuple(self.ids[i] for i in index),
            gold=self.gold[index],
            tokens=self.tokens[index],
            chars=self.chars[index],
        )


def questions_of(examples: Sequence[Example], answer_lengths: Sequence[Sequence[int]]) -> Questions:
    """`answer_lengths[i][k]` is the number of scored tokens of option k of example i."""
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
    )


@dataclass(frozen=True)
class HeadScores:
    """Log-likelihood of every option, dense and with each head ablated; NaN where an option does not exist."""

    questions: Questions
    dense: Float[np.ndarray, "example option"]
    ablated: Float[np.ndarray, "layer head example option"]

    @property
    def n_layers(self) -> int:
        return self.ablated.shape[0]

    @property
    def n_heads(self) -> int:
        return self.ablated.shape[1]

    def effects(self, metric: str = "nll") -> Float[np.ndarray, "layer head example"]:
        """`metric(ablated) - metric(dense)` per example: positive means the head helps. In nats, or errors."""
        loss = metric_named(metric)
        gold, tokens = self.questions.gold, self.questions.tokens
        return loss(self.ablated, gold, tokens) - loss(self.dense, gold, tokens)

    def mean_effect(self, metric: str = "nll") -> Float[np.ndarray, "layer head"]:
        """Head score: the mean effect over the examples."""
        return self.effects(metric).mean(axis=-1)


@dataclass(frozen=True)
class EvalReport:
    """Log-likelihood of every option of every evaluated example, and the accuracies that follow from them."""

    questions: Questions
    logliks: Float[np.ndarray, "example option"]

    def __len__(self) -> int:
        return len(self.questions)

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
