"""Compare one prompt on the dense model and on the model with heads switched off or weights pruned.

Both read the same tokens. A head is off when its hook_z is zero at every position, as in the exact estimator.
`weights` are whole matrices that replace the model's own (`ReasoningModel.pruned_weights`); the caller makes them once,
since they are copies.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from cap_viz.errors import CapVizError, UsageError
from cap_viz.models.tensors import Tensor
from cap_viz.stats.joint import HeadSet

if TYPE_CHECKING:
    from cap_viz.models.loading import ReasoningModel

MAX_PROMPT_TOKENS = 512
NOTHING: HeadSet = ()
DENSE: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class Reading:
    """Log-probabilities of a model on a prompt, in nats.

    `token_logprobs[i]` is the log-probability of token i given those before it (NaN for the first); `next_logprobs`
    holds the log-probability of every token of the vocabulary as the next one.
    """

    tokens: tuple[int, ...]
    token_logprobs: Float[np.ndarray, " position"]
    next_logprobs: Float[np.ndarray, " vocabulary"]


@dataclass(frozen=True)
class NextToken:
    """A candidate for the next token with its probability under both models."""

    token: int
    dense: float
    changed: float


def encode_prompt(model: ReasoningModel, text: str) -> tuple[int, ...]:
    """Tokenise a prompt. Raises `UsageError` when it has no tokens or too many."""
    limit = min(MAX_PROMPT_TOKENS, model.shape.n_ctx)
    with model.lease:
        tokens = tuple(model.tokenizer.encode(text))
    if not tokens:
        raise UsageError("The prompt is empty; write a few words for the model to go on from.")
    if len(tokens) > limit:
        raise UsageError(f"The prompt has {len(tokens)} tokens, more than the {limit} this page takes; shorten it.")
    return tokens


def token_texts(model: ReasoningModel, tokens: Iterable[int]) -> tuple[str, ...]:
    """Each token as text, with its leading space."""
    return tuple(model.tokenizer.decode([token], clean_up_tokenization_spaces=False) for token in tokens)


def read_prompt(
    model: ReasoningModel, tokens: tuple[int, ...], heads: HeadSet = NOTHING, weights: Mapping[str, Tensor] = DENSE
) -> Reading:
    """Run one forward over the prompt with heads off and weights replaced.

    Raises `UsageError` for a head the model does not have, `CapVizError` when the model's numbers are not finite.
    """
    import torch

    with changed_model(model, heads, weights):
        logits = model.bridge(torch.tensor([tokens], device=model.device), use_cache=False)[0]
        logprobs = logits.float().log_softmax(dim=-1)
        own = logprobs[np.arange(len(tokens) - 1), list(tokens[1:])].cpu().numpy()
        following = logprobs[-1].cpu().numpy()
    if not np.isfinite(following).all():
        raise CapVizError(f"{model.ref.id} gave numbers that are not finite on this prompt; run doctor.")
    return Reading(tokens, np.concatenate([[np.nan], own]), following)


def attention_pattern(
    model: ReasoningModel, tokens: tuple[int, ...], layer: int, head: int, heads: HeadSet = NOTHING
) -> Float[np.ndarray, "query key"]:
    """Return the attention pattern of one head (rows sum to 1), with `heads` off.

    Raises `UsageError` for a head the model does not have.
    """
    from cap_viz.attribution.attention_patterns import patterns
    from cap_viz.attribution.joint_ablation import check_sets

    check_sets([((layer, head),)], model.shape)
    with changed_model(model, heads):
        return patterns(model, tokens, [layer])[layer][head].cpu().numpy()


def continuation_steps(
    model: ReasoningModel,
    tokens: tuple[int, ...],
    n_tokens: int,
    heads: HeadSet = NOTHING,
    weights: Mapping[str, Tensor] = DENSE,
) -> Generator[int, None, None]:
    """Yield the tokens of a greedy continuation, until the text ends or has `n_tokens` more.

    Heads and weights are changed anew for every token, so that others may use the model in between.
    """
    from cap_viz.attribution.forward.greedy import end_tokens, greedy_steps

    ends = end_tokens(model)
    room = min(n_tokens, model.shape.n_ctx - len(tokens))
    for chosen in greedy_steps(model, [tokens], room, changed=lambda: changed_model(model, heads, weights)):
        if int(chosen) in ends:
            return
        yield int(chosen)


def likeliest(dense: Reading, changed: Reading, k: int, least: float = 0.0) -> tuple[NextToken, ...]:
    """Union of the k most likely next tokens of each model, sorted by the dense model's probability.

    Tokens below the probability `least` under both models are left out, but never a model's most likely one.
    """
    wanted: set[int] = set()
    for reading in (dense, changed):
        order = np.argsort(-reading.next_logprobs)[:k]
        wanted |= {int(order[0]), *(int(token) for token in order if np.exp(reading.next_logprobs[token]) >= least)}
    found = [
        NextToken(token, float(np.exp(dense.next_logprobs[token])), float(np.exp(changed.next_logprobs[token])))
        for token in wanted
    ]
    return tuple(sorted(found, key=lambda one: (-one.dense, -one.changed, one.token)))


def divergence(dense: Reading, changed: Reading) -> float:
    """Kullback–Leibler divergence D(dense || changed) of the next-token distributions, in nats."""
    difference = dense.next_logprobs.astype(np.float64) - changed.next_logprobs
    return float(max(0.0, np.sum(np.exp(dense.next_logprobs.astype(np.float64)) * difference)))


@contextmanager
def changed_model(model: ReasoningModel, heads: HeadSet, weights: Mapping[str, Tensor] = DENSE) -> Iterator[None]:
    """Hold the lease with heads off and other weights swapped in; with neither, the model is the dense one."""
    import torch

    from cap_viz.attribution.forward.patching import heads_site, set_hooks, zeros
    from cap_viz.attribution.joint_ablation import check_sets

    check_sets([heads], model.shape)
    nothing = zeros(model, heads_site(model.shape))
    with model.swapped(weights), torch.inference_mode(), model.bridge.hooks(fwd_hooks=set_hooks(heads, nothing)):
        yield
