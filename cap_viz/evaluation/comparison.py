"""Paired comparison of two evaluations on the same items, as a result of its own."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, Self

import pandas as pd

from cap_viz.attribution.result_base import Result, drawing
from cap_viz.attribution.results import EvalReport, Tables
from cap_viz.errors import choose
from cap_viz.evaluation.eval_metrics import MEASURES, TOKEN_LOSS, Measure, paired
from cap_viz.stats import Interval, PairedComparison

if TYPE_CHECKING:
    import plotly.graph_objects as go

MeasureName = Literal["acc", "acc_norm", "choice_nll", "nll"]
COMPARED = {**MEASURES, TOKEN_LOSS.name: TOKEN_LOSS}


@dataclass(frozen=True, repr=False)
class EvalComparison(Result, PairedComparison):
    """First evaluation (a) minus second (b) on the same items, by one measure (`COMPARED`)."""

    measure: str = "acc"

    @property
    def about(self) -> Measure:
        """The measure with its title, unit and scale."""
        return COMPARED[self.measure]

    @property
    def headline(self) -> str:
        scale, steps = self.about.scale, self.about.steps
        difference, low, high = (f"{scale * one:+.4g}" for one in (self.difference, self.ci.low, self.ci.high))
        return f"{self.about.title}: {difference} {steps} [{low}, {high}], p = {self.p_value:.3g}, n = {self.n}"

    def overview(self) -> pd.DataFrame:
        return self.to_pandas().drop(columns=["minimum_detectable", "only_a", "only_b"])

    def to_pandas(self) -> pd.DataFrame:
        """Tabulate the comparison in one row, unscaled: shares of right answers, or losses in nats.

        Columns: measure, n items, mean_a and mean_b, difference (a minus b), ci_low and ci_high (95 %), p_value
        (McNemar's for accuracies, the paired t-test's for losses), minimum_detectable (with 80 % power), only_a and
        only_b (items that only that side answers correctly; empty for losses).
        """
        plain = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "ci"}
        row = {"measure": plain.pop("measure"), **plain, "ci_low": self.ci.low, "ci_high": self.ci.high}
        return pd.DataFrame([row]).astype({"only_a": "Int64", "only_b": "Int64"})

    def plot(self) -> go.Figure:
        """Draw the difference with its interval beside zero."""
        with drawing():
            from cap_viz.figures.results import difference_bar
        about, scale = self.about, self.about.scale
        return difference_bar(
            scale * self.difference,
            scale * self.ci.low,
            scale * self.ci.high,
            title=f"difference of {about.title.lower()}, {about.steps}",
            hover=self.headline,
            good="higher" if about.is_share else "lower",
        )

    def to_tables(self) -> dict[str, pd.DataFrame]:
        return {"comparison": self.to_pandas()}

    @classmethod
    def from_tables(cls, tables: Tables) -> Self:
        row = tables["comparison"].astype(object).to_dict("records")[0]
        flips = {name: None if pd.isna(row[name]) else int(row[name]) for name in ("only_a", "only_b")}
        ci = Interval(float(row.pop("ci_low")), float(row.pop("ci_high")))
        return cls(**{**row, **flips}, ci=ci)


def compare(first: EvalReport, second: EvalReport, *, measure: MeasureName = "acc") -> EvalComparison:
    """Compare two reports in pairs, first minus second: difference, 95 % interval, exact McNemar or paired t p-value.

    Raises `UsageError` for an unknown measure, and when the two reports are on different items.
    """
    chosen = choose("measure", measure, COMPARED)
    return EvalComparison(**vars(paired(first, second, chosen)), measure=measure)
