"""Spans as positions: the name of every token of an example, and the layout of names in a packed batch.

A token belongs to the span that holds its first character which is not a space, by the tokenizer's offsets. The first
token of all is a span of its own: many heads attend to it whatever it says (attention sinks, arXiv 2309.17453).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from cap_viz.attribution.forward.packing import EncodedExample, PackedBatch
from cap_viz.errors import CapVizError
from cap_viz.tasks.base import Example
from cap_viz.tasks.spans import RIGHT, SHARED, SINK, Span, in_order, step_spans, text_spans


@dataclass(frozen=True)
class NamedTokens:
    """Names of an example's tokens, laid out as in `EncodedExample`."""

    prefix: tuple[str, ...]
    branches: tuple[tuple[str, ...], ...]

    @property
    def fed(self) -> tuple[str, ...]:
        """Names of the tokens that are fed; the last one of a branch is not."""
        return (*self.prefix, *(name for branch in self.branches for name in branch[:-1]))

    def numbered(self, encoded: EncodedExample, spans: Sequence[str]) -> EncodedExample:
        """Return the example with the numbers of spans, from 1, in place of token ids."""
        # The last token of a branch is not fed, and its span may be empty otherwise.
        number = {name: place for place, name in enumerate(spans, start=1)}
        return replace(
            encoded,
            prefix=tuple(number[name] for name in self.prefix),
            branches=tuple(tuple(number.get(name, 0) for name in branch) for branch in self.branches),
        )


def name_tokens(
    tokenizer: PreTrainedTokenizerBase, example: Example, encoded: EncodedExample, asked: Sequence[int]
) -> NamedTokens:
    """Name the tokens of an example that is encoded with some of its options.

    What all options begin with is a span of its own. Raises `UsageError` as `text_spans` does and `CapVizError` for a
    tokenizer that gives no offsets.
    """
    n_shared = len(encoded.prefix)
    wholes = {
        k: (SINK, *names_in(tokenizer, example.prompt + example.options[k], text_spans(example, k))[1:])
        for k in {example.gold, *asked}
    }
    prefix = wholes[example.gold][:n_shared]
    if len(example.options) > 1:
        prefix = tuple(SHARED if name == RIGHT else name for name in prefix)
    return NamedTokens(prefix, tuple(wholes[k][n_shared:] for k in asked))


def names_in(tokenizer: PreTrainedTokenizerBase, text: str, spans: Sequence[Span]) -> tuple[str, ...]:
    """Return the name of each token's span; special tokens, which stand for no character, have that of the last one."""
    if not tokenizer.is_fast:
        raise CapVizError(
            "The tokenizer of this model does not say which characters its tokens stand for, so positions cannot be "
            "named; use a model with a fast tokenizer (tokenizer.json)."
        )
    starts, names, first = [span.start for span in spans], [], 0
    for start, end in tokenizer(text, return_offsets_mapping=True)["offset_mapping"]:
        if start < end:
            piece = text[start:end]
            first = start + (len(piece) - len(piece.lstrip()) if piece.strip() else 0)
        # Steps of a solution begin after the prompt, where a token may reach back into.
        names.append(spans[max(0, bisect_right(starts, first) - 1)].name)
    return tuple(names)


def step_lengths(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], encoded: Sequence[EncodedExample]
) -> tuple[tuple[str, ...], Int[np.ndarray, "example step"]]:
    """Return the names of the steps and the number of tokens of each; the examples are those of `with_solution`."""
    named = []
    for example, one in zip(examples, encoded, strict=True):
        steps = step_spans(example.options[0], len(example.prompt))
        named.append(names_in(tokenizer, example.prompt + example.options[0], steps)[-one.answer_lengths[0] :])
    return counted(named)


def counted(named: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], Int[np.ndarray, "example span"]]:
    """Return the names in the order of the text, and how many tokens of each example have each."""
    counts = [Counter(names) for names in named]
    spans = in_order(name for count in counts for name in count)
    return spans, np.array([[count[name] for name in spans] for count in counts], dtype=np.int64)


def read_by_step(batch: PackedBatch, lengths: Int[np.ndarray, "example step"]) -> PackedBatch:
    """Read the only option of every example step by step: step j has the place of option j."""
    step = np.concatenate([np.repeat(np.arange(len(one)), one) for one in lengths])
    place = torch.from_numpy(step).to(batch.answer_option)
    return replace(batch, answer_option=place, n_options=lengths.shape[1])
