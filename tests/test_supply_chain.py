"""What is said about the pinned packages: advisories found, pins nothing is known of, licences of all of them."""

from __future__ import annotations

import re

from scripts.supply_chain import LICENCES, PINS, Audit, one_line, read_audit, verdict

FOUND = {"id": "CVE-1", "fix_versions": ["2.1"]}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_advisories_and_skipped_pins_are_told_apart() -> None:
    found = read_audit(
        [
            {"name": "a", "version": "2.0", "vulns": [FOUND, {"id": "CVE-2", "fix_versions": []}]},
            {"name": "b", "version": "1", "vulns": []},
            {"name": "c", "skip_reason": "not found"},
        ]
    )
    assert found.advisories == ("a 2.0: CVE-1, mended in 2.1", "a 2.0: CVE-2, mended in nothing")
    assert (found.checked, found.unknown) == (2, 1)
    assert verdict(found).endswith("2 pins looked up, 1 not known to the index asked.")


def test_no_answer_is_not_a_clean_bill() -> None:
    assert verdict(Audit((), 0, 114)).startswith("Nothing is known about vulnerabilities")
    assert verdict(Audit((), 114, 0)).startswith("No advisory applies")


def test_every_pin_has_its_licence_listed() -> None:
    listed = {normal(line.split("|")[1].strip()) for line in LICENCES.read_text("utf-8").splitlines() if "|" in line}
    pins = {normal(line.split("==")[0]) for line in PINS.read_text("utf-8").splitlines() if "==" in line}
    assert pins <= listed


def test_a_licence_is_one_line() -> None:
    assert one_line("MIT\nLicense") == "MIT License"
    assert len(one_line("word " * 100)) == 80
