"""The setting of the Prune page's controls, and the specs that follow from it. Needs neither torch nor Streamlit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from cap_viz.errors import CapVizError
from cap_viz.figures.prune import DENSE
from cap_viz.models.catalogue import ModelRef
from cap_viz.pruning import CRITERIA, criterion_named
from cap_viz.pruning.options import MaskOptions
from cap_viz.runs.masks import mask_spec_from
from cap_viz.runs.run_queries import eval_runs
from cap_viz.runs.spec import EvalSpec, MaskSpec, ProfileSpec, ScoreSpec
from cap_viz.runs.store import StoredRun
from cap_viz.tasks import load_task
from cap_viz.tasks.example_sets import ExampleSet

# In per cent: the end of the slider.
HIGHEST_PERCENT = 90


@dataclass(frozen=True)
class PruneSetting:
    """Values of the controls: one or two criteria at one sparsity, the inputs of their masks and the evaluation items.

    `scores` are the exact head scores behind CAP; None when the task has none. `calibration` are the examples on which
    Wanda measures activations: those of the head scores where there are any, unless another text is chosen. Both
    criteria share the `options`; one that does not support the allocation or pattern keeps its own way.
    """

    model: ModelRef
    evaluation: ExampleSet
    criteria: tuple[str, ...]
    sparsity: float
    options: MaskOptions
    scores: ScoreSpec | None
    calibration: ExampleSet | None

    def options_of(self, criterion: str, sparsity: float | None = None) -> MaskOptions:
        """The options a criterion follows at a sparsity, by default the setting's."""
        return CRITERIA[criterion].supported(self.options, self.sparsity if sparsity is None else sparsity)

    @property
    def columns(self) -> tuple[str, ...]:
        """Dense and the criteria."""
        return (DENSE, *self.criteria)


def mask_spec(setting: PruneSetting, criterion: str, sparsity: float | None = None) -> MaskSpec:
    """Return the mask spec of a criterion, without the fields it does not need.

    Raises `CapVizError` when the criterion needs head scores or calibration examples and there are none.
    """
    sparsity = setting.sparsity if sparsity is None else sparsity
    needs, options = criterion_named(criterion), setting.options_of(criterion, sparsity)
    if needs.needs_scores and setting.scores is None:
        title = load_task(setting.evaluation.task).title
        raise CapVizError(
            f"{needs.title} is built on exact head scores, and {title} has none stored. Gradient scores do not serve: "
            "score the heads with the exact estimator first."
        )
    if needs.measures(options) and setting.calibration is None:
        raise CapVizError(f"{needs.title} measures activations on calibration examples, and none are on this machine.")
    return mask_spec_from(
        setting.model, criterion, sparsity, options, scores=setting.scores, calibration=setting.calibration
    )


def eval_spec(setting: PruneSetting, column: str) -> EvalSpec:
    """Return the evaluation behind a column: dense, or a criterion at the chosen sparsity."""
    mask = None if column == DENSE else mask_spec(setting, column)
    return EvalSpec(model=setting.model, examples=setting.evaluation, mask=mask)


def counting_spec(setting: PruneSetting, criterion: str, parts: str | None = None) -> ProfileSpec | None:
    """Return the run that counts a criterion's zeros at every sparsity, per matrix or (`parts` "heads") per head.

    None for criteria with scores that depend on the sparsity, and for patterns, which have only one sparsity.
    """
    if not criterion_named(criterion).fixed_score or setting.options_of(criterion).pattern is not None:
        return None
    mask = mask_spec(setting, criterion, 0.0)  # Profiles hold every sparsity, and a mask of sparsity 0 by convention.
    examples = setting.scores.examples if setting.scores is not None else setting.calibration or setting.evaluation
    return ProfileSpec(model=setting.model, examples=examples, mask=mask, parts=parts)


def measured_percents(runs: Sequence[StoredRun], setting: PruneSetting) -> dict[int, set[str]]:
    """Map each whole-percent sparsity with a stored evaluation on these items to the criteria measured there."""
    recipes: dict[MaskSpec, str] = {}
    for criterion in setting.criteria:
        with suppress(CapVizError):
            recipes[mask_spec(setting, criterion, 0.0)] = criterion
    found: dict[int, set[str]] = defaultdict(set)
    for run in eval_runs(runs, setting.model, setting.evaluation.task):
        mask = run.spec.mask
        if mask is not None and run.spec.examples == setting.evaluation:
            criterion, percent = recipes.get(replace(mask, sparsity=0.0)), round(100 * mask.sparsity)
            if criterion is not None and percent <= HIGHEST_PERCENT and percent / 100 == mask.sparsity:
                found[percent].add(criterion)
    return dict(sorted(found.items()))
