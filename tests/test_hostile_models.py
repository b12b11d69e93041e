"""Model folders with anything in them: a model that computes, or one sentence; never a crash, never made-up weights."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from cap_viz.attribution.exact import exact_scores
from cap_viz.errors import CapVizError
from cap_viz.models.catalogue import resolve
from cap_viz.models.loading import ReasoningModel, load
from tests.test_hostile import JSON, ONE_STORE
from tests.tiny import tiny_examples

# Loading takes a hundred times as long as reading a manifest.
FEW = settings(ONE_STORE, max_examples=max(25, settings().max_examples // 50))


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "given"))


def loaded_or_refused(folder: Path) -> ReasoningModel | None:
    """The model if it loads; it then gives scores or a sentence, too."""
    with suppress(CapVizError):
        model = load(resolve(str(folder)))
        exact_scores(model, tiny_examples(1))
        return model
    return None


def changed(content: dict[str, Any], data: st.DataObject) -> dict[str, Any]:
    """The JSON with one entry taken out or replaced by anything."""
    name = data.draw(st.sampled_from(sorted(content)))
    rest = {key: value for key, value in content.items() if key != name}
    return data.draw(st.just(rest) | st.builds(lambda value: {**rest, name: value}, JSON))


@FEW
@given(data=st.data())
def test_a_config_with_anything_in_it(folder: Path, tiny_folder: Path, data: st.DataObject) -> None:
    content = json.loads((tiny_folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(changed(content, data)))
    loaded_or_refused(folder)


@FEW
@given(data=st.data())
def test_a_tokenizer_with_anything_in_it(folder: Path, tiny_folder: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["tokenizer.json", "tokenizer_config.json"]))
    content = json.loads((tiny_folder / name).read_text())
    (folder / name).write_text(json.dumps(changed(content, data)))
    loaded_or_refused(folder)
    shutil.copy(tiny_folder / name, folder / name)


@FEW
@given(
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4),
    kept=st.floats(0, 1),
)
def test_weights_with_flipped_bytes_or_a_missing_end(
    folder: Path, tiny_folder: Path, flips: list[tuple[int, int]], kept: float
) -> None:
    content = bytearray((tiny_folder / "model.safetensors").read_bytes())
    header = int.from_bytes(content[:8], "little")
    for place, value in flips:
        content[place % (header + 8)] = value
    (folder / "model.safetensors").write_bytes(content if kept > 0.5 else content[: int(2 * kept * len(content))])
    loaded_or_refused(folder)


@pytest.mark.parametrize(
    ("n_layers", "sentence"),
    [(4, "lack 9 tensors that its config.json asks for"), (10**9, "asks for 1000000000 layers")],
)
def test_layers_that_are_not_in_the_weights_are_not_made_up(folder: Path, n_layers: int, sentence: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": n_layers}))
    with pytest.raises(CapVizError, match=sentence):
        load(resolve(str(folder)))


@pytest.mark.parametrize("architectures", [1, [[]]])
def test_architectures_that_are_none(folder: Path, architectures: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": architectures}))
    with pytest.raises(CapVizError, match=r"cannot be scored: TransformerLens cannot hook|cannot be loaded"):
        load(resolve(str(folder)))


@pytest.mark.parametrize("limit", [[], "many"])
def test_a_tokenizer_that_fails_only_in_use(folder: Path, limit: Any) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": limit}))
    with pytest.raises(CapVizError, match="cannot be loaded"):
        load(resolve(str(folder)))


def test_a_missing_tensor_is_named(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CapVizError, match=r"lack 1 tensors .* model\.layers\.1\.mlp\.up_proj\.weight"):
        load(resolve(str(folder)))


def test_code_that_comes_with_a_model_is_never_run(folder: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(f"from pathlib import Path\nPath({str(ran)!r}).touch()\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "unheard-of",
        "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CapVizError, match="cannot be loaded"):
        load(resolve(str(folder)))
    assert not ran.exists()
