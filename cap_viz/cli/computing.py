"""Runs for a command, read from the store or computed with progress on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cap_viz.cli.output import shown
from cap_viz.runs.backends import BackendChoice, open_backend, requested_backend

if TYPE_CHECKING:
    from cap_viz.attribution.results import EvalReport
    from cap_viz.runs.store import StoredRun


def stored_run(spec_for: Any, model_id: str, store: Any) -> StoredRun:
    """Return the run of a spec from the store, or compute it with progress on stderr."""
    return stored_runs(lambda ref: {"run": spec_for(ref)}, model_id, store)["run"]


def stored_runs(
    specs_for: Any, model_id: str, store: Any, backend: BackendChoice | None = None
) -> dict[Any, StoredRun]:
    """Return the runs of many specs on one model; load the model only if a run is missing."""
    from cap_viz.models.catalogue import resolve
    from cap_viz.models.loading import load
    from cap_viz.runs.execute import run_steps

    source, loaded = resolve(model_id), None
    found: dict[Any, StoredRun] = {}
    with open_backend(backend or requested_backend()) as computing:
        for name, spec in specs_for(source.ref).items():
            run = store.sound(spec)
            if run is None:
                loaded = loaded or load(source)
                run = shown(run_steps(spec, loaded, store, computing))
            found[name] = run
    return found


def stored_reports(
    specs_for: Any, model_id: str, store: Any, backend: BackendChoice | None = None
) -> dict[Any, EvalReport]:
    """Return the reports of many specs on one model."""
    from cap_viz.runs.kinds.evaluation import load_report

    return {name: load_report(store, run) for name, run in stored_runs(specs_for, model_id, store, backend).items()}
