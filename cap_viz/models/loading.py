"""Load a model as one object that owns its weights, head hooks, tokenizer and the lease that guards them.

`load` reads the weights, boots TransformerLens' `TransformerBridge` around them and returns a `ReasoningModel`. Only
safetensors and GGUF are read, and code shipped with a model is never run.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from cap_viz.errors import CapVizError, UsageError
from cap_viz.models.catalogue import DEFAULT_MODEL, ModelSource, resolve
from cap_viz.models.devices import chosen_device
from cap_viz.models.gguf import convert_apart
from cap_viz.models.offload import placement
from cap_viz.models.weight_files import check_complete, check_finite, check_layers
from cap_viz.settings import CPU, local_folder, prepare_torch, thread_count

if TYPE_CHECKING:
    import torch
    from jaxtyping import Bool, Float
    from torch import Tensor

log = logging.getLogger(__name__)

PROBE = "Question: What is 1 + 1?\nAnswer: 2"


@dataclass(frozen=True)
class ModelShape:
    """Dimensions of a decoder-only transformer.

    `n_ctx` is the longest sequence that every layer attends to in full: the context length, or the sliding window where
    there is one. `n_params` counts every weight once.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    n_ctx: int
    n_params: int


@dataclass(frozen=True)
class Matrix:
    """One prunable projection of a block: weight [output, input]; `part` is "attention" or "mlp"."""

    layer: int
    kind: str
    part: str
    module: torch.nn.Linear = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        return f"{self.layer}.{self.kind}"

    @property
    def weight(self) -> Tensor:
        return self.module.weight


class ReasoningModel:
    """A loaded model with hookable heads, its tokenizer, and the lease that guards them.

    A `TransformerBridge` is not safe for two threads even when they only read: hooks and early stops leak from
    one forward into another. Everything that tokenises, runs or edits the model therefore holds `lease`.
    """

    def __init__(self, *, source: ModelSource, bridge: Any, tokenizer: Any, shape: ModelShape) -> None:
        import torch

        self.source = source
        self.ref = source.ref
        self.title = source.title
        self.bridge = bridge
        # Not bridge.tokenizer: TransformerLens reloads that one to prepend BOS.
        self.tokenizer = tokenizer
        self.shape = shape
        self.lease = threading.RLock()
        # Shortcuts that passed their check on this model, so that each is checked once
        # (attribution/forward/shortcut_checks.py).
        self.passed: set[str] = set()
        # Offloaded weights (models/offload.py) are on the device "meta" until they are used; the others tell where the
        # model computes. Where all are offloaded, that is the CPU.
        places = dict.fromkeys(parameter.device for parameter in bridge.parameters())
        here = [place for place in places if place.type != "meta"]
        self.device: torch.device = here[0] if here else torch.device(CPU)
        self.offloaded = here != list(places)

    def __repr__(self) -> str:
        shape, precision = self.shape, str(self.dtype).removeprefix("torch.")
        return f"Model({self.ref.id}, {shape.n_layers} layers × {shape.n_heads} heads, {precision} on {self.device})"

    @property
    def blocks(self) -> Any:
        return self.bridge.blocks

    @property
    def dtype(self) -> torch.dtype:
        return next(self.bridge.parameters()).dtype

    def matrices(self) -> tuple[Matrix, ...]:
        """Return the attention and MLP projections of every block, in layer order.

        Raises `CapVizError` for families with fused projections or projections that are not plain linear layers, and
        for offloaded weights.
        """
        self.check_whole("prune it")
        return tuple(matrix for layer in range(self.shape.n_layers) for matrix in block_matrices(self, layer))

    def check_whole(self, what: str) -> None:
        """Raise `CapVizError` if any weight is offloaded; `what` completes the message."""
        if self.offloaded:
            raise CapVizError(
                f"{self.ref.id} does not fit on {self.device}, and its weights are fetched block by block; to {what}, "
                "use a larger device or a lower precision (CAP_VIZ_DTYPE). Exact scores and accuracies work."
            )

    def pruned_weights(
        self,
        keep: Mapping[str, Bool[Tensor, "output input"]],
        updated: Mapping[str, Float[Tensor, "output input"]] | None = None,
    ) -> dict[str, Tensor]:
        """Return copies of the named matrices with every weight outside `keep` set to zero.

        `updated` holds new values of whole matrices, used in place of the model's own. Raises `UsageError` for names
        the model does not have, and for matrices of another shape.
        """
        by_name = {matrix.name: matrix for matrix in self.matrices()}
        unknown = sorted(set(keep) - set(by_name))
        if unknown:
            raise UsageError(f"The mask names {unknown[0]!r}, which {self.ref.id} does not have.")
        for name, kept in keep.items():
            if (own := by_name[name].weight.shape) != kept.shape:
                raise UsageError(
                    f"The mask is of another model: its {name!r} is {' x '.join(map(str, kept.shape))}, that of "
                    f"{self.ref.id} {' x '.join(map(str, own))}."
                )
        weights = {name: by_name[name].weight.detach() for name in keep}
        for name, values in (updated or {}).items():
            weights[name] = values.to(weights[name])
        return {name: weights[name] * kept.to(self.device) for name, kept in keep.items()}

    @contextmanager
    def swapped(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Hold the lease with other tensors in place of the named matrices; an empty mapping keeps the dense model.

        The dense tensors are never written, only exchanged and put back in `finally`: the restore is exact
        whatever happens inside, and needs no copy.
        """
        with self.lease:
            by_name = {matrix.name: matrix for matrix in self.matrices()} if weights else {}
            dense = {name: by_name[name].weight.data for name in weights}
            try:
                for name, data in weights.items():
                    by_name[name].weight.data = data
                yield
            finally:
                for name, data in dense.items():
                    by_name[name].weight.data = data

    @contextmanager
    def masked(
        self,
        keep: Mapping[str, Bool[Tensor, "output input"]],
        updated: Mapping[str, Float[Tensor, "output input"]] | None = None,
    ) -> Iterator[None]:
        """Hold the lease with a mask applied; the arguments are those of `pruned_weights`."""
        with self.lease, self.swapped(self.pruned_weights(keep, updated)):
            yield


ATTENTION_PARTS = {"q": "q", "k": "k", "v": "v", "o": "o"}
MLP_PARTS = {"gate": "gate", "up": "in", "down": "out"}


def block_matrices(model: ReasoningModel, layer: int) -> list[Matrix]:
    import torch

    block = model.blocks[layer]
    found: list[Matrix] = []
    for part, owner, kinds in (("attention", "attn", ATTENTION_PARTS), ("mlp", "mlp", MLP_PARTS)):
        component = getattr(block, owner, None)
        for kind, attribute in kinds.items():
            bridge = getattr(component, attribute, None)
            linear = getattr(bridge, "original_component", None)
            if not isinstance(linear, torch.nn.Linear):
                raise CapVizError(
                    f"Pruning {model.ref.id} is not possible: its {part} projection {kind!r} is not a linear layer of "
                    "its own. Models built like Llama (Llama, Mistral, Qwen, SmolLM) can be pruned."
                )
            found.append(Matrix(layer=layer, kind=kind, part=part, module=linear))
    return found


def load_model(model_id: str = DEFAULT_MODEL) -> ReasoningModel:
    """Load a model by catalogue name, local folder or hub id; raises the errors of `resolve` and `load`."""
    return load(resolve(model_id))


def load(source: ModelSource) -> ReasoningModel:
    """Load a model with hookable heads, in the precision of `source`, on the requested or best device.

    Raises `CapVizError` when memory does not suffice, the family is not supported, weights are damaged, or the device
    does not exist.
    """
    folder = readable_folder(source)
    check_layers(source.id, folder)
    prepare_torch()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()
    threads = thread_count()
    if threads is not None:
        torch.set_num_threads(threads)
    device = chosen_device().name
    placed = placement(source.id, folder, source.dtype, device)
    try:
        with_info: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, source.dtype),
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **placed,
        )
        network, found = with_info
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        # Some damage to a tokenizer shows only in use.
        tokenizer.decode(tokenizer.encode(PROBE))
    except Exception as error:
        # Damaged configs and tokenizers cause errors of any type (tokenizers raises bare `Exception`).
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CapVizError(f"{source.id} cannot be loaded as a causal language model: {reason}") from error
    check_complete(source.id, found["missing_keys"])
    check_finite(source.id, network)
    network = network.eval()
    return boot(source, network if placed else network.to(device), tokenizer)


def boot(source: ModelSource, network: Any, tokenizer: Any) -> ReasoningModel:
    """Wrap a Hugging Face model in a `TransformerBridge`, which takes it over and rewrites it in place."""
    from transformer_lens.model_bridge import TransformerBridge

    n_params = sum(parameter.numel() for parameter in network.parameters())
    try:
        bridge = TransformerBridge.boot_transformers(
            str(source.folder), hf_model=network, tokenizer=tokenizer, dtype=network.dtype, device=str(network.device)
        )
    except Exception as error:
        # A config may hold anything, and untested architectures fail with errors of any type.
        log.warning("%s cannot be booted: %s", source.id, error)
        raise unsupported(
            source.id, f"TransformerLens cannot hook the architecture {type(network).__name__}"
        ) from error
    hooks = bridge.hook_dict
    if not hasattr(bridge, "blocks") or "blocks.0.attn.hook_z" not in hooks:
        raise unsupported(source.id, "its attention heads have no hook_z")
    cfg = bridge.cfg
    return ReasoningModel(
        source=source,
        bridge=bridge,
        tokenizer=tokenizer,
        shape=ModelShape(
            n_layers=cfg.n_layers,
            n_heads=cfg.n_heads,
            n_kv_heads=getattr(cfg, "n_key_value_heads", None) or cfg.n_heads,
            d_model=cfg.d_model,
            d_head=cfg.d_head,
            d_mlp=cfg.d_mlp or 0,
            n_ctx=seen_whole(network.config, cfg.n_ctx),
            n_params=n_params,
        ),
    )


def seen_whole(config: Any, n_ctx: int) -> int:
    """Return the context length, cut to the sliding window: CAP Viz's own attention masks ignore windows."""
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    if not window or getattr(text, "use_sliding_window", True) is False:
        return n_ctx
    return min(n_ctx, window)


def unsupported(model_id: str, reason: str) -> CapVizError:
    return CapVizError(f"{model_id} belongs to a family that cannot be scored: {reason}.")


def readable_folder(source: ModelSource) -> Path:
    """Return the model's folder in Hugging Face layout with safetensors, converting GGUF first."""
    return converted(source) if source.gguf else source.folder


def converted(source: ModelSource) -> Path:
    """Return the safetensors folder of a GGUF model, converted on first use (about 20 s; later loads take 0.1 s)."""
    assert source.gguf is not None
    target = local_folder() / "models" / f"{source.id}-{source.fingerprint}"
    if (target / "config.json").is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not (target / "config.json").is_file():
            # We hold the lock, so the processes that began these are dead; a surviving child of theirs fails to write.
            for left in target.parent.glob(f"{target.name}.*.building"):
                shutil.rmtree(left, ignore_errors=True)
            building = target.with_name(f"{target.name}.{os.getpid()}.building")
            try:
                convert_apart(source.folder, source.gguf, building)
                # A target without config.json is incomplete and never read.
                shutil.rmtree(target, ignore_errors=True)
                building.rename(target)
            finally:
                shutil.rmtree(building, ignore_errors=True)
    return target
