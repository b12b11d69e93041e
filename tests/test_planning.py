"""What a model will take: sizes by hand, and counts that agree with torch's own counter of operations."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cap_viz.attribution.exact import encode_all
from cap_viz.attribution.forward.dense_pass import dense_pass
from cap_viz.attribution.forward.llama_fast_path import direct_model
from cap_viz.attribution.forward.packing import lay_out, packed_rows
from cap_viz.attribution.forward.patching import heads_site, zeros
from cap_viz.attribution.forward.shortcut_checks import batch_of
from cap_viz.errors import UsageError
from cap_viz.models.cost_model import (
    ablation_operations,
    dimensions_in,
    dimensions_of,
    forward_operations,
    memory_plan,
    operations,
)
from cap_viz.models.loading import ReasoningModel
from cap_viz.tasks import Task
from tests.shell import Shell

# As published with Meta-Llama-3-8B.
LLAMA_3_8B = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}


def test_parameters_of_llama_3_8b() -> None:
    sizes = dimensions_of(LLAMA_3_8B)
    assert sizes.shape.n_params == 8_030_261_248, "the number its makers state as 8.03 B"
    assert (sizes.shape.d_head, sizes.shape.n_kv_heads) == (128, 8)


def test_parameters_are_those_of_the_loaded_model(tiny_model: ReasoningModel, tiny_folder: Path) -> None:
    sizes = dimensions_in(tiny_folder)
    assert sizes.shape == tiny_model.shape
    assert sizes.prunable == sum(matrix.weight.numel() for matrix in tiny_model.matrices())


def test_memory_by_hand() -> None:
    sizes = dimensions_of({**LLAMA_3_8B, "num_hidden_layers": 1, "vocab_size": 1})
    attention, mlp = 4096 * 4096 * 2 + 4096 * 1024 * 2, 3 * 4096 * 14336
    plan = memory_plan(sizes, "bfloat16", tokens=10)
    assert plan.weights == 2 * (attention + mlp + 3 * 4096 + 2 * 4096)
    assert plan.scoring == 2 * 10 * (2 * 4096 + 4 * 4096 + 3 * 1024 + 4096)
    assert plan.masking == 3 * (attention + mlp) + 7 * 2**18 + 12 * 4096 * 14336
    assert memory_plan(sizes, "float32", tokens=10).weights == 2 * plan.weights


@pytest.mark.parametrize(
    "change",
    [{"hidden_size": "wide"}, {"num_attention_heads": 0}, {"hidden_size": None}],
)
def test_odd_configs_are_a_sentence(change: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"config\.json"):
        dimensions_of({**LLAMA_3_8B, **change})


def test_configs_of_other_families_and_broken_files_are_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"{tmp_path}\b.*config\.json"):
        dimensions_in(tmp_path)
    for content, sentence in (
        ('{"n_layer": 2}', "'num_hidden_layers'"),
        ("{", "JSON"),
        ("[]", "object"),
    ):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(UsageError, match=sentence):
            dimensions_in(tmp_path)


def test_operations_of_an_ablation_by_hand() -> None:
    """Two layers of two heads: ten tokens, answers read at two of them."""
    sizes = dimensions_of(
        {
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "hidden_size": 4,
            "intermediate_size": 3,
            "vocab_size": 5,
            "max_position_embeddings": 16,
        }
    )
    q, k, v, o, mlp = 16, 8, 8, 16, 36
    one_query = 2 * 2 * (10 * 2 * 2)
    once = 10 * (2 * (q + k + v + o) + one_query)
    change, vocabulary = 10 * 2 * (2 * 4), 2 * 2 * (4 * 5)
    last_block = 10 * 2 * (k + v) + 2 * (2 * (q + o + mlp) + one_query)
    first_layer = once + 2 * (change + 10 * 2 * mlp + last_block + vocabulary)
    last_layer = once + 2 * (change + 2 * 2 * mlp + vocabulary)
    assert ablation_operations(sizes, tokens=10, reads=2) == first_layer + last_layer == 9632


def added_product(total: list[int], left: list[int], right: list[int], *_: object, **__: object) -> int:
    """Operations of `addmm_`, which torch's counter does not know: it knows the one that is not in place."""
    return 2 * left[0] * left[1] * right[1]


def attention_products(query: list[int], key: list[int], *_: object, **__: object) -> int:
    """Operations of the fused attention of the CPU: each query against all positions, and the sum of their values."""
    rows, heads, queries, d_head = query
    return 2 * 2 * rows * heads * queries * key[2] * d_head


def summed_product(left: list[int], right: list[int], *_: object, **__: object) -> int:
    """Operations of `bmm`, but for one that sums nothing: older transformers make the angles of positions by one."""
    rows, n, inner = left
    return 2 * rows * n * inner * right[2] if inner > 1 else 0


FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def counting() -> FlopCounterMode:
    return FlopCounterMode(
        display=False,
        custom_mapping={
            torch.ops.aten.addmm_: added_product,
            torch.ops.aten.bmm: summed_product,
            FUSED: attention_products,
        },
    )


def test_operations_are_those_torch_counts(tiny_model: ReasoningModel, tiny_task: Task, tiny_folder: Path) -> None:
    """All products of the engine, counted as they run, on one example: nothing is left out and nothing invented.

    Keys and values of the last block are counted as computed; the products behind a log-likelihood of a single token
    (a sum, not a product) are not.
    """
    (example,) = encode_all(tiny_model, tiny_task.calibration(1))
    direct, sizes = direct_model(tiny_model), dimensions_in(tiny_folder)
    assert direct is not None
    batch = batch_of(tiny_model, [example], packed=True)
    tokens, reads = example.row_length, example.n_reads
    assert reads == len(batch.read_row)
    with torch.inference_mode():
        with counting() as counted:
            direct.dense_logliks(batch)
        assert forward_operations(sizes, tokens, reads) == counted.get_total_flops()
        dense, value = dense_pass(tiny_model, batch), zeros(tiny_model, heads_site(tiny_model.shape))
        with counting() as counted:
            for layer in range(tiny_model.shape.n_layers):
                direct.ablate_heads(batch, dense, layer, value[layer])
        assert ablation_operations(sizes, tokens, reads) == counted.get_total_flops()
    found = operations(sizes, tokens, reads)
    assert found.exact == found.evaluation + ablation_operations(sizes, tokens, reads)
    assert found.gradient == 3 * found.evaluation


def test_reads_are_counted_as_they_are_laid_out(tiny_model: ReasoningModel, tiny_task: Task) -> None:
    for example in encode_all(tiny_model, tiny_task.calibration(12)):
        batch = lay_out(packed_rows([example]), tiny_model.device, tiny_model.dtype)
        assert example.n_reads == len(batch.read_row)


def test_the_command_needs_no_weights(shell: Shell, tiny_folder: Path, tiny_task: Task, tmp_path: Path) -> None:
    for file in tiny_folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    arguments = ("plan", "--model", str(tmp_path), "--task", "tiny", "--n", "4", "--n-evaluation", "6")
    found = shell.json(*arguments, "--teraflops", "0.001")
    sizes = dimensions_in(tiny_folder)
    assert found["bytes"]["weights"] == 4 * sizes.shape.n_params
    assert found["seconds"]["exact"] == pytest.approx(found["operations"]["exact"] / 1e9)
    code, out, _ = shell(*arguments)
    assert code == 0
    assert any({"exact", "4"} <= set(re.findall(r"\w+", line)) for line in out.splitlines())
    code, _, err = shell(*arguments, "--teraflops", "-1")
    assert code == 2
    assert "-1.0 teraflops" in err
    (tmp_path / "tokenizer.json").write_text(json.dumps({}))
    code, _, err = shell(*arguments)
    assert code == 2
    assert str(tmp_path) in err
