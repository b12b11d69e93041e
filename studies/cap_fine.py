"""Candidates for cap_fine on ARC-Easy validation:  python -m studies.cap_fine [--only NAME …] [--n 570] --out FILE

The protocol is in docs/research_log.md. Masks at 50 % are calibrated on 48 ARC-Easy calibration examples; every
candidate is paired with sequential Wanda on the same questions. One line of JSON per candidate is appended to FILE;
candidates already in it with the same number of questions are skipped. `mask_seconds` is the whole time of making a
mask: no measurement of an earlier candidate is reused. Needs CAP_VIZ_DATA with arc_easy/validation.jsonl.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import cap_viz as cv
from cap_viz.attribution.gradient import gradient_effects
from cap_viz.attribution.results import BLOCK_PARTS, EvalReport
from cap_viz.errors import UsageError
from cap_viz.evaluation.eval_metrics import ACC, CHOICE_LOSS, paired
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.models.loading import Matrix, ReasoningModel
from cap_viz.progress import finish
from cap_viz.pruning.calibration.activations import input_norm, products, squares, wanda_score
from cap_viz.pruning.calibration.gradients import (
    HalfMatrix,
    ScoredRow,
    answer_rows,
    gradient_steps,
    root_square_sums,
    whole_rows,
)
from cap_viz.pruning.calibration.sequential import PrunedMatrix, sequential_steps
from cap_viz.pruning.calibration.token_gradients import root_token_squares, take_row
from cap_viz.pruning.criteria.cap import cap_score, importance, region_importance
from cap_viz.pruning.criteria.sparsegpt import repaired as repaired_weights
from cap_viz.pruning.criteria.taylor import taylor_score
from cap_viz.pruning.criterion import MaskRequest, Ranking
from cap_viz.pruning.mask import Mask, mask_from, matrix_size, scoped_matrices
from cap_viz.pruning.selection.global_threshold import Score, rank_steps
from cap_viz.pruning.selection.local_groups import PER_MATRIX, PER_ROW, OrderedGroup, local_ranking
from cap_viz.runs.kinds.scores import load_blocks, load_scores
from cap_viz.runs.run_queries import block_spec
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.store import Store
from cap_viz.settings import data_folder
from cap_viz.tasks.arc import ArcRow
from cap_viz.tasks.base import Example
from cap_viz.tasks.example_sets import calibration_set
from cap_viz.tasks.sources import read_json_lines

TASK, N_CALIBRATION, SPARSITY = "arc_easy", 48, 0.5
TEXT, N_PASSAGES = "generic_text", 160
# Sparsity after each step of `stepwise`; gradients are measured before each step.
STEPS = (0.2, 0.35, SPARSITY)
# Largest deviation of a row, matrix or layer from the overall sparsity.
MOST_OFF = 0.1
BASELINE = "wanda"


@dataclass
class Flow:
    """Sums over `tokens` tokens, in float64, for one matrix with inputs x_t and gradients d_t at its outputs.

    inputs     sum of x_tj^2, the square of Wanda's norm
    slopes     sum of d_ti^2: with `inputs` the diagonal of a Kronecker-factored Fisher matrix (Martens and Grosse,
               arXiv 1503.05671), the gradient's size if inputs and slopes were independent
    weighted   sum of |d_t|^2 x_tj^2: inputs, each token weighted by how much the answer depends on its output
    """

    inputs: Tensor
    slopes: Tensor
    weighted: Tensor
    tokens: int = 0

    def add(self, inputs: Tensor, slopes: Tensor) -> None:
        x, d = inputs.double().square(), slopes.double().square()
        self.inputs += x.sum(dim=0)
        self.slopes += d.sum(dim=0)
        self.weighted += d.sum(dim=1) @ x
        self.tokens += len(x)


def empty_flow(matrix: Matrix) -> Flow:
    outputs, inputs = matrix.weight.shape
    zeros = [torch.zeros(size, dtype=torch.float64) for size in (inputs, outputs, inputs)]
    return Flow(zeros[0], zeros[1], zeros[2])


@dataclass(frozen=True)
class Lab:
    """A model and its measurements on the calibration examples, each made on first access."""

    model: ReasoningModel
    calibration: tuple[Example, ...]

    @property
    def request(self) -> MaskRequest:
        return MaskRequest(SPARSITY, calibration=self.calibration)

    @cached_property
    def matrices(self) -> tuple[Matrix, ...]:
        return scoped_matrices(self.model, "both")

    @cached_property
    def flows(self) -> dict[str, Flow]:
        flows = {matrix.name: empty_flow(matrix) for matrix in self.matrices}
        takers = {name: flow.add for name, flow in flows.items()}
        with self.model.lease:
            for row in answer_rows(self.model, self.calibration):
                take_row(self.model, self.matrices, row, takers)
        return flows

    @cached_property
    def roots(self) -> dict[str, HalfMatrix]:
        return dict(finish(gradient_steps(self.model, self.matrices, self.calibration, answer_rows)))

    @cached_property
    def passages(self) -> tuple[Example, ...]:
        return cv.load_task(TEXT).calibration(N_PASSAGES)

    def examples(self, source: str) -> tuple[Example, ...]:
        """Return a source's examples: 48 or all passages of text, the task's examples, both, or mini_text and task."""
        if source.startswith("mini_text"):
            return (*cv.load_task("mini_text").calibration(80), *self.calibration)
        text, task = self.passages, self.calibration
        return {"text": text[:N_CALIBRATION], "more text": text, "text and task": (*text, *task), "task": task}[source]

    def rows(self, source: str) -> list[ScoredRow]:
        """Return a source's rows; a passage is scored after its opening, a question on its whole text."""
        task = {example.id for example in self.calibration}
        examples = self.examples(source)
        with self.model.lease:
            return [
                row
                for example in examples
                for row in (whole_rows if example.id in task else answer_rows)(self.model, [example])
            ]

    @cached_property
    def dense_roots(self) -> dict[str, dict[str, HalfMatrix]]:
        return {}

    def measured(self, source: str) -> dict[str, HalfMatrix]:
        """Return the root of the summed squared gradients of the rows' losses, on the dense model."""
        if source not in self.dense_roots:
            self.dense_roots[source] = self.measured_under({}, source)
        return self.dense_roots[source]

    def measured_under(self, keep: dict[str, Tensor], source: str) -> dict[str, HalfMatrix]:
        """Measure the same under a mask."""
        with self.model.masked(keep):
            return finish(root_square_sums(self.model, self.matrices, self.rows(source)))

    @cached_property
    def scores(self) -> ScoreSpec:
        return ScoreSpec(self.model.ref, calibration_set(TASK, N_CALIBRATION))

    @cached_property
    def units(self) -> np.ndarray:
        """First-order effect of every hidden unit, [layer, unit]."""
        found = gradient_effects(self.model, self.calibration, units=True)
        assert found.units is not None
        return found.units

    def stored(self, spec: ScoreSpec) -> Any:
        run = (store := Store()).get(spec)
        if run is None:
            raise UsageError("The shipped scores of ARC-Easy are missing; run make runs.")
        return load_blocks(store, run) if spec.parts else load_scores(store, run)


def kfac(lab: Lab) -> Score:
    def score(matrix: Matrix) -> Tensor:
        flow = lab.flows[matrix.name]
        slopes = (flow.slopes / flow.tokens).sqrt().float()
        return wanda_score(matrix.weight, (flow.inputs / flow.tokens).sqrt().float()) * slopes[:, None]

    return score


def token_weighted(lab: Lab) -> Score:
    return lambda matrix: wanda_score(matrix.weight, input_norm(lab.flows[matrix.name].weighted))


def wanda_oneshot(lab: Lab) -> Score:
    return lambda matrix: wanda_score(matrix.weight, input_norm(lab.flows[matrix.name].inputs))


def taylor(lab: Lab) -> Score:
    return lambda matrix: taylor_score(matrix.weight, lab.roots[matrix.name].full())


def taylor_from(source: str) -> Callable[[Lab], Score]:
    """Score by Taylor from the rows of `source` instead of the task's answers."""

    def made(lab: Lab) -> Score:
        roots = lab.measured(source)
        return lambda matrix: taylor_score(matrix.weight, roots[matrix.name].full())

    return made


def token_taylor(source: str) -> Callable[[Lab], Score]:
    """Score by Taylor with every token as an example of its own."""

    def made(lab: Lab) -> Score:
        roots = finish(root_token_squares(lab.model, lab.matrices, lab.rows(source)))
        return lambda matrix: taylor_score(matrix.weight, roots[matrix.name].full())

    return made


def stepwise(source: str) -> Callable[[Lab], Mask]:
    """Prune by Taylor in steps, measuring gradients again under the mask so far; zeros stay zero."""

    def made(lab: Lab) -> Mask:
        keep: dict[str, Tensor] = {}
        for sparsity in STEPS:
            roots = lab.measured_under(keep, source) if keep else lab.measured(source)

            def score(matrix: Matrix, roots: Any = roots, keep: dict[str, Tensor] = keep) -> Tensor:
                found = taylor_score(matrix.weight, roots[matrix.name].full())
                return found * keep[matrix.name] if keep else found

            ranking = finish(rank_steps(lab.model, criterion="candidate", scope="both", score=score))
            keep = dict(finish(ranking.mask_steps(lab.model, sparsity)).keep)
        return whole(lab, keep)

    return made


def magnitude(lab: Lab) -> Score:
    return lambda matrix: matrix.weight.detach().float().abs()


def geometric(first: Callable[[Lab], Score], second: Callable[[Lab], Score]) -> Callable[[Lab], Score]:
    """Score by the geometric mean of two scores."""

    def made(lab: Lab) -> Score:
        one, other = first(lab), second(lab)
        return lambda matrix: (one(matrix) * other(matrix)).sqrt()

    return made


def unit_cap(lab: Lab) -> Score:
    """Score by CAP with each MLP hidden unit's own importance instead of its layer's mean."""
    effect = lab.stored(lab.scores).mean_effect("nll")
    regions = region_importance(importance(effect), lab.model.shape.n_kv_heads)
    units = torch.from_numpy(importance(lab.units)).float()

    def score(matrix: Matrix) -> Tensor:
        if matrix.part == "attention":
            return cap_score(matrix.weight, matrix.kind, matrix.layer, regions)
        own = units[matrix.layer]
        return matrix.weight.detach().float().abs() * (own if matrix.weight.shape[1] == len(own) else own[:, None])

    return score


def global_cut(score: Callable[[Lab], Score]) -> Callable[[Lab], Mask]:
    def made(lab: Lab) -> Mask:
        ranking: Ranking = finish(rank_steps(lab.model, criterion="candidate", scope="both", score=score(lab)))
        return finish(ranking.mask_steps(lab.model, SPARSITY))

    return made


def local_cut(score: Callable[[Lab], Score], group: OrderedGroup) -> Callable[[Lab], Mask]:
    def made(lab: Lab) -> Mask:
        ranking = local_ranking(lab.model, lab.request, criterion="candidate", group=group, score=score(lab))
        return finish(ranking.mask_steps(lab.model, SPARSITY))

    return made


def row_budgets(budget: Callable[[Lab], Score], inside: Callable[[Lab], Score]) -> Callable[[Lab], Mask]:
    """Set each row's sparsity by a global cut on `budget`, within limits; choose its weights by `inside`."""

    def made(lab: Lab) -> Mask:
        cut, score = global_cut(budget)(lab), inside(lab)
        shares = {name: 1 - kept.float().mean(dim=1) for name, kept in cut.keep.items()}
        sizes = {name: kept.shape[1] for name, kept in cut.keep.items()}
        offset = centred(shares, sizes)
        keep = {}
        for matrix in lab.matrices:
            share = (shares[matrix.name] + offset).clamp(SPARSITY - MOST_OFF, SPARSITY + MOST_OFF)
            keep[matrix.name] = kept_by_row(score(matrix), share)
        return whole(lab, keep)

    return made


def centred(shares: dict[str, Tensor], sizes: dict[str, int]) -> float:
    """Find by bisection the offset at which the clipped shares take half of all weights."""
    low, high = -1.0, 1.0
    total = sum(sizes[name] * len(share) for name, share in shares.items())
    for _ in range(40):
        middle = (low + high) / 2
        taken = sum(
            sizes[name] * float((share + middle).clamp(SPARSITY - MOST_OFF, SPARSITY + MOST_OFF).sum())
            for name, share in shares.items()
        )
        low, high = (middle, high) if taken < SPARSITY * total else (low, middle)
    return (low + high) / 2


def kept_by_row(score: Tensor, share: Tensor) -> Tensor:
    """Return a keep mask without the lowest `share[i]` of each row i."""
    places = score.argsort(dim=1, stable=True).argsort(dim=1)
    return places >= (share * score.shape[1]).round().long()[:, None]


def whole(lab: Lab, keep: dict[str, Tensor]) -> Mask:
    sizes = tuple(matrix_size(matrix) for matrix in lab.matrices)
    return mask_from(criterion="candidate", sparsity=SPARSITY, scope="both", matrices=sizes, keep=keep)


def part_budgets(lab: Lab) -> dict[tuple[int, str], Tensor]:
    """Return the sparsity of every attention layer and MLP, set by the rank of its causal effect."""
    blocks = lab.stored(block_spec(lab.scores)).mean_effect("nll")
    place = blocks.ravel().argsort().argsort().reshape(blocks.shape)
    spread = MOST_OFF * (1 - 2 * place / (blocks.size - 1))
    names = {BLOCK_PARTS[0]: "attention", BLOCK_PARTS[1]: "mlp"}
    found = {
        (layer, names[part]): SPARSITY + float(spread[layer, column])
        for layer in range(len(blocks))
        for column, part in enumerate(BLOCK_PARTS)
    }
    size = {key: sum(one.weight.numel() for one in lab.matrices if (one.layer, one.part) == key) for key in found}
    mean = sum(size[key] * share for key, share in found.items()) / sum(size.values())
    return {key: torch.tensor(share - mean + SPARSITY) for key, share in found.items()}


def causal_budgets(inside: Callable[[Lab], Score]) -> Callable[[Lab], Mask]:
    def made(lab: Lab) -> Mask:
        budgets, score = part_budgets(lab), inside(lab)
        return whole(
            lab,
            {
                one.name: kept_by_row(score(one), budgets[one.layer, one.part].expand(one.weight.shape[0]))
                for one in lab.matrices
            },
        )

    return made


def behind_pruned(factor: Callable[[Lab], dict[str, Tensor]], budgets: bool) -> Callable[[Lab], Mask]:
    """Prune by sequential Wanda, each norm times a factor from the dense model, with or without causal budgets."""

    def made(lab: Lab) -> Mask:
        factors, shares = factor(lab), part_budgets(lab) if budgets else None

        def prune(matrix: Matrix, sums: Tensor, sparsity: float) -> PrunedMatrix:
            score = wanda_score(matrix.weight, input_norm(sums) * factors[matrix.name])
            if shares is None:
                return PrunedMatrix(PER_ROW.keep(score, sparsity))
            return PrunedMatrix(kept_by_row(score, shares[matrix.layer, matrix.part].expand(len(score))))

        steps = sequential_steps(lab.model, lab.request, criterion="candidate", measure=squares, prune=prune)
        return finish(steps)

    return made


def repaired(source: str, scored_by: Callable[[str], Callable[[Lab], Score]]) -> Callable[[Lab], Mask]:
    """Cut globally, then update the remaining weights block by block to compensate, as in SparseGPT."""

    def made(lab: Lab) -> Mask:
        chosen = global_cut(scored_by(source))(lab).keep

        def prune(matrix: Matrix, moments: Tensor, sparsity: float) -> PrunedMatrix:
            keep = chosen[matrix.name]
            return PrunedMatrix(keep, repaired_weights(matrix.weight, moments, keep))

        request = MaskRequest(SPARSITY, calibration=lab.examples(source))
        return finish(sequential_steps(lab.model, request, criterion="candidate", measure=products, prune=prune))

    return made


def token_factor(lab: Lab) -> dict[str, Tensor]:
    """Return the factor by which token weighting scales each input's norm."""
    return {name: (flow.weighted / flow.inputs.clamp_min(1e-30)).sqrt().float() for name, flow in lab.flows.items()}


def no_factor(lab: Lab) -> dict[str, Tensor]:
    return {matrix.name: torch.ones(matrix.weight.shape[1]) for matrix in lab.matrices}


CANDIDATES: dict[str, Callable[[Lab], Mask]] = {
    BASELINE: lambda lab: cv.prune_mask(lab.model, "wanda", sparsity=SPARSITY, calibration=lab.calibration),
    "1 kfac, global": global_cut(kfac),
    "2a kfac, per matrix": local_cut(kfac, PER_MATRIX),
    "2b kfac budgets, wanda in rows": row_budgets(kfac, wanda_oneshot),
    "3 token-weighted, per row": local_cut(token_weighted, PER_ROW),
    "4 wanda x taylor, global": global_cut(geometric(wanda_oneshot, taylor)),
    "4b wanda x kfac, global": global_cut(geometric(wanda_oneshot, kfac)),
    "5 unit cap, global": global_cut(unit_cap),
    "6 causal part budgets, wanda in rows": causal_budgets(wanda_oneshot),
    "7a token-weighted, sequential": behind_pruned(token_factor, budgets=False),
    "7b causal part budgets, sequential": behind_pruned(no_factor, budgets=True),
    "7c both, sequential": behind_pruned(token_factor, budgets=True),
    "reference: wanda one-shot": local_cut(wanda_oneshot, PER_ROW),
    "8a taylor from text": global_cut(taylor_from("text")),
    "8b taylor from more text": global_cut(taylor_from("more text")),
    "8c taylor from text and task": global_cut(taylor_from("text and task")),
    "9 token taylor from text and task": global_cut(token_taylor("text and task")),
    "10 wanda x taylor from text and task": global_cut(geometric(wanda_oneshot, taylor_from("text and task"))),
    "11 taylor budgets, wanda in rows": row_budgets(taylor_from("text and task"), wanda_oneshot),
    "12 stepwise taylor from text and task": stepwise("text and task"),
    "13 taylor from the task's whole texts": global_cut(taylor_from("task")),
    "14 token taylor, repaired": repaired("text and task", token_taylor),
    "14 with mini_text": repaired("mini_text and task", token_taylor),
    "14 with text alone": repaired("more text", token_taylor),
    "14 with the task alone": repaired("task", token_taylor),
    "14 cut by magnitude": repaired("text and task", lambda source: magnitude),
    "reference: sparsegpt from text and task": lambda lab: cv.prune_mask(
        lab.model, "sparsegpt", sparsity=SPARSITY, calibration=lab.examples("text and task")
    ),
    "reference: wanda from text and task": lambda lab: cv.prune_mask(
        lab.model, "wanda", sparsity=SPARSITY, calibration=lab.examples("text and task")
    ),
}


def validation(n: int) -> tuple[Example, ...]:
    folder = data_folder()
    if folder is None:
        raise SystemExit("Name the folder with arc_easy/validation.jsonl by CAP_VIZ_DATA.")
    rows = read_json_lines(folder / TASK / "validation.jsonl")
    return tuple(row.read(ArcRow.to_example) for row in rows)[:n]


def line_of(name: str, report: EvalReport, baseline: EvalReport, mask: Mask, seconds: float) -> dict[str, Any]:
    loss, accuracy = paired(report, baseline, CHOICE_LOSS), paired(report, baseline, ACC)
    return {
        "candidate": name,
        "n": len(report),
        "reached": round(mask.reached, 4),
        "acc": round(report.acc, 4),
        "choice_nll": round(float(report.losses("choice_nll").mean()), 4),
        "minus_wanda": round(loss.difference, 4),
        "ci": [round(loss.ci.low, 4), round(loss.ci.high, 4)],
        "p": loss.p_value,
        "acc_minus_wanda": round(accuracy.difference, 4),
        "mask_seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(CANDIDATES), choices=list(CANDIDATES))
    parser.add_argument("--n", type=int, default=570)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.with_suffix("").mkdir(exist_ok=True)
    there = options.out.read_text("utf-8").splitlines() if options.out.is_file() else []
    model, calibration = cv.load_model(DEFAULT_MODEL), cv.load_task(TASK).calibration(N_CALIBRATION)
    questions, baseline = validation(options.n), None
    done = {line["candidate"] for line in map(json.loads, there) if line["n"] == len(questions)}
    for name in dict.fromkeys([BASELINE, *options.only]):
        if name in done and name != BASELINE:
            continue
        started = time.perf_counter()
        mask = CANDIDATES[name](Lab(model, calibration))
        seconds = time.perf_counter() - started
        report = cv.evaluate(model, questions, mask=mask)
        baseline = baseline or report
        np.save(options.out.with_suffix("") / f"{name.replace(' ', '_')}.npy", report.losses("choice_nll"))
        line = json.dumps(line_of(name, report, baseline, mask, seconds))
        print(line, flush=True)
        if name not in done:
            with options.out.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


if __name__ == "__main__":
    main()
