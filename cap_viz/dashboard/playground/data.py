"""Questions of the Playground to the model, all asked through the queue, between the steps of running jobs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
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
from cap_viz.figures.next_tokens import Candidate
from cap_viz.models.catalogue import ModelRef
from cap_viz.pruning import criterion_title
from cap_viz.runs.prefix_reuse import computing_seconds
from cap_viz.runs.queue import shared_queue
from cap_viz.runs.run_queries import runs_of
from cap_viz.runs.spec import EvalSpec, MaskSpec
from cap_viz.runs.store import StoredRun
from cap_viz.stats.joint import HeadSet
from cap_viz.tasks import load_task

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
        parts = [] if self.mask is None else [mask_name(self.mask)]
        if self.heads:
            parts.insert(0, f"{len(self.heads)} {'head' if len(self.heads) == 1 else 'heads'} off")
        return " and ".join(parts) or "nothing changed"


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

    def favourite(self, changed: bool) -> Candidate:
        return max(self.candidates, key=lambda one: one.changed if changed else one.dense)


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


def mask_name(mask: MaskSpec) -> str:
    return f"{criterion_title(mask.criterion)} at {100 * mask.sparsity:.0f} %"


def mask_hindrance(model: ModelRef, mask: MaskSpec) -> str:
    """Say why the pruned weights cannot be made on this machine; "" if they can."""
    read = {one.task for one in (mask.calibration, mask.text) if one is not None}
    if missing := [task.title for task in map(load_task, sorted(read)) if not task.is_local()]:
        return f"{criterion_title(mask.criterion)} reads {' and '.join(missing)}, which is not on this machine."
    if not shared_queue().models.has_room(model.id, 1):
        return "Pruned weights take as much memory as the model once more, and less than that is free."
    return ""


def mask_seconds(runs: Iterable[StoredRun], model: ModelRef, criterion: str) -> float | None:
    """Estimate the time to build a mask; None if no evaluation under its criterion was timed.

    It is what stored evaluations under the criterion took beyond the dense one of as many questions (median).
    """
    timed = [(run.spec, computing_seconds(run)) for run in runs_of(runs, EvalSpec) if run.spec.model == model]
    choices = [(spec, seconds) for spec, seconds in timed if spec.protocol is None and seconds is not None]
    dense = {(spec.examples.task, len(spec.examples.ids)): each for spec, each in choices if spec.mask is None}
    beyond = [
        seconds - dense[spec.examples.task, len(spec.examples.ids)]
        for spec, seconds in choices
        if spec.mask is not None
        and spec.mask.criterion == criterion
        and (spec.examples.task, len(spec.examples.ids)) in dense
    ]
    return max(0.0, float(np.median(beyond))) if beyond else None
