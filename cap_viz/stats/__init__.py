"""Statistics of head effects and accuracies: arrays in, small frozen results out.

Pure numpy and scipy, so that notebooks and pages that only read stored runs need no torch.
"""

from cap_viz._moved import names_of
from cap_viz.stats.chance import ChanceTest, above_chance, guessing_floor
from cap_viz.stats.circuits import CircuitAreas, circuit_areas, faithfulness, michel_scores
from cap_viz.stats.head_estimate import HeadEstimate, mean_with_ci
from cap_viz.stats.head_statistics import HeadStatistics
from cap_viz.stats.hybrid import HybridEstimate, hybrid_mean
from cap_viz.stats.intervals import Interval, bootstrap_mean_ci, wilson
from cap_viz.stats.joint import JointEffect, joint_effect, random_sets
from cap_viz.stats.multiple import false_discovery, holm
from cap_viz.stats.outlier import Outlier, widest_outlier
from cap_viz.stats.paired import PairedComparison, compare_means, compare_paired, family_p
from cap_viz.stats.ranking import RankIntervals, bootstrap_rank_intervals, rank_heads, usual_top
from cap_viz.stats.reliability import Reliability, spearman_brown, split_half
from cap_viz.stats.specificity import (
    RankAgreement,
    Specificity,
    TopOverlap,
    rank_agreement,
    specificity,
    top_overlap,
    true_spread,
)
from cap_viz.stats.stability import RankStability, rank_stability

__all__ = [
    "ChanceTest",
    "CircuitAreas",
    "HeadEstimate",
    "HeadStatistics",
    "HybridEstimate",
    "Interval",
    "JointEffect",
    "Outlier",
    "PairedComparison",
    "RankAgreement",
    "RankIntervals",
    "RankStability",
    "Reliability",
    "Specificity",
    "TopOverlap",
    "above_chance",
    "bootstrap_mean_ci",
    "bootstrap_rank_intervals",
    "circuit_areas",
    "compare_means",
    "compare_paired",
    "faithfulness",
    "false_discovery",
    "family_p",
    "guessing_floor",
    "holm",
    "hybrid_mean",
    "joint_effect",
    "mean_with_ci",
    "michel_scores",
    "random_sets",
    "rank_agreement",
    "rank_heads",
    "rank_stability",
    "spearman_brown",
    "specificity",
    "split_half",
    "top_overlap",
    "true_spread",
    "usual_top",
    "widest_outlier",
    "wilson",
]

__getattr__ = names_of("cap_viz.stats", "stats.head_estimate", "stats.paired")
