"""The only owner of loaded models: one copy of each, as many as fit into memory together.

Only the queue's worker calls `get`, `release` and `keep_pruned`; pages read `held` and the pruned weights in memory.
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

# Limit on sets of pruned weights kept for the Playground; each is as large as the matrices it replaces.
MOST_PRUNED = 3


class ModelBusy(CapVizError):
    """A model does not fit into memory beside the models in use; try again when they are released."""


class LoadedModels:
    """Models by id, and the pruned copies of their weights that the Playground reads.

    `load` checks memory before it loads, and raises `NotEnoughMemory` where a model does not fit. Pruned weights are
    then dropped, and after them models not in use, least recently used first.
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
        """Return the model, loaded if necessary; `in_use` are the ids of models that must stay in memory.

        Raises `ModelBusy` where these leave no room, and any error of `load`.
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
        """Drop a model and its pruned weights from memory."""
        log.info("letting go of %s", model_id)
        self.forget_pruned(model_id)
        del self.models[model_id]
        # A model and its hooks refer to each other, so reference counting alone does not free them.
        gc.collect()

    def has_room(self, model_id: str, copies: int) -> bool:
        """Whether this many copies of a model's weights fit into free memory; True if it is not loaded yet."""
        model = self.models.get(model_id)
        if model is None:
            return True  # Loading checks the memory.
        needed = copies * model.shape.n_params * BYTES[model.ref.dtype] + WORKING_MEMORY_BYTES
        return needed <= free_memory(str(model.device))

    def keep_pruned(self, model: ModelRef, mask: MaskSpec, weights: Mapping[str, Tensor]) -> None:
        """Keep a set of pruned weights; beyond `MOST_PRUNED` sets the oldest is dropped."""
        self.pruned.pop((model, mask), None)  # So that it counts as the newest.
        self.pruned[model, mask] = weights
        for oldest in list(self.pruned)[:-MOST_PRUNED]:
            del self.pruned[oldest]

    def forget_pruned(self, model_id: str | None = None) -> None:
        """Drop the pruned weights of one model, or of all."""
        self.pruned = {key: kept for key, kept in self.pruned.items() if model_id not in (None, key[0].id)}

    def has_pruned(self, model: ModelRef, mask: MaskSpec) -> bool:
        return (model, mask) in self.pruned

    def pruned_weights(self, model: ModelRef, mask: MaskSpec) -> Mapping[str, Tensor]:
        """Return the pruned matrices by name. Raises `CapVizError` once they are no longer in memory."""
        try:
            return self.pruned[model, mask]
        except KeyError:
            raise CapVizError("The pruned weights are no longer in memory; apply the mask again.") from None
