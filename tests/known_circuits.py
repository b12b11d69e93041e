"""Tiny GPT-2 models with weights written by hand, whose circuits are known by construction.

The residual stream is cut into parts: which token this is, where it stands, which token stood before it, the answer,
and a part aside, on which the answer does not depend. Every number x is written once more as -x, so that layer norms
subtract a mean of zero; a large constant keeps the scale by which they divide, whatever heads write. What is left is
linear but for the softmax, so that effects can be worked out by hand. MLPs read and write the part aside alone.

A prompt begins with "start" and ends with a word that stood in it before; the answer is the word that followed it
there. Two heads do that (Olsson et al. 2022, arXiv 2209.11895): one copies to every token the one before it, the
induction head attends to the token whose predecessor is the last word, and copies it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
from jaxtyping import Float

from cap_viz.stats.joint import Head
from cap_viz.tasks.base import Example

START = "start"
WORDS = tuple("sun moon water rock plant leaf root stem animal fish bird dog".split())
VOCABULARY = ("<unk>", START, *WORDS)
N_LAYERS, N_HEADS, D_HEAD, N_POSITIONS = 3, 4, 40, 16
# Numbers of the residual stream before each is repeated with the opposite sign, and its parts.
WIDTH = N_HEADS * D_HEAD // 2
TOKEN, POSITION, BEFORE, ANSWER, ASIDE = (range(first, first + 16) for first in range(0, WIDTH, 16))
CONSTANT = [WIDTH - 1]
# Everything else is written as ones: norms change by less than one in ten thousand.
BALLAST = 300.0
# Attention scores of a match and of the first token: what scores less gets at most e^-15 of the attention.
MATCH, REST = 30.0, 15.0
# Logit of the answer; all other words, and all words where nothing was written, have 0.
ANSWER_LOGIT = 4.0

# Places in a part of the stream and in a head: of all tokens, and of words, without "start"; and a head's own one.
TOKENS, WORD_PLACES, REST_PLACE = slice(0, len(VOCABULARY)), slice(2, len(VOCABULARY)), [N_POSITIONS]
OWN = range(N_POSITIONS)

# The heads. Controls copy previous tokens as well, into the part aside.
CONTROLS = ((0, 0), (1, 0), (2, 0))
PREVIOUS, OTHER_PREVIOUS, INDUCTION, REPAIR = (0, 1), (0, 2), (1, 3), (2, 2)


@dataclass(frozen=True)
class HandHead:
    """What a head reads from the residual stream and writes into it."""

    query: Float[np.ndarray, "width d_head"]
    key: Float[np.ndarray, "width d_head"]
    value: Float[np.ndarray, "width d_head"]
    output: Float[np.ndarray, "d_head width"]


Wire = tuple[Iterable[int], Iterable[int], float]


def reading(*wires: Wire) -> Float[np.ndarray, "width d_head"]:
    """Read numbers of the stream into numbers of a head, each pair of places by a weight."""
    matrix = np.zeros((WIDTH, D_HEAD))
    for sources, targets, weight in wires:
        matrix[list(sources), list(targets)] = weight
    return matrix


def previous_token_head(into: range = BEFORE) -> HandHead:
    """Attend to the token before, and write which one it is; the first token attends to itself."""
    return HandHead(
        query=reading((POSITION[1:], OWN[:-1], MATCH)),
        key=reading((POSITION, OWN, 1)),
        value=reading((TOKEN[TOKENS], OWN[TOKENS], 1)),
        output=reading((into[TOKENS], OWN[TOKENS], 1)).T,
    )


def induction_head() -> HandHead:
    """Attend to the token whose predecessor is this word, else to the first one; write the word there as the answer."""
    words = OWN[WORD_PLACES]
    return HandHead(
        query=reading((TOKEN[WORD_PLACES], words, MATCH), (CONSTANT, REST_PLACE, REST / BALLAST)),
        key=reading((BEFORE[WORD_PLACES], words, 1), ([TOKEN[VOCABULARY.index(START)]], REST_PLACE, 1)),
        value=reading((TOKEN[WORD_PLACES], words, 1)),
        output=reading((ANSWER[WORD_PLACES], words, 1)).T,
    )


def repairing_head() -> HandHead:
    """An induction head that rests on the first token where an answer is there already."""
    head = induction_head()
    silenced = reading((ANSWER[WORD_PLACES], REST_PLACE * len(WORDS), MATCH))
    return replace(head, query=head.query + silenced)


PAIR = {
    **dict.fromkeys(CONTROLS, previous_token_head(into=ASIDE)),
    PREVIOUS: previous_token_head(),
    INDUCTION: induction_head(),
}
CIRCUITS: dict[str, Mapping[Head, HandHead]] = {
    "induction": PAIR,
    "redundant": {**PAIR, OTHER_PREVIOUS: previous_token_head()},
    "repaired": {**PAIR, REPAIR: repairing_head()},
}


def write_known_model(folder: Path, heads: Mapping[Head, HandHead]) -> Path:
    """Write a GPT-2 with these heads, the others zero, in Hugging Face layout."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    config = GPT2Config(
        vocab_size=len(VOCABULARY),
        n_embd=2 * WIDTH,
        n_layer=N_LAYERS,
        n_head=N_HEADS,
        n_positions=N_POSITIONS,
        n_inner=len(VOCABULARY),
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    network = GPT2LMHeadModel(config)
    weights = {name: np.zeros(tuple(value.shape)) for name, value in network.state_dict().items()}
    for name, value in weights.items():
        if "ln_" in name and name.endswith("weight"):
            # The norm of the constant over the root of the width: x is read as x.
            value[:] = BALLAST / np.sqrt(WIDTH)
    embedding, positions = weights["transformer.wte.weight"], weights["transformer.wpe.weight"]
    embedding[:, TOKEN[TOKENS]] = np.eye(len(VOCABULARY))
    positions[:, POSITION] = np.eye(N_POSITIONS)
    positions[:, CONSTANT] = BALLAST
    for table in (embedding, positions):
        table[:, WIDTH:] = -table[:, :WIDTH]
    for (layer, head), hand in heads.items():
        read, write = (weights[f"transformer.h.{layer}.attn.{name}.weight"] for name in ("c_attn", "c_proj"))
        own = slice(head * D_HEAD, (head + 1) * D_HEAD)
        # GPT-2 divides scores by the root of d_head.
        parts = (hand.query * np.sqrt(D_HEAD), hand.key, hand.value)
        for part, matrix in zip(np.split(read, 3, axis=1), parts, strict=True):
            part[:WIDTH, own] = matrix
        write[own] = np.hstack([hand.output, -hand.output])
    for layer in range(N_LAYERS):
        into, out_of = (weights[f"transformer.h.{layer}.mlp.{name}.weight"] for name in ("c_fc", "c_proj"))
        into[ASIDE[TOKENS]] = np.eye(len(VOCABULARY))
        out_of[:, ASIDE[TOKENS]] = 0.1 * np.eye(len(VOCABULARY))
        out_of[:, WIDTH:] = -out_of[:, :WIDTH]
    weights["lm_head.weight"][:, ANSWER[TOKENS]] = ANSWER_LOGIT * np.eye(len(VOCABULARY))
    network.load_state_dict({name: torch.tensor(value, dtype=torch.float32) for name, value in weights.items()})
    network.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(folder)
    return folder


def repeated_words(n: int, seed: int = 0) -> tuple[Example, ...]:
    """Lists of four to seven words with one of them once more; the options follow words of the list, gold that one."""
    draw, examples = Random(seed), []
    for number in range(n):
        listed = draw.sample(WORDS, 4 + number % 4)
        at = draw.randrange(len(listed) - 1)
        options = draw.sample([listed[at + 1], *draw.sample([word for word in listed if word != listed[at + 1]], 3)], 4)
        question = " ".join([*listed, listed[at]])
        examples.append(
            Example(
                id=f"repeated-{number}",
                question=question,
                prompt=f"{START} {question}",
                options=tuple(f" {word}" for word in options),
                gold=options.index(listed[at + 1]),
            )
        )
    return tuple(examples)
