"""All statistics of the effects of heads on examples, each computed when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from cap_viz.errors import CapVizError
from cap_viz.stats.head_estimate import HeadEstimate, mean_with_ci
from cap_viz.stats.ranking import RankIntervals, bootstrap_rank_intervals
from cap_viz.stats.reliability import Reliability, split_half


@dataclass(frozen=True)
class HeadStatistics:
    """Effect of every head on every example of one run, by one metric, with the statistics that need all of them.

    They are computed on first access, since many tasks may be shown at once.
    """

    effects: Float[np.ndarray, "layer head example"]

    @cached_property
    def estimate(self) -> HeadEstimate:
        return mean_with_ci(self.effects)

    @cached_property
    def ranks(self) -> RankIntervals:
        return bootstrap_rank_intervals(self.effects)

    @cached_property
    def reliability(self) -> Reliability | None:
        """Split-half reliability of the ranking; None below 4 examples."""
        try:
            return split_half(self.effects)
        except CapVizError:
            return None
