"""Memory stays bounded however many examples are scored: measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc, which only Linux has"),
]

GIB = 1 << 30

# Plans all calibration examples there are several times over, then runs the batches that take the most memory: those
# with the longest examples come last. Arrays for every example are filled and copied as in a stored run.
SCRIPT = """
from dataclasses import replace
from pathlib import Path

from cap_viz.attribution.gradient import GradientArrays, gradient_steps, make_gradient_plan
from cap_viz.models.loading import load_model
from cap_viz.attribution.exact import ScoreArrays, make_score_plan, score_steps
from cap_viz.tasks import load_task

model = load_model()
pool = load_task("mini_science").calibration(120)
text = load_task("mini_text").calibration(1)[0]
long = [replace(text, id=f"long {i}", options=(text.options[0] * 6,)) for i in range(2)]
examples = [replace(e, id=f"{e.id} {i}") for i in range(N_TIMES) for e in pool] + long
plan = make_score_plan(model, examples)
arrays = ScoreArrays(plan, model.shape.n_layers, model.shape.n_heads)
last = len(plan.batches.batches) - 1
steps = score_steps(model, plan, only=[last])
for block in steps:
    arrays.add(block)
    partial = arrays.result()
    if block.layer == 1:
        break
plan = make_gradient_plan(model, examples, metric="nll")
effects = GradientArrays(plan, "nll", model.shape.n_layers, model.shape.n_heads)
last = len(plan.batches.batches) - 1
for block in gradient_steps(model, plan, metric="nll", units=True, only=[last]):
    effects.add(block)
    partial = effects.result()
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(len(examples), max(e.row_length for e in plan.encoded), 4 * model.shape.n_params, status["VmHWM"].split()[0])
"""


def peak(times: int) -> tuple[int, int, int]:
    """Number of examples, bytes of weights and peak resident bytes."""
    script = SCRIPT.replace("N_TIMES", str(times))
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    n, longest, weights, kilobytes = (int(word) for word in run.stdout.split()[-4:])
    assert longest > 350, "the longest example must be one that fills a batch by itself"
    return n, weights, 1024 * int(kilobytes)


@pytest.mark.parametrize("times", [pytest.param(1, marks=pytest.mark.long), 20])
def test_peak_is_at_most_the_weights_and_2_gib(times: int) -> None:
    n, weights, bytes_used = peak(times)
    assert n > 100 * times
    assert bytes_used <= weights + 2 * GIB, f"{bytes_used / GIB:.2f} GiB at n = {n}"


# Two models in turn, where memory holds one of them.
SWITCH = """
import gc, sys
from pathlib import Path

from cap_viz.runs.loaded_models import LoadedModels
from cap_viz.models.loading import load_model
from tests.tiny import write_tiny_model

tiny = str(write_tiny_model(Path(sys.argv[1])))
models = LoadedModels(load_model)

def resident():
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0])

with_model, without = [], []
for _ in range(int(sys.argv[2])):
    models.get("smollm2-135m-instruct-q4_1")
    with_model.append(resident())
    models.release("smollm2-135m-instruct-q4_1")
    models.get(tiny)
    without.append(resident())
    models.release(tiny)
print(with_model[0], with_model[-1], without[0], without[-1])
"""


@pytest.mark.parametrize("turns", [8, pytest.param(20, marks=pytest.mark.long)])
def test_a_model_that_is_replaced_gives_its_memory_back(tmp_path: Path, turns: int) -> None:
    run = subprocess.run(
        [sys.executable, "-c", SWITCH, str(tmp_path / "tiny"), str(turns)], capture_output=True, text=True, timeout=280
    )
    assert run.returncode == 0, run.stderr
    first, last, empty_first, empty_last = (int(word) for word in run.stdout.split()[-4:])
    assert first - empty_first > 0.8 * 0.5 * GIB / 1024, "replacing the model must free most of its 0.5 GiB"
    assert last <= 1.1 * first
    assert empty_last <= 1.1 * empty_first
