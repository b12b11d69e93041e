"""The study: which runs answer its questions, fixed before the first of them was made.

Each part is a question with the runs it needs. Parts share runs; a run is computed once. `python -m cap_viz study`
computes what is missing, in the order of the parts, so that the first questions are answered first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cap_viz.errors import UsageError
from cap_viz.perplexity import perplexity_spec
from cap_viz.pruning import CRITERIA
from cap_viz.runs import calibration_set, evaluation_set, mask_spec_for
from cap_viz.spec import EvalSpec, ExampleSet, MaskSpec, ModelRef, RunSpec, ScoreSpec
from cap_viz.tasks import load_task

N_CALIBRATION = 48
SPARSITIES = (0.1, 0.2, 0.5)
BETWEEN = (0.3, 0.4, 0.6)
# Tasks the model answers clearly above chance, with how many of their evaluation questions are asked (None: all).
MAIN_TASKS: dict[str, int | None] = {"arc_easy": 1000, "mini_science": None}
BELOW_CHANCE: dict[str, int | None] = {"strategyqa": None, "arc_challenge": 600}
GENERIC_TEXT = "generic_text"
SEEDS = (1, 2)
PERMUTATIONS = 19
# With the controls left out, whose questions are their own.
COMPETING = tuple(name for name in CRITERIA if name not in ("shuffled_cap", "random"))


@dataclass(frozen=True)
class Part:
    """A question of the study and the runs that answer it."""

    name: str
    question: str
    specs: tuple[RunSpec, ...]


@dataclass(frozen=True)
class Masks:
    """Masks of a model built on the calibration examples of one task."""

    model: ModelRef
    task: str

    def spec(self, criterion: str, sparsity: float, **options: object) -> MaskSpec:
        return mask_spec_for(
            self.model,
            criterion,
            sparsity,
            task=self.task,
            n=N_CALIBRATION,
            **options,  # pyright: ignore[reportArgumentType]
        )

    def measured(
        self, examples: ExampleSet, criteria: Sequence[str], sparsities: Sequence[float], **options: object
    ) -> Iterator[EvalSpec]:
        for criterion in criteria:
            for sparsity in sparsities:
                yield EvalSpec(self.model, examples, self.spec(criterion, sparsity, **options))


def study_parts(model: ModelRef) -> tuple[Part, ...]:
    """All parts, the most important first. Raises `UsageError` where a task's texts are not on this machine."""
    missing = [name for name in (*MAIN_TASKS, *BELOW_CHANCE, GENERIC_TEXT) if not load_task(name).is_local()]
    if missing:
        raise UsageError(f"The study needs {', '.join(missing)} on this machine; name their folder by CAP_VIZ_DATA.")
    return (
        Part("ordering", "Is CAP better than Wanda and the rest at 10, 20 and 50 %?", tuple(ordering(model))),
        Part("text", "Does it matter whether criteria are calibrated on the task or on text?", tuple(text(model))),
        Part("controls", "Do causal scores add anything to magnitude and to chance?", tuple(controls(model))),
        Part("between", "Where between 20 and 60 % does accuracy break down?", tuple(between(model))),
        Part("scores", "Do the metric and the ablation of the head scores matter?", tuple(scores(model))),
        Part("seeds", "How much do other calibration examples change?", tuple(seeds(model))),
        Part("transfer", "What do masks made for one task do to another?", tuple(transfer(model))),
        Part("generic", "What happens to running text under the masks of arc_easy?", tuple(generic(model))),
        Part("below_chance", "What is seen where the model does not beat guessing?", tuple(below_chance(model))),
    )


def ordering(model: ModelRef) -> Iterator[RunSpec]:
    for task, n in MAIN_TASKS.items():
        examples = evaluation_set(task, n)
        yield EvalSpec(model, examples)
        yield from Masks(model, task).measured(examples, COMPETING, SPARSITIES)


def text(model: ModelRef) -> Iterator[RunSpec]:
    """Activations and gradients measured on generic text; CAP's head scores as well."""
    driven = [name for name in COMPETING if CRITERIA[name].needs_calibration]
    for task, n in MAIN_TASKS.items():
        masks, examples = Masks(model, task), evaluation_set(task, n)
        yield from masks.measured(examples, driven, SPARSITIES, calibration_task=GENERIC_TEXT)
        yield from masks.measured(examples, ("cap",), SPARSITIES, scores_task=GENERIC_TEXT)


def controls(model: ModelRef) -> Iterator[RunSpec]:
    """CAP with its head scores dealt out anew, and weights drawn at random."""
    masks, examples = Masks(model, "arc_easy"), evaluation_set("arc_easy", MAIN_TASKS["arc_easy"])
    for seed in range(PERMUTATIONS):
        yield from masks.measured(examples, ("shuffled_cap",), (0.2, 0.5), control_seed=seed)
    yield from masks.measured(examples, ("random",), SPARSITIES)


def between(model: ModelRef) -> Iterator[RunSpec]:
    for task, n in MAIN_TASKS.items():
        yield from Masks(model, task).measured(evaluation_set(task, n), ("cap", "wanda", "global_magnitude"), BETWEEN)


def scores(model: ModelRef) -> Iterator[RunSpec]:
    for task, n in MAIN_TASKS.items():
        masks, examples = Masks(model, task), evaluation_set(task, n)
        yield from masks.measured(examples, ("cap",), SPARSITIES, metric="choice_nll")
        by_mean = ScoreSpec(model, calibration_set(task, N_CALIBRATION), ablation="mean")
        yield from masks.measured(examples, ("cap",), SPARSITIES, scores=by_mean)


def seeds(model: ModelRef) -> Iterator[RunSpec]:
    masks, examples = Masks(model, "arc_easy"), evaluation_set("arc_easy", MAIN_TASKS["arc_easy"])
    for seed in SEEDS:
        yield from masks.measured(examples, ("cap", "wanda"), SPARSITIES, seed=seed)


def transfer(model: ModelRef) -> Iterator[RunSpec]:
    """Masks calibrated on one of the main tasks, measured on the other."""
    for made_for in MAIN_TASKS:
        for task, n in MAIN_TASKS.items():
            if task != made_for:
                yield from Masks(model, made_for).measured(evaluation_set(task, n), ("cap", "wanda"), (0.2, 0.5))


def generic(model: ModelRef) -> Iterator[RunSpec]:
    """Perplexity on WikiText-2, dense and under the masks made for arc_easy."""
    masks = Masks(model, "arc_easy")
    yield perplexity_spec(model, GENERIC_TEXT)
    for criterion in COMPETING:
        for sparsity in SPARSITIES:
            yield perplexity_spec(model, GENERIC_TEXT, mask=masks.spec(criterion, sparsity))


def below_chance(model: ModelRef) -> Iterator[RunSpec]:
    for task, n in BELOW_CHANCE.items():
        examples = evaluation_set(task, n)
        yield EvalSpec(model, examples)
        yield from Masks(model, task).measured(examples, ("cap", "wanda", "global_magnitude"), (0.2, 0.5))
