"""A tiny random Llama with grouped-query attention and a word-level tokenizer, written to a folder."""

from __future__ import annotations

from pathlib import Path

from cap_viz.runs.run_folder import RunFolder
from cap_viz.runs.spec import RunSpec, spec_key
from cap_viz.runs.stored_run import StoredRun
from cap_viz.tasks.base import Example

WORDS = (
    "what which who where is are the a of in on sun moon water rock plant leaf root stem animal fish bird dog cat "
    "heat light sound force metal wood air ice steam gas liquid solid makes needs gives moves grows question answer"
).split()


def write_tiny_model(folder: Path, seed: int = 0) -> Path:
    """3 layers x 4 heads (2 KV heads), d_model 32, about 40 k weights, untied embeddings."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<unk>", ":", "?", "Question", "Answer", *WORDS])}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(folder)
    return folder


def tiny_examples(n: int, n_options: int = 4) -> tuple[Example, ...]:
    """Nonsense questions over the tiny vocabulary, of varied lengths, options of one to three words."""
    examples = []
    for i in range(n):
        length = 3 + i % 5
        question = " ".join(WORDS[(7 * i + 3 * j) % len(WORDS)] for j in range(length)) + " ?"
        options = tuple(
            " " + " ".join(WORDS[(5 * i + 11 * k + j) % len(WORDS)] for j in range(1 + (i + k) % 3))
            for k in range(n_options)
        )
        prompt = f"Question: {question}\nAnswer:"
        examples.append(Example(id=f"tiny-{i}", question=question, prompt=prompt, options=options, gold=i % n_options))
    return tuple(examples)


def listed_run(
    spec: RunSpec,
    *,
    key: str = "",
    created: str = "2026-01-01T00:00:00Z",
    origin: str = "live",
    folder: str = "runs/a",
    digest: str = "1",
    **made: object,
) -> StoredRun:
    """A run as a store lists it, of which nothing is stored."""
    form = RunFolder(Path(folder), "", spec, {"created": created, **made}, {"options": digest})
    return StoredRun(key or spec_key(spec), folder, origin, created, form)
