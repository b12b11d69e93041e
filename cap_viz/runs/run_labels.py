"""Short descriptions of runs, for lists in the shell and on the Runs page."""

from __future__ import annotations

from dataclasses import dataclass

from cap_viz.runs.prefix_reuse import taken_words
from cap_viz.runs.spec import JointSpec, RunSpec, ScoreSpec
from cap_viz.runs.store import StoredRun


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
    kinds = {spec.ablation for spec in specs if isinstance(spec, ScoreSpec | JointSpec)}
    return ABLATION_WORDS[kinds.pop()] if len(kinds) == 1 else AblationWords("ablating", "ablated")


def percent(share: float) -> str:
    """Format a share as a percentage with up to six digits, so that similar sparsities stay apart: 50%, 50.1%."""
    return f"{100 * share:.6g}%"


def making_of(run: StoredRun) -> str:
    """Describe in one line how a run was computed: machine, time (or the run it was taken from), versions, key."""
    made = run.provenance
    time = taken_words(run) or f"{made.get('seconds', 0):,.0f} s"
    versions = ", ".join(f"{name} {number}" for name, number in made.get("versions", {}).items())
    return (
        f"{made.get('machine', '?')}, {made.get('device', '?')}, {made.get('dtype', '?')}, "
        f"{made.get('threads', '?')} threads, {time}; {versions}; key {run.key}."
    )
