"""What a mask costs to make:  python -m benchmarks.criterion_cost [--criteria wanda,…] [--repeats 1] [--json]

For each criterion, each time in a process of its own, on the default model at 50 % from 48 mini_science examples (and
the text a criterion reads beside them): seconds, and the most memory beyond that of the loaded model. Every criterion
takes its turn in each repeat; medians are shown, and seconds as multiples of the first criterion's in the same repeat.
Criteria on head scores are left out: theirs are made before. cap_fine needs CAP_VIZ_DATA with wikitext2.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import cap_viz as cv
from cap_viz.pruning import CRITERIA, prune_mask

TASK, N, SPARSITY = "mini_science", 48, 0.5
USUAL = ("wanda", "sparsegpt", "taylor", "gblm", "cap_fine")


def measure(criterion: str) -> dict[str, float]:
    """Seconds and bytes of one mask, in this process."""
    model, examples = cv.load_model(), cv.load_task(TASK).calibration(N)
    before, started = peak_bytes(), time.perf_counter()
    prune_mask(model, criterion, sparsity=SPARSITY, calibration=examples)
    return {"seconds": time.perf_counter() - started, "bytes": peak_bytes() - before}


def peak_bytes() -> float:
    """Linux counts in KiB."""
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measured_apart(criterion: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.criterion_cost", "--here", criterion],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--criteria", default=",".join(USUAL))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--here", choices=list(CRITERIA), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.here)))
        return
    names = options.criteria.split(",")
    turns = [{name: measured_apart(name) for name in names} for _ in range(options.repeats)]
    found = {
        name: {
            "seconds": statistics.median(turn[name]["seconds"] for turn in turns),
            "times_first": statistics.median(turn[name]["seconds"] / turn[names[0]]["seconds"] for turn in turns),
            "gib": statistics.median(turn[name]["bytes"] for turn in turns) / 2**30,
        }
        for name in names
    }
    if options.json:
        print(json.dumps(found))
        return
    for name, cost in found.items():
        print(f"{name:14} {cost['seconds']:7.1f} s  {cost['times_first']:5.1f} x {names[0]}  {cost['gib']:5.2f} GiB")


if __name__ == "__main__":
    main()
