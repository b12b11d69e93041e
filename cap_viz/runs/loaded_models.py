"""The one owner of loaded models: one copy of each, as many as fit into memory together.

Only the queue's worker calls `get`, `release` and `keep_pruned`; pages read `held` and ask for what is in memory.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from cap_viz.errors import CapVizError, NotEnoughMemory
from cap_viz.models.catalogue import ModelRef
from cap_viz.models.devices import BYTES, free_memory
from cap_viz.models.weight_files import WORKING_MEMORY_BYTES
from cap_viz.runs.spec import MaskSpec

if TYPE_CHECKING:
    from torch import Tensor

    from cap_viz.models.loading import ReasoningModel

log = logging.getLogger(__name__)

# Sets of pruned weights that stay for the Playground; each is as large as the matrices it replaces.
MOST_PRUNED = 3


class ModelBusy(CapVizError):
    """A model does not fit beside those that are in use now; it will once they are not."""


class LoadedModels:
    """Models by id, and the pruned copies of their weights that the Playground reads.

    `load` checks the memory before it loads, and raises `NotEnoughMemory` where a model does not fit beside what is
    there. Models nobody uses then make room, those used longest ago first.
    """

    def __init__(self, load: Callable[[str], ReasoningModel]) -> None:
        self.load = load
        # Least recently used first.
        self.models: dict[str, ReasoningModel] = {}
        self.pruned: dict[tuple[ModelRef, MaskSpec], Mapping[str, Tensor]] = {}

    @property
    def held(self) -> tuple[ReasoningModel, ...]:
        return tuple(self.models.values())

    def get(self, model_id: str, in_use: Collection[str] = ()) -> ReasoningModel:
        """The model, loaded if need be; `in_use` are the ids of models that have to stay.

        Raises `ModelBusy` where they leave no room for it, and what `load` raises.
        """
        model = self.models.pop(model_id, None)
        if model is None:
            model = self.loaded_beside(model_id, in_use)
        self.models[model_id] = model
        return model

    def loaded_beside(self, model_id: str, in_use: Collection[str]) -> ReasoningModel:
        while True:
            try:
                return self.load(model_id)
            except NotEnoughMemory as error:
                idle = next((one for one in self.models if one not in in_use), None)
                if self.pruned:
                    self.forget_pruned()
                elif idle is not None:
                    self.release(idle)
                elif self.models:
                    raise ModelBusy(
                        f"{model_id} does not fit into memory beside {' and '.join(self.models)}, which running jobs "
                        "need; it is loaded when these have ended or are cancelled."
                    ) from error
                else:
                    raise

    def release(self, model_id: str) -> None:
        """Let go of a model and of what was pruned from it."""
        log.info("letting go of %s", model_id)
        self.forget_pruned(model_id)
        del self.models[model_id]
        # A model and its hooks refer to each other.
        gc.collect()

    def has_room(self, model_id: str, copies: int) -> bool:
        """Whether that many copies of a model's weights would fit beside what is in memory."""
        model = self.models.get(model_id)
        if model is None:
            return True  # Loading it will tell.
        needed = copies * model.shape.n_params * BYTES[model.ref.dtype] + WORKING_MEMORY_BYTES
        return needed <= free_memory(str(model.device))

    def keep_pruned(self, model: ModelRef, mask: MaskSpec, weights: Mapping[str, Tensor]) -> None:
        """Keep the weights a mask leaves; beyond `MOST_PRUNED` sets the oldest goes."""
        self.pruned[model, mask] = weights
        for oldest in list(self.pruned)[:-MOST_PRUNED]:
            del self.pruned[oldest]

    def forget_pruned(self, model_id: str | None = None) -> None:
        """Let go of the pruned weights of one model, or of all."""
        self.pruned = {key: kept for key, kept in self.pruned.items() if model_id not in (None, key[0].id)}

    def has_pruned(self, model: ModelRef, mask: MaskSpec) -> bool:
        return (model, mask) in self.pruned

    def pruned_weights(self, model: ModelRef, mask: MaskSpec) -> Mapping[str, Tensor]:
        """Whole matrices by name, with zeros where the mask says so. Raises `CapVizError` once they are gone."""
        try:
            return self.pruned[model, mask]
        except KeyError:
            raise CapVizError("The pruned weights are no longer in memory; apply the mask again.") from None
