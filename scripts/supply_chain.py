"""Known vulnerabilities of the pinned packages, and their licences:  python -m scripts.supply_chain

Asks the package index for the advisories of every pin in constraints.txt. Where the index does not tell (no network, a
mirror without that service), it says for how many pins nothing is known; with --strict that is a failure as well.
docs/licences.md is written from what is installed in .venv. Both tools live in an environment of their own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.foreign import environment, run

PROJECT = Path(__file__).resolve().parent.parent
TOOLS = PROJECT / "scripts" / "requirements-audit.txt"
PINS = PROJECT / "constraints.txt"
LICENCES = PROJECT / "docs" / "licences.md"
INTRODUCTION = """# Licences of the packages CAP Viz uses

Written by `python -m scripts.supply_chain` from the metadata of the installed packages; none of them is part of this
repository.

"""


@dataclass(frozen=True)
class Audit:
    """What is known of the pins: a line per advisory, and how many pins were looked up or not."""

    advisories: tuple[str, ...]
    checked: int
    unknown: int


def audit(python: Path) -> Audit:
    """Exits with the tool's words when it gives no answer at all."""
    options = ["--format", "json", "--no-deps", "--disable-pip", "--progress-spinner", "off", "-r", str(PINS)]
    # It ends with 1 where it found something: the answer is in what it prints.
    done = subprocess.run([str(python), "-m", "pip_audit", *options], capture_output=True, text=True)
    try:
        return read_audit(json.loads(done.stdout)["dependencies"])
    except (ValueError, KeyError):
        sys.exit(f"The pins could not be checked:\n{done.stderr[-1000:]}")


def read_audit(dependencies: list[dict[str, Any]]) -> Audit:
    known = [one for one in dependencies if "skip_reason" not in one]
    return Audit(
        advisories=tuple(
            f"{one['name']} {one['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'nothing'}"
            for one in known
            for found in one["vulns"]
        ),
        checked=len(known),
        unknown=len(dependencies) - len(known),
    )


def verdict(found: Audit) -> str:
    looked_up = f"{found.checked} pins looked up, {found.unknown} not known to the index asked."
    if not found.checked:
        return f"Nothing is known about vulnerabilities: {looked_up}"
    return "\n".join([*found.advisories, looked_up]) if found.advisories else f"No advisory applies: {looked_up}"


def write_licences(python: Path) -> None:
    options = [f"--python={sys.executable}", "--from=mixed", "--format=json", "--with-urls"]
    rows = json.loads(run([str(python), "-m", "piplicenses", *options]))
    lines = [
        f"| {row['Name']} | {row['Version']} | {one_line(row['License'])} |"
        for row in sorted(rows, key=lambda row: row["Name"].casefold())
    ]
    LICENCES.write_text(
        INTRODUCTION + "\n".join(["| package | version | licence |", "|---|---|---|", *lines]) + "\n", encoding="utf-8"
    )


def one_line(licence: str) -> str:
    """Some packages put the whole text where its name belongs."""
    first = " ".join(licence.split())
    return first if len(first) <= 80 else first[:77] + "..."


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--strict", action="store_true", help="fail where nothing is known about a pin")
    options = parser.parse_args()
    python = environment(TOOLS)
    write_licences(python)
    found = audit(python)
    print(verdict(found))
    return 1 if found.advisories or (options.strict and found.unknown) else 0


if __name__ == "__main__":
    sys.exit(main())
