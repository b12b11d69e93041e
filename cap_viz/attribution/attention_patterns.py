"""Attention-pattern measures of every head, taken without any intervention: descriptive, not causal.

Per head, means over the positions of calibration examples (question and right answer, as they are scored):

previous_token  attention of each token to the one before it (Olsson et al. 2022, arXiv 2209.11895)
first_token     attention to the first token, the attention sink (Xiao et al. 2023, arXiv 2309.17453)
entropy         entropy of the attention, as a share of its maximum: 0 attends to one token, 1 to all equally
induction       on random tokens written twice: attention of a token's second occurrence to the token after its first
                (Olsson et al. 2022)

The first three measures leave out the first two positions: the token before is the first token there, or none.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import rankdata

from cap_viz.errors import UsageError
from cap_viz.models.tensors import Tensor
from cap_viz.progress import Progress
from cap_viz.tasks import Example

if TYPE_CHECKING:
    from cap_viz.models.loading import ReasoningModel

TITLES = {
    "previous_token": "previous token",
    "first_token": "first token",
    "entropy": "entropy",
    "induction": "induction",
}
MEASURES = tuple(TITLES)
MOST_TOKENS = 512
# Random tokens written twice, for induction: enough that means differ by less than a hundredth from draw to draw.
N_RANDOM, RANDOM_LENGTH = 8, 50
FIRST_POSITION = 2


@dataclass(frozen=True)
class HeadRoles:
    """Attention measures of every head, each between 0 and 1, over `n` examples."""

    values: dict[str, Float[np.ndarray, "layer head"]]
    n: int

    def rank(self, measure: str) -> np.ndarray:
        """Rank the heads by a measure, 1 for the highest value."""
        values = self.values[measure]
        return rankdata(-values, method="ordinal").reshape(values.shape)

    def to_tables(self) -> dict[str, pd.DataFrame]:
        """Table `roles`: one row per layer and head, a column per measure."""
        layer, head = (axis.ravel() for axis in np.indices(self.values[MEASURES[0]].shape))
        measures = {name: values.ravel().astype(np.float32) for name, values in self.values.items()}
        return {"roles": pd.DataFrame({"layer": layer.astype(np.int16), "head": head.astype(np.int16), **measures})}

    @classmethod
    def from_tables(cls, tables: Mapping[str, pd.DataFrame], n: int) -> Self:
        """Invert `to_tables`; `n` is the number of examples."""
        table = tables["roles"]
        n_layers = int(table["layer"].to_numpy().max()) + 1
        return cls({name: table[name].to_numpy(dtype=np.float64).reshape(n_layers, -1) for name in MEASURES}, n)


def role_steps(model: ReasoningModel, examples: Sequence[Example]) -> Generator[Progress, None, HeadRoles]:
    """Measure the attention patterns, with one forward per example and per random sequence.

    Raises `UsageError` when there are no examples, or none of at least three tokens.
    """
    natural = [tokens for tokens in sequences(model, examples) if len(tokens) > FIRST_POSITION]
    if not natural:
        raise UsageError("There is no example of at least three tokens to look at.")
    random = random_sequences(model)
    layers, done = range(model.shape.n_layers), 0
    total = len(natural) + len(random)
    sums = {name: np.zeros((len(layers), model.shape.n_heads)) for name in MEASURES}
    positions = 0
    for tokens in natural:
        yield Progress(done, total, "reading attention")
        for layer, pattern in patterns(model, tokens, layers).items():
            for name, values in summed(pattern).items():
                sums[name][layer] += values
        positions += len(tokens) - FIRST_POSITION
        done += 1
    for tokens in random:
        yield Progress(done, total, "reading attention")
        for layer, pattern in patterns(model, tokens, layers).items():
            sums["induction"][layer] += induction(pattern) / len(random)
        done += 1
    values = {name: sums[name] if name == "induction" else sums[name] / positions for name in MEASURES}
    return HeadRoles(values, len(natural))


def sequences(model: ReasoningModel, examples: Sequence[Example]) -> list[tuple[int, ...]]:
    """Token ids of question and right answer, truncated to `MOST_TOKENS` and the context length."""
    most = min(MOST_TOKENS, model.shape.n_ctx)
    with model.lease:
        texts = [example.prompt + example.options[example.gold] for example in examples]
        return [tuple(model.tokenizer.encode(text))[:most] for text in texts]


def random_sequences(model: ReasoningModel) -> list[tuple[int, ...]]:
    """Sequences of random tokens of the vocabulary, each written twice in a row; the same on every call."""
    chance = np.random.default_rng(0)
    length = min(RANDOM_LENGTH, model.shape.n_ctx // 2)
    drawn = chance.integers(len(model.tokenizer), size=(N_RANDOM, length)).tolist()
    return [(*half, *half) for half in drawn]


def patterns(
    model: ReasoningModel, tokens: tuple[int, ...], layers: Iterable[int]
) -> dict[int, Float[Tensor, "head query key"]]:
    """Attention patterns of the given layers on one sequence; rows sum to 1."""
    import torch

    from cap_viz.attribution.forward.dense_pass import keeping

    names = {layer: f"blocks.{layer}.attn.hook_pattern" for layer in layers}
    with model.lease, torch.inference_mode(), keeping(model, names.values()) as kept:
        model.bridge(torch.tensor([tokens], device=model.device), use_cache=False)
        return {layer: kept[name][0].float() for layer, name in names.items()}


def summed(pattern: Float[Tensor, "head query key"]) -> dict[str, Float[np.ndarray, " head"]]:
    """Sum the three measures of running text over the positions from the third on."""
    import torch

    from_third = pattern[:, FIRST_POSITION:]
    previous = pattern.diagonal(offset=-1, dim1=1, dim2=2)[:, FIRST_POSITION - 1 :]
    entropy = torch.special.entr(from_third).sum(dim=-1)
    seen = torch.arange(FIRST_POSITION, pattern.shape[1], device=pattern.device) + 1
    return {
        "previous_token": previous.sum(dim=1).cpu().numpy(),
        "first_token": from_third[:, :, 0].sum(dim=1).cpu().numpy(),
        "entropy": (entropy / seen.log()).sum(dim=1).cpu().numpy(),
    }


def induction(pattern: Float[Tensor, "head query key"]) -> Float[np.ndarray, " head"]:
    """Mean attention from each token of the second half to the token after its first occurrence."""
    half = pattern.shape[1] // 2
    return pattern.diagonal(offset=1 - half, dim1=1, dim2=2)[:, 1:].mean(dim=1).cpu().numpy()
