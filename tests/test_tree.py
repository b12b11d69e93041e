"""The tree stays one a newcomer can read: few entries, one owner to a name. `make lint` checks the imports."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
MOST_ENTRIES = 20


def test_the_package_holds_few_entries() -> None:
    entries = [entry.name for entry in (PROJECT / "cap_viz").iterdir() if entry.name not in ("__pycache__", "py.typed")]
    assert 10 < len(entries) <= MOST_ENTRIES


def test_no_two_public_classes_share_a_name() -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for package in ("cap_viz", "studies"):
        for file in sorted((PROJECT / package).rglob("*.py")):
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    homes[node.name].append(str(file.relative_to(PROJECT)))
    assert len(homes) > 100
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}
