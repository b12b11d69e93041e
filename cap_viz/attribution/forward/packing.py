"""Packing: a question and all its options as one row, so that the question is computed once.

1. Every option is tokenised together with the prompt, as lm-evaluation-harness does; the tokens after the
   prompt's own are the answer.
2. Tokens shared by all options form the prefix; the rest of each option is a branch. A branch's last token is
   never fed: nothing is predicted from it.
3. A branch sees the prefix and itself, and its positions continue the prefix's, so each option gets the
   log-likelihood it would get in a row of its own (measured: within 5e-5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from cap_viz.errors import UsageError
from cap_viz.tasks.base import Example


@dataclass(frozen=True)
class EncodedExample:
    """An example as token ids: `prefix` is shared by all options, `branches[k]` completes option k.

    The scored tokens of option k are the last `answer_lengths[k]` of `prefix + branches[k]`. `dropped` tokens were cut
    from the beginning of the prompt to make the example fit.
    """

    prefix: tuple[int, ...]
    branches: tuple[tuple[int, ...], ...]
    answer_lengths: tuple[int, ...]
    dropped: int = 0

    @property
    def row_length(self) -> int:
        return len(self.prefix) + sum(len(branch) - 1 for branch in self.branches)

    @property
    def n_reads(self) -> int:
        """Number of distinct places that predict an answer token; those in the prefix serve all options."""
        in_branches = [len(branch) - 1 for branch in self.branches]
        in_prefix = [length - own for length, own in zip(self.answer_lengths, in_branches, strict=True)]
        read_in_branches = sum(min(length, own) for length, own in zip(self.answer_lengths, in_branches, strict=True))
        return read_in_branches + max(0, *in_prefix)


@dataclass(frozen=True)
class PackedBatch:
    """Packed rows ready for a forward pass, and the places in them where answers are read.

    `segments`: -1 is padding, 0 the prefix, k + 1 the branch of the row's option k.
    `read_row`, `read_position`: the distinct places that predict an answer token.
    `answer_*`: one entry per scored token: its place (index into the reads), token id, example and option.
    """

    tokens: Int[Tensor, "row position"]
    positions: Int[Tensor, "row position"]
    mask: Float[Tensor, "row 1 position position"]
    segments: Int[Tensor, "row position"]
    read_row: Int[Tensor, " read"]
    read_position: Int[Tensor, " read"]
    answer_read: Int[Tensor, " answer"]
    answer_token: Int[Tensor, " answer"]
    answer_example: Int[Tensor, " answer"]
    answer_option: Int[Tensor, " answer"]
    n_examples: int
    n_options: int

    @property
    def is_real(self) -> Bool[Tensor, "row position"]:
        return self.segments >= 0

    @property
    def answer_tokens(self) -> Int[Tensor, "example option"]:
        """Number of scored tokens of each option; 0 where an example has no such option."""
        slot = self.answer_example * self.n_options + self.answer_option
        return slot.bincount(minlength=self.n_examples * self.n_options).view(self.n_examples, self.n_options)


def encode(
    tokenizer: PreTrainedTokenizerBase, example: Example, max_length: int, *, shorten: bool = False
) -> EncodedExample:
    """Tokenise prompt and options together, as `_encode_pair` of lm-evaluation-harness does.

    With `shorten`, an example of more than `max_length` tokens is cut at the beginning of its prompt, by the same
    number of tokens for all options. Raises `UsageError` when an option adds no token, two options are the same, or the
    example does not fit.
    """
    context = tokenizer.encode(example.prompt)
    wholes = [tokenizer.encode(example.prompt + option) for option in example.options]
    dropped = max(0, max(len(whole) for whole in wholes) - max_length) if shorten else 0
    # Keep one token of the prompt, from which the answer is predicted.
    dropped = min(dropped, max(0, len(context) - 1))
    wholes, n_context = [whole[dropped:] for whole in wholes], len(context) - dropped
    for option, whole in zip(example.options, wholes, strict=True):
        if len(whole) <= n_context:
            raise UsageError(f"Option {option!r} of example {example.id!r} adds no token after the prompt.")
        if len(whole) > max_length:
            raise UsageError(
                f"Example {example.id!r} has {len(whole)} tokens, more than the {max_length} that every layer of the "
                "model sees at once; leave it out or use a model with a longer context."
            )
    for k, option in enumerate(example.options):
        if option in example.options[:k]:
            raise UsageError(
                f"Options {example.options.index(option) + 1} and {k + 1} of example {example.id!r} are the same "
                f"({option!r}), so no answer can be told from the other; correct the example or leave it out."
            )
    shared = shared_length(wholes)
    return EncodedExample(
        prefix=tuple(wholes[0][:shared]),
        branches=tuple(tuple(whole[shared:]) for whole in wholes),
        answer_lengths=tuple(len(whole) - n_context for whole in wholes),
        dropped=dropped,
    )


def shared_length(sequences: Sequence[Sequence[int]]) -> int:
    """Length of the common prefix that leaves every sequence at least one token of its own."""
    longest = min(len(sequence) for sequence in sequences) - 1
    for i in range(longest):
        if any(sequence[i] != sequences[0][i] for sequence in sequences):
            return i
    return longest


@dataclass(frozen=True)
class PackedRow:
    """One row of a batch: the options `first_option`, `first_option + 1`, … of example number `example`."""

    example: int
    first_option: int
    encoded: EncodedExample


def packed_rows(examples: Sequence[EncodedExample]) -> list[PackedRow]:
    """One row per example holding all its options."""
    return [PackedRow(example=i, first_option=0, encoded=example) for i, example in enumerate(examples)]


def separate_rows(examples: Sequence[EncodedExample]) -> list[PackedRow]:
    """One row per option: the plain layout, for models where packing is not valid."""
    return [
        PackedRow(i, k, EncodedExample(prefix=example.prefix, branches=(branch,), answer_lengths=(length,)))
        for i, example in enumerate(examples)
        for k, (branch, length) in enumerate(zip(example.branches, example.answer_lengths, strict=True))
    ]


def lay_out(rows: Sequence[PackedRow], device: torch.device, dtype: torch.dtype) -> PackedBatch:
    """Pad the rows on the right to the longest, and find the places where their answers are read."""
    width = max(row.encoded.row_length for row in rows)
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    positions = torch.zeros(len(rows), width, dtype=torch.long)
    segments = torch.full((len(rows), width), -1, dtype=torch.long)
    reads: dict[tuple[int, int], int] = {}
    answers: list[tuple[int, int, int, int]] = []
    for r, row in enumerate(rows):
        prefix = row.encoded.prefix
        tokens[r, : len(prefix)] = torch.tensor(prefix, dtype=torch.long)
        positions[r, : len(prefix)] = torch.arange(len(prefix))
        segments[r, : len(prefix)] = 0
        start = len(prefix)
        for k, branch in enumerate(row.encoded.branches):
            n_fed = len(branch) - 1
            tokens[r, start : start + n_fed] = torch.tensor(branch[:-1], dtype=torch.long)
            positions[r, start : start + n_fed] = torch.arange(len(prefix), len(prefix) + n_fed)
            segments[r, start : start + n_fed] = k + 1
            whole = (*prefix, *branch)
            for index in range(len(whole) - row.encoded.answer_lengths[k], len(whole)):
                before = index - 1
                place = (r, before if before < len(prefix) else start + before - len(prefix))
                read = reads.setdefault(place, len(reads))
                answers.append((read, whole[index], row.example, row.first_option + k))
            start += n_fed
    read_row, read_position = torch.tensor(list(reads), device=device).T
    answer = torch.tensor(answers, device=device).T
    return PackedBatch(
        tokens=tokens.to(device),
        positions=positions.to(device),
        mask=attention_mask(segments, dtype).to(device),
        segments=segments.to(device),
        read_row=read_row,
        read_position=read_position,
        answer_read=answer[0],
        answer_token=answer[1],
        answer_example=answer[2],
        answer_option=answer[3],
        n_examples=max(row.example for row in rows) + 1,
        n_options=max(row.first_option + len(row.encoded.branches) for row in rows),
    )


def attention_mask(segments: Int[Tensor, "row position"], dtype: torch.dtype) -> Float[Tensor, "row 1 query key"]:
    """Additive mask: a token sees earlier tokens of the prefix and of its own branch; padding sees itself."""
    n = segments.shape[1]
    causal = torch.ones(n, n, dtype=torch.bool).tril()
    query, key = segments[:, :, None], segments[:, None, :]
    real = query >= 0
    visible = causal & real & ((key == 0) | (key == query)) | torch.eye(n, dtype=torch.bool)
    mask = torch.zeros(visible.shape, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)
    return mask[:, None]
