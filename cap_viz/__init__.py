"""CAP Viz: score attention heads for a task with uncertainty, prune models by these scores and evaluate the result.

The public names are loaded on first use, so that `import cap_viz` costs nothing and needs no torch.

```python
import cap_viz as cv

model = cv.load_model("toy-reasoner")
task = cv.load_task("toy_math")
scores = cv.score_heads(model, task.calibration(16))
swept = cv.sweep(model, task, ["cap", "wanda"], [0.2, 0.5], n=200)
swept.to_pandas(), swept.plot()
```

Every result has a short repr and a small table in notebooks, `to_pandas()`, `plot()`, and `save(path)`, which
`cv.load(path)` reads.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cap_viz._moved import find_former_modules

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cap_viz.attribution.effect_changes import EffectChanges, effect_changes
    from cap_viz.attribution.effect_split import EffectSplit, split_effects
    from cap_viz.attribution.estimators import score_heads
    from cap_viz.attribution.exact import direct_effects, score_blocks
    from cap_viz.attribution.hybrid import HybridScores
    from cap_viz.attribution.joint_ablation import hooks, joint_effects, pair_effects
    from cap_viz.attribution.joint_scores import JointScores
    from cap_viz.attribution.mib import mib_importances
    from cap_viz.attribution.pair_scores import PairScores
    from cap_viz.attribution.path_scores import PathScores
    from cap_viz.attribution.paths import path_effects
    from cap_viz.attribution.position_effects import PositionEffects
    from cap_viz.attribution.positions import span_effects, step_effects
    from cap_viz.attribution.removal import greedy_order, removal_curve
    from cap_viz.attribution.removal_curve import RemovalCurve
    from cap_viz.attribution.results import BlockScores, DirectScores, EvalReport, GradientEffects, HeadScores
    from cap_viz.attribution.specification_curve import SpecificationCurve
    from cap_viz.evaluation.choice import evaluate
    from cap_viz.evaluation.comparison import EvalComparison as Comparison
    from cap_viz.evaluation.comparison import compare
    from cap_viz.evaluation.generation import GenerationReport, generate
    from cap_viz.evaluation.saved import load_result as load
    from cap_viz.evaluation.sweep import SweepResult, sweep
    from cap_viz.models.loading import ReasoningModel as Model
    from cap_viz.models.loading import load_model
    from cap_viz.pruning import prune_mask
    from cap_viz.pruning.mask import Mask
    from cap_viz.runs import list_runs as runs
    from cap_viz.runs.specifications import specification_curve
    from cap_viz.runs.store import Store
    from cap_viz.tasks import load_task
    from cap_viz.tasks.base import Example, Task
    from cap_viz.tasks.rows import examples
    from cap_viz.tasks.wordings import reworded

find_former_modules()

# Public names and where they are defined. `runs` is the package itself, which can be called.
HOMES = {
    "Model": "cap_viz.models.loading.ReasoningModel",
    "Task": "cap_viz.tasks.base.Task",
    "Example": "cap_viz.tasks.base.Example",
    "HeadScores": "cap_viz.attribution.results.HeadScores",
    "GradientEffects": "cap_viz.attribution.results.GradientEffects",
    "HybridScores": "cap_viz.attribution.hybrid.HybridScores",
    "JointScores": "cap_viz.attribution.joint_scores.JointScores",
    "PairScores": "cap_viz.attribution.pair_scores.PairScores",
    "PathScores": "cap_viz.attribution.path_scores.PathScores",
    "PositionEffects": "cap_viz.attribution.position_effects.PositionEffects",
    "RemovalCurve": "cap_viz.attribution.removal_curve.RemovalCurve",
    "BlockScores": "cap_viz.attribution.results.BlockScores",
    "DirectScores": "cap_viz.attribution.results.DirectScores",
    "EffectChanges": "cap_viz.attribution.effect_changes.EffectChanges",
    "EffectSplit": "cap_viz.attribution.effect_split.EffectSplit",
    "SpecificationCurve": "cap_viz.attribution.specification_curve.SpecificationCurve",
    "Mask": "cap_viz.pruning.mask.Mask",
    "EvalReport": "cap_viz.attribution.results.EvalReport",
    "GenerationReport": "cap_viz.evaluation.generation.GenerationReport",
    "Comparison": "cap_viz.evaluation.comparison.EvalComparison",
    "SweepResult": "cap_viz.evaluation.sweep.SweepResult",
    "Store": "cap_viz.runs.store.Store",
    "load_model": "cap_viz.models.loading.load_model",
    "load_task": "cap_viz.tasks.load_task",
    "examples": "cap_viz.tasks.rows.examples",
    "reworded": "cap_viz.tasks.wordings.reworded",
    "score_heads": "cap_viz.attribution.estimators.score_heads",
    "score_blocks": "cap_viz.attribution.exact.score_blocks",
    "direct_effects": "cap_viz.attribution.exact.direct_effects",
    "effect_changes": "cap_viz.attribution.effect_changes.effect_changes",
    "split_effects": "cap_viz.attribution.effect_split.split_effects",
    "path_effects": "cap_viz.attribution.paths.path_effects",
    "span_effects": "cap_viz.attribution.positions.span_effects",
    "step_effects": "cap_viz.attribution.positions.step_effects",
    "joint_effects": "cap_viz.attribution.joint_ablation.joint_effects",
    "pair_effects": "cap_viz.attribution.joint_ablation.pair_effects",
    "removal_curve": "cap_viz.attribution.removal.removal_curve",
    "greedy_order": "cap_viz.attribution.removal.greedy_order",
    "mib_importances": "cap_viz.attribution.mib.mib_importances",
    "hooks": "cap_viz.attribution.joint_ablation.hooks",
    "specification_curve": "cap_viz.runs.specifications.specification_curve",
    "prune_mask": "cap_viz.pruning.prune_mask",
    "evaluate": "cap_viz.evaluation.choice.evaluate",
    "generate": "cap_viz.evaluation.generation.generate",
    "compare": "cap_viz.evaluation.comparison.compare",
    "sweep": "cap_viz.evaluation.sweep.sweep",
    "load": "cap_viz.evaluation.saved.load_result",
    "runs": "cap_viz.runs",
}

__all__ = [
    "BlockScores",
    "Comparison",
    "DirectScores",
    "EffectChanges",
    "EffectSplit",
    "EvalReport",
    "Example",
    "GenerationReport",
    "GradientEffects",
    "HeadScores",
    "HybridScores",
    "JointScores",
    "Mask",
    "Model",
    "PairScores",
    "PathScores",
    "PositionEffects",
    "RemovalCurve",
    "SpecificationCurve",
    "Store",
    "SweepResult",
    "Task",
    "__version__",
    "compare",
    "direct_effects",
    "effect_changes",
    "evaluate",
    "examples",
    "generate",
    "greedy_order",
    "hooks",
    "joint_effects",
    "load",
    "load_model",
    "load_task",
    "mib_importances",
    "pair_effects",
    "path_effects",
    "prune_mask",
    "removal_curve",
    "reworded",
    "runs",
    "score_blocks",
    "score_heads",
    "span_effects",
    "specification_curve",
    "split_effects",
    "step_effects",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'cap_viz' has no attribute {name!r}")
    import_module("cap_viz.integrations.plugins").load_plugins()
    home, _, defined = HOMES[name].rpartition(".")
    return import_module(HOMES[name]) if name == "runs" else getattr(import_module(home), defined)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
