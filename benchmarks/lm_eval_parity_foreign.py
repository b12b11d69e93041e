"""Runs in lm-evaluation-harness' environment: its own task definitions on local copies of the data, timed.

python lm_eval_parity_foreign.py REQUEST.json RESULT.json

The request names the model folder, and per task the data files, the number of items and the batch sizes. Timed are the
harness' two entry points into the model (`loglikelihood`, `generate_until`), tokenisation included; loading is not.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks._yaml_loader import load_yaml

DEFINITIONS = Path(str(lm_eval.__file__)).parent / "tasks"
FILES = {
    "arc_easy": DEFINITIONS / "arc" / "arc_easy.yaml",
    "arc_challenge": DEFINITIONS / "arc" / "arc_challenge.yaml",
    "gsm8k": DEFINITIONS / "gsm8k" / "gsm8k.yaml",
}


class Timed(HFLM):
    """The harness' model with a stopwatch."""

    seconds = 0.0

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        return self.timed(super().loglikelihood, requests)

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
        return self.timed(super().generate_until, requests)

    def timed(self, work: Any, requests: Any) -> Any:
        started = time.perf_counter()
        found = work(requests, disable_tqdm=True)
        self.seconds += time.perf_counter() - started
        return found


def definition(name: str, files: dict[str, str]) -> dict[str, Any]:
    """The harness' own definition, with the data read from local files and the first rows as worked examples."""
    config = load_yaml(FILES[name], resolve_func=True)
    config |= {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": files}}
    if name == "gsm8k":
        config |= {"fewshot_config": {"sampler": "first_n"}, "fewshot_split": "train"}
    else:
        config |= {"validation_split": None, "training_split": "train", "test_split": "test"}
    return config


def measured(model: Timed, name: str, files: dict[str, str], n: int) -> dict[str, Any]:
    model.seconds = 0.0
    found = simple_evaluate(model=model, tasks=[definition(name, files)], limit=n, bootstrap_iters=0, log_samples=True)
    samples = sorted(next(iter(found["samples"].values())), key=lambda sample: sample["doc_id"])
    return {"seconds": model.seconds, "items": [item(name, sample) for sample in one_per_item(samples)]}


def one_per_item(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """GSM8K is logged once per reading (filter); they are put side by side."""
    by_item: dict[int, dict[str, Any]] = {}
    for sample in samples:
        kept = by_item.setdefault(sample["doc_id"], sample | {"read": {}})
        kept["read"][sample.get("filter", "none")] = (sample["filtered_resps"], sample.get("exact_match"))
    return list(by_item.values())


def item(name: str, sample: dict[str, Any]) -> dict[str, Any]:
    if name == "gsm8k":
        strict, flexible = sample["read"]["strict-match"], sample["read"]["flexible-extract"]
        return {
            "prompt": sample["arguments"][0][0] if isinstance(sample["arguments"], list) else prompt_of(sample),
            "text": sample["resps"][0][0],
            "strict": strict[0][0],
            "flexible": flexible[0][0],
            "right": strict[1],
            "right_flexible": flexible[1],
        }
    logliks = [response[0] for response in sample["filtered_resps"]]
    return {"id": sample["doc"]["id"], "logliks": logliks, "acc": sample["acc"], "acc_norm": sample["acc_norm"]}


def prompt_of(sample: dict[str, Any]) -> str:
    return sample["arguments"]["gen_args_0"]["arg_0"]


def main() -> None:
    request, result = Path(sys.argv[1]), Path(sys.argv[2])
    asked = json.loads(request.read_text(encoding="utf-8"))
    found: dict[str, list[dict[str, Any]]] = {}
    for name, task in asked["tasks"].items():
        for size in task["batch_sizes"]:
            model = Timed(pretrained=asked["folder"], dtype="float32", device="cpu", batch_size=size)
            one = measured(model, name, task["files"], task["n"])
            found.setdefault(name, []).append({"batch_size": size, **one})
    result.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
