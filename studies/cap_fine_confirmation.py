"""The single confirmation of cap_fine:  python -m studies.cap_fine_confirmation [--compute PART …] [--publish]

The protocol is in docs/research_log.md. The tables are printed from stored runs. --compute computes the missing runs of
the named parts instead (a stopped run resumes where it was). --publish copies all runs to the shipped ones, and the
first questions of cap_fine's as runs of their own, so that Compare shows it beside the other criteria. Needs
CAP_VIZ_DATA with arc_easy and wikitext2.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import exp

from cap_viz.attribution.results import EvalReport
from cap_viz.errors import UsageError
from cap_viz.evaluation.eval_metrics import TOKEN_LOSS, paired
from cap_viz.evaluation.perplexity import perplexity_of
from cap_viz.models.catalogue import DEFAULT_MODEL, ModelRef, resolve
from cap_viz.models.loading import load
from cap_viz.runs.kinds.evaluation import load_report
from cap_viz.runs.prefix_reuse import first_of, longer_run
from cap_viz.runs.protocols import perplexity_spec
from cap_viz.runs.spec import EvalSpec, MaskSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.settings import shipped_folder
from cap_viz.stats import PairedComparison, compare_means, compare_paired, family_p
from cap_viz.tasks.example_sets import ExampleSet, evaluation_set
from cap_viz.tasks.pairing import check_same_items
from studies.run_many import computed_in_turn
from studies.shipped import publish
from studies.study import Masks

CRITERION, OPPONENT = "cap_fine", "wanda"
ARC, SCIENCE, TEXT = "arc_easy", "mini_science", "generic_text"
TASKS = (ARC, SCIENCE)
HALF, GENTLE = 0.5, (0.1, 0.2)
# Non-inferiority margin at 10 and 20 %: the interval of the accuracy difference to Wanda must stay above it.
MARGIN = -0.03
SEEDS = (0, 1, 2)
# Rows of each task, counted from 0. The study had seen the first ones when the criterion was chosen.
ROWS = {ARC: slice(500, 1500), SCIENCE: slice(0, None)}
# Sizes at which cap_fine is published in addition: those of the pages and the study.
SHOWN = {ARC: (600, 1000), SCIENCE: (600,)}
UNTOUCHED = {ARC: slice(1000, 1500), SCIENCE: slice(500, None)}


@dataclass(frozen=True)
class Confirmation:
    """The confirmation's runs of one model."""

    model: ModelRef
    store: Store

    def mask(self, criterion: str, sparsity: float, task: str, **options: object) -> MaskSpec:
        return Masks(self.model, task).spec(criterion, sparsity, **options)

    def asked(self, task: str, mask: MaskSpec) -> EvalSpec:
        """Describe an evaluation under a mask on all questions up to the last of the task's rows."""
        return EvalSpec(self.model, evaluation_set(task, ROWS[task].stop), mask)

    def opponents(self, task: str, sparsity: float) -> dict[str, EvalSpec]:
        """Describe the evaluations of Wanda calibrated on the task and, at 50 %, on text."""
        found = {"task": self.asked(task, self.mask(OPPONENT, sparsity, task))}
        if sparsity == HALF:
            found["text"] = self.asked(task, self.mask(OPPONENT, sparsity, task, calibration_task=TEXT))
        return found

    def subject(self, task: str, sparsity: float) -> EvalSpec:
        return self.asked(task, self.mask(CRITERION, sparsity, task))

    def perplexity(self, criterion: str) -> EvalSpec:
        return perplexity_spec(self.model, TEXT, length=1024, mask=self.mask(criterion, HALF, ARC))

    def transferred(self, criterion: str, task: str) -> EvalSpec:
        """Describe an evaluation on a task's first 500 questions under the mask of the other task."""
        (other,) = set(TASKS) - {task}
        return EvalSpec(self.model, few(task), self.mask(criterion, HALF, other))

    def drawn(self, criterion: str, seed: int) -> EvalSpec:
        """Describe an evaluation on the first 500 questions of ARC-Easy with calibration examples drawn by `seed`."""
        return EvalSpec(self.model, few(ARC), self.mask(criterion, HALF, ARC, seed=seed))

    def report(self, spec: EvalSpec) -> EvalReport:
        run = self.store.get(spec)
        if run is None:
            raise UsageError(f"A run on {spec.examples.task} is missing; compute it with --compute.")
        return load_report(self.store, run)


def few(task: str) -> ExampleSet:
    return evaluation_set(task, 500)


def at(sparsities: tuple[float, ...]) -> Callable[[Confirmation], Iterator[EvalSpec]]:
    def specs(about: Confirmation) -> Iterator[EvalSpec]:
        for task in TASKS:
            for sparsity in sparsities:
                yield about.subject(task, sparsity)
                yield from about.opponents(task, sparsity).values()

    return specs


PARTS: dict[str, Callable[[Confirmation], Iterator[EvalSpec]]] = {
    "primary": at((HALF,)),
    "gentle": at(GENTLE),
    "perplexity": lambda about: map(about.perplexity, (CRITERION, OPPONENT)),
    "transfer": lambda about: (about.transferred(name, task) for task in TASKS for name in (CRITERION, OPPONENT)),
    "seeds": lambda about: (about.drawn(name, seed) for seed in SEEDS for name in (CRITERION, OPPONENT)),
}


def primary(about: Confirmation) -> None:
    """Print choice loss against the better Wanda, with p adjusted over the two tasks, and accuracy beside it."""
    for title, rows in (("all rows of the confirmation", ROWS), ("rows nobody had looked at", UNTOUCHED)):
        print(f"\n{HALF:.0%}, {title}")
        results = []
        for task in TASKS:
            mine = about.report(about.subject(task, HALF))
            others = {name: about.report(spec) for name, spec in about.opponents(task, HALF).items()}
            calibration = min(others, key=lambda name: others[name].losses()[rows[task]].mean())
            results.append((task, mine, calibration, others[calibration]))
        found = [compared(mine, other, rows[task]) for task, mine, _, other in results]
        adjusted = family_p([loss for _, loss in found])
        for (task, _, calibration, _), (right, loss), p in zip(results, found, adjusted, strict=True):
            print(
                f"{task}, n {loss.n}, Wanda on {calibration}: choice loss {loss.mean_a:.3f} and {loss.mean_b:.3f}, "
                f"{loss.difference:+.3f} [{loss.ci.low:+.3f}, {loss.ci.high:+.3f}], Holm p {p:.2g}; accuracy "
                f"{right.mean_a:.1%} and {right.mean_b:.1%}, {points(right)}, McNemar p {right.p_value:.2g}"
            )


def compared(
    mine: EvalReport, other: EvalReport, rows: slice = slice(None)
) -> tuple[PairedComparison, PairedComparison]:
    """Compare accuracy and choice loss on some rows of the same questions."""
    check_same_items(mine.items, other.items)
    right = compare_paired(mine.correct[rows], other.correct[rows])
    return right, compare_means(mine.losses()[rows], other.losses()[rows])


def points(found: PairedComparison) -> str:
    return f"{100 * found.difference:+.1f} points [{100 * found.ci.low:+.1f}, {100 * found.ci.high:+.1f}]"


def gentle(about: Confirmation) -> None:
    print("\n10 and 20 %, against Wanda on the task")
    for task in TASKS:
        for sparsity in GENTLE:
            mine = about.report(about.subject(task, sparsity))
            other = about.report(about.opponents(task, sparsity)["task"])
            right, loss = compared(mine, other, ROWS[task])
            verdict = "not worse by 3 points" if right.ci.low > MARGIN else "inconclusive"
            accuracies = f"{right.mean_a:.1%} and {right.mean_b:.1%}, {points(right)}"
            losses = f"{loss.difference:+.3f} [{loss.ci.low:+.3f}, {loss.ci.high:+.3f}]"
            print(f"{task} {sparsity:.0%}, {verdict}: {accuracies}; choice loss {losses}")


def perplexity(about: Confirmation) -> None:
    mine, other = (about.report(about.perplexity(name)) for name in (CRITERION, OPPONENT))
    found = paired(mine, other, TOKEN_LOSS)
    print(
        f"\nPerplexity of WikiText-2 at {HALF:.0%} for {ARC}: {perplexity_of(mine).value:.1f} and "
        f"{perplexity_of(other).value:.1f}, a factor of {exp(found.difference):.3f} "
        f"[{exp(found.ci.low):.3f}, {exp(found.ci.high):.3f}]"
    )


def transfer(about: Confirmation) -> None:
    print(f"\n{HALF:.0%}, mask made for the other task, first 500 questions")
    for task in TASKS:
        paired_line(task, *(about.report(about.transferred(name, task)) for name in (CRITERION, OPPONENT)))


def seeds(about: Confirmation) -> None:
    print(f"\n{HALF:.0%}, {ARC}, first 500 questions, other calibration examples for both")
    for seed in SEEDS:
        paired_line(f"seed {seed}", *(about.report(about.drawn(name, seed)) for name in (CRITERION, OPPONENT)))


def paired_line(label: str, mine: EvalReport, other: EvalReport) -> None:
    right, loss = compared(mine, other)
    print(
        f"{label}: choice loss {loss.mean_a:.3f} and {loss.mean_b:.3f}, {loss.difference:+.3f} "
        f"[{loss.ci.low:+.3f}, {loss.ci.high:+.3f}]; accuracy {right.mean_a:.1%} and {right.mean_b:.1%}, "
        f"{points(right)}"
    )


def published(about: Confirmation) -> Iterator[EvalSpec]:
    """Yield the specs of all parts, and cap_fine's at the sizes of the pages and the study."""
    for part in PARTS.values():
        yield from part(about)
    for task, sizes in SHOWN.items():
        for sparsity in (*GENTLE, HALF):
            for n in sizes:
                yield EvalSpec(about.model, evaluation_set(task, n), about.mask(CRITERION, sparsity, task))


def publish_runs(about: Confirmation) -> None:
    live: list[StoredRun] = []
    for spec in dict.fromkeys(published(about)):
        run = about.store.get(spec)
        if run is None and (longer := longer_run(spec, about.store)) is not None:
            run = first_of(longer, spec, about.store)
        if run is None:
            raise UsageError(f"A run on {spec.examples.task} is missing; compute it with --compute.")
        if run.origin == "live":
            live.append(run)
    publish(live, shipped_folder())


TABLES = (primary, gentle, perplexity, transfer, seeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compute", nargs="+", choices=list(PARTS), default=[])
    parser.add_argument("--publish", action="store_true")
    options = parser.parse_args()
    source, store = resolve(DEFAULT_MODEL), Store()
    about = Confirmation(source.ref, store)
    if options.compute:
        specs = list(dict.fromkeys(spec for part in options.compute for spec in PARTS[part](about)))
        for turn in computed_in_turn(specs, load(source), store):
            print(turn.line, flush=True)
        return
    if options.publish:
        publish_runs(about)
    for table in TABLES:
        table(about)


if __name__ == "__main__":
    main()
