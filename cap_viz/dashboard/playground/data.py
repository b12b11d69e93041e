"""Questions of the Playground to the model, all asked through the queue, between the steps of running jobs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from jaxtyping import Float

from cap_viz.attribution.prompt_intervention import (
    DENSE,
    Reading,
    attention_pattern,
    continuation_steps,
    divergence,
    encode_prompt,
    likeliest,
    read_prompt,
    token_texts,
)
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.names import mask_name, texts_missing
from cap_viz.figures.next_tokens import Candidate
from cap_viz.models.catalogue import ModelRef
from cap_viz.runs.prefix_reuse import expected_seconds
from cap_viz.runs.queue import shared_queue
from cap_viz.runs.run_queries import eval_runs, missing_tasks
from cap_viz.runs.spec import MaskSpec
from cap_viz.stats.joint import HeadSet

if TYPE_CHECKING:
    from torch import Tensor

    from cap_viz.models.loading import ReasoningModel

# Next tokens shown: of each model at most so many, and none below the least probability under both.
CANDIDATES, LEAST = 8, 0.01
CONTINUATION_TOKENS = 24
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Change:
    """Change to the model: heads switched off, weights set to zero, or both."""

    heads: HeadSet = ()
    mask: MaskSpec | None = None

    @property
    def is_none(self) -> bool:
        return not self.heads and self.mask is None

    def __str__(self) -> str:
        heads = [f"{len(self.heads)} {'head' if len(self.heads) == 1 else 'heads'} off"] if self.heads else []
        return " and ".join([*heads, *([mask_name(self.mask)] if self.mask else [])]) or "nothing changed"


@dataclass(frozen=True)
class Outcome:
    """A prompt read by the dense and by the changed model. `divergence` is KL(dense, changed) of the next token."""

    tokens: tuple[str, ...]
    dense: Reading
    changed: Reading
    candidates: tuple[Candidate, ...]
    divergence: float

    @property
    def token_change(self) -> Float[np.ndarray, " position"]:
        """Change of every prompt token's log-probability in nats; negative: less expected than before."""
        return self.changed.token_logprobs - self.dense.token_logprobs


def ask(
    model: ModelRef,
    question: Callable[[ReasoningModel], Answer],
    on_wait: Callable[[str], object] = lambda sentence: None,
) -> Answer:
    """Ask the worker and wait for its answer. Exceptions of the question are raised here.

    `on_wait` is called twice a second with the reason while the model cannot be loaded yet.
    """
    request = shared_queue().ask(model.id, question)
    try:
        while True:
            try:
                return request.result(timeout=0.5)
            except TimeoutError:
                # Either the wait has timed out, or the question itself raised it.
                if request.done():
                    raise
            if request.waits_for:
                on_wait(request.waits_for)
    finally:
        request.cancel()


@lru_cache(maxsize=64)
def outcome(model: ModelRef, prompt: str, change: Change) -> Outcome:
    """Read a prompt with the dense and with the changed model. Raises `CapVizError` with its message."""

    def question(loaded: ReasoningModel) -> Outcome:
        tokens = encode_prompt(loaded, prompt)
        dense = read_prompt(loaded, tokens)
        changed = dense if change.is_none else read_prompt(loaded, tokens, change.heads, weights_of(model, change))
        found = likeliest(dense, changed, CANDIDATES, LEAST)
        texts = token_texts(loaded, [one.token for one in found])
        return Outcome(
            tokens=token_texts(loaded, tokens),
            dense=dense,
            changed=changed,
            candidates=tuple(Candidate(text, one.dense, one.changed) for text, one in zip(texts, found, strict=True)),
            divergence=divergence(dense, changed),
        )

    return ask(model, question)


@lru_cache(maxsize=64)
def pattern(model: ModelRef, prompt: str, layer: int, head: int, off: HeadSet) -> Float[np.ndarray, "query key"]:
    """Attention of one head on a prompt, with the heads `off` ablated. Raises `CapVizError` with its message."""
    return ask(model, lambda loaded: attention_pattern(loaded, encode_prompt(loaded, prompt), layer, head, off))


def continuation(model: ModelRef, prompt: str, change: Change) -> Iterator[str]:
    """Yield the greedy continuation as it grows token by token; other requests are served in between."""

    def start(loaded: ReasoningModel) -> Generator[int, None, None]:
        tokens = encode_prompt(loaded, prompt)
        return continuation_steps(loaded, tokens, CONTINUATION_TOKENS, change.heads, weights_of(model, change))

    steps, added = ask(model, start), []

    def go_on(loaded: ReasoningModel) -> str | None:
        token = next(steps, None)
        if token is None:
            return None
        added.append(token)
        return loaded.tokenizer.decode(added)

    while (text := ask(model, go_on)) is not None:
        yield text


def weights_of(model: ModelRef, change: Change) -> Mapping[str, Tensor]:
    """Return the matrices a change replaces. Raises `CapVizError` if its pruned weights are no longer in memory."""
    return DENSE if change.mask is None else shared_queue().models.pruned_weights(model, change.mask)


def mask_hindrance(model: ModelRef, mask: MaskSpec) -> str:
    """Say why the pruned weights cannot be made on this machine; "" if they can."""
    if missing := missing_tasks(mask):
        return f"{mask_name(mask)}: {texts_missing(*missing)}"
    if not shared_queue().models.has_room(model.id, 1):
        return "Pruned weights take as much memory as the model once more, and less than that is free."
    return ""


def mask_seconds(view: Frame, mask: MaskSpec) -> float:
    """Estimate the time to build a mask from the evaluations stored for the task; 0 where there are none."""
    for run in eval_runs(view.runs, view.model, view.task.name):
        with_mask, dense = (expected_seconds(view.runs, replace(run.spec, mask=one)) or 0 for one in (mask, None))
        return with_mask - dense
    return 0
