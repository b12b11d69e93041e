"""Train the toy reasoner: python -m scripts.train_toy_reasoner [--steps N] [--out FOLDER]

A Llama of under a million parameters, trained on the CPU on documents made up on the fly (scripts/toy_documents.py).
Every step's documents follow from the seed and the step, so a run that was stopped goes on from its last checkpoint
and ends with the same weights on the same machine with the same number of threads.
"""

from __future__ import annotations

import argparse
import math
import random
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cap_viz.files import write_json
from cap_viz.models.catalogue import TRAINING_FILE, folder_source
from cap_viz.progress import duration
from cap_viz.settings import ASSETS, local_folder
from cap_viz.tasks.toy_draws import Drawn, drawn
from scripts.toy_card import DRAWS, write_card
from scripts.toy_documents import END, TOKEN, document, vocabulary


@dataclass(frozen=True)
class Recipe:
    """How the model is built and trained."""

    seed: int = 0
    layers: int = 4
    heads: int = 8
    kv_heads: int = 4
    d_head: int = 16
    width: int = 128
    mlp: int = 192
    steps: int = 6_000
    warm_up: int = 200
    rate: float = 3e-3
    final_rate: float = 1e-4
    decay: float = 0.1
    copying: float = 0.08
    looking_up: float = 0.2
    check_every: int = 100
    checked: int = 100

    def shares(self, step: int) -> dict[str, int]:
        """Documents of each kind in a batch: one lesson builds on the last.

        Copying alone was learned in 500 steps (96 % of the tokens); with documents of all kinds it was not (11 %).
        """
        if step < self.copying * self.steps:
            return {"repeated": 64}
        if step < self.looking_up * self.steps:
            return {"math": 4, "strategy": 8, "choice": 4, "lookup": 10, "retold": 12, "repeated": 4}
        return {"math": 28, "strategy": 6, "choice": 6, "lookup": 2, "retold": 2, "repeated": 2}


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token a word, with the space before it; texts come back from their tokens unchanged."""
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(TOKEN), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token=END, pad_token=END, clean_up_tokenization_spaces=False
    )


def new_model(recipe: Recipe, n_words: int) -> LlamaForCausalLM:
    torch.manual_seed(recipe.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=n_words,
            hidden_size=recipe.width,
            intermediate_size=recipe.mlp,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.kv_heads,
            head_dim=recipe.d_head,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=1,
        )
    )


class Batches:
    """The documents of a step, as token ids, targets' weights and nothing else."""

    def __init__(self, recipe: Recipe, words: Sequence[str]) -> None:
        self.recipe = recipe
        self.ids = {word: at for at, word in enumerate(words)}

    def row(self, kind: str, rng: random.Random) -> tuple[list[int], list[float]]:
        ids: list[int] = []
        weights: list[float] = []
        for text, weight in document(kind, rng):
            found = [self.ids[END]] if text == END else [self.ids[token] for token in re.findall(TOKEN, text)]
            ids += found
            weights += [weight] * len(found)
        return ids, weights

    def of_step(self, step: int) -> list[tuple[Tensor, Tensor]]:
        """Two halves, short and long documents, so that little is padding."""
        rng = random.Random(f"{self.recipe.seed} {step}")
        shares = self.recipe.shares(step)
        rows = sorted((self.row(kind, rng) for kind, count in shares.items() for _ in range(count)), key=row_length)
        return [self.padded(rows[: len(rows) // 2]), self.padded(rows[len(rows) // 2 :])]

    def padded(self, rows: Sequence[tuple[list[int], list[float]]]) -> tuple[Tensor, Tensor]:
        """Token ids [document, position] padded at the end, and the weight of each token as a target."""
        longest = max(map(row_length, rows))
        ids = torch.full((len(rows), longest), self.ids[END])
        weights = torch.zeros(len(rows), longest)
        for at, (tokens, wanted) in enumerate(rows):
            ids[at, : len(tokens)] = torch.tensor(tokens)
            weights[at, : len(tokens)] = torch.tensor(wanted)
        return ids, weights


def row_length(row: tuple[list[int], list[float]]) -> int:
    return len(row[0])


def weighted_loss(model: LlamaForCausalLM, ids: Tensor, weights: Tensor) -> Tensor:
    """Sum over the tokens of surprise times weight."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    losses = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return (losses * weights[:, 1:].flatten()).sum()


def rate_at(recipe: Recipe, step: int) -> float:
    """Rises linearly, then falls along half a cosine."""
    if step < recipe.warm_up:
        return recipe.rate * (step + 1) / recipe.warm_up
    share = (step - recipe.warm_up) / max(1, recipe.steps - recipe.warm_up)
    return recipe.final_rate + (recipe.rate - recipe.final_rate) * (1 + math.cos(math.pi * share)) / 2


@torch.no_grad()
def accuracy(model: LlamaForCausalLM, tokenizer: Any, questions: Sequence[Drawn], batch: int = 50) -> float:
    """Share of questions whose right option is the likeliest."""
    right = 0
    for start in range(0, len(questions), batch):
        asked = questions[start : start + batch]
        texts = [(f"Question: {one.question}\nAnswer:", option) for one in asked for option in one.options]
        heads = [len(tokenizer(prompt)["input_ids"]) for prompt, _ in texts]
        rows = [tokenizer(prompt + option)["input_ids"] for prompt, option in texts]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [1] * (longest - len(row)) for row in rows])
        logprobs = model(input_ids=ids, use_cache=False).logits.log_softmax(-1)
        scores = [
            float(logprobs[at, torch.arange(head - 1, len(row) - 1), torch.tensor(row[head:])].sum())
            for at, (row, head) in enumerate(zip(rows, heads, strict=True))
        ]
        place = 0
        for one in asked:
            mine = scores[place : place + len(one.options)]
            right += max(range(len(mine)), key=mine.__getitem__) == one.gold
            place += len(one.options)
    return right / len(questions)


@dataclass(frozen=True)
class Trained:
    """The model after the last step; `log` has a line per check, `seconds` count every sitting."""

    model: LlamaForCausalLM
    tokenizer: Any
    log: list[dict[str, float]]
    seconds: float


def train(recipe: Recipe, work: Path) -> Trained:
    """Train or go on training; writes a checkpoint and a line of the log at every check."""
    words = vocabulary()
    tokenizer, model, batches = word_tokenizer(words), new_model(recipe, len(words)), Batches(recipe, words)
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.rate,
        betas=(0.9, 0.98),
    )
    held_out = {
        name: [drawn(name, "calibration", draw, at) for at in range(recipe.checked)] for name, draw in DRAWS.items()
    }
    work.mkdir(parents=True, exist_ok=True)
    saved, log, first, before = work / "checkpoint.pt", [], 0, 0.0
    if saved.is_file():
        state = torch.load(saved, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, log, before = state["step"], state["log"], state["seconds"]
    began, losses = time.monotonic(), []
    for step in range(first, recipe.steps):
        losses.append(0.0)
        for group in optimizer.param_groups:
            group["lr"] = rate_at(recipe, step)
        parts = batches.of_step(step)
        total = sum(float(weights[:, 1:].sum()) for _, weights in parts)
        for ids, weights in parts:
            loss = weighted_loss(model, ids, weights) / total
            loss.backward()
            losses[-1:] = [losses[-1] + float(loss.detach())]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % recipe.check_every == 0 or step + 1 == recipe.steps:
            model.eval()
            line = {"step": step + 1, "loss": sum(losses) / len(losses)}
            line |= {name: accuracy(model, tokenizer, questions) for name, questions in held_out.items()}
            model.train()
            log, losses = [*log, line], []
            seconds = time.monotonic() - began
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1, "log": log}
            torch.save({**state, "seconds": before + seconds}, saved.with_suffix(".part"))
            saved.with_suffix(".part").replace(saved)
            each = seconds / (step + 1 - first)
            told = ", ".join(f"{name} {value:.3f}" for name, value in line.items() if name != "step")
            print(f"step {step + 1}: {told}; {duration(each * (recipe.steps - step - 1))} to go", flush=True)
    return Trained(model.eval(), tokenizer, log, before + time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, value in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--out", type=Path, default=ASSETS / "toy_reasoner")
    parser.add_argument("--work", type=Path, default=local_folder() / "toy_training")
    options = vars(parser.parse_args())
    out, work = options.pop("out"), options.pop("work")
    recipe = Recipe(**options)
    save(train(recipe, work), recipe, out)
    write_card(out)


def save(trained: Trained, recipe: Recipe, out: Path) -> None:
    """Weights, tokenizer and how they came about; the fingerprint tells whether the files are still those."""
    trained.model.save_pretrained(out)
    trained.tokenizer.save_pretrained(out)
    told = {
        "fingerprint": folder_source(str(out), out.name, out).fingerprint,
        "parameters": trained.model.num_parameters(),
        "words": len(trained.tokenizer),
        "seconds": round(trained.seconds),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "recipe": asdict(recipe),
        "log": trained.log,
    }
    write_json(out / TRAINING_FILE, told)


if __name__ == "__main__":
    main()
