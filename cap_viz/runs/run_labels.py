"""Short descriptions of runs, for lists in the shell and on the Runs page."""

from __future__ import annotations

from dataclasses import dataclass

from cap_viz.runs.prefix_reuse import taken_words
from cap_viz.runs.spec import AblationSpec, EvalSpec, MaskSpec, RunSpec
from cap_viz.runs.store import StoredRun
from cap_viz.tasks.example_sets import ExampleSet
from cap_viz.tasks.wordings import on_one_line


@dataclass(frozen=True)
class AblationWords:
    """Words for an ablation: a participle each for `doing` and `done`, and a phrase `by` with a leading space."""

    doing: str
    done: str
    by: str = ""

    @property
    def ends(self) -> tuple[str, str]:
        """Meaning of a negative and of a positive effect."""
        return f"{self.doing} it helps", f"{self.doing} it hurts"

    @property
    def each(self) -> str:
        """The phrase `by` for several outputs."""
        return self.by and f", each{self.by}"


ABLATION_WORDS = {
    "zero": AblationWords("removing", "removed"),
    "mean": AblationWords("replacing", "replaced", " by its mean over the reference examples"),
    "resample": AblationWords("replacing", "replaced", " by its value on another example"),
}


def ablation_words(*specs: RunSpec) -> AblationWords:
    """Choose the words for the ablation of these runs; where they use several ablations, words true of all."""
    kinds = {spec.ablation for spec in specs if isinstance(spec, AblationSpec)}
    return ABLATION_WORDS[kinds.pop()] if len(kinds) == 1 else AblationWords("ablating", "ablated")


def percent(share: float) -> str:
    """Format a share as a percentage with up to six digits, so that similar sparsities stay apart: 50%, 50.1%."""
    return f"{100 * share:.6g}%"


def pruned_words(mask: MaskSpec | None) -> str:
    """Continue a description with the mask: ", wanda at 50%"; nothing for the dense model."""
    return "" if mask is None else f", {mask.criterion} at {percent(mask.sparsity)}"


def prompt_words(examples: ExampleSet) -> str:
    """Continue a description with a prompt that is not the task's own; nothing for its own."""
    return "" if examples.prompt is None else f', asked as "{on_one_line(examples.prompt)}"'


def making_of(run: StoredRun) -> str:
    """Describe in one line how a run was computed: machine, time (or the run it was taken from), versions, key."""
    made = run.provenance
    time = taken_words(run) or f"{made.get('seconds', 0):,.0f} s"
    versions = ", ".join(f"{name} {number}" for name, number in made.get("versions", {}).items())
    return (
        f"{made.get('machine', '?')}, {made.get('device', '?')}, {made.get('dtype', '?')}, "
        f"{made.get('threads', '?')} threads, {time}; {versions}; key {run.key}."
    )


def change_words(shown: EvalSpec, wanted: EvalSpec) -> str:
    """Describe in words how the evaluation shown differs from the one asked for."""
    said: list[str] = []
    old, new = shown.mask, wanted.mask
    if old is not None and new is not None:
        if old.sparsity != new.sparsity:
            said.append(f"measured at {100 * old.sparsity:.0f} %, the slider is at {100 * new.sparsity:.0f} %")
        if old.scope != new.scope:
            said.append(f"scope was {old.scope}, now {new.scope}")
        if old.metric != new.metric:
            said.append(f"metric was {old.metric}, now {new.metric}")
        if old.kv_combine != new.kv_combine:
            said.append(f"key-value groups were combined by {old.kv_combine}, now {new.kv_combine}")
        if old.scores != new.scores:
            said.append("built on other head scores")
        elif old.calibration != new.calibration:
            said.append("built on other calibration examples")
        if (old.allocation, old.pattern) != (new.allocation, new.pattern):
            said.append(f"zeros were spread {spread_words(old)}, now {spread_words(new)}")
        if old.control_seed != new.control_seed:
            said.append(f"draw {old.control_seed}, now {new.control_seed}")
    if shown.examples != wanted.examples:
        said.append(f"measured on {len(shown.examples.ids)} items, {len(wanted.examples.ids)} are asked for")
    return "; ".join(said)


def spread_words(mask: MaskSpec) -> str:
    """Name the pattern or allocation of a mask, or "evenly"."""
    return mask.pattern or (mask.allocation or "evenly").replace("owl", "by OWL")
