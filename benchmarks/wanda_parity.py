"""Do we prune what llm-compressor's Wanda prunes?  python -m benchmarks.wanda_parity [--json]

Same weights (float32), same calibration rows, same sparsity; both prune block by block behind pruned blocks. The other
side runs in an environment of its own, built on first use from benchmarks/requirements-llm-compressor.txt.

mask_agreement      share of weights on which both masks agree when every block is measured behind the other side's
                    pruned blocks, so that both see the same inputs
first_blocks        blocks, from the first on, on which the two agree in every weight when each side goes its own way
own_way_agreement   share on which they agree then: a single tie, broken by rounding in one block, changes the inputs of
                    all later ones a little, and the differences grow
unexplained         share that differs in rows where the sides do not keep equally many weights: a tie swaps one for one
seconds, their_seconds, speed_ratio   time to prune; loading the model is left out on both sides
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.foreign import HERE, environment, run
from cap_viz.models.catalogue import DEFAULT_MODEL, resolve
from cap_viz.models.loading import Matrix, ReasoningModel, converted, load
from cap_viz.progress import finish
from cap_viz.pruning import Mask, prune_mask
from cap_viz.pruning.calibration.activations import calibration_rows, squares, wanda_score
from cap_viz.pruning.calibration.sequential import PrunedMatrix, sequential_steps
from cap_viz.pruning.criterion import MaskRequest
from cap_viz.pruning.mask import Keep
from cap_viz.pruning.selection.local_groups import PER_ROW, by_input_norm
from cap_viz.tasks import Example, load_task

BARS = {"mask_agreement": 0.9999, "speed_ratio": 1.0}


def theirs(folder: Path, rows: list[tuple[int, ...]], sparsity: float) -> tuple[dict[str, np.ndarray], float]:
    """Packed bits of what stays, by matrix, and the seconds it took."""
    python = environment(HERE / "requirements-llm-compressor.txt")
    with tempfile.TemporaryDirectory() as scratch:
        listed, result = Path(scratch, "rows.json"), Path(scratch, "kept.npz")
        listed.write_text(json.dumps(rows), encoding="utf-8")
        script = HERE / "wanda_parity_foreign.py"
        run([str(python), str(script), str(folder), str(listed), str(sparsity), str(result)])
        with np.load(result) as content:
            found = dict(content)
    return {name: bits for name, bits in found.items() if name != "seconds"}, float(found["seconds"])


def timed_mask(model: ReasoningModel, examples: tuple[Example, ...], sparsity: float) -> tuple[Mask, float]:
    started = time.perf_counter()
    mask = prune_mask(model, "wanda", sparsity=sparsity, calibration=examples)
    return mask, time.perf_counter() - started


def behind_theirs(model: ReasoningModel, examples: tuple[Example, ...], sparsity: float, others: Keep) -> Keep:
    """What we keep of every matrix when all blocks before it are pruned as the other side did."""
    request = MaskRequest(sparsity=sparsity, scope="both", calibration=examples)
    prune, ours = by_input_norm(PER_ROW, wanda_score), {}

    def note_and_follow(matrix: Matrix, sums: torch.Tensor, share: float) -> PrunedMatrix:
        ours[matrix.name] = prune(matrix, sums, share).keep
        return PrunedMatrix(others[matrix.name])

    finish(sequential_steps(model, request, criterion="wanda", measure=squares, prune=note_and_follow))
    return ours


def unpacked(model: ReasoningModel, bits: dict[str, np.ndarray]) -> Keep:
    found = {}
    for matrix in model.matrices():
        shape = tuple(matrix.weight.shape)
        flat = np.unpackbits(bits[matrix.name], count=matrix.weight.numel())
        found[matrix.name] = torch.from_numpy(flat.astype(bool).reshape(shape))
    return found


def differences(model: ReasoningModel, ours: Keep, others: Keep) -> dict[str, torch.Tensor]:
    """Where one side keeps a weight and the other does not; a weight that is zero anyway is no difference."""
    weights = {matrix.name: matrix.weight.detach() for matrix in model.matrices()}
    return {name: (kept != others[name]) & (weights[name] != 0) for name, kept in ours.items()}


def agreement(differing: dict[str, torch.Tensor]) -> float:
    return 1 - sum(int(one.sum()) for one in differing.values()) / sum(one.numel() for one in differing.values())


def first_blocks(differing: dict[str, torch.Tensor]) -> int:
    touched = [int(name.split(".")[0]) for name, one in differing.items() if bool(one.any())]
    return min(touched, default=1 + max(int(name.split(".")[0]) for name in differing))


def unpaired(ours: Keep, differing: dict[str, torch.Tensor]) -> float:
    """The share that differs in rows where one side keeps more weights than the other."""
    count = 0
    for name, one in differing.items():
        lost, won = (one & ours[name]).sum(dim=1), (one & ~ours[name]).sum(dim=1)
        count += int((one & (lost != won)[:, None]).sum())
    return count / sum(one.numel() for one in differing.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="mini_science")
    parser.add_argument("--n", type=int, default=48, help="calibration examples")
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    source = resolve(DEFAULT_MODEL)
    model = load(source)
    examples = load_task(options.task).calibration(options.n)
    rows = calibration_rows(model, examples)
    mask, seconds = timed_mask(model, examples, options.sparsity)
    bits, their_seconds = theirs(converted(source), rows, options.sparsity)
    others = unpacked(model, bits)
    same_inputs = differences(model, behind_theirs(model, examples, options.sparsity, others), others)
    own_way = differences(model, mask.keep, others)
    numbers = {
        "mask_agreement": agreement(same_inputs),
        "first_blocks": first_blocks(own_way),
        "own_way_agreement": agreement(own_way),
        "unexplained": unpaired(mask.keep, own_way),
        "seconds": round(seconds, 2),
        "their_seconds": round(their_seconds, 2),
        "speed_ratio": round(their_seconds / seconds, 2),
        "rows": len(rows),
    }
    print(json.dumps(numbers) if options.json else "\n".join(f"{name:16} {value:g}" for name, value in numbers.items()))
    return 0 if all(numbers[name] >= bar for name, bar in BARS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
