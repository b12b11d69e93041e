"""The worker of a cluster: holds the model on its device and computes batches of the run it was given.

A plain class, so that it can be read and tested without Ray; `runs/backends/ray.py` makes it an actor.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from cap_viz import __version__
from cap_viz.errors import CapVizError
from cap_viz.runs.spec import ENGINE_VERSION, spec_from_dict

if TYPE_CHECKING:
    from cap_viz.attribution.batch_plan import BatchPlan
    from cap_viz.attribution.pruned_weights import MaskLike
    from cap_viz.models.catalogue import ModelRef
    from cap_viz.models.loading import ReasoningModel
    from cap_viz.runs.batched_runs import BatchedRun
    from cap_viz.runs.checkpoints import Arrays


@dataclass(frozen=True)
class Versions:
    """Versions that must agree on all machines for a run to have the same bits and the same format."""

    cap_viz: str
    engine: int
    torch: str

    def __str__(self) -> str:
        return f"CAP Viz {self.cap_viz} (engine {self.engine}) with torch {self.torch}"


def versions_here() -> Versions:
    from importlib.metadata import version

    return Versions(__version__, ENGINE_VERSION, version("torch"))


# Named, not imported: what other packages add stands above runs in the order of imports.
PLUGINS = "cap_viz.integrations.plugins"


class Worker:
    """One copy of a model, and the current run."""

    def __init__(self) -> None:
        # Ray's setup hook would run for the whole job only, in processes that do not find CAP Viz in a checkout.
        import_module(PLUGINS).load_plugins()
        self.model: ReasoningModel | None = None
        self.run: BatchedRun | None = None

    def versions(self) -> Versions:
        return versions_here()

    def hold(self, model: ModelRef) -> str:
        """Load the model unless it is held; return its device.

        Raises `CapVizError` where the model is not on this machine or has another fingerprint.
        """
        from cap_viz.models.catalogue import resolve
        from cap_viz.models.loading import load

        if self.model is not None and self.model.ref == model:
            return str(self.model.device)
        self.model = self.run = None
        source = resolve(model.id)
        if source.ref != model:
            raise CapVizError(
                f"{model.id} on {socket.gethostname()} has fingerprint {source.ref.fingerprint}, the run is about "
                f"{model.fingerprint}; give all machines the same files."
            )
        self.model = load(source)
        return str(self.model.device)

    def begin(
        self, spec: dict[str, Any], plan: BatchPlan, mask: MaskLike | None, packages: frozenset[str] = frozenset()
    ) -> None:
        """Prepare the batches of a run from the JSON of its spec.

        Raises `CapVizError` where its data is missing, or one of the `packages` that it is made with.
        """
        from cap_viz.runs.kinds import batched_run
        from cap_viz.runs.plugin_packages import packages_here

        assert self.model is not None
        if lacking := sorted(packages - packages_here()):
            raise CapVizError(
                f"The worker on {socket.gethostname()} lacks {' and '.join(lacking)}, which this run is made with; "
                "install the same packages on all machines."
            )
        self.run = batched_run(self.model, spec_from_dict(spec), plan, mask)  # pyright: ignore[reportArgumentType]

    def batch(self, number: int) -> Arrays:
        """Compute one batch and return its arrays."""
        assert self.run is not None
        for _ in self.run.steps([number]):
            pass
        return self.run.content(number)
