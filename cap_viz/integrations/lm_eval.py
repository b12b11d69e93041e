"""Our models in lm-evaluation-harness: the model type `cap_viz`, dense or with a mask applied in memory.

    cap-viz lm-eval --model cap_viz --model_args pretrained=toy-reasoner,criterion=wanda,sparsity=0.5 --tasks …

The harness does everything else as for its own type `hf`, on the same weights: dense, the results are the same.
Tested with lm-eval 0.4.13.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]
from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

from cap_viz.errors import UsageError
from cap_viz.models.catalogue import ModelSource, resolve
from cap_viz.models.loading import load, readable_folder
from cap_viz.models.tensors import Tensor
from cap_viz.progress import finish
from cap_viz.pruning.export import parameter_names
from cap_viz.pruning.options import MaskOptions
from cap_viz.runs.execute import mask_steps
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.store import Store

MASK_OPTIONS = tuple(field.name for field in dataclasses.fields(MaskOptions))
# What is calibrated on, besides the options of the mask itself.
CALIBRATION = {"task": "mini_science", "n_calibration": 48, "seed": 0, "calibration_task": None}


@register_model("cap_viz")
class CapVizLM(HFLM):
    """A model of CAP Viz by catalogue name, folder or hub id, with a mask if `criterion` is given.

    Further arguments: `sparsity`, `task`, `n_calibration`, `seed`, `calibration_task` and the mask options of
    `cap_viz export`; the others are those of the harness' own type `hf`.
    """

    def __init__(self, pretrained: str, criterion: str = "", sparsity: float = 0.5, **others: Any) -> None:
        source = resolve(pretrained)
        chosen = {name: others.pop(name, default) for name, default in CALIBRATION.items()}
        options = {name: others.pop(name) for name in MASK_OPTIONS if name in others}
        if options and not criterion:
            raise UsageError(f"The mask option {next(iter(options))!r} needs criterion=, such as criterion=wanda.")
        weights = pruned_parameters(source, criterion, sparsity, chosen, options) if criterion else {}
        others.setdefault("dtype", source.dtype)
        super().__init__(pretrained=str(readable_folder(source)), **others)
        network: Any = self.model
        for name, data in weights.items():
            parameter = network.get_parameter(name)
            parameter.data = data.to(parameter)


def pruned_parameters(
    source: ModelSource, criterion: str, sparsity: float, chosen: dict[str, Any], options: dict[str, Any]
) -> dict[str, Tensor]:
    """Build the mask as the command `export` does; return the pruned matrices by parameter name."""
    spec = mask_spec_for(
        source.ref,
        criterion,
        float(sparsity),
        task=chosen["task"],
        n=int(chosen["n_calibration"]),
        seed=int(chosen["seed"]),
        calibration_task=chosen["calibration_task"],
        **options,
    )
    model = load(source)
    mask = finish(mask_steps(spec, model, Store()))
    with model.lease:
        names = parameter_names(model)
        return {names[name]: data for name, data in model.pruned_weights(mask.keep, mask.updated).items()}
