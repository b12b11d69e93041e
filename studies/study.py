"""The study: its questions and the runs that answer them, fixed before the first run was made.

Each part is a question with the runs it needs. Parts share runs; a run is computed once. `python -m studies`
computes the missing runs in the order of the parts, so that the first questions are answered first.
`studies/tables.py` makes the tables from the runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cap_viz.errors import UsageError
from cap_viz.evaluation.perplexity import USUAL_LENGTH
from cap_viz.models.catalogue import TOY_MODEL, ModelRef
from cap_viz.pruning import CRITERIA
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.protocols import perplexity_spec, solution_spec
from cap_viz.runs.spec import EvalSpec, MaskSpec, RunSpec, ScoreSpec
from cap_viz.tasks import load_task
from cap_viz.tasks.example_sets import ExampleSet, calibration_set, evaluation_set

N_CALIBRATION = 48
# Worked solutions and passages are long and read at every token, so only as many as in the shipped head scores.
N_SOLUTIONS = 16
N_PASSAGES = 40
# Most parts beside the ordering use fewer questions and sparsities, and mean ablation (a score run of its own) only the
# first task: everything in full would take more than twice the study's time.
FEWER = 500
SPARSITIES = (0.1, 0.2, 0.5)
FEW_SPARSITIES = (0.2, 0.5)
BETWEEN = (0.3, 0.4, 0.6)
SEEDS = (0, 1, 2)
PERMUTATIONS = 19
# Without the controls, which answer questions of their own.
# cap_fine came after the study; its own confirmation is in docs/research_log.md.
COMPETING = tuple(name for name in CRITERIA if name not in ("shuffled_cap", "random", "cap_fine"))
# For parts with few criteria: the subject, its opponent, the control without causal scores, ...
FEW = ("cap", "wanda", "global_magnitude")
# ... and, where accuracy may hold up to higher sparsities, one of the rest that was ahead on the toy reasoner.
STRONGEST = (*FEW, "sparsegpt")


@dataclass(frozen=True)
class Setting:
    """Tasks asked of a model, each with its number of evaluation questions (None: all).

    `main` are tasks the model answers clearly above chance; parts about one task use the first, most parts beside the
    ordering use `fewer` questions. `weak` are tasks not clearly above chance, `solutions` tasks with worked solutions
    to score. `text` is running text without questions, its perplexity measured in windows of `length` tokens.
    """

    main: Mapping[str, int | None]
    text: str
    length: int = USUAL_LENGTH
    weak: Mapping[str, int | None] = field(default_factory=dict)
    solutions: Mapping[str, int | None] = field(default_factory=dict)

    @property
    def first(self) -> str:
        return next(iter(self.main))

    def fewer(self, task: str) -> ExampleSet:
        """Return the first evaluation questions of a main task, at most `FEWER`."""
        n = self.main[task]
        return evaluation_set(task, FEWER if n is None else min(n, FEWER))

    @property
    def tasks(self) -> tuple[str, ...]:
        return (*self.main, *self.weak, *self.solutions, self.text)


USUAL = Setting(
    main={"arc_easy": 1000, "mini_science": None},
    text="generic_text",
    weak={"strategyqa": None, "arc_challenge": 600},
    solutions={"gsm8k": 100},
)
TOY = Setting(main={"toy_math": 400, "toy_strategy": 400, "toy_choice": 400}, text="toy_text")


def setting_of(model: ModelRef) -> Setting:
    return TOY if model.id == TOY_MODEL else USUAL


@dataclass(frozen=True)
class Part:
    """A question of the study and the runs that answer it."""

    name: str
    question: str
    specs: tuple[RunSpec, ...]


@dataclass(frozen=True)
class Masks:
    """Masks of a model built on `n` calibration examples of one task (None: the usual number)."""

    model: ModelRef
    task: str
    n: int | None = None

    def spec(self, criterion: str, sparsity: float, **options: object) -> MaskSpec:
        return mask_spec_for(
            self.model,
            criterion,
            sparsity,
            task=self.task,
            n=self.n or N_CALIBRATION,
            **options,  # pyright: ignore[reportArgumentType]
        )

    def measured(
        self, examples: ExampleSet, criteria: Sequence[str], sparsities: Sequence[float], **options: object
    ) -> Iterator[EvalSpec]:
        for criterion in criteria:
            for sparsity in sparsities:
                yield EvalSpec(self.model, examples, self.spec(criterion, sparsity, **options))


def study_parts(model: ModelRef, setting: Setting | None = None) -> tuple[Part, ...]:
    """Return all parts, the most important first. Raises `UsageError` where a task's texts are not on this machine."""
    asked = setting or setting_of(model)
    missing = [name for name in asked.tasks if not load_task(name).is_local()]
    if missing:
        raise UsageError(f"The study needs {', '.join(missing)} on this machine; name their folder by CAP_VIZ_DATA.")
    parts = (
        Part("ordering", "Is CAP better than Wanda and the rest at 10, 20 and 50 %?", tuple(ordering(model, asked))),
        Part(
            "text", "Does it matter whether criteria are calibrated on the task or on text?", tuple(text(model, asked))
        ),
        Part("controls", "Do causal scores add anything to magnitude and to chance?", tuple(controls(model, asked))),
        Part("between", "Where between 20 and 60 % does accuracy break down?", tuple(between(model, asked))),
        Part("scores", "Do the metric and the ablation of the head scores matter?", tuple(scores(model, asked))),
        Part("seeds", "How much do other calibration examples change?", tuple(seeds(model, asked))),
        Part("transfer", "What do masks made for one task do to another?", tuple(transfer(model, asked))),
        Part("generic", "What happens to running text under the masks of a task?", tuple(generic(model, asked))),
        Part("solutions", "What happens to worked solutions under their masks?", tuple(solutions(model, asked))),
        Part("weak", "What is seen where the model does not beat guessing?", tuple(weak(model, asked))),
    )
    # A part may name a run twice if a task has few questions.
    return tuple(replace(part, specs=tuple(dict.fromkeys(part.specs))) for part in parts if part.specs)


def ordering(model: ModelRef, asked: Setting) -> Iterator[RunSpec]:
    for task, n in asked.main.items():
        examples = evaluation_set(task, n)
        yield EvalSpec(model, examples)
        yield from Masks(model, task).measured(examples, COMPETING, SPARSITIES)


def text(model: ModelRef, asked: Setting) -> Iterator[RunSpec]:
    """Yield masks from activations, gradients or CAP's head scores measured on text, and counterparts on the task.

    Wanda is asked all questions, since the ordering compares with the better of the two Wandas.
    """
    for task, n in asked.main.items():
        masks, examples = Masks(model, task), asked.fewer(task)
        yield EvalSpec(model, examples)
        yield from masks.measured(evaluation_set(task, n), ("wanda",), SPARSITIES, calibration_task=asked.text)
        yield from masks.measured(examples, driven(), FEW_SPARSITIES, calibration_task=asked.text)
        yield from masks.measured(examples, ("cap", *driven()), FEW_SPARSITIES)
        yield from masks.measured(examples, ("cap",), FEW_SPARSITIES, scores=by_text(model, asked))


def driven() -> tuple[str, ...]:
    """Return the competing criteria that measure activations or gradients."""
    return tuple(name for name in COMPETING if CRITERIA[name].needs_calibration)


def controls(model: ModelRef, asked: Setting) -> Iterator[RunSpec]:
    """Yield CAP, CAP with permuted head scores, and weights drawn at random."""
    masks, examples = Masks(model, asked.first), asked.fewer(asked.first)
    yield EvalSpec(model, examples)
    yield from masks.measured(examples, ("cap",), FEW_SPARSITIES)
    for seed in range(PERMUTATIONS):
        yield from masks.measured(examples, ("shuffled_cap",), FEW_SPARSITIES, control_seed=seed)
    yield from masks.measured(examples, ("random",), SPARSITIES)


def between(model: ModelRef, asked: Setting) -> Iterator[RunSpec]:
    for task, n in asked.main.items():
        yield from Masks(model, task).measured(evaluation_set(task, n), STRONGEST, BETWEEN)


def scores(model: ModelRef, asked: Setting) -> Iterator[RunSpec]:
    for task in asked.main:
        masks, examples = Masks(model, task), asked.fewer(task)
        yield from masks.measured(examples, ("cap",), FEW_SPARSITIES)
        yield from masks.measured(examples, ("cap",), FEW_SPARSITIES, metric="choice_nll")
        if task == asked.first:
            yield from masks.measured(examples, ("cap",), FEW_SPARSITIES, scores=by_mean(model, task))


def by_text(model: ModelRef, asked: Setting) -> ScoreSpec:
    return ScoreSpec(model, calibration_set(asked.text, N_PASSAGES))


def by_mean(model: ModelRef, task: str) -> ScoreSpec:
    return ScoreSpec(model, calibration_set(task, N_CALIBRATION), ablation="mean")


def seeds(model: ModelRef, asked: Setting) -> Iterator[RunSpec]:
    masks, examples = Masks(model, asked.first), asked.fewer(asked.first)
    for seed in SEEDS:
        yield from masks.measured(examples, ("cap", "wanda"), FEW_SPARSITIES, seed=seed)


def transfer(model: ModelRef, asked: Setting) -> Iterator[RunSpec]:
    """Yield masks calibrated on each main task, evaluated on all of them."""
    for made_for in asked.main:
        for task in asked.main:
            yield from Masks(model, made_for).measured(asked.fewer(task), ("cap", "wanda"), FEW_SPARSITIES)


def generic(model: ModelRef, asked: Setting) -> Iterator[RunSpec]:
    """Yield perplexity runs, dense and under the masks made for the first task."""
    if load_task(asked.text).running_text is None:
        return
    masks = Masks(model, asked.first)
    yield perplexity_spec(model, asked.text, length=asked.length)
    for criterion in COMPETING:
        for sparsity in SPARSITIES:
            mask = masks.spec(criterion, sparsity)
            yield perplexity_spec(model, asked.text, length=asked.length, mask=mask)


def solutions(model: ModelRef, asked: Setting) -> Iterator[RunSpec]:
    for task, n in asked.solutions.items():
        examples = evaluation_set(task, n)
        yield solution_spec(model, examples)
        masks = Masks(model, task, N_SOLUTIONS)
        for criterion in FEW:
            for sparsity in SPARSITIES:
                yield solution_spec(model, examples, masks.spec(criterion, sparsity))


def weak(model: ModelRef, asked: Setting) -> Iterator[RunSpec]:
    for task, n in asked.weak.items():
        examples = evaluation_set(task, n)
        yield EvalSpec(model, examples)
        yield from Masks(model, task).measured(examples, FEW, FEW_SPARSITIES)
