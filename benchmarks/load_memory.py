"""Memory while a model is loaded, scored and pruned:  python -m benchmarks.load_memory [--generated] [--json]

Every model in a process of its own; its weights in float32 are 1.

load_peak        peak of resident memory while loading, less that of the program itself, in units of the weights
score_peak       peak while the heads of one example are scored (of the generated model the first two layers), the same
prune_peak       peak while CAP masks half of the weights and one question is answered under the mask, the same
planned          what `cap_viz/models/cost_model.py` says of each, in the same units, without the program itself
--generated      beside SmolLM2 a Llama of about 1.1 billion random weights in sharded safetensors (4.5 GB of disk)
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.scaling import Setting, memory, new_peak, questions
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.models.cost_model import dimensions_in, memory_plan
from cap_viz.models.loading import readable_folder
from cap_viz.models.weight_files import WORKING_MEMORY_BYTES
from cap_viz.settings import FULL_PRECISION

GENERATED = Setting(layers=20, heads=16, d_model=2048, mlp=7168, tokens=48)


def measure(model_id: str, first_layers: int) -> dict[str, Any]:
    """In this process. Libraries are imported first, so that they do not count as weights."""
    import torch

    import cap_viz as cv
    from cap_viz.attribution.exact import MOST_TOKENS_PER_STEP, make_score_plan, score_steps
    from tests.tiny import tiny_examples, write_tiny_model

    with tempfile.TemporaryDirectory() as folder:
        tiny = cv.load_model(str(write_tiny_model(Path(folder))))
        cv.score_heads(tiny, tiny_examples(1))
    program = memory("VmRSS")
    new_peak()
    model = cv.load_model(model_id)
    peaks = {"load_peak": memory("VmHWM")}
    generated = model_id != DEFAULT_MODEL
    examples = questions(GENERATED.tokens, 2) if generated else list(cv.load_task("mini_science").calibration(2))
    new_peak()
    for block in score_steps(model, make_score_plan(model, examples[:1])):
        if block.layer == first_layers - 1:
            break
    peaks["score_peak"] = memory("VmHWM")
    new_peak()
    mask = cv.prune_mask(model, "global_magnitude", sparsity=0.5)
    cv.evaluate(model, examples[1:], mask=mask)
    peaks["prune_peak"] = memory("VmHWM")
    sizes = dimensions_in(readable_folder(model.source))
    plan = memory_plan(sizes, FULL_PRECISION, MOST_TOKENS_PER_STEP)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.bridge.parameters())
    planned = {"load_peak": plan.weights, "score_peak": plan.to_score, "prune_peak": plan.to_prune}
    return {
        "parameters": model.shape.n_params,
        "threads": torch.get_num_threads(),
        **{name: round((peak - program) / weights, 3) for name, peak in peaks.items()},
        "planned": {
            name: round((size - (WORKING_MEMORY_BYTES if name != "load_peak" else 0)) / weights, 3)
            for name, size in planned.items()
        },
    }


def in_a_process(model_id: str, first_layers: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.load_memory", "--one", model_id, "--layers", str(first_layers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generated", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--layers", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.layers)))
        return
    numbers = {DEFAULT_MODEL: in_a_process(DEFAULT_MODEL, 30)}
    if options.generated:
        with tempfile.TemporaryDirectory() as folder:
            numbers["generated"] = in_a_process(str(sharded(Path(folder))), 2)
    print(json.dumps(numbers) if options.json else json.dumps(numbers, indent=1))


def sharded(folder: Path) -> Path:
    """The generated model in files of half a GB, written by a process that then gives its memory back."""
    code = (
        "from pathlib import Path; from benchmarks.load_memory import GENERATED; from benchmarks.scaling import "
        f"write_model; write_model(GENERATED, Path({str(folder)!r}), shard='500MB')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return folder


if __name__ == "__main__":
    main()
