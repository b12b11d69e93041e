"""The Glossary page: every term once, a search that is in the address."""

from __future__ import annotations

import re

import pytest

from cap_viz.attribution.effect_metrics import METRICS
from cap_viz.dashboard.glossary.data import entries, search
from cap_viz.dashboard.terms import ALIASES, GLOSSARY, SECTIONS
from cap_viz.evaluation.eval_metrics import MEASURES
from cap_viz.pruning import CRITERIA
from tests.test_ui_pages import opened


def test_every_term_has_one_place() -> None:
    placed = [key for terms in SECTIONS.values() for key in terms]
    assert sorted(placed) == sorted(GLOSSARY)


def test_a_search_finds_names_and_texts_whatever_the_case() -> None:
    assert search("") == entries()
    assert set(search("benjamini")) == {"How sure we are"}
    assert "fdr" in search("  False-Discovery ")["How sure we are"]
    assert search("no such word") == {}


NAMES = {
    **{name: "fdr" for name in ("q-value", "survive", "survives", "FDR")},
    **{name: "holm" for name in ("Holm", "adjusted p")},
    **{name: "toy" for name in ("toy", "toy-reasoner", "toy_math")},
    **{name: name for name in ("mask", "perplexity", *METRICS, *MEASURES, *CRITERIA)},
    **{criterion.title: name for name, criterion in CRITERIA.items()},
    **{measure.title: name for name, measure in MEASURES.items()},
}


@pytest.mark.parametrize("asked", NAMES)
def test_every_name_and_id_in_use_finds_its_entry(asked: str) -> None:
    assert NAMES[asked] in {key for terms in search(asked).values() for key in terms}


def test_aliases_and_ids_belong_to_a_term() -> None:
    assert set(ALIASES) <= set(GLOSSARY)


def test_no_term_is_defined_by_itself() -> None:
    for terms in entries().values():
        for entry in terms.values():
            assert not re.match(rf"(an?|one|the) {entry.name}\b", entry.text, re.IGNORECASE)


def test_the_page_shows_all_terms_limits_and_the_citation() -> None:
    at = opened("pages/glossary.py")
    assert not at.exception
    shown = "\n".join(str(one.value) for one in at.markdown)
    assert all(f"**{entry.name}**" in shown for terms in entries().values() for entry in terms.values())
    assert "What this cannot say" in [one.value for one in at.subheader]
    assert "2606.19350" in at.code[0].value


def test_a_link_carries_the_search() -> None:
    at = opened("pages/glossary.py", term="Wilson")
    assert not at.exception
    assert [one.value for one in at.subheader] == ["How sure we are", "Pruning"]
    assert not at.code
