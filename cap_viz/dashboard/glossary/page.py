"""The Glossary page: terms of the pages and of the registries by group, a search, limits, how to cite. Needs no run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache

import streamlit as st

from cap_viz.dashboard.components.panels import empty, escaped
from cap_viz.dashboard.names import criterion_group
from cap_viz.dashboard.selection import Selection, address_of, page_file
from cap_viz.dashboard.terms import Group, Term, groups
from cap_viz.evaluation.eval_metrics import MEASURES, TOKEN_LOSS
from cap_viz.models.catalogue import TOY_MODEL
from cap_viz.pruning import CRITERIA, Criterion
from cap_viz.settings import ASSETS
from cap_viz.tasks import TASKS, Task
from cap_viz.tasks.readable import tasks_for

WIDTH = 920
COLUMNS = (1, 3)
LIMITS, METRICS_GROUP = "Limits", "Metrics"


def body(selection: Selection) -> None:
    with st.container(width=WIDTH):
        asked = selection.text_input("Find a term", "term", placeholder="reliability, cap_fine, Holm, …", max_chars=60)
        if asked:
            found = search(asked)
            if not found:
                empty("No term matches", "Clear the search to see all of them.")
            show(found)
            return
        terms = {group.title: group.terms for group in all_groups()}
        group = selection.segmented("Group", "group", [*terms, LIMITS], label_visibility="collapsed")
        if group == LIMITS:
            st.markdown((ASSETS / "limits.md").read_text("utf-8"))
        else:
            show(terms[group].values())


def show(terms: Iterable[Term]) -> None:
    """Draw terms with their other names, and a link to where each can be seen."""
    for term in terms:
        left, right = st.columns(COLUMNS)
        also = f"  \n:small[{escaped(', '.join(term.aliases))}]" if term.aliases else ""
        left.markdown(f"**{term.name}**{also}")
        with right.container(gap="xxsmall"):
            st.markdown(term.line)
            if term.more:
                st.caption(term.more)
            if term.page:
                # Another task or model is shown with what it has, not at the size and place of this one.
                here = {} if {"model", "task"} & set(term.params) else address_of("")
                st.page_link(
                    page_file(term.page),
                    label=f"See it on {term.page.capitalize()}",
                    icon=":material/arrow_outward:",
                    query_params={**here, **term.params},
                )


@cache
def all_groups() -> tuple[Group, ...]:
    """Return all entries; criteria, tasks and metrics of evaluations are described by their registries."""
    terms = [with_metrics(group) if group.title == METRICS_GROUP else group for group in groups()]
    criteria = Group("Criteria", {name: criterion_term(criterion) for name, criterion in CRITERIA.items()})
    return (*terms, criteria, Group("Tasks", {name: task_term(task) for name, task in TASKS.items()}))


def criterion_term(criterion: Criterion) -> Term:
    group = {"ours": "One of ours", "published": "Published", "control": "A control"}[criterion_group(criterion.name)]
    detail = f"{group}. Source: {criterion.source}. {criterion.counting}".strip()
    place = {"criterion": criterion.name}
    return Term(criterion.title, criterion.summary, detail, (criterion.name,), "prune", place)


def task_term(task: Task) -> Term:
    place = {"task": task.name, **({"model": TOY_MODEL} if task.name in tasks_for(TOY_MODEL) else {})}
    return Term(
        task.title, task.summary, f"Source: {task.source}. Licence: {task.licence}.", (task.name,), "heads", place
    )


def with_metrics(group: Group) -> Group:
    """Add the metrics of evaluations; one that heads have, too, becomes another name of that entry."""
    terms = dict(group.terms)
    for one in (*MEASURES.values(), TOKEN_LOSS):
        if one.name in terms:
            terms[one.name] = replace(terms[one.name], aliases=(*terms[one.name].aliases, one.title))
        else:
            line = f"{one.summary[0].upper()}{one.summary[1:]}."
            terms[one.name] = Term(one.title, line, "", (one.name,), "compare", {"measure": one.name})
    return replace(group, terms=terms)


def search(asked: str) -> list[Term]:
    """Return the terms that hold the search: first those that have it in a name or id, then those in their text."""
    wanted, every = folded(asked), [term for group in all_groups() for term in group.terms.values()]
    named = [term for term in every if any(wanted in folded(name) for name in term.names)]
    return named + [term for term in every if term not in named and wanted in folded(f"{term.line} {term.more}")]


def folded(text: str) -> str:
    """Fold case, and hyphens and underscores to spaces: `cap_fine` and `CAP fine` are the same word."""
    return " ".join(text.casefold().replace("_", " ").replace("-", " ").split())
