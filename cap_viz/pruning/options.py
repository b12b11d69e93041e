"""Options of a mask beside its criterion and its sparsity, declared once for specs, pruning, shell and pages."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal, TypedDict, get_args

from cap_viz.attribution.effect_metrics import METRICS
from cap_viz.errors import UsageError, choose
from cap_viz.pruning.mask import SCOPES, Scope

KvCombine = Literal["mean", "max"]
KV_COMBINES: tuple[KvCombine, ...] = get_args(KvCombine)
ALLOCATIONS = ("owl",)
PATTERNS = ("2:4", "4:8")
# Defaults of the options, and the values of those that are names.
USUAL = {"scope": "both", "metric": "nll", "kv_combine": "mean", "control_seed": 0}
CHOICES = {
    "scope": SCOPES,
    "metric": tuple(METRICS),
    "kv_combine": KV_COMBINES,
    "allocation": ALLOCATIONS,
    "pattern": PATTERNS,
}


class MaskFields(TypedDict, total=False):
    """The fields of `MaskOptions`, for functions that take them as keyword arguments."""

    scope: Scope
    metric: str | None
    kv_combine: KvCombine | None
    control_seed: int | None
    allocation: str | None
    pattern: str | None


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """Options of a mask; each criterion uses some of them. None stands for the default (`USUAL`).

    In a spec it also stands for an option that the criterion does not use (`Criterion.used`). `scope`: the matrices to
    prune. `metric`: the metric of the head scores. `kv_combine`: how to combine the importances of a KV group's query
    heads. `control_seed`: the draw of a random control. `allocation`: how the sparsity is spread over layers, None for
    the criterion's own way. `pattern`: n zeros in every m neighbouring weights of a row.
    """

    scope: Scope = field(default="both", metadata={"help": "attention, mlp or both."})
    metric: str | None = field(default=None, metadata={"help": "Metric behind CAP's head scores."})
    kv_combine: KvCombine | None = field(
        default=None, metadata={"help": "Combine the importances of a KV group's query heads: mean or max."}
    )
    control_seed: int | None = field(default=None, metadata={"help": "Draw of the controls random and shuffled_cap."})
    allocation: str | None = field(default=None, metadata={"help": "owl: sparsity by each layer's share of outliers."})
    pattern: str | None = field(
        default=None, metadata={"help": "2:4 or 4:8: so many zeros in every 4 or 8 neighbours."}
    )

    @property
    def as_fields(self) -> MaskFields:
        """The options as keyword arguments, without the further fields of a subclass."""
        return MaskFields(**{one.name: getattr(self, one.name) for one in fields(MaskOptions)})

    @property
    def spread(self) -> str | None:
        """How zeros are spread: the allocation or the pattern, of which a mask has at most one."""
        return self.allocation or self.pattern

    def check(self) -> None:
        """Raise `UsageError` for an unknown name, or for both an allocation and a pattern."""
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) is not None:
                choose(name, value, choices)
        if self.allocation is not None and self.pattern is not None:
            raise UsageError(
                f"The pattern {self.pattern!r} takes the same share of every layer, the allocation "
                f"{self.allocation!r} a different one; choose either."
            )


def pattern_sparsity(pattern: str) -> float:
    """Sparsity of a pattern: n / m of "n:m"."""
    zeros_in, length = pattern.split(":")
    return int(zeros_in) / int(length)


def check_pattern_sparsity(pattern: str, sparsity: float) -> None:
    """Raise `UsageError` when the sparsity is not that of the pattern."""
    share = pattern_sparsity(pattern)
    if sparsity != share:
        raise UsageError(
            f"The pattern {pattern} has a sparsity of {share:g}, and {sparsity:g} is asked for; give {share:g}."
        )
