"""Do we measure what lm-evaluation-harness measures, and how fast?  python -m benchmarks.lm_eval_parity [--json]

Its own definitions of ARC-Easy, ARC-Challenge and GSM8K run in an environment of their own (built on first use from
benchmarks/requirements-lm-eval.txt) on the local copies named by CAP_VIZ_DATA, with the same weights in float32, the
same items and the same threads; then CAP Viz on those items. Timed on both sides: tokenising and the model, not
loading it. The harness has its best batch size of those tried.

max_abs_loglik_diff   largest difference of an option's log-likelihood on ARC
item_mismatches       items on which acc or acc_norm is not the same
speed_ratio           the harness' seconds on ARC over ours
tokens                of our rows, each a question with all its options; `padded_tokens` with the padding up to the
                      longest row of a batch (part of the attention only), `separate_tokens` with a row per option
texts_equal           GSM8K answers (5 worked examples, greedy) that are the same text; `answers_equal`: the same answer
                      by both readings
widest_gap            where texts part: the widest gap between the two likeliest tokens' logits at the first different
                      token. Rounding decides between tokens this close.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.foreign import HERE, environment, run
from cap_viz.attribution.results import EvalReport
from cap_viz.evaluation.choice import EvalArrays, EvalPlan, eval_steps, make_eval_plan
from cap_viz.evaluation.generation import (
    Block,
    GenerationArrays,
    GenerationProtocol,
    generation_plan,
    generation_steps,
    prompt_text,
    writing_of,
)
from cap_viz.models.catalogue import DEFAULT_MODEL, resolve
from cap_viz.models.loading import ReasoningModel, converted, load
from cap_viz.settings import data_folder
from cap_viz.tasks import Example, load_task

CHOICES = ("arc_easy", "arc_challenge")
BARS = {"speed_ratio": 2.5, "generation_speed_ratio": 1.0}
CEILINGS = {"max_abs_loglik_diff": 1e-3, "item_mismatches": 0}


@dataclass(frozen=True)
class Choices:
    """How one choice task compares."""

    max_abs_loglik_diff: float
    item_mismatches: int
    seconds: float
    their_seconds: float
    their_batch_size: int
    tokens: int
    padded_tokens: int
    separate_tokens: int


def files_of(task: str) -> dict[str, str]:
    folder = data_folder()
    if folder is None or not (folder / task / "test.jsonl").is_file():
        sys.exit(f"Set CAP_VIZ_DATA to a folder with {task}/train.jsonl and {task}/test.jsonl.")
    return {split: str((folder / task / f"{split}.jsonl").resolve()) for split in ("train", "test")}


def theirs(folder: Path, n: int, n_written: int, sizes: list[int], written_sizes: list[int]) -> dict[str, Any]:
    """Per task the harness' results with every batch size, which share one process and one set of threads."""
    chosen = CHOICES if n else ()
    tasks = {name: {"files": files_of(name), "n": n, "batch_sizes": sizes} for name in chosen}
    if n_written:
        tasks["gsm8k"] = {"files": files_of("gsm8k"), "n": n_written, "batch_sizes": written_sizes}
    python = environment(HERE / "requirements-lm-eval.txt")
    with tempfile.TemporaryDirectory() as scratch:
        request, result = Path(scratch, "request.json"), Path(scratch, "result.json")
        request.write_text(json.dumps({"folder": str(folder), "tasks": tasks}), encoding="utf-8")
        run([str(python), str(HERE / "lm_eval_parity_foreign.py"), str(request), str(result)])
        return json.loads(result.read_text(encoding="utf-8"))


def quickest(found: list[dict[str, Any]]) -> dict[str, Any]:
    return min(found, key=lambda one: one["seconds"])


def answered(model: ReasoningModel, examples: Sequence[Example]) -> tuple[EvalReport, float]:
    """Our answers and the seconds they took."""
    started = time.perf_counter()
    plan = make_eval_plan(model, examples)
    arrays = EvalArrays(plan)
    for block in eval_steps(model, plan):
        arrays.add(block)
    return arrays.report(), time.perf_counter() - started


def compared_choices(model: ReasoningModel, task: str, found: list[dict[str, Any]], repeats: int) -> Choices:
    examples = load_task(task).evaluation(len(found[0]["items"]))
    seconds = [answered(model, examples)[1] for _ in range(repeats)]
    report, best = answered(model, examples)[0], quickest(found)
    logliks = [report.logliks[row, : len(example.options)] for row, example in enumerate(examples)]
    differences = [
        np.abs(np.array(item["logliks"]) - ours).max()
        for one in found
        for item, ours in zip(one["items"], logliks, strict=True)
    ]
    mismatches = [
        (item["acc"], item["acc_norm"]) != (float(right), float(right_norm))
        for item, right, right_norm in zip(best["items"], report.correct, report.correct_norm, strict=True)
    ]
    return Choices(
        max_abs_loglik_diff=float(max(differences)),
        item_mismatches=sum(mismatches),
        seconds=statistics.median(seconds),
        their_seconds=best["seconds"],
        their_batch_size=best["batch_size"],
        **tokens_of(make_eval_plan(model, examples)),
    )


def tokens_of(plan: EvalPlan) -> dict[str, int]:
    """Tokens of the rows we compute, with their padding, and with a row for each option instead."""
    batches = [[plan.encoded[i] for i in members] for members in plan.batches.batches]
    return {
        "tokens": sum(row.row_length for batch in batches for row in batch),
        "padded_tokens": sum(len(batch) * max(row.row_length for row in batch) for batch in batches),
        "separate_tokens": sum(
            len(row.prefix) + len(branch) - 1 for batch in batches for row in batch for branch in row.branches
        ),
    }


def compared_texts(model: ReasoningModel, found: list[dict[str, Any]]) -> dict[str, Any]:
    best, task = quickest(found), load_task("gsm8k")
    examples = task.evaluation(len(best["items"]))
    protocol = GenerationProtocol("fewshot", writing_of(task).max_tokens)
    started = time.perf_counter()
    plan = generation_plan(model, task, protocol, examples)
    arrays = GenerationArrays(model, plan, task)
    for step in generation_steps(model, plan):
        if isinstance(step, Block):
            arrays.add(step)
    report, seconds = arrays.report(), time.perf_counter() - started
    same_prompt = [
        item["prompt"] == prompt_text(task, example, "fewshot")
        for item, example in zip(best["items"], examples, strict=True)
    ]
    apart = [row for row, item in enumerate(best["items"]) if item["text"] != report.texts[row]]
    answers = [
        (item["strict"], item["flexible"]) == (strict or "[invalid]", flexible or "[invalid]")
        for item, strict, flexible in zip(best["items"], *read_as_theirs(report.texts), strict=True)
    ]
    gaps = [
        gap_where_they_part(model, plan.prompts[row], report.texts[row], best["items"][row]["text"]) for row in apart
    ]
    tokens = sum(len(model.tokenizer.encode(text)) for text in report.texts)
    their_tokens = sum(len(model.tokenizer.encode(item["text"])) for item in best["items"])
    return {
        "prompts_equal": sum(same_prompt),
        "texts_equal": len(examples) - len(apart),
        "answers_equal": sum(answers),
        "widest_gap": max(gaps, default=0.0),
        "exact_match": [float(report.correct.mean()), statistics.fmean(item["right"] for item in best["items"])],
        "exact_match_flexible": [
            float(report.correct_flexible.mean()),
            statistics.fmean(item["right_flexible"] for item in best["items"]),
        ],
        "tokens_per_second": round(tokens / seconds, 1),
        "their_tokens_per_second": round(their_tokens / best["seconds"], 1),
        "their_generation_batch_size": best["batch_size"],
        "generation_speed_ratio": round((tokens / seconds) / (their_tokens / best["seconds"]), 2),
        "generation_seconds": round(seconds, 1),
        "their_generation_seconds": {one["batch_size"]: round(one["seconds"], 1) for one in found},
    }


def read_as_theirs(texts: tuple[str, ...]) -> tuple[list[str | None], list[str | None]]:
    """What our two readings find, before numbers are made alike (the harness logs that form)."""
    writing = load_task("gsm8k").writing
    assert writing is not None
    strict = [writing.strict.search(text) for text in texts]
    flexible = [list(writing.flexible.finditer(text)) for text in texts]
    return (
        [None if one is None else one.group(1) for one in strict],
        [one[-1].group(0).strip() if one else None for one in flexible],
    )


def gap_where_they_part(model: ReasoningModel, prompt: tuple[int, ...], ours: str, other: str) -> float:
    """Logit gap between the two likeliest tokens where the texts first differ, by one full forward."""
    first, second = (model.tokenizer.encode(text) for text in (ours, other))
    common = next(
        (k for k, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
    tokens = [*prompt, *first[:common]]
    with model.lease, torch.inference_mode():
        logits = model.bridge(torch.tensor([tokens]), use_cache=False)[0, -1]
    likeliest = logits.topk(2).values
    return float(likeliest[0] - likeliest[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200, help="items of each ARC task; 0 leaves them out")
    parser.add_argument("--written", type=int, default=32, help="items of GSM8K; 0 leaves it out")
    parser.add_argument("--batch-sizes", default="1,8,16,32")
    parser.add_argument("--written-batch-sizes", default="8,16,32")
    parser.add_argument("--repeats", type=int, default=3, help="of our side on ARC; the median counts")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sizes, written_sizes = (
        [int(size) for size in text.split(",")] for text in (options.batch_sizes, options.written_batch_sizes)
    )
    source = resolve(DEFAULT_MODEL)
    others = theirs(converted(source), options.n, options.written, sizes, written_sizes)
    model = load(source)
    numbers: dict[str, Any] = {"threads": torch.get_num_threads(), "cores": os.cpu_count()}
    if options.n:
        choices = {name: compared_choices(model, name, others[name], options.repeats) for name in CHOICES}
        numbers |= {
            "max_abs_loglik_diff": max(one.max_abs_loglik_diff for one in choices.values()),
            "item_mismatches": sum(one.item_mismatches for one in choices.values()),
            "speed_ratio": round(min(one.their_seconds / one.seconds for one in choices.values()), 2),
            "n": options.n,
            **{name: vars(one) for name, one in choices.items()},
        }
    if options.written:
        numbers |= compared_texts(model, others["gsm8k"])
    print(json.dumps(numbers) if options.json else "\n".join(f"{name:24} {value}" for name, value in numbers.items()))
    reached = all(numbers.get(name, bar) >= bar for name, bar in BARS.items())
    return 0 if reached and all(numbers.get(name, 0) <= ceiling for name, ceiling in CEILINGS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
