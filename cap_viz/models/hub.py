"""Files from the Hugging Face hub: from the cache, else downloaded, else one clear error message."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, cast

from cap_viz.errors import CapVizError, UsageError
from cap_viz.settings import limit_hub_waiting

RepoType = Literal["model", "dataset"]


def hub_snapshot(
    kind: RepoType,
    repository: str,
    *,
    patterns: Sequence[str],
    instead: str,
    revision: str | None = None,
    needed: Sequence[str] = (),
) -> Path:
    """Return the folder with the files of one commit of a hub repository that match `patterns`.

    Cached files are used as they are, so that a branch name keeps meaning the commit of the first download; that commit
    is the folder's name. `needed` lists files that must be there. Gives up quickly without network. Raises
    `CapVizError` saying what is wrong (gated, missing, unreachable) and offering `instead`.
    """
    patience = limit_hub_waiting()
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    def fetch(*, cached: bool) -> Path:
        return Path(
            snapshot_download(
                repository,
                repo_type=kind,
                revision=revision,
                allow_patterns=list(patterns),
                etag_timeout=patience,
                local_files_only=cached,
            )
        )

    try:
        folder = fetch(cached=True)
        if all((folder / name).is_file() for name in needed):
            return folder
    except LocalEntryNotFoundError:
        pass
    except HFValidationError as error:
        raise UsageError(f"{repository!r} is not a valid hub id; {instead}.") from error
    with hub_errors_explained(kind, repository, revision, instead):
        HfApi().repo_info(repository, repo_type=kind, revision=revision, timeout=patience)
        folder = fetch(cached=False)
    for name in needed:
        if not (folder / name).is_file():
            raise CapVizError(f"{repository} on the hub has no file {name} at revision {folder.name}; {instead}.")
    return folder


@contextmanager
def hub_errors_explained(kind: RepoType, repository: str, revision: str | None, instead: str) -> Iterator[None]:
    """Turn errors of the hub, the network and the disk into `CapVizError`s of one sentence; others pass."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
        XetDownloadError,
    )

    # That of the hub's client: httpx2, or httpx before huggingface_hub 2.
    http_error = cast("type[Exception]", HfHubHTTPError.__bases__[0])
    try:
        yield
    except GatedRepoError as error:
        raise CapVizError(
            f"{repository} is gated: accept its licence on the hub and set HF_TOKEN, then try again; or {instead}."
        ) from error
    except RepositoryNotFoundError as error:
        raise UsageError(
            f"The hub has no {kind} {repository!r}; check the name (private ones need HF_TOKEN), or {instead}."
        ) from error
    except RevisionNotFoundError as error:
        raise CapVizError(f"{repository} on the hub has no revision {revision!r}; {instead}.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        what = "check HF_TOKEN" if status in (401, 403) else "try again later"
        raise CapVizError(
            f"The hub refused to deliver {repository} (HTTP status {status}); {what}, or {instead}."
        ) from error
    except (http_error, ConnectionError, TimeoutError, LocalEntryNotFoundError, XetDownloadError) as error:
        offline = ", or unset HF_HUB_OFFLINE" if isinstance(error, OfflineModeIsEnabled) else ""
        raise CapVizError(
            f"{repository} is not on this machine and the model hub cannot be reached; {instead}{offline}."
        ) from error
    except OSError as error:
        raise CapVizError(f"{repository} cannot be stored in the hub's cache ({error}); {instead}.") from error
