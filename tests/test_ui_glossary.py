"""The Glossary page: every name and id in use finds its entry, and a search is in the address."""

from __future__ import annotations

import re

import pytest

from cap_viz.attribution.attention_patterns import MEASURES as ROLES
from cap_viz.attribution.effect_metrics import METRICS
from cap_viz.attribution.estimators import ESTIMATORS
from cap_viz.attribution.results import ABLATIONS
from cap_viz.dashboard import names
from cap_viz.dashboard.glossary.page import LIMITS, all_groups, folded, search
from cap_viz.dashboard.selection import PAGE_ICONS
from cap_viz.dashboard.terms import GLOSSARY, Term, groups
from cap_viz.evaluation.eval_metrics import MEASURES, TOKEN_LOSS
from cap_viz.evaluation.generation import FORMATS
from cap_viz.pruning import CRITERIA, Criterion
from cap_viz.pruning.mask import SCOPES
from cap_viz.pruning.options import ALLOCATIONS, PATTERNS
from cap_viz.runs.kinds import KINDS
from cap_viz.runs.spec import ScoreSpec
from cap_viz.tasks import TASKS
from cap_viz.tasks.example_sets import calibration_set
from tests.test_ui_pages import opened

EVERY = [term for group in all_groups() for term in group.terms.values()]
TERMS = {key: term for group in all_groups() for key, term in group.terms.items() if group.title != "Criteria"}


def test_a_term_has_one_place() -> None:
    assert len({term.name for term in EVERY}) == len(EVERY)
    assert set(GLOSSARY) <= set(TERMS)


def test_a_search_finds_names_and_texts_whatever_the_case() -> None:
    assert search("") == EVERY
    assert search("benjamini") == [TERMS["fdr"]]
    assert search("  False-Discovery ")[0] == TERMS["fdr"]
    assert search("no such word") == []


def test_a_name_comes_before_a_mention() -> None:
    found = search("wanda")
    assert [term.name for term in found[:2]] == ["Wanda", "Wanda, one-shot"]
    assert len(found) > 2
    assert search("perplexity")[0] == TERMS["perplexity"]


NAMES = {
    **{name: "fdr" for name in ("q-value", "survive", "survives", "beyond chance", "FDR")},
    **{name: "holm" for name in ("Holm", "adjusted p")},
    **{name: "toy" for name in ("toy", "toy-reasoner")},
    **{name: "verdict" for name in ("hint", "clear")},
    **{name: "fast_path" for name in ("direct", "llama_fast_path")},
    **{name: "ablation" for name in (*ABLATIONS, *names.ABLATION_NAMES.values())},
    **{name: "estimator" for name in ESTIMATORS},
    **{name: "roles" for name in ROLES},
    **{name: "written" for name in ("generate", *FORMATS)},
    **{name: "allocation" for name in ALLOCATIONS},
    **{name: "pattern" for name in PATTERNS},
    **{name: "nll" for name in (names.TEXT_LOSS, TOKEN_LOSS.title)},
    **{name: name for name in ("mask", "perplexity", "solution", "profile", *METRICS, *MEASURES, *TASKS)},
    **{metric.title: key for key, metric in METRICS.items()},
    **{measure.title: name for name, measure in MEASURES.items()},
    **{task.title: name for name, task in TASKS.items()},
    **{unit: "accuracy" if "errors" in unit else "nats" for unit in (metric.unit for metric in METRICS.values())},
    **{group: "criterion" for group in names.CRITERION_GROUPS},
    **{scope: "scope" for scope in SCOPES},
    **{"perplexity-1024": "perplexity", "generate-fewshot-256": "written"},
    **dict(
        zip(
            KINDS,
            ("run", "run", "profile", "roles", "together", "pair_effect", "path", "span", "removal_curve"),
            strict=True,
        )
    ),
    "n48-seed0-zero": "run",
    names.run_title(ScoreSpec(model=None, examples=calibration_set("mini_science", 48))): "run",  # pyright: ignore
}


@pytest.mark.parametrize("asked", NAMES)
def test_every_name_and_id_in_use_finds_its_entry_by_name(asked: str) -> None:
    term = TERMS[NAMES[asked]]
    assert term in search(asked)
    assert any(folded(asked) in folded(name) for name in term.names)


@pytest.mark.parametrize("criterion", CRITERIA.values(), ids=CRITERIA)
def test_a_criterion_is_found_by_id_and_title(criterion: Criterion) -> None:
    for asked in (criterion.name, criterion.title):
        (found,) = [term for term in search(asked) if term.name == criterion.title]
        assert criterion.summary == found.line
        assert criterion.source in found.more


def test_names_of_metrics_are_those_of_the_pages() -> None:
    assert {key: TERMS[key].name for key in METRICS} == {key: metric.title for key, metric in METRICS.items()}


@pytest.mark.parametrize("term", EVERY, ids=lambda term: term.name)
def test_no_term_is_defined_by_itself_and_its_link_exists(term: Term) -> None:
    assert not re.match(rf"(an?|one|the) {re.escape(term.name)}\b", term.line, re.IGNORECASE)
    assert term.page in ("", *PAGE_ICONS)


def test_each_group_is_shown_with_all_its_terms() -> None:
    offered = [*(group.title for group in all_groups()), LIMITS]
    for group in all_groups():
        at = opened("pages/glossary.py", group=group.title)
        assert not at.exception
        assert at.segmented_control(key="group").options == offered
        shown = "\n".join(str(one.value) for one in at.markdown)
        assert all(f"**{term.name}**" in shown and term.line in shown for term in group.terms.values())


def test_limits_and_the_citation_are_a_group() -> None:
    at = opened("pages/glossary.py", group=LIMITS)
    shown = "\n".join(str(one.value) for one in at.markdown)
    assert "### What this cannot say" in shown
    assert "2606.19350" in shown


def test_a_link_carries_the_search() -> None:
    at = opened("pages/glossary.py", term="Wilson")
    assert not at.exception
    shown = [str(one.value) for one in at.markdown]
    assert [term.name for term in EVERY if any(f"**{term.name}**" in one for one in shown)] == [
        TERMS[key].name for key in ("ci", "dense")
    ]
    assert not [one for one in at.segmented_control if one.key == "group"]
    at = opened("pages/glossary.py", term="no such word")
    assert not at.exception


def test_a_term_links_to_where_it_can_be_seen() -> None:
    at = opened("pages/glossary.py", term="task-specific", model="toy-reasoner")
    (link,) = [one.proto for one in at.get("page_link") if "view=specificity" in one.proto.query_string]
    assert "model=toy-reasoner" in link.query_string
    at = opened("pages/glossary.py", term="mini_science", model="toy-reasoner", task="toy_math")
    (link,) = [one.proto for one in at.get("page_link") if "task=mini_science" in one.proto.query_string]
    assert "toy-reasoner" not in link.query_string


def test_the_file_is_read_once() -> None:
    assert groups() is groups()
