"""Statistics of head effects and accuracies: arrays in, small frozen results out.

Pure numpy and scipy, so that notebooks and pages that only read stored runs need no torch.
"""

from cap_viz.stats.chance import ChanceTest, above_chance
from cap_viz.stats.intervals import Interval, MeanEstimate, bootstrap_mean_ci, mean_with_ci, wilson
from cap_viz.stats.multiple import Discoveries, false_discovery, holm
from cap_viz.stats.paired import PairedComparison, compare_paired
from cap_viz.stats.ranking import RankIntervals, bootstrap_rank_intervals, rank_heads
from cap_viz.stats.reliability import Reliability, spearman_brown, split_half

__all__ = [
    "ChanceTest",
    "Discoveries",
    "Interval",
    "MeanEstimate",
    "PairedComparison",
    "RankIntervals",
    "Reliability",
    "above_chance",
    "bootstrap_mean_ci",
    "bootstrap_rank_intervals",
    "compare_paired",
    "false_discovery",
    "holm",
    "mean_with_ci",
    "rank_heads",
    "spearman_brown",
    "split_half",
    "wilson",
]
