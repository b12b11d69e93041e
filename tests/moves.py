"""Look at files as another process might: after every operation that makes, moves or removes a name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

OPERATIONS = ((Path, "rename"), (Path, "replace"), (Path, "unlink"), (shutil, "rmtree"), (os, "fsync"))


def look_after_every_move(patch: pytest.MonkeyPatch, look: Callable[[], object]) -> None:
    """Call `look` after every such operation until the patch is undone, also after those that fail."""

    def watched(operation: Callable[..., object]) -> Callable[..., object]:
        def instead(*arguments: object, **options: object) -> object:
            try:
                return operation(*arguments, **options)
            finally:
                look()

        return instead

    for owner, name in OPERATIONS:
        patch.setattr(owner, name, watched(getattr(owner, name)))
