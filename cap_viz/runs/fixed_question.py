"""The fixed question: is CAP better than Wanda?

CAP minus the better of Wanda calibrated on the task and on text, on one model and task, by one measure, at 10, 20 and
50 %, on the largest stored set of questions that holds them. These three comparisons are the family (Holm), whatever
else is stored or shown; a sparsity that is not measured yet counts as one that did not reject. Choosing the better
Wanda favours Wanda. What the causal scores add is asked in the same way, against global magnitude.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cap_viz.attribution.results import EvalReport
from cap_viz.errors import UsageError
from cap_viz.evaluation.eval_metrics import (
    ACC,
    CHOICE_LOSS,
    PERPLEXITY,
    Level,
    Measure,
    against_guessing,
    level_of,
    paired,
    paired_p,
    per_question,
)
from cap_viz.evaluation.perplexity import USUAL_LENGTH, USUAL_WINDOWS
from cap_viz.evaluation.verdict import Grade, grade_of, is_ahead, outcome_words
from cap_viz.models.catalogue import ModelRef
from cap_viz.pruning import CRITERIA, MaskOptions
from cap_viz.runs.comparison import CONTROLS, SUBJECT
from cap_viz.runs.kinds.evaluation import load_report
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.prefix_reuse import computing_seconds
from cap_viz.runs.protocols import PerplexityProtocol, perplexity_spec, protocol_of
from cap_viz.runs.run_queries import eval_runs, runs_of
from cap_viz.runs.spec import EvalSpec, MaskSpec, ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.settings import N_CALIBRATION, SEED, SPARSITIES
from cap_viz.stats import ChanceTest, PairedComparison, holm
from cap_viz.tasks import Task, load_task
from cap_viz.tasks.example_sets import ExampleSet, companion_task
from cap_viz.tasks.readable import controls_for

AT_CHANCE = "both at chance"
# Said of every comparison that is not one of the question's.
OUTSIDE = "outside the fixed question"
RIVAL = "wanda"
# Where a mask's activations come from: the task, text, or nowhere.
ON_TASK, ON_TEXT, ON_NOTHING = "task", "text", ""


# Answers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """CAP minus its opponent at one sparsity by one measure; `p` is adjusted over the family.

    `opponents` says what the opponents at hand were calibrated on, `chosen` which of them is the better one and taken.
    `at_chance`: neither accuracy is clearly above guessing, so that none of the two is called better.
    """

    sparsity: float
    measure: Measure
    chosen: str
    opponents: tuple[str, ...]
    first: Level
    second: Level
    result: PairedComparison
    p: float
    at_chance: bool = False

    @property
    def grade(self) -> Grade:
        return "none" if self.at_chance else grade_of(self.result, self.p)

    def outcome(self, second: str, first: str = "CAP") -> str:
        """Say who is ahead (see `outcome_words`), unless both may be guessing."""
        return AT_CHANCE if self.at_chance else outcome_words(self.result, self.measure, first, second, p=self.p)


# By sparsity: CAP's report, and its opponents' by their source.
Reports = Mapping[float, tuple[EvalReport, Mapping[str, EvalReport]]]


def answers(measure: Measure, found: Reports, task: Task | None = None) -> tuple[Answer, ...]:
    """Answer the question by one measure at the sparsities found.

    All sparsities of the question are one family, those not found included. With a task, accuracies that may all be
    guesses are marked.
    """
    said: list[Answer] = []
    for sparsity, (first, others) in found.items():
        chosen, second = better_of(others, measure)
        result = paired(first, second, measure)
        said.append(
            Answer(
                sparsity=sparsity,
                measure=measure,
                chosen=chosen,
                opponents=tuple(others),
                first=level_of(first, measure),
                second=level_of(second, measure),
                result=result,
                p=result.p_value,
                at_chance=task is not None
                and measure.is_share
                and not any(against_guessing(task, one).clearly_above for one in (first, second)),
            )
        )
    unknown = [1.0] * sum(sparsity not in found for sparsity in SPARSITIES)
    adjusted = holm(np.array([*(one.p for one in said), *unknown], dtype=np.float64))
    return tuple(replace(one, p=float(p)) for one, p in zip(said, adjusted, strict=False))


def better_of(others: Mapping[str, EvalReport], measure: Measure) -> tuple[str, EvalReport]:
    """Return the best of some reports by a measure, after its name; of equals the first."""
    better = max if measure.is_share else min
    best = better(others, key=lambda name: float(per_question(others[name], measure).mean()))
    return best, others[best]


@dataclass(frozen=True)
class RunningText:
    """Answers by the loss of running text under the masks made for the task, on the same windows."""

    task: str
    windows: int
    length: int
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Best:
    """The most accurate of all usual criteria at one sparsity, clearly ahead of the better Wanda.

    `criteria` are those with the same accuracy; `p` is adjusted over the `n_criteria` they were chosen from.
    """

    criteria: tuple[str, ...]
    sparsity: float
    level: Level
    result: PairedComparison
    p: float
    n_criteria: int


@dataclass(frozen=True)
class Verdict:
    """Answer to the fixed question on one model and task; `against` names the opponent's criterion.

    `dense` is the dense model's accuracy on the same `n` questions; `text` is None where running text is not measured,
    `best` where no criterion is clearly ahead of the opponent at the highest sparsity.
    """

    model: ModelRef
    task: Task
    against: str
    n: int
    dense: ChanceTest
    accuracy: tuple[Answer, ...]
    loss: tuple[Answer, ...]
    text: RunningText | None
    best: Best | None

    @property
    def rival(self) -> str:
        return CRITERIA[self.against].title


# Finding the runs -------------------------------------------------------------------------------------------------

# A criterion with what its activations come from.
Role = tuple[str, str]
Masked = dict[tuple[Role, float], StoredRun[EvalSpec]]


@dataclass(frozen=True)
class Found:
    """Runs of CAP and of its opponents, by their source, at one sparsity."""

    sparsity: float
    subject: StoredRun[EvalSpec]
    opponents: tuple[tuple[str, StoredRun[EvalSpec]], ...]


@dataclass(frozen=True)
class QuestionRuns:
    """The stored runs that answer the fixed question: on questions, and on running text where there are any.

    `peers` are those of all other usual criteria that count weights, at the highest sparsity asked.
    """

    dense: StoredRun[EvalSpec]
    asked: tuple[Found, ...]
    read: tuple[Found, ...]
    peers: tuple[StoredRun[EvalSpec], ...]


def question_runs(runs: Sequence[StoredRun], model: ModelRef, task: str, against: str = RIVAL) -> QuestionRuns | None:
    """Find the runs of the question, on the set of questions with the most of its sparsities, of these the largest.

    None where no set has the dense model, CAP and its opponent. `runs` come newest first, and the newest counts.
    """
    dense: dict[ExampleSet, StoredRun[EvalSpec]] = {}
    pruned: dict[ExampleSet, Masked] = defaultdict(dict)
    for run in eval_runs(runs, model, task):
        if run.spec.mask is None:
            dense.setdefault(run.spec.examples, run)
        elif (role := role_of(run.spec.mask, model, task)) is not None:
            pruned[run.spec.examples].setdefault((role, run.spec.mask.sparsity), run)
    asked = {
        examples: matched(pruned[examples], ((against, ON_TASK), (against, ON_TEXT), (against, ON_NOTHING)))
        for examples in dense
    }
    best = fullest(asked)
    if best is None:
        return None
    highest = asked[best][-1].sparsity
    peers = tuple(
        run
        for ((criterion, source), sparsity), run in pruned[best].items()
        if sparsity == highest and source != ON_TEXT and criterion != against and CRITERIA[criterion].counts_weights
    )
    return QuestionRuns(dense[best], asked[best], text_runs(runs, model, task, against), peers)


def text_runs(runs: Sequence[StoredRun], model: ModelRef, task: str, against: str) -> tuple[Found, ...]:
    """Find the perplexities under the masks made for the task, on the windows with the most sparsities."""
    pruned: dict[tuple[ExampleSet, str | None], Masked] = defaultdict(dict)
    for run in runs_of(runs, EvalSpec):
        spec = run.spec
        if spec.model != model or spec.mask is None or not isinstance(protocol_of(spec), PerplexityProtocol):
            continue
        if (role := role_of(spec.mask, model, task)) is not None:
            pruned[spec.examples, spec.protocol].setdefault((role, spec.mask.sparsity), run)
    read = {key: matched(masked, ((against, ON_TASK), (against, ON_NOTHING))) for key, masked in pruned.items()}
    return max(read.values(), key=lambda found: (len(found), windows_of(found)), default=())


def windows_of(found: Sequence[Found]) -> int:
    return len(found[0].subject.spec.examples.ids) if found else 0


def fullest(asked: Mapping[ExampleSet, tuple[Found, ...]]) -> ExampleSet | None:
    best = max(asked, key=lambda examples: (len(asked[examples]), len(examples.ids)), default=None)
    return best if best is not None and asked[best] else None


def matched(masked: Masked, roles: Iterable[Role]) -> tuple[Found, ...]:
    """Pair CAP with the opponents of these roles at the question's sparsities, where both are there."""
    roles, found = tuple(roles), []
    for sparsity in SPARSITIES:
        subject = masked.get(((SUBJECT, ON_TASK), sparsity))
        others = tuple((role[1], masked[role, sparsity]) for role in roles if (role, sparsity) in masked)
        if subject is not None and others:
            found.append(Found(sparsity, subject, others))
    return tuple(found)


def role_of(mask: MaskSpec, model: ModelRef, task: str) -> Role | None:
    """Return the criterion of a usual mask and what it was calibrated on; None for any other mask.

    Usual are the default options, and the usual draw of calibration examples: for head scores exact zero ablation of
    the task's.
    """
    criterion = CRITERIA.get(mask.criterion)
    if (
        criterion is None
        or mask.as_fields != criterion.used(MaskOptions()).as_fields
        or (mask.text and not criterion.needs_text)
    ):
        return None
    if mask.scores is not None:
        usual = mask.scores == ScoreSpec(model, mask.scores.examples) and is_drawn(mask.scores.examples, task)
        return (mask.criterion, ON_TASK) if usual and mask.calibration is None else None
    if mask.calibration is None:
        return mask.criterion, ON_NOTHING
    if is_drawn(mask.calibration, task):
        return mask.criterion, ON_TASK
    return (mask.criterion, ON_TEXT) if is_drawn(mask.calibration, companion_task(model)) else None


def is_drawn(examples: ExampleSet, task: str) -> bool:
    """Whether these are the usual calibration examples of a task."""
    usual = (task, "calibration", SEED, N_CALIBRATION)
    return (examples.task, examples.split, examples.seed, len(examples.ids)) == usual


# The question -----------------------------------------------------------------------------------------------------


def fixed_question(
    store: Store, runs: Sequence[StoredRun], model: ModelRef, task: Task, against: str = RIVAL
) -> Verdict | None:
    """Answer the fixed question from stored runs; None where they are not there. Raises `DamagedRun`."""
    found = question_runs(runs, model, task.name, against)
    return None if found is None else answered(store, found, task, against)


def answered(store: Store, found: QuestionRuns, task: Task, against: str = RIVAL) -> Verdict:
    """Answer the question from its runs. Raises `DamagedRun`."""
    asked, read = reports(store, found.asked), reports(store, found.read)
    dense = load_report(store, found.dense)
    text = None
    if found.read:
        spec = found.read[0].subject.spec
        protocol = protocol_of(spec)
        assert isinstance(protocol, PerplexityProtocol)
        text = RunningText(spec.examples.task, len(spec.examples.ids), protocol.length, answers(PERPLEXITY, read))
    return Verdict(
        model=found.dense.spec.model,
        task=task,
        against=against,
        n=len(dense),
        dense=against_guessing(task, dense),
        accuracy=answers(ACC, asked, task),
        loss=answers(CHOICE_LOSS, asked),
        text=text,
        best=best_peer(store, found, asked, task),
    )


def answers_by_pair(
    store: Store, runs: Sequence[StoredRun], model: ModelRef, task: Task, against: str, measure: Measure
) -> dict[tuple[str, str], Answer]:
    """Return the answers by one measure, under the keys of the two runs that each compares: of CAP, of its opponent.

    Empty where the question is not asked of the opponent or by the measure, or its runs are not stored. Raises
    `DamagedRun`.
    """
    if against not in (RIVAL, *CONTROLS) or measure not in (ACC, CHOICE_LOSS):
        return {}
    found = question_runs(runs, model, task.name, against)
    if found is None:
        return {}
    said, by_pair = answers(measure, reports(store, found.asked), task), {}
    for answer, asked in zip(said, found.asked, strict=True):
        by_pair[asked.subject.key, dict(asked.opponents)[answer.chosen].key] = answer
    return by_pair


def best_peer(store: Store, found: QuestionRuns, asked: Reports, task: Task) -> Best | None:
    """Return the most accurate criterion at the highest sparsity, unless it is at chance or not clearly ahead."""
    peers = {peer.criterion: load_report(store, run) for run in found.peers if (peer := run.spec.mask) is not None}
    if not peers:
        return None
    sparsity = max(asked)
    (best, report), (_, rival) = better_of(peers, ACC), better_of(asked[sparsity][1], ACC)
    adjusted = holm(np.array([paired_p(one, rival, ACC) for one in peers.values()], dtype=np.float64))
    p, result = float(adjusted[list(peers).index(best)]), paired(report, rival, ACC)
    if grade_of(result, p) != "clear" or not is_ahead(result, ACC) or not against_guessing(task, report).clearly_above:
        return None
    equals = tuple(name for name, one in peers.items() if one.acc == report.acc)
    return Best(equals, sparsity, level_of(report, ACC), result, p, len(peers))


def reports(store: Store, found: Sequence[Found]) -> Reports:
    return {
        one.sparsity: (
            load_report(store, one.subject),
            {source: load_report(store, run) for source, run in one.opponents},
        )
        for one in found
    }


# The texts on which running text is measured, the better first, each with windows and tokens per window; the second is
# short.
TEXTS = {"generic_text": (USUAL_WINDOWS, USUAL_LENGTH), "mini_text": (12, 256)}


def missing_text(store: Store, model: ModelRef, task: Task) -> list[EvalSpec]:
    """Make the perplexity runs that the question's row of running text lacks: CAP and Wanda at each sparsity.

    Raises `UsageError` where they cannot be computed on this machine: without a text, the task's calibration questions
    or exact head scores on them.
    """
    text = next((name for name in controls_for(model.id) if name in TEXTS and load_task(name).is_local()), None)
    if text is None:
        raise UsageError("no running text that this model can read is on this machine.")
    if not task.is_local():
        raise UsageError(f"masks need calibration questions of {task.title}, which is not on this machine.")
    masks = [
        mask_spec_for(model, criterion, sparsity, task=task.name, n=N_CALIBRATION, seed=SEED)
        for sparsity in SPARSITIES
        for criterion in (SUBJECT, RIVAL)
    ]
    if any(mask.scores is not None and store.get(mask.scores) is None for mask in masks):
        raise UsageError(f"CAP needs exact head scores on {N_CALIBRATION} calibration questions; score them on Heads.")
    n_windows, length = TEXTS[text]
    specs = [perplexity_spec(model, text, n_windows=n_windows, length=length, mask=mask) for mask in masks]
    return [spec for spec in specs if store.get(spec) is None]


def text_seconds(runs: Sequence[StoredRun], wanted: Sequence[EvalSpec]) -> float | None:
    """Estimate the time of perplexity runs from the model's stored ones, by their tokens; None where none was timed."""
    paces = [
        seconds / tokens_of(run.spec)
        for run in runs_of(runs, EvalSpec)
        if run.spec.model == wanted[0].model and tokens_of(run.spec) and (seconds := computing_seconds(run)) is not None
    ]
    return float(np.median(paces)) * sum(map(tokens_of, wanted)) if paces else None


def tokens_of(spec: EvalSpec) -> int:
    """Return the tokens of a perplexity run, 0 for another evaluation."""
    protocol = protocol_of(spec)
    return protocol.length * len(spec.examples.ids) if isinstance(protocol, PerplexityProtocol) else 0
