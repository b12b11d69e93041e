"""The cost of direct effects beside that of exact scores: python -m benchmarks.circuit [--json]

Both sides run on the same ARC-Easy calibration examples in the same run with the same threads, turn by turn; plans,
self-checks and dense passes are included.

direct_share    seconds for the direct effects of all heads / seconds for their exact scores, median over the repeats
max_abs_diff    largest difference between an option's log-likelihoods of the direct blocks and of the model's own

With `--clock cpu` processor time takes the place of elapsed time, for a machine that is busy with other work.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

from cap_viz.attribution.exact import direct_effects, exact_scores, make_score_plan, replacements
from cap_viz.attribution.forward.dense_pass import dense_pass
from cap_viz.attribution.forward.replay import OwnBlocks
from cap_viz.attribution.forward.shortcut_checks import batch_of
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.models.loading import ReasoningModel, load_model
from cap_viz.tasks import Example, load_task

BAR = 0.25
# Layers compared with the model's own blocks: first, middle, last.
COMPARED = 3


def own_difference(model: ReasoningModel, examples: Sequence[Example]) -> float:
    """Largest difference to the model's own blocks on the first example, at some layers."""
    import torch

    plan = make_score_plan(model, examples[:1], parts="writes")
    batch = batch_of(model, plan.encoded, packed=plan.batches.packed)
    fast, z = direct_effects(model, examples[:1], progress=False).ablated, replacements(model, plan).z([0])
    differences = []
    with model.lease, torch.inference_mode():
        dense = dense_pass(model, batch)
        for layer in np.linspace(0, model.shape.n_layers - 1, COMPARED).astype(int).tolist():
            own = OwnBlocks(model).ablate_writes(batch, dense, layer, z[layer]).cpu().numpy()
            differences.append(float(np.nanmax(np.abs(own - fast[layer, :, :, : own.shape[-1]]))))
    return max(differences)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--task", default="arc_easy")
    parser.add_argument("--n", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    clock: Callable[[], float] = time.perf_counter if options.clock == "wall" else time.process_time
    model = load_model(options.model)
    examples = load_task(options.task).calibration(options.n)

    def seconds(run: Callable[[], object]) -> float:
        started = clock()
        run()
        return clock() - started

    # The first of each is not counted: it fills caches and makes the self-checks.
    runs = [lambda: exact_scores(model, examples), lambda: direct_effects(model, examples, progress=False)]
    for run in runs:
        run()
    taken = [[seconds(run) for run in runs] for _ in range(options.repeats)]
    found = {
        "model": options.model,
        "task": options.task,
        "n": options.n,
        "exact_s": statistics.median(exact for exact, _ in taken),
        "direct_s": statistics.median(direct for _, direct in taken),
        "direct_share": statistics.median(direct / exact for exact, direct in taken),
        "bar": BAR,
        "max_abs_diff": own_difference(model, examples),
    }
    if options.json:
        print(json.dumps(found))
        return
    print(f"{options.n} examples of {options.task}: exact {found['exact_s']:.1f} s, direct {found['direct_s']:.1f} s")
    print(f"share {found['direct_share']:.3f} (at most {BAR}), largest difference {found['max_abs_diff']:.1e}")


if __name__ == "__main__":
    main()
