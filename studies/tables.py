"""Tables of the study's stored runs, one for each of its questions. Needs no torch.

All comparisons are paired, on the same questions. The tests of one table are one family and are adjusted together
(Holm), except that CAP against Wanda and CAP against global magnitude are families of one task: its three sparsities,
as on the pages (`cap_viz/runs/fixed_question.py`). "Against Wanda" means against the better of Wanda calibrated on the
task and on text by the table's measure; this choice favours Wanda.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import exp
from typing import Any

import numpy as np
import pandas as pd

from cap_viz.attribution.results import EvalReport
from cap_viz.errors import UsageError
from cap_viz.evaluation.eval_metrics import (
    ACC,
    CHOICE_LOSS,
    TOKEN_LOSS,
    Level,
    Measure,
    against_guessing,
    level_of,
    paired,
)
from cap_viz.evaluation.perplexity import perplexity_of
from cap_viz.evaluation.solution_loss import solution_loss_of
from cap_viz.models.catalogue import ModelRef
from cap_viz.runs.comparison import CONTROL
from cap_viz.runs.fixed_question import ON_NOTHING, ON_TASK, ON_TEXT, Answer, answers, better_of
from cap_viz.runs.kinds.evaluation import load_report
from cap_viz.runs.kinds.profile import load_head_zeros
from cap_viz.runs.kinds.scores import load_scores
from cap_viz.runs.protocols import perplexity_spec, solution_spec
from cap_viz.runs.spec import EvalSpec, MaskSpec, RunSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.stats import PairedComparison, family_p
from cap_viz.stats.reliability import rank_correlation
from cap_viz.tasks import load_task
from cap_viz.tasks.example_sets import ExampleSet, evaluation_set
from studies.study import (
    BETWEEN,
    COMPETING,
    FEW,
    FEW_SPARSITIES,
    N_SOLUTIONS,
    PERMUTATIONS,
    SEEDS,
    SPARSITIES,
    STRONGEST,
    Masks,
    Setting,
    by_mean,
    by_text,
    driven,
)

# Non-inferiority margin at 10 and 20 %: the interval of the difference to Wanda must stay above it.
MARGIN = -0.03
GENTLE = (0.1, 0.2)


@dataclass(frozen=True)
class Study:
    """The stored runs of one model's study."""

    store: Store
    model: ModelRef
    asked: Setting

    def run(self, spec: RunSpec) -> StoredRun:
        run = self.store.get(spec)
        if run is None:
            raise UsageError(
                f"A run of the study is missing ({spec.examples.task}); compute it with `python -m studies`."
            )
        return run

    def report(self, spec: EvalSpec) -> EvalReport:
        return load_report(self.store, self.run(spec))

    def dense(self, task: str) -> EvalReport:
        return self.report(EvalSpec(self.model, self.examples(task)))

    def pruned(self, task: str, criterion: str, sparsity: float, **options: Any) -> EvalReport:
        mask = Masks(self.model, task).spec(criterion, sparsity, **options)
        return self.report(EvalSpec(self.model, self.examples(task), mask))

    def weaker(self, task: str, criterion: str, sparsity: float, *, made_for: str = "", **options: Any) -> EvalReport:
        """Return a report as `pruned` does, on the `fewer` questions and under the mask made for any task."""
        mask = Masks(self.model, made_for or task).spec(criterion, sparsity, **options)
        return self.report(EvalSpec(self.model, self.asked.fewer(task), mask))

    def examples(self, task: str) -> ExampleSet:
        return evaluation_set(task, {**self.asked.main, **self.asked.weak}[task])

    def wandas(self, task: str, sparsity: float) -> dict[str, EvalReport]:
        """Return the two Wandas by their calibration source."""
        return {
            ON_TASK: self.pruned(task, "wanda", sparsity),
            ON_TEXT: self.pruned(task, "wanda", sparsity, calibration_task=self.asked.text),
        }


@dataclass(frozen=True)
class ComparedRow:
    """One comparison of a table, first minus second, identified by `labels`."""

    labels: dict[str, Any]
    first: EvalReport
    second: EvalReport


def compared(rows: Sequence[ComparedRow], measure: Measure = ACC) -> pd.DataFrame:
    """Tabulate a family of comparisons: both levels, paired difference, p, Holm's p over the rows, detectable size."""
    results = [paired(row.first, row.second, measure) for row in rows]
    return pd.DataFrame(
        [
            row.labels | facts(level_of(row.first, measure), level_of(row.second, measure), result, p_holm)
            for row, result, p_holm in zip(rows, results, family_p(results), strict=True)
        ]
    )


def facts(first: Level, second: Level, result: PairedComparison, p_holm: float) -> dict[str, Any]:
    return {
        "value": first.value,
        "low": first.ci.low,
        "high": first.ci.high,
        "other": second.value,
        "difference": result.difference,
        "difference_low": result.ci.low,
        "difference_high": result.ci.high,
        "p": result.p_value,
        "p_holm": p_holm,
        "detectable": result.minimum_detectable,
        "n": result.n,
    }


def ordering(study: Study, measure: Measure) -> pd.DataFrame:
    """Tabulate CAP minus Wanda, the fixed question; by accuracy also a verdict (margin 3 points at 10 and 20 %)."""
    rows = []
    for task in study.asked.main:
        for answer in against(study, task, study.wandas, measure):
            row = answer_row(task, answer, criterion="cap", wanda=answer.chosen)
            rows.append(row | {"verdict": verdict(answer)} if measure == ACC else row)
    return pd.DataFrame(rows)


def against(
    study: Study, task: str, opponents: Callable[[str, float], dict[str, EvalReport]], measure: Measure
) -> tuple[Answer, ...]:
    """Compare CAP with the better of its opponents on one task; its sparsities are a family."""
    found = {sparsity: (study.pruned(task, "cap", sparsity), opponents(task, sparsity)) for sparsity in SPARSITIES}
    return answers(measure, found, load_task(task))


def answer_row(task: str, answer: Answer, **labels: str) -> dict[str, Any]:
    return {"task": task, "sparsity": answer.sparsity, **labels} | facts(
        answer.first, answer.second, answer.result, answer.p
    )


def verdict(answer: Answer) -> str:
    """Judge CAP minus Wanda by accuracy: by its grade and, below 50 %, by the interval's lower end."""
    if answer.grade == "clear":
        return "better" if answer.result.difference > 0 else "worse"
    if answer.sparsity in GENTLE and answer.result.ci.low > MARGIN:
        return "not worse by 3 points"
    return "inconclusive"


def rest(study: Study, measure: Measure) -> pd.DataFrame:
    """Tabulate every other criterion minus the better Wanda, as a family of its own."""
    rows = []
    for task in study.asked.main:
        for sparsity in SPARSITIES:
            calibration, wanda = better_of(study.wandas(task, sparsity), measure)
            for criterion in COMPETING:
                if criterion not in ("cap", "wanda"):
                    labels = {"task": task, "sparsity": sparsity, "criterion": criterion, "wanda": calibration}
                    rows.append(ComparedRow(labels, study.pruned(task, criterion, sparsity), wanda))
    return compared(rows, measure)


def levels(study: Study) -> pd.DataFrame:
    """Tabulate accuracy and choice loss of every criterion at every measured sparsity, the dense model first."""
    rows = []
    for task in study.asked.main:
        rows.append(level_row(task, "dense", 0.0, study.dense(task)))
        for criterion in COMPETING:
            between = BETWEEN if criterion in STRONGEST else ()
            for sparsity in sorted((*SPARSITIES, *between)):
                rows.append(level_row(task, criterion, sparsity, study.pruned(task, criterion, sparsity)))
    first = study.asked.first
    rows += [level_row(first, "random", sparsity, study.weaker(first, "random", sparsity)) for sparsity in SPARSITIES]
    return pd.DataFrame(rows)


def level_row(task: str, criterion: str, sparsity: float, report: EvalReport) -> dict[str, Any]:
    accuracy, loss = level_of(report, ACC), level_of(report, CHOICE_LOSS)
    test = against_guessing(load_task(task), report)
    return {
        "task": task,
        "criterion": criterion,
        "sparsity": sparsity,
        "accuracy": accuracy.value,
        "low": accuracy.ci.low,
        "high": accuracy.ci.high,
        "acc_norm": report.acc_norm,
        "choice_nll": loss.value,
        "chance": test.chance,
        "p_above_chance": test.p_value,
        "n": len(report),
    }


def calibration(study: Study, measure: Measure) -> pd.DataFrame:
    """Tabulate criteria calibrated on the task minus the same criteria calibrated on text."""

    def rows() -> Iterator[ComparedRow]:
        for task in study.asked.main:
            for sparsity in FEW_SPARSITIES:
                for criterion in ("cap", *driven()):
                    by: dict[str, Any] = {"calibration_task": study.asked.text}
                    if criterion == "cap":
                        by = {"scores": by_text(study.model, study.asked)}
                    text = study.weaker(task, criterion, sparsity, **by)
                    labels = {"task": task, "sparsity": sparsity, "criterion": criterion}
                    yield ComparedRow(labels, study.weaker(task, criterion, sparsity), text)

    return compared(list(rows()), measure)


def causality(study: Study, measure: Measure) -> pd.DataFrame:
    """Tabulate CAP minus global magnitude, the same ranking with every head equally important."""

    def control(task: str, sparsity: float) -> dict[str, EvalReport]:
        return {ON_NOTHING: study.pruned(task, CONTROL, sparsity)}

    return pd.DataFrame(
        [answer_row(task, answer) for task in study.asked.main for answer in against(study, task, control, measure)]
    )


def placebo(study: Study) -> pd.DataFrame:
    """Rank CAP among permutations of its own head scores; p is the share, CAP included, that is at least as good."""
    task, rows = study.asked.first, []
    for sparsity in FEW_SPARSITIES:
        cap = study.weaker(task, "cap", sparsity)
        dealt = [study.weaker(task, "shuffled_cap", sparsity, control_seed=seed) for seed in range(PERMUTATIONS)]
        for name, sign, value in (("accuracy", 1, lambda one: one.acc), ("choice_nll", -1, mean_choice_loss)):
            mine, others = value(cap), [value(one) for one in dealt]
            as_good = sum(sign * other >= sign * mine for other in others)
            rows.append(
                {
                    "task": task,
                    "sparsity": sparsity,
                    "measure": name,
                    "cap": mine,
                    "lowest": min(others),
                    "median": float(np.median(others)),
                    "highest": max(others),
                    "n": len(cap),
                    "p": (1 + as_good) / (1 + PERMUTATIONS),
                }
            )
    return pd.DataFrame(rows)


def mean_choice_loss(report: EvalReport) -> float:
    return float(report.losses("choice_nll").mean())


def score_choices(study: Study, measure: Measure) -> pd.DataFrame:
    """Tabulate CAP from answer loss and zero ablation minus CAP from another metric or ablation."""

    def rows() -> Iterator[ComparedRow]:
        for task in study.asked.main:
            for sparsity in FEW_SPARSITIES:
                usual = study.weaker(task, "cap", sparsity)
                labels = {"task": task, "sparsity": sparsity}
                yield ComparedRow(
                    {**labels, "instead": "choice loss"},
                    usual,
                    study.weaker(task, "cap", sparsity, metric="choice_nll"),
                )
                if task == study.asked.first:
                    ablated = study.weaker(task, "cap", sparsity, scores=by_mean(study.model, task))
                    yield ComparedRow({**labels, "instead": "mean ablation"}, usual, ablated)

    return compared(list(rows()), measure)


def seeds(study: Study, measure: Measure) -> pd.DataFrame:
    """Tabulate CAP minus Wanda for several draws of calibration examples, each the same for both."""
    task = study.asked.first
    return compared(
        [
            ComparedRow(
                {"task": task, "sparsity": sparsity, "seed": seed},
                study.weaker(task, "cap", sparsity, seed=seed),
                study.weaker(task, "wanda", sparsity, seed=seed),
            )
            for sparsity in FEW_SPARSITIES
            for seed in SEEDS
        ],
        measure,
    )


def transfer(study: Study, measure: Measure) -> pd.DataFrame:
    """Tabulate each task under its own mask minus the same task under a mask made for another."""
    return compared(
        [
            ComparedRow(
                {"task": task, "made_for": other, "sparsity": sparsity, "criterion": criterion},
                study.weaker(task, criterion, sparsity),
                study.weaker(task, criterion, sparsity, made_for=other),
            )
            for task in study.asked.main
            for other in study.asked.main
            if other != task
            for criterion in ("cap", "wanda")
            for sparsity in FEW_SPARSITIES
        ],
        measure,
    )


def generic(study: Study) -> pd.DataFrame:
    """Tabulate perplexity under the first task's masks and its ratio to dense and to Wanda, paired by window."""
    masks, asked = Masks(study.model, study.asked.first), study.asked
    if load_task(asked.text).running_text is None:
        return pd.DataFrame()

    def spec(mask: MaskSpec | None) -> EvalSpec:
        return perplexity_spec(study.model, asked.text, length=asked.length, mask=mask)

    return pd.DataFrame(under_masks(study, spec, masks, COMPETING, perplexity_facts, factor))


def under_masks(
    study: Study,
    spec: Callable[[MaskSpec | None], EvalSpec],
    masks: Masks,
    criteria: Sequence[str],
    facts: Callable[[EvalReport], dict[str, float]],
    against: Callable[[str, EvalReport, EvalReport], dict[str, float]],
) -> list[dict[str, Any]]:
    """Return rows for the dense model, then for every criterion and sparsity, compared with dense and with Wanda."""
    dense = study.report(spec(None))
    rows: list[dict[str, Any]] = [{"criterion": "dense", "sparsity": 0.0, **facts(dense)}]
    for sparsity in SPARSITIES:
        reports = {name: study.report(spec(masks.spec(name, sparsity))) for name in criteria}
        rows += [
            {
                "criterion": name,
                "sparsity": sparsity,
                **facts(report),
                **against("dense", report, dense),
                **against("wanda", report, reports["wanda"]),
            }
            for name, report in reports.items()
        ]
    return rows


def perplexity_facts(report: EvalReport) -> dict[str, float]:
    found = perplexity_of(report)
    return {"perplexity": found.value, "low": found.ci.low, "high": found.ci.high}


def factor(name: str, report: EvalReport, other: EvalReport) -> dict[str, float]:
    found = paired(report, other, TOKEN_LOSS)
    return {
        f"against_{name}": exp(found.difference),
        f"against_{name}_low": exp(found.ci.low),
        f"against_{name}_high": exp(found.ci.high),
    }


def survivors(study: Study) -> pd.DataFrame:
    """Tabulate the weights heads keep: rank correlation with their effects, and the share the top tenth keeps."""
    rows = []
    for task in study.asked.main:
        usual = Masks(study.model, task).spec("cap", SPARSITIES[0]).scores
        assert usual is not None
        effect = load_scores(study.store, study.run(usual)).mean_effect("nll").ravel()
        first = np.argsort(-effect)[: max(1, len(effect) // 10)]
        for criterion in ("cap", "global_magnitude", "wanda"):
            for sparsity in SPARSITIES:
                spec = EvalSpec(study.model, study.examples(task), Masks(study.model, task).spec(criterion, sparsity))
                kept = 1 - load_head_zeros(study.store, study.run(spec)).share[0].ravel()
                rows.append(
                    {
                        "task": task,
                        "criterion": criterion,
                        "sparsity": sparsity,
                        "rank_correlation": rank_correlation(effect, kept),
                        "first_tenth_keeps": float(kept[first].mean()),
                        "all_keep": float(kept.mean()),
                        "least_kept": float(kept.min()),
                    }
                )
    return pd.DataFrame(rows)


def solutions(study: Study) -> pd.DataFrame:
    """Tabulate loss on worked solutions and its paired difference to dense and to Wanda."""
    rows = []
    for task, n in study.asked.solutions.items():
        spec = partial(solution_spec, study.model, evaluation_set(task, n))
        masks = Masks(study.model, task, N_SOLUTIONS)
        found = under_masks(study, spec, masks, FEW, solution_facts, loss_difference)
        rows += [{"task": task, **row} for row in found]
    return pd.DataFrame(rows)


def solution_facts(report: EvalReport) -> dict[str, float]:
    found = solution_loss_of(report)
    return {"loss": found.value, "low": found.ci.low, "high": found.ci.high}


def loss_difference(name: str, report: EvalReport, other: EvalReport) -> dict[str, float]:
    found = paired(report, other, TOKEN_LOSS)
    return {
        f"minus_{name}": found.difference,
        f"minus_{name}_low": found.ci.low,
        f"minus_{name}_high": found.ci.high,
    }


def weak(study: Study) -> pd.DataFrame:
    """Tabulate choice loss of CAP and global magnitude minus Wanda on tasks where accuracy is uninformative."""
    rows = [
        ComparedRow(
            {"task": task, "sparsity": sparsity, "criterion": criterion, "accuracy": study.dense(task).acc},
            study.pruned(task, criterion, sparsity),
            study.pruned(task, "wanda", sparsity),
        )
        for task in study.asked.weak
        for sparsity in FEW_SPARSITIES
        for criterion in FEW
        if criterion != "wanda"
    ]
    return compared(rows, CHOICE_LOSS) if rows else pd.DataFrame()


# Tables of paired differences; by accuracy and by choice loss each is a family of its own.
PAIRED: dict[str, Callable[[Study, Measure], pd.DataFrame]] = {
    "ordering": ordering,
    "rest": rest,
    "causality": causality,
    "calibration": calibration,
    "score_choices": score_choices,
    "seeds": seeds,
    "transfer": transfer,
}


def by_measure(name: str, measure: Measure) -> Callable[[Study], pd.DataFrame]:
    return lambda study: PAIRED[name](study, measure)


TABLES: dict[str, Callable[[Study], pd.DataFrame]] = {
    "levels": levels,
    **{name: by_measure(name, ACC) for name in PAIRED},
    **{f"{name}_loss": by_measure(name, CHOICE_LOSS) for name in PAIRED},
    "placebo": placebo,
    "generic": generic,
    "survivors": survivors,
    "solutions": solutions,
    "weak": weak,
}
