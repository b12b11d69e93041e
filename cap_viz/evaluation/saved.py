"""Results read back from files."""

from __future__ import annotations

from pathlib import Path

from cap_viz.attribution.effect_changes import EffectChanges
from cap_viz.attribution.effect_split import EffectSplit
from cap_viz.attribution.hybrid import HybridScores
from cap_viz.attribution.joint_scores import JointScores
from cap_viz.attribution.pair_scores import PairScores
from cap_viz.attribution.path_scores import PathScores
from cap_viz.attribution.position_effects import PositionEffects
from cap_viz.attribution.removal_curve import RemovalCurve
from cap_viz.attribution.result_base import Result, read_result
from cap_viz.attribution.results import BlockScores, DirectScores, EvalReport, GradientEffects, HeadScores
from cap_viz.attribution.specification_curve import SpecificationCurve
from cap_viz.evaluation.comparison import EvalComparison
from cap_viz.evaluation.generation import GenerationReport
from cap_viz.evaluation.sweep import SweepResult
from cap_viz.pruning.mask import Mask

# Results that are saved, by the name in their file.
SAVED: dict[str, type[Result]] = {
    kind.__name__: kind
    for kind in (
        HeadScores,
        DirectScores,
        EffectSplit,
        EffectChanges,
        BlockScores,
        GradientEffects,
        HybridScores,
        JointScores,
        PairScores,
        SpecificationCurve,
        PathScores,
        PositionEffects,
        RemovalCurve,
        Mask,
        EvalReport,
        GenerationReport,
        EvalComparison,
        SweepResult,
    )
}


def load_result(path: str | Path) -> Result:
    """Read a result that was written by its `save`.

    Raises `UsageError` for a missing or damaged file, one of another program, and a result of another format version.
    """
    return read_result(path, SAVED)
