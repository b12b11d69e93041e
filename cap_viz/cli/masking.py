"""Mask options other than criterion and sparsity, declared once for all commands that build a mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields
from inspect import Parameter, signature
from typing import Any, get_type_hints

from cap_viz.cli.options import (
    AllocationOption,
    CalibrationTaskOption,
    ControlSeedOption,
    MetricOption,
    PatternOption,
    ScopeOption,
    ScoresTaskOption,
    SeedOption,
)
from cap_viz.models.catalogue import ModelRef
from cap_viz.runs.spec import MaskSpec


@dataclass(frozen=True)
class MaskOptions:
    """Mask options as given on the command line."""

    seed: SeedOption = 0
    metric: MetricOption = "nll"
    scope: ScopeOption = "both"
    calibration_task: CalibrationTaskOption = None
    scores_task: ScoresTaskOption = None
    control_seed: ControlSeedOption = 0
    allocation: AllocationOption = None
    pattern: PatternOption = None

    def spec(self, model: ModelRef, criterion: str, sparsity: float, *, task: str, n: int) -> MaskSpec:
        """Describe a criterion's mask from `n` calibration examples. Raises `UsageError` as `mask_spec_for` does."""
        from cap_viz.runs.mask_specs import mask_spec_for

        return mask_spec_for(model, criterion, sparsity, task=task, n=n, **asdict(self))


def takes_mask(command: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command with a parameter `mask: MaskOptions` so that Typer sees one option per field."""
    hints = get_type_hints(MaskOptions, include_extras=True)
    names = [field.name for field in fields(MaskOptions)]
    options = [
        Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name])
        for field in fields(MaskOptions)
        if field.default is not MISSING
    ]

    def gathered(**given: Any) -> None:
        mask = MaskOptions(**{name: given.pop(name) for name in names})
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
