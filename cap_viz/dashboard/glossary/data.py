"""Entries of the glossary: terms of the pages, and the criteria, metrics and tasks of the registries; a search."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from cap_viz.dashboard.names import criterion_group
from cap_viz.dashboard.terms import Group, Term, groups
from cap_viz.evaluation.eval_metrics import MEASURES, TOKEN_LOSS
from cap_viz.models.catalogue import TOY_MODEL
from cap_viz.pruning import CRITERIA, Criterion
from cap_viz.tasks import TASKS, Task
from cap_viz.tasks.readable import tasks_for

METRICS_GROUP = "Metrics"


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
