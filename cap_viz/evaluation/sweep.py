"""Accuracy of several criteria at several sparsities on the same questions, with the paired statistics.

1. Score the heads on the calibration examples, if a criterion is built on scores.
2. Evaluate the dense model, then every criterion at every sparsity; a criterion whose score does not depend on the
   sparsity ranks the weights once.
3. Pair every cell with dense and with a reference criterion at its sparsity, on the same questions. All contrasts with
   one of the two are one family (Holm).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, Unpack

import numpy as np
import pandas as pd

from cap_viz.attribution.estimators import ESTIMATORS, Estimator, scoring_steps
from cap_viz.attribution.result_base import Result, drawing
from cap_viz.attribution.results import EvalReport, Tables
from cap_viz.errors import UsageError, choose
from cap_viz.evaluation.choice import evaluation_steps
from cap_viz.evaluation.contrasts import DENSE, Cell, Contrast, contrasts, reference_pairs
from cap_viz.evaluation.eval_metrics import ACC, MEASURES, guessing, level_of, measure_named, paired
from cap_viz.progress import Steps, finish_with_bar, portion
from cap_viz.pruning import (
    Criterion,
    CriterionName,
    Mask,
    MaskRequest,
    Ranking,
    check_sparsity,
    criterion_named,
    criterion_title,
    request_for,
)
from cap_viz.pruning.options import USUAL, MaskFields, MaskOptions, check_pattern_sparsity
from cap_viz.settings import N_CALIBRATION, SEED, SPARSITIES
from cap_viz.tasks.base import Example, Task, TaskVersion, check_has_options

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from cap_viz.models.loading import ReasoningModel


@dataclass(frozen=True, repr=False)
class SweepResult(Result):
    """Reports of the dense model and of every criterion at every sparsity, on the same questions.

    `reports[i]` is of `cells[i]`, a criterion and the sparsity asked; the first cell is ("dense", 0.0). `reached` is
    the share of zeros that each mask has. `chance` is the accuracy of guessing, `reference` the criterion that the
    others are compared with beside dense.
    """

    model: str
    cells: tuple[Cell, ...]
    reports: tuple[EvalReport, ...]
    reached: tuple[float, ...]
    chance: float
    reference: str

    @property
    def tasks(self) -> tuple[TaskVersion, ...]:
        return self.reports[0].tasks

    @property
    def headline(self) -> str:
        names = dict.fromkeys(name for name, _ in self.cells[1:])
        shares = dict.fromkeys(f"{share:g}" for _, share in self.cells[1:])
        sample = self.reports[0].sample
        return f"{self.model}, {sample}, {', '.join(names)} at {', '.join(shares)}, dense {self.reports[0].acc:.1%}"

    def report(self, criterion: str, sparsity: float = 0.0) -> EvalReport:
        """Return the report of one cell. Raises `UsageError` for a cell that the sweep does not have."""
        if (criterion, sparsity) not in self.cells:
            cells = ", ".join(f"{name} at {share:g}" for name, share in self.cells)
            raise UsageError(f"The sweep has no {criterion} at {sparsity:g}; it has {cells}.")
        return self.reports[self.cells.index((criterion, sparsity))]

    def contrasts(self, against: str = DENSE[0], measure: str = ACC.name) -> tuple[Contrast, ...]:
        """Pair every cell with dense or with a criterion at its sparsity: differences, intervals and p-values."""
        choose("criterion to compare with:", against, list(dict.fromkeys(name for name, _ in self.cells)))
        reports, chosen = dict(zip(self.cells, self.reports, strict=True)), measure_named(measure)
        return contrasts(reference_pairs(self.cells, against), lambda a, b: paired(reports[a], reports[b], chosen))

    def overview(self) -> pd.DataFrame:
        shown = ["criterion", "sparsity", "value", "ci_low", "ci_high", "minus_dense", "p_dense_holm"]
        return self.to_pandas().loc[:, shown]

    def to_pandas(self, measure: str = ACC.name) -> pd.DataFrame:
        """Tabulate the cells, dense first, one row each, in shares (accuracies) or nats (choice_nll).

        Columns: criterion, sparsity asked, reached, n items, measure, value with ci_low and ci_high (95 %), chance;
        reference; then the paired differences: minus_dense with minus_dense_low and minus_dense_high (95 %), p_dense
        (McNemar's, or the paired t-test's for a loss), p_dense_holm (over all cells), and the same five for the
        reference. A cell is not compared with itself, nor a criterion that counts heads with one that counts weights.
        """
        chosen = measure_named(measure)
        families = {"dense": self.contrasts(measure=measure), "reference": self.contrasts(self.reference, measure)}
        rows = []
        for cell, report, reached in zip(self.cells, self.reports, self.reached, strict=True):
            level = level_of(report, chosen)
            row = {
                "criterion": cell[0],
                "sparsity": cell[1],
                "reached": reached,
                "n": len(report),
                "measure": measure,
                "value": level.value,
                "ci_low": level.ci.low,
                "ci_high": level.ci.high,
                "chance": self.chance if chosen.is_share else np.nan,
                "reference": self.reference,
            }
            for name, family in families.items():
                row |= differences(name, next((one for one in family if one.first == cell), None))
            rows.append(row)
        return pd.DataFrame(rows)

    def plot(self, measure: str = ACC.name) -> go.Figure:
        """Draw accuracy against sparsity, hollow where it is not clearly different from dense.

        Raises `UsageError` for a measure that is not an accuracy.
        """
        with drawing():
            from cap_viz.figures.accuracy import AccuracyPoint, accuracy_by_sparsity
        choose("accuracy to draw:", measure, [name for name, one in MEASURES.items() if one.is_share])
        table, points = self.to_pandas(measure).to_dict("records"), []
        clear = {one.first for one in self.contrasts(measure=measure) if one.is_clear}
        for row in table[1:]:
            name, sparsity, value, low, high = (
                row[key] for key in ("criterion", "sparsity", "value", "ci_low", "ci_high")
            )
            hover = (
                f"<b>{criterion_title(name)}</b> at {sparsity:.0%}: {value:.1%} [{low:.1%}, {high:.1%}]<br>"
                f"{100 * row['minus_dense']:+.1f} points against dense, Holm p = {row['p_dense_holm']:.2g}"
            )
            differs = (name, sparsity) in clear
            points.append(AccuracyPoint(name, criterion_title(name), sparsity, value, low, high, differs, hover))
        dense = tuple(table[0][key] for key in ("value", "ci_low", "ci_high"))
        figure = accuracy_by_sparsity(points, dense=dense, chance=self.chance)
        figure.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.12}, margin={"t": 40})
        return figure

    def to_tables(self) -> dict[str, pd.DataFrame]:
        """Tables `cells`, one row each, and `options`, those of all reports with the cell's number."""
        cells = pd.DataFrame(self.cells, columns=["criterion", "sparsity"]).assign(reached=self.reached)
        options = [
            report.to_tables()["options"].assign(cell=np.int16(number)) for number, report in enumerate(self.reports)
        ]
        return {"cells": cells, "options": pd.concat(options, ignore_index=True)}

    @classmethod
    def from_tables(
        cls, tables: Tables, *, model: str, chance: float, reference: str, tasks: tuple[TaskVersion, ...]
    ) -> Self:
        cells, options = tables["cells"], tables["options"]
        reports = [
            EvalReport.from_tables({"options": options.loc[options["cell"] == number]}, tasks=tasks)
            for number in range(len(cells))
        ]
        return cls(
            model=model,
            cells=tuple(zip(cells["criterion"].tolist(), cells["sparsity"].tolist(), strict=True)),
            reports=tuple(reports),
            reached=tuple(cells["reached"].tolist()),
            chance=chance,
            reference=reference,
        )


def differences(name: str, found: Contrast | None) -> dict[str, float]:
    """Return the columns of a contrast against `name`, all NaN without one."""
    values = [np.nan] * 5
    if found is not None:
        result = found.result
        values = [result.difference, result.ci.low, result.ci.high, result.p_value, found.p_holm]
    minus = f"minus_{name}"
    return dict(zip([minus, f"{minus}_low", f"{minus}_high", f"p_{name}", f"p_{name}_holm"], values, strict=True))


def sweep(
    model: ReasoningModel,
    task: Task,
    criteria: Sequence[CriterionName | str],
    sparsities: Sequence[float] = SPARSITIES,
    n: int | None = None,
    *,
    n_calibration: int = N_CALIBRATION,
    seed: int = SEED,
    reference: CriterionName | str | None = None,
    estimator: Estimator = "exact",
    progress: bool = True,
    **options: Unpack[MaskFields],
) -> SweepResult:
    """Evaluate criteria at sparsities on the first `n` evaluation questions of a task (all if None), beside dense.

    Masks are made from `n_calibration` calibration examples drawn with `seed`, head scores by `estimator`; `options`
    are those of `MaskOptions`. `reference` is the criterion that the others are compared with, the first one if left
    out. `progress` shows a bar. Raises `UsageError`, before anything is computed, for unknown names, a sparsity out of
    range, no criteria or sparsities, or more examples than the task has.
    """
    names, shares = tuple(dict.fromkeys(criteria)), tuple(dict.fromkeys(sparsities))
    if not names or not shares:
        raise UsageError("There is nothing to sweep: name at least one criterion and one sparsity.")
    check_has_options(task)
    choose("estimator", estimator, ESTIMATORS)
    for name in names:
        criterion_named(name).check(MaskOptions(**options))
    for share in shares:
        check_sparsity(share)
        if pattern := options.get("pattern"):
            check_pattern_sparsity(pattern, share)
    choose("reference", reference or names[0], names)
    steps = sweep_steps(
        model,
        task,
        [(name, share) for name in names for share in shares],
        task.evaluation(n),
        calibration=task.calibration(n_calibration, seed),
        reference=reference or names[0],
        estimator=estimator,
        options=options,
    )
    return finish_with_bar(steps, progress)


def sweep_steps(
    model: ReasoningModel,
    task: Task,
    cells: Sequence[Cell],
    examples: Sequence[Example],
    *,
    calibration: Sequence[Example],
    reference: str,
    estimator: str,
    options: MaskFields,
) -> Steps[SweepResult]:
    """Score, prune and evaluate on `examples` of the task, cells in the order given; names are checked before."""
    criteria = {name: criterion_named(name) for name, _ in cells}
    scored = any(one.needs_scores for one in criteria.values())
    count, scores = int(scored) + 1 + 2 * len(cells), None
    if scored:
        metric = options.get("metric") or USUAL["metric"]
        scores = yield from portion(scoring_steps(model, calibration, estimator=estimator, metric=metric), 0, count)
    dense = yield from portion(evaluation_steps(model, examples), int(scored), count)
    reports, reached, rankings = [dense], [0.0], {}
    for number, (name, sparsity) in enumerate(cells):
        first = int(scored) + 1 + 2 * number
        request = request_for(model, criteria[name], sparsity, scores=scores, calibration=calibration, **options)
        mask = yield from portion(mask_steps(model, criteria[name], request, rankings), first, count)
        reports.append((yield from portion(evaluation_steps(model, examples, mask), first + 1, count)))
        reached.append(mask.reached)
    return SweepResult(
        model=model.ref.id,
        cells=(DENSE, *cells),
        reports=tuple(reports),
        reached=tuple(reached),
        chance=guessing(task, dense, ACC),
        reference=reference,
    )


def mask_steps(
    model: ReasoningModel, criterion: Criterion, request: MaskRequest, rankings: dict[str, Ranking]
) -> Steps[Mask]:
    """Make one mask; a criterion that can rank all weights once does so for its first mask and is kept in `rankings`.

    An n:m pattern belongs to one sparsity, and an allocation may depend on it: with either, every mask starts anew.
    """
    if criterion.rank is None or request.spread is not None:
        return (yield from criterion.steps(model, request))
    if criterion.name not in rankings:
        rankings[criterion.name] = yield from portion(criterion.rank(model, request), 0, 2)
    return (yield from portion(rankings[criterion.name].mask_steps(model, request.sparsity), 1, 2))
