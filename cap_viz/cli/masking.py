"""Mask options, declared once for all commands that build a mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, dataclass, fields
from inspect import Parameter, signature
from typing import Annotated, Any, get_type_hints

import typer

from cap_viz.cli.options import CalibrationTaskOption, ScoresTaskOption, SeedOption
from cap_viz.models.catalogue import ModelRef
from cap_viz.pruning.options import USUAL, MaskOptions
from cap_viz.runs.run_labels import percent
from cap_viz.runs.spec import MaskSpec
from cap_viz.settings import N_CALIBRATION


def pruned_facts(criterion: str, sparsity: float) -> dict[str, Any]:
    """Say in a command's JSON by what the model was pruned; without a criterion it is dense."""
    return {"criterion": criterion or "dense", "sparsity": sparsity if criterion else 0.0}


@dataclass(frozen=True, kw_only=True)
class CalibratedMask(MaskOptions):
    """Mask options as given on the command line, and the tasks whose examples are measured."""

    seed: SeedOption = 0
    calibration_task: CalibrationTaskOption = None
    scores_task: ScoresTaskOption = None

    def spec(self, model: ModelRef, criterion: str, sparsity: float, *, task: str, n: int) -> MaskSpec:
        """Describe a criterion's mask from `n` calibration examples. Raises `UsageError` as `mask_spec_for` does."""
        from cap_viz.runs.masks import mask_spec_for

        sources = {"seed": self.seed, "calibration_task": self.calibration_task, "scores_task": self.scores_task}
        return mask_spec_for(model, criterion, sparsity, task=task, n=n, **sources, **self.as_fields)


@dataclass(frozen=True, kw_only=True)
class PruneFirst(CalibratedMask):
    """Options of a command that measures a model as it is, or pruned first."""

    criterion: Annotated[str, typer.Option(help="Prune by this criterion first; dense if left out.")] = ""
    sparsity: Annotated[float, typer.Option(help="Share of weights set to zero.")] = 0.2
    n_calibration: Annotated[int, typer.Option(help="Calibration examples of the criterion.")] = N_CALIBRATION

    def mask(self, model: ModelRef, task: str) -> MaskSpec | None:
        """Describe the mask, calibrated on `task`; None for the dense model."""
        if not self.criterion:
            return None
        return self.spec(model, self.criterion, self.sparsity, task=task, n=self.n_calibration)

    @property
    def facts(self) -> dict[str, Any]:
        return pruned_facts(self.criterion, self.sparsity)

    @property
    def label(self) -> str:
        return f"{self.criterion} at {percent(self.sparsity)}" if self.criterion else "dense"


def takes_mask(command: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command with a parameter `mask: CalibratedMask` (or `PruneFirst`): Typer sees one option per field."""
    kind = get_type_hints(command)["mask"]
    hints = get_type_hints(kind, include_extras=True)

    def option(field: Field[Any]) -> Parameter:
        default, annotation = field.default, hints[field.name]
        if "help" in field.metadata:
            default = USUAL.get(field.name)
            # Names are plain text here, so that our sentence refuses unknown ones.
            value = str if default is None else type(default)
            annotation = Annotated[
                value | None if default is None else value, typer.Option(help=field.metadata["help"])
            ]
        return Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

    # The fields of a subclass come first.
    own_first = sorted(fields(kind), key=lambda field: field.name not in vars(kind)["__annotations__"])
    options = [option(field) for field in own_first]
    names = [option.name for option in options]

    def gathered(**given: Any) -> None:
        mask = kind(**{name: given.pop(name) for name in names})
        command(**given, mask=mask)

    own = [
        parameter.replace(kind=Parameter.KEYWORD_ONLY)
        for name, parameter in signature(command, eval_str=True).parameters.items()
        if name != "mask"
    ]
    # Not `wraps`: through `__wrapped__` Typer would find the command's own parameters again.
    gathered.__name__, gathered.__doc__ = command.__name__, command.__doc__
    vars(gathered)["__signature__"] = signature(command).replace(parameters=[*own, *options])
    gathered.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *options)}
    return gathered
