"""How exact scoring grows with the model and the question:  python -m benchmarks.scaling [--workers] [--json]

Llamas of random weights are generated; every setting runs in a process of its own, on one thread.

exponents         of seconds (median of `--repeats`, by processor time) and of peak memory beyond the loaded model,
                  fitted as straight lines in logarithms over each row of the grid
predicted         the same of the operations that `cap_viz/models/cost_model.py` counts, fitted on the same grid
gflops            operations per second at every setting
strong_scaling    with --workers: seconds of one run here, and by one and by two Ray workers of one thread each
projection        exact scores of 48 ARC-Easy questions on large models, from the operations and the assumptions printed
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cap_viz.models.cost_model import dimensions_of, mean_operations, memory_plan


@dataclass(frozen=True)
class Setting:
    """A generated model, the length of its questions and how many there are."""

    layers: int = 8
    heads: int = 8
    d_model: int = 256
    mlp: int = 512
    tokens: int = 64
    examples: int = 2

    @property
    def config(self) -> dict[str, Any]:
        kv_heads, words = max(1, self.heads // 2), len(WORDS) + 1
        return config_of(self.layers, self.heads, kv_heads, self.d_model, self.mlp, words, tied=True)


def config_of(
    layers: int, heads: int, kv_heads: int, d_model: int, mlp: int, words: int, *, tied: bool = False
) -> dict[str, Any]:
    """The sizes of a Llama under the names of its config.json."""
    return {
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_size": d_model,
        "intermediate_size": mlp,
        "vocab_size": words,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": tied,
    }


WORDS = tuple(f"w{number}" for number in range(999))
BASE = Setting()
ROWS = {
    "layers": [replace(BASE, layers=value) for value in (4, 8, 16, 32)],
    "heads": [replace(BASE, heads=value) for value in (4, 8, 16, 32)],
    "d_model": [replace(BASE, d_model=value, mlp=2 * value) for value in (128, 256, 512)],
    "tokens": [replace(BASE, tokens=value) for value in (32, 64, 128, 256)],
    "examples": [replace(BASE, examples=value) for value in (2, 4, 8, 16)],
}
LARGE = {
    "Llama-3-8B": (32, 32, 8, 4096, 14336, 128256),
    "Mistral-7B": (32, 32, 8, 4096, 14336, 32000),
    "Llama-3-70B": (80, 64, 8, 8192, 28672, 128256),
}
# Means of 48 ARC-Easy calibration questions with the tokenizer of SmolLM2 (`python -m cap_viz plan --task arc_easy`):
# tokens of a row and places read.
USUAL_ITEM = (43, 17)
GPU = {"sustained_teraflops": 125.0, "memory_gib": 80.0}


def write_model(setting: Setting, folder: Path, shard: str = "5GB") -> Path:
    """A Llama of random weights and a tokenizer of made-up words, in files of at most `shard`."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    tokenizer = Tokenizer(WordLevel({"<unk>": 0, **{word: i + 1 for i, word in enumerate(WORDS)}}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    config = LlamaConfig(**setting.config, bos_token_id=None, eos_token_id=None)
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size=shard)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    return folder


def questions(tokens: int, n: int) -> list[Any]:
    """Questions of exactly so many tokens, with two answers of one word."""
    from cap_viz.tasks.base import Example

    rng = np.random.default_rng(0)
    found = []
    for number in range(n):
        words = [WORDS[i] for i in rng.integers(len(WORDS), size=tokens)]
        prompt = " ".join(words)
        found.append(Example(id=f"made up {number}", question=prompt, prompt=prompt, options=(" w1", " w2"), gold=0))
    return found


def memory(name: str) -> int:
    """Bytes by the kernel's count: VmRSS now, VmHWM the peak."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status[name].split()[0])


def give_back_memory() -> None:
    """What the C library holds free of an earlier run: used again, it would hide what the next run takes."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def new_peak() -> None:
    """Have VmHWM start anew from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def measure_one(setting: Setting, repeats: int) -> dict[str, float]:
    """In this process: median processor seconds of exact scores of all heads, and the peak beyond the loaded model."""
    import torch

    import cap_viz as cv

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = cv.load_model(str(write_model(setting, Path(folder))))
        examples = questions(setting.tokens, setting.examples)
        cv.score_heads(model, examples[:1])
        give_back_memory()
        before = memory("VmRSS")
        new_peak()
        times = []
        for _ in range(repeats):
            started = time.process_time()
            cv.score_heads(model, examples)
            times.append(time.process_time() - started)
    return {"seconds": statistics.median(times), "bytes": max(1, memory("VmHWM") - before)}


def measured(setting: Setting, repeats: int) -> dict[str, float]:
    options = ["--one", json.dumps(asdict(setting)), "--repeats", str(repeats)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling", *options], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def exponent(values: list[float], results: list[float]) -> float:
    return round(float(np.polyfit(np.log(values), np.log(results), 1)[0]), 3)


def grid(repeats: int) -> dict[str, Any]:
    exponents, predicted, points = {}, {}, []
    for name, settings in ROWS.items():
        values = [float(getattr(setting, name)) for setting in settings]
        found = [measured(setting, repeats) for setting in settings]
        work = [setting.examples * operations_of(setting) for setting in settings]
        exponents[name] = {
            "seconds": exponent(values, [one["seconds"] for one in found]),
            "bytes": exponent(values, [one["bytes"] for one in found]),
        }
        predicted[name] = exponent(values, work)
        points += [
            {name: value, **one, "gflops": round(each / one["seconds"] / 1e9, 1)}
            for value, one, each in zip(values, found, work, strict=True)
        ]
    return {"exponents": exponents, "predicted": predicted, "points": points}


def operations_of(setting: Setting) -> float:
    # Two answers of one word that share their question: both are read at the last place of the question.
    return float(mean_operations(dimensions_of(setting.config), [(setting.tokens, 1)]).exact)


def strong_scaling(repeats: int) -> dict[str, Any]:
    """One run of many batches: here on one thread, by one worker, by two. Elapsed time, workers ready."""
    import os

    os.environ["CAP_VIZ_THREADS"] = "1"
    import torch

    import cap_viz as cv
    from cap_viz.progress import finish
    from cap_viz.runs.backends.local import HERE
    from cap_viz.runs.backends.ray import Cluster
    from cap_viz.runs.batched_runs import Backend
    from cap_viz.runs.execute import run_steps
    from cap_viz.runs.spec import ScoreSpec
    from cap_viz.runs.store import Store
    from cap_viz.tasks.example_sets import calibration_set

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # The toy reasoner's questions need its words; a generated model of its size would not read them.
        model = cv.load_model("toy-reasoner")
        spec = ScoreSpec(model.ref, calibration_set("toy_math", 256))
        small = ScoreSpec(model.ref, calibration_set("toy_math", 4))
        backends: dict[str, Backend] = {
            "here": HERE,
            "one worker": Cluster(workers=1),
            "two workers": Cluster(workers=2),
        }
        seconds: dict[str, float] = {}
        for title, backend in backends.items():
            times = []
            for number in range(repeats + 1):
                store = Store(shipped=folder / "none", local=folder / f"{title}{number}" / "local")
                finish(run_steps(small, model, store, backend))
                started = time.perf_counter()
                finish(run_steps(spec, model, store, backend))
                times.append(time.perf_counter() - started)
            # The first round warms up.
            seconds[title] = round(statistics.median(times[1:]), 2)
            backend.close()
    return {
        "seconds": seconds,
        "speed_up": round(seconds["one worker"] / seconds["two workers"], 2),
        "overhead_of_a_cluster": round(seconds["one worker"] / seconds["here"] - 1, 3),
    }


def projection(n: int = 48) -> dict[str, Any]:
    """Never run: operations divided by a rate, shared out by items. A copy of the model has to fit on one device."""
    rows = []
    for name in LARGE:
        sizes = dimensions_of(config_of(*LARGE[name]))
        need = memory_plan(sizes, "bfloat16", 1152).to_score / 2**30
        work = n * mean_operations(sizes, [USUAL_ITEM]).exact
        hours = work / (GPU["sustained_teraflops"] * 1e12) / 3600
        fits = need <= GPU["memory_gib"]
        # Whole items to a device: the one with the most decides.
        by_gpus = {str(gpus): round(hours * -(-n // gpus) / n, 3) for gpus in (1, 8, 64)}
        rows.append(
            {
                "model": name,
                "gib_to_score": round(need, 1),
                "petaflop": round(work / 1e15, 1),
                "hours_on_gpus": by_gpus if fits else "does not fit on one device",
            }
        )
    return {
        "assumed": {**GPU, "dtype": "bfloat16", "items": n, "tokens_and_reads_of_an_item": USUAL_ITEM},
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", action="store_true")
    parser.add_argument("--projection", action="store_true", help="the projection alone, which measures nothing")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure_one(Setting(**json.loads(options.one)), options.repeats)))
        return
    numbers: dict[str, Any] = {"projection": projection()}
    if not options.projection:
        numbers |= grid(options.repeats)
        numbers |= {"strong_scaling": strong_scaling(options.repeats)} if options.workers else {}
    print(json.dumps(numbers) if options.json else json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
