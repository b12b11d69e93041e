"""Plain names of what pages offer; addresses, exports and the command line use the ids."""

from __future__ import annotations

from cap_viz.attribution.effect_metrics import METRICS
from cap_viz.dashboard.components.panels import listed, percent
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.errors import CapVizError
from cap_viz.models.catalogue import CATALOGUE
from cap_viz.pruning import CRITERIA, criterion_title
from cap_viz.runs.comparison import counts_weights
from cap_viz.runs.kinds import describe
from cap_viz.runs.mask_provenance import MaskProvenance, provenance_of
from cap_viz.runs.run_labels import prompt_words
from cap_viz.runs.spec import MaskSpec, RunSpec, ScoreSpec
from cap_viz.tasks import Task, load_task
from cap_viz.tasks.example_sets import ExampleSet

TEXT_LOSS = "Token loss"
ABLATION_NAMES = {"zero": "zeroed", "mean": "mean", "resample": "resampled"}
OPTION_WORDS = {
    "control_seed": "draw",
    "kv_combine": "key-value groups combined by",
    "metric": "head scores by",
    "score_metric": "gradients of",
}

# Groups of criteria in the order in which they are offered; one not named here comes last, as an addition.
CRITERION_GROUPS = {
    "ours": ("cap", "cap_fine"),
    "published": ("wanda", "wanda_oneshot", "sparsegpt", "ria", "gblm", "taylor"),
    "control": ("global_magnitude", "magnitude", "shuffled_cap", "head", "random"),
}


def model_name(model_id: str) -> str:
    return CATALOGUE[model_id].title if model_id in CATALOGUE else model_id


def task_name(name: str) -> str:
    """Return a task's title; its id where the task is not on this machine."""
    try:
        return load_task(name).title
    except CapVizError:
        return name


def texts_missing(*tasks: Task) -> str:
    """Say that the texts of tasks are not on this machine, and how to get them there."""
    titles, folders = listed([task.title for task in tasks]), listed([f"{task.data_folder}/" for task in tasks])
    return (
        f"The texts of {titles} are not on this machine. To see and measure them, set CAP_VIZ_DATA to a folder that "
        f"holds {folders}. Mini science and Mini text work without."
    )


def metric_title(metric: str) -> str:
    """Return a metric's name; its id where the package that adds it is not on this machine."""
    return METRICS[metric].title if metric in METRICS else metric


def metrics_help(names: tuple[str, ...]) -> str:
    """Explain each metric in a line, with its id; one of another package names the package."""
    return "\n".join(
        f"- **{metric_title(name)}** `{name}`: {GLOSSARY.get(name) or f'Added by {METRICS[name].origin}.'}"
        for name in names
    )


def metric_name(task: Task, metric: str) -> str:
    """Return a metric's name; a text task has no answer, so its loss covers every token of the continuation."""
    return TEXT_LOSS if task.kind == "text" else metric_title(metric)


def run_title(spec: ScoreSpec) -> str:
    """Name head scores by what distinguishes them: `48 examples, zeroed` or `16 examples, draw 3, gradient`."""
    examples = spec.examples
    said = [f"{len(examples.ids)} examples", ABLATION_NAMES[spec.ablation]]
    if examples.seed:
        said.insert(1, f"draw {examples.seed}")
    elif examples.split != "calibration":
        said.insert(1, f"{examples.split} questions")
    if spec.reference is not None and spec.ablation != "zero":
        said.append(f"{len(spec.reference.ids)} reference examples")
    if spec.estimator != "exact":
        said.append(f"{spec.estimator}, {metric_title(spec.metric or 'nll').lower()}")
    if spec.mask is not None:
        said.append(mask_name(spec.mask))
    return ", ".join(said) + prompt_words(examples)


def run_words(spec: RunSpec) -> str:
    """Describe a run in plain names, without its model and task."""
    if isinstance(spec, ScoreSpec):
        return f"{'Heads' if spec.parts is None else spec.parts.capitalize()}: {run_title(spec)}"
    mask: MaskSpec | None = getattr(spec, "mask", None)
    if mask is None:
        return describe(spec)[:1].upper() + describe(spec)[1:]
    said, made = describe(spec).replace(mask.criterion, criterion_title(mask.criterion), 1), provenance_of(mask)
    of = "" if counts_weights(mask.criterion) else " of heads"
    elsewhere = made.examples is not None and made.examples.task != spec.examples.task
    source = [f"from {task_name(made.examples.task)}"] if made.examples is not None and elsewhere else []
    said = ", ".join([said.replace("%", " %") + of, *source, *option_words(made)])
    return said[:1].upper() + said[1:]


def job_title(spec: RunSpec) -> str:
    """Name what computes a run: `Mini science, CAP at 20 %, n = 600`."""
    return f"{task_name(spec.examples.task)}, {run_words(spec)}, n = {len(spec.examples.ids)}"


def basis_words(basis: MaskProvenance) -> str:
    """Describe what masks are built on: `masks from 48 examples of Mini science`, and every unusual option."""
    examples, activations = basis.examples, basis.get("activations")
    if examples is None:
        said = ["masks without calibration"]
    else:
        draw = f", draw {examples.seed}" if examples.seed else ""
        said = [f"masks from {len(examples.ids)} examples of {task_name(examples.task)}{draw}"]
    if isinstance(activations, ExampleSet):
        said.append(f"activations of {task_name(activations.task)}")
    return ", ".join([*said, *option_words(basis)])


def option_words(made: MaskProvenance) -> list[str]:
    """Name the options of a mask that differ from the usual ones."""
    return [f"{OPTION_WORDS.get(name, name)} {metric_title(value).lower()}" for name, value in made.unusual.items()]


def mask_name(mask: MaskSpec | None) -> str:
    """Name weights within a sentence: `CAP at 20 %`, or the dense model."""
    return "the dense model" if mask is None else f"{criterion_title(mask.criterion)} at {percent(mask.sparsity, 0)}"


def criterion_group(name: str) -> str:
    return next((group for group, names in CRITERION_GROUPS.items() if name in names), "addition")


def criterion_option(name: str) -> str:
    """Name a criterion with its group, for a list to choose from: `Wanda (published)`."""
    return f"{criterion_title(name)} ({criterion_group(name)})"


def criteria_in_groups(names: list[str] | tuple[str, ...]) -> list[str]:
    """Order criteria by group, for a list to choose from."""
    order = [name for group in CRITERION_GROUPS.values() for name in group]
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def criteria_help(names: list[str] | tuple[str, ...]) -> str:
    """Explain each criterion in a line, with its id."""
    return "\n".join(
        f"- **{criterion_option(name)}** `{name}`: {CRITERIA[name].summary}"
        for name in criteria_in_groups(names)
        if name in CRITERIA
    )
