"""Limits for visitors of a server shared by strangers (`CAP_VIZ_SERVER=1`).

Only listed models (`CAP_VIZ_MODELS`, comma-separated; the catalogue if not set), no folders of the server, no uploads,
no deletions, few and small jobs, short prompts. Without the variable only the limits of `runs/queue.py` and of the
kinds of runs apply, and prompts may be three times as long.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cap_viz.errors import UsageError
from cap_viz.models.catalogue import CATALOGUE
from cap_viz.runs.jobs import ExportedModel, Job, JobSpec, PrunedWeights
from cap_viz.runs.kinds import KINDS
from cap_viz.settings import is_shared, listed_models

MOST_JOBS = 3
MOST_PROMPT_CHARACTERS = {True: 500, False: 1500}
REFUSAL = "This server is shared: {what} is switched off here. Run CAP Viz on a machine of your own for it."


def allowed_models() -> tuple[str, ...]:
    """Return the models visitors may choose on a shared server.

    Raises `UsageError` if the list names a file or folder: its path would be shown to everybody.
    """
    named = listed_models()
    folder = next((name for name in named if name not in CATALOGUE and Path(name).expanduser().exists()), None)
    if folder is not None:
        raise UsageError(f"CAP_VIZ_MODELS names {folder!r}, a file or folder of this machine; name models by their id.")
    return named or tuple(CATALOGUE)


def offered(model_ids: Iterable[str]) -> list[str]:
    """Return the model ids that visitors may see, each once: all of them unless the server is shared."""
    allowed = allowed_models() if is_shared() else None
    return [one for one in dict.fromkeys(model_ids) if allowed is None or one in allowed]


def check_job(spec: JobSpec, own: Iterable[Job]) -> None:
    """Raise `UsageError` if a visitor with these `own` jobs may not start this one."""
    if not is_shared():
        return
    if not offered([spec.model.id]):
        raise UsageError(f"This server is shared and does not offer {spec.model.id}.")
    if isinstance(spec, ExportedModel):
        raise UsageError(REFUSAL.format(what="exporting models"))
    if not isinstance(spec, PrunedWeights):
        most, n = KINDS[spec.kind].most_examples_shared, len(spec.examples.ids)
        if n > most:
            raise UsageError(f"This server is shared: a run of this kind may have {most} examples, not {n}.")
    if sum(job.active for job in own) >= MOST_JOBS:
        raise UsageError(f"This server is shared: wait until one of your {MOST_JOBS} jobs is done, or cancel one.")


def most_prompt_characters() -> int:
    return MOST_PROMPT_CHARACTERS[is_shared()]


def check_prompt(text: str) -> None:
    """Raise `UsageError` for a prompt that is too long, which a browser's own limit cannot rule out."""
    if len(text) > (most := most_prompt_characters()):
        raise UsageError(f"The prompt has {len(text)} characters, more than the {most} allowed here; shorten it.")
