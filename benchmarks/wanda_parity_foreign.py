"""Runs in llm-compressor's environment: prune a model folder with its Wanda, write what stays as packed bits.

python wanda_parity_foreign.py MODEL_FOLDER ROWS.json SPARSITY RESULT.npz
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
import sys
import time

import numpy as np
import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.pruning import WandaPruningModifier
from transformers import AutoModelForCausalLM

PROJECTIONS = {
    "q_proj": "q",
    "k_proj": "k",
    "v_proj": "v",
    "o_proj": "o",
    "gate_proj": "gate",
    "up_proj": "up",
    "down_proj": "down",
}


def main() -> None:
    folder, rows_file, sparsity, result = sys.argv[1:]
    with open(rows_file, encoding="utf-8") as file:
        rows = json.load(file)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    data = Dataset.from_list([{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows])
    recipe = WandaPruningModifier(
        sparsity=float(sparsity), mask_structure="0:0", targets=["Linear"], ignore=["re:.*lm_head"]
    )
    started = time.perf_counter()
    oneshot(
        model=model,
        dataset=data,
        recipe=recipe,
        num_calibration_samples=len(rows),
        max_seq_length=max(map(len, rows)),
        shuffle_calibration_samples=False,
    )
    seconds = time.perf_counter() - started
    kept = {}
    for layer, block in enumerate(model.model.layers):
        for name, module in block.named_modules():
            short = PROJECTIONS.get(name.rsplit(".", 1)[-1])
            if short is not None:
                kept[f"{layer}.{short}"] = np.packbits((module.weight != 0).numpy())
    np.savez(result, seconds=np.array(seconds), **kept)


if __name__ == "__main__":
    main()
