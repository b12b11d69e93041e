"""The Glossary page: every term once, a search that is in the address."""

from __future__ import annotations

from cap_viz.dashboard.glossary.page import found
from cap_viz.dashboard.terms import GLOSSARY, SECTIONS
from tests.test_ui_pages import opened


def test_every_term_has_one_place() -> None:
    placed = [key for terms in SECTIONS.values() for key in terms]
    assert sorted(placed) == sorted(GLOSSARY)


def test_a_search_finds_names_and_texts_whatever_the_case() -> None:
    assert found("") == SECTIONS
    assert set(found("benjamini")) == {"How sure we are"}
    assert "fdr" in found("  False-Discovery ")["How sure we are"]
    assert found("no such word") == {}


def test_the_page_shows_all_terms_limits_and_the_citation() -> None:
    at = opened("pages/glossary.py")
    assert not at.exception
    shown = "\n".join(str(one.value) for one in at.markdown)
    assert all(f"**{name}**" in shown for terms in SECTIONS.values() for name in terms.values())
    assert "What this cannot say" in [one.value for one in at.subheader]
    assert "2606.19350" in at.code[0].value


def test_a_link_carries_the_search() -> None:
    at = opened("pages/glossary.py", term="Wilson")
    assert not at.exception
    assert [one.value for one in at.subheader] == ["How sure we are", "Pruning"]
    assert not at.code
