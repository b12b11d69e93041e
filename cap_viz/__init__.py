"""CAP Viz: score attention heads for a task with uncertainty, prune models by these scores and evaluate the result.

The public functions are loaded on first use, so that `import cap_viz` costs nothing and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cap_viz._moved import find_former_modules

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cap_viz.attribution.estimators import score_heads
    from cap_viz.attribution.exact import score_blocks
    from cap_viz.evaluation.choice import compare, evaluate
    from cap_viz.models.loading import load_model
    from cap_viz.pruning import prune_mask
    from cap_viz.tasks import load_task

find_former_modules()

HOMES = {
    "load_task": "cap_viz.tasks",
    "score_heads": "cap_viz.attribution.estimators",
    "score_blocks": "cap_viz.attribution.exact",
    "prune_mask": "cap_viz.pruning",
    "evaluate": "cap_viz.evaluation.choice",
    "compare": "cap_viz.evaluation.choice",
    "load_model": "cap_viz.models.loading",
}

__all__ = ["__version__", "compare", "evaluate", "load_model", "load_task", "prune_mask", "score_blocks", "score_heads"]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'cap_viz' has no attribute {name!r}")
    import_module("cap_viz.integrations.plugins").load_plugins()
    return getattr(import_module(HOMES[name]), name)
