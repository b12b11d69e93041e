"""Former import paths: they keep working until version 0.2, with a warning that names the new path."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Former module → modules that hold its names now, searched in this order; all below `cap_viz`.
MOVED = {
    "accuracy": "evaluation.eval_metrics",
    "archive": "runs.archive",
    "audit": "runs.audit",
    "basis": "runs.mask_provenance",
    "batch_size": "models.batch_size",
    "batched": "runs.batched_runs runs.kinds runs.kinds.scores",
    "checkpoints": "runs.checkpoints",
    "cluster": "runs.backends.ray",
    "cluster_worker": "runs.backends.ray_worker",
    "comparison": "runs.comparison",
    "conversion": "models.gguf",
    "describe": "runs.kinds runs.run_labels runs.protocols",
    "devices": "models.devices",
    "doctor": "attribution.self_test",
    "engine.capture": "attribution.forward.dense_pass",
    "engine.checks": "attribution.forward.shortcut_checks",
    "engine.decoding": "attribution.forward.greedy",
    "engine.direct": "attribution.forward.llama_fast_path",
    "engine.direct_decoding": "attribution.forward.llama_decoding",
    "engine.gradient": "attribution.forward.backward",
    "engine.joint": "attribution.forward.patching",
    "engine.losses": "attribution.forward.backward",
    "engine.packing": "attribution.forward.packing",
    "engine.replacement": "attribution.forward.patching",
    "engine.replay": "attribution.forward.replay",
    "engines": "runs.backends runs.backends.local runs.batched_runs errors",
    "estimators": "attribution.estimators",
    "estimators.gradient": "attribution.gradient",
    "estimators.hybrid": "attribution.hybrid",
    "estimators.joint": "attribution.joint_ablation",
    "example_sets": "tasks.example_sets",
    "export": "pruning.export runs.model_card",
    "finding": "runs.run_queries tasks.readable",
    "first_items": "runs.prefix_reuse",
    "generation": "evaluation.generation runs.protocols",
    "health": "cli.health",
    "hub": "models.hub",
    "jobs": "runs.jobs runs.queue",
    "loaded_models": "runs.loaded_models",
    "mask_specs": "runs.masks",
    "measures": "evaluation.eval_metrics",
    "metrics": "attribution.effect_metrics",
    "notebook": "runs.notebook",
    "numbers": "runs.kinds runs.kinds.scores runs.kinds.evaluation",
    "offload": "models.offload",
    "own_solutions": "runs.self_generated_calibration",
    "pairing": "tasks.pairing",
    "perplexity": "evaluation.perplexity runs.protocols",
    "plan": "attribution.batch_plan",
    "planning": "models.cost_model",
    "precision": "models.rounding_noise",
    "pruning.activations": "pruning.calibration.activations",
    "pruning.allocation": "pruning.selection.owl",
    "pruning.base": "pruning.criterion",
    "pruning.cap": "pruning.criteria.cap",
    "pruning.cap_fine": "pruning.criteria.cap_fine",
    "pruning.gblm": "pruning.criteria.gblm",
    "pruning.global_magnitude": "pruning.criteria.global_magnitude",
    "pruning.gradients": "pruning.calibration.gradients",
    "pruning.groups": "pruning.selection.local_groups pruning.criterion",
    "pruning.head": "pruning.criteria.head",
    "pruning.head_zeros": "pruning.head_sparsity",
    "pruning.magnitude": "pruning.criteria.magnitude",
    "pruning.masks": "pruning.mask",
    "pruning.random_weights": "pruning.criteria.random_weights",
    "pruning.ria": "pruning.criteria.ria",
    "pruning.sequential": "pruning.calibration.sequential",
    "pruning.shuffled_cap": "pruning.criteria.shuffled_cap",
    "pruning.sparsegpt": "pruning.criteria.sparsegpt",
    "pruning.taylor": "pruning.criteria.taylor",
    "pruning.threshold": "pruning.selection.global_threshold",
    "pruning.token_gradients": "pruning.calibration.token_gradients",
    "pruning.wanda": "pruning.criteria.wanda",
    "reading": "runs.kinds.scores runs.kinds.evaluation runs.kinds.profile runs.kinds.patterns runs.kinds.joint",
    "repair": "runs.repair",
    "results": "attribution.results attribution.joint_scores",
    "roles": "attribution.attention_patterns",
    "scoring": "attribution.exact",
    "serving": "dashboard.serving",
    "solution_loss": "evaluation.solution_loss runs.protocols",
    "spec": "runs.spec attribution.results",
    "spreadsheet": "runs.spreadsheet",
    "stats.paired_means": "stats.paired",
    "store": "runs.store",
    "tables": "attribution.results",
    "tensors": "models.tensors",
    "together": "runs.kinds.joint",
    "weights": "models.weight_files",
    "whatif": "attribution.prompt_intervention",
}
# Names that are others now.
RENAMED = {
    "read_scores": "load_scores",
    "read_blocks": "load_blocks",
    "read_gradient": "load_gradient",
    "read_mean_effect": "load_mean_effect",
    "read_report": "load_report",
    "read_answers": "load_answers",
    "read_roles": "load_patterns",
    "read_joint": "load_joint",
    "read_zeros": "load_zeros",
    "read_head_zeros": "load_head_zeros",
    "MeanEstimate": "HeadEstimate",
    "PairedMeans": "PairedComparison",
    "Paired": "PairedComparison",
    "Basis": "MaskProvenance",
    "basis_of": "provenance_of",
    "Protocol": "GenerationProtocol",
    "Engine": "Backend",
    "EngineChoice": "BackendChoice",
    "asked_engine": "requested_backend",
    "engine_named": "backend_named",
    "engine_of": "open_backend",
}
# Former packages; all their modules are in `MOVED`.
FORMER_PACKAGES = ("engine", "estimators")


class FormerModules(MetaPathFinder, Loader):
    """Finder and loader of former modules: empty ones that look their names up in the present modules."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package != "cap_viz" or name not in (*MOVED, *FORMER_PACKAGES):
            return None
        return ModuleSpec(fullname, self, is_package=name in FORMER_PACKAGES)

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__.removeprefix("cap_viz.")
        if name in MOVED:
            module.__dict__["__getattr__"] = names_of(module.__name__, *MOVED[name].split())


def names_of(former: str, *places: str) -> Callable[[str], Any]:
    """Return a module's `__getattr__` that takes a name from the first of `places` to have it, with a warning."""

    def found(name: str) -> Any:
        if not name.startswith("__"):
            new = RENAMED.get(name, name)
            for place in places:
                home = import_module(f"cap_viz.{place}")
                if hasattr(home, new):
                    value = getattr(home, new)
                    defined = getattr(value, "__module__", "")
                    now = f"{defined if defined.startswith('cap_viz.') else home.__name__}.{new}"
                    note = f"{former}.{name} is {now} now; the former path works until version 0.2."
                    warnings.warn(note, FutureWarning, stacklevel=2)
                    return value
        raise AttributeError(f"module {former!r} has no attribute {name!r}")

    return found


def find_former_modules() -> None:
    """Register the finder of former modules once, after all other finders."""
    if not any(isinstance(finder, FormerModules) for finder in sys.meta_path):
        sys.meta_path.append(FormerModules())
