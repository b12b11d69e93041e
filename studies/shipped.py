"""Runs shipped with the project: `python -m studies.shipped` computes and publishes the missing ones.

It also publishes the stored runs of the study (`studies/study.py`), which `python -m studies` computes. Those of
cap_fine's confirmation are published by `python -m studies.cap_fine_confirmation --publish`.

Runs are computed in the local store (so an interrupted rebuild resumes where it was) and then added to the pack in
cache/shipped, which the app itself never writes. Only numbers and example ids are stored, no texts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cap_viz.attribution.path_scores import strongest_heads
from cap_viz.attribution.removal_curve import SHARES, Removals
from cap_viz.errors import CapVizError
from cap_viz.models.catalogue import DEFAULT_MODEL, TOY_MODEL, ModelRef, ModelSource, resolve
from cap_viz.models.loading import load
from cap_viz.pruning import CRITERIA, criterion_named
from cap_viz.runs.kinds.removal import removal_spec
from cap_viz.runs.kinds.scores import load_scores
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.pack import open_pack
from cap_viz.runs.pack_writer import write_pack
from cap_viz.runs.run_queries import block_spec, direct_spec, role_spec
from cap_viz.runs.spec import EvalSpec, MaskSpec, PairSpec, PathSpec, PositionSpec, ProfileSpec, RunSpec, ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.settings import MAIN_CRITERIA, N_CALIBRATION, SEED, SPARSITIES, shipped_folder
from cap_viz.stats import mean_with_ci
from cap_viz.tasks.example_sets import calibration_set, evaluation_set
from cap_viz.tasks.wordings import WORDINGS
from studies.run_many import computed_in_turn
from studies.study import study_parts

N_TEXTS = 16
# Passages of running text agree less with each other, so their ranking needs more of them (reliability .8).
N_PASSAGES = 40
# The toy model computes a whole heatmap in the time SmolLM2 needs for one question.
N_TOY_CALIBRATION = 64
N_TOY_EVALUATION = 200
# Heads of a circuit (all of the toy reasoner's), and the questions on which circuits and changed heads are measured.
N_HEADS, N_TOY_HEADS, N_CIRCUIT = 8, 32, 32
TOY_SPARSITIES = tuple(tenths / 10 for tenths in range(1, 10))


@dataclass(frozen=True)
class Shipment:
    """Runs shipped for a task and a model.

    Head scores on `n_scores` calibration examples (0: none), with `blocks` also those of whole attention layers and
    MLPs, with `direct` also the direct effects, with `reworded` also those of the same questions asked by another
    prompt. For each of `changed`, sparsities of CAP, the scores of the pruned and of the dense model on evaluation
    questions. Paths and pairs of the `n_circuit` heads with the largest effects, and effects of all heads by span. The
    dense accuracy on the first `n_evaluation` evaluation examples (0: none), and the accuracy on the same examples
    under each of `criteria` at each of `sparsities`.
    """

    task: str
    n_scores: int = 0
    n_evaluation: int = 0
    criteria: tuple[str, ...] = ()
    blocks: bool = False
    direct: bool = False
    reworded: bool = False
    changed: tuple[float, ...] = ()
    n_circuit: int = 0
    model: str = DEFAULT_MODEL
    sparsities: tuple[float, ...] = SPARSITIES


def toy_shipment(task: str) -> Shipment:
    return Shipment(
        task,
        N_TOY_CALIBRATION,
        N_TOY_EVALUATION,
        tuple(CRITERIA),
        blocks=True,
        direct=True,
        reworded=True,
        changed=(0.2, 0.5),
        n_circuit=N_TOY_HEADS,
        model=TOY_MODEL,
        sparsities=TOY_SPARSITIES,
    )


SHIPMENTS = (
    Shipment("mini_science", N_CALIBRATION, 600, MAIN_CRITERIA, blocks=True, n_circuit=N_HEADS),
    Shipment("arc_easy", N_CALIBRATION, 600, MAIN_CRITERIA, blocks=True, n_circuit=N_HEADS),
    Shipment("arc_challenge", N_CALIBRATION, 600),
    Shipment("strategyqa", N_CALIBRATION, 229),
    Shipment("mini_strategy", N_CALIBRATION, 236),
    Shipment("mini_math", N_CALIBRATION, 236),
    Shipment("mini_text", N_PASSAGES),
    Shipment("generic_text", N_PASSAGES),
    Shipment("gsm8k", N_TEXTS),
    *map(toy_shipment, ("toy_math", "toy_strategy", "toy_choice")),
    Shipment("toy_text", N_TOY_CALIBRATION, model=TOY_MODEL),
)


def shipped_specs(model: ModelRef) -> Iterator[RunSpec]:
    """Yield the spec of every run in `SHIPMENTS` for a model."""
    for shipment in SHIPMENTS:
        if shipment.model != model.id:
            continue
        if shipment.n_evaluation:
            yield from evaluations(model, shipment)
        if shipment.n_scores:
            yield from scores_and_profiles(model, shipment)
        if shipment.direct:
            yield direct_spec(head_scores(model, shipment))
        if shipment.reworded:
            yield ScoreSpec(model, calibration_set(shipment.task, shipment.n_scores, SEED, WORDINGS[0]))
        if shipment.changed:
            dense = ScoreSpec(model, evaluation_set(shipment.task, N_CIRCUIT))
            masks = [calibrated_mask(model, shipment, "cap", sparsity) for sparsity in shipment.changed]
            yield from (dense, *(replace(dense, mask=mask) for mask in masks))


def circuit_specs(model: ModelRef, store: Store) -> Iterator[RunSpec]:
    """Yield the paths, pairs, spans and removal curves in `SHIPMENTS`; stored head scores name the heads."""
    for shipment in SHIPMENTS:
        scores = store.get(head_scores(model, shipment)) if shipment.model == model.id and shipment.n_circuit else None
        if scores is not None:
            estimate = mean_with_ci(load_scores(store, scores).effects("nll"))
            heads = strongest_heads(estimate, shipment.n_circuit)
            examples = evaluation_set(shipment.task, N_CIRCUIT)
            yield PathSpec(model, examples, heads)
            yield PairSpec(model, examples, heads)
            yield PositionSpec(model, examples, "span", metric="nll")
            if model.id == TOY_MODEL:
                yield removal_spec(scores.spec, Removals.of_effects(estimate.mean, SHARES), examples)


def head_scores(model: ModelRef, shipment: Shipment) -> ScoreSpec:
    return ScoreSpec(model=model, examples=calibration_set(shipment.task, shipment.n_scores, SEED))


def evaluations(model: ModelRef, shipment: Shipment) -> Iterator[EvalSpec]:
    examples = evaluation_set(shipment.task, shipment.n_evaluation)
    yield EvalSpec(model=model, examples=examples)
    for criterion in shipment.criteria:
        for sparsity in shipment.sparsities:
            mask = calibrated_mask(model, shipment, criterion, sparsity)
            yield EvalSpec(model=model, examples=examples, mask=mask)


def scores_and_profiles(model: ModelRef, shipment: Shipment) -> Iterator[RunSpec]:
    heads = head_scores(model, shipment)
    yield heads
    yield role_spec(heads)
    if shipment.blocks:
        yield block_spec(heads)
    for criterion in shipment.criteria:
        if criterion_named(criterion).fixed_score:
            mask = calibrated_mask(model, shipment, criterion, 0.0)
            yield ProfileSpec(model=model, examples=heads.examples, mask=mask)


def calibrated_mask(model: ModelRef, shipment: Shipment, criterion: str, sparsity: float) -> MaskSpec:
    return mask_spec_for(model, criterion, sparsity, task=shipment.task, n=shipment.n_scores, seed=SEED)


def study_runs(model: ModelRef, store: Store) -> Iterator[StoredRun]:
    """Return the stored runs of a model's study and of the head scores behind its masks."""
    specs = [spec for part in study_parts(model) for spec in part.specs]
    scores = [spec.mask.scores for spec in specs if isinstance(spec, EvalSpec) and spec.mask is not None]
    wanted: list[RunSpec | None] = [*specs, *scores]
    return (run for spec in dict.fromkeys(wanted) if spec is not None and (run := store.get(spec)) is not None)


def publish(runs: Sequence[StoredRun], folder: Path) -> None:
    """Add finished runs to the pack in `folder`, all or none, in place of copies that cannot be trusted."""
    pack = open_pack(folder, "precomputed", "")
    there: list[StoredRun] = []
    if pack is not None:
        damaged = pack.damaged()
        there = [run for key, run in pack.runs.items() if key not in damaged]
    if runs:
        write_pack(folder, [*there, *runs])


def main() -> None:
    """Compute and publish every missing run. Progress goes to stderr, finished runs with their times to stdout."""
    store = Store()
    for model_id in dict.fromkeys(shipment.model for shipment in SHIPMENTS):
        source = resolve(model_id)
        # Circuits second: their heads are read from the scores.
        for specs in (shipped_specs(source.ref), circuit_specs(source.ref, store)):
            ship(list(specs), source, store)
        of_study = [run for run in study_runs(source.ref, store) if run.origin == "live"]
        publish(of_study, shipped_folder())
        print(f"{model_id}: {len(of_study)} runs of the study were published.", flush=True)


def ship(specs: Sequence[RunSpec], source: ModelSource, store: Store) -> None:
    missing = [spec for spec in specs if (run := store.get(spec)) is None or run.origin == "live"]
    there = len(specs) - len(missing)
    print(f"{source.ref.id}: {there} of {len(specs)} runs are there, {len(missing)} are missing.", flush=True)
    if missing:
        for turn in computed_in_turn(missing, load(source), store):
            print(turn.line, flush=True)
    publish([run for spec in missing if (run := store.get(spec)) is not None], shipped_folder())


if __name__ == "__main__":
    try:
        main()
    except CapVizError as error:
        sys.exit(str(error))
