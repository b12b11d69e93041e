"""The answer to the fixed question, in a strip of sparsities by measures, in a sentence, and where it is not there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

import pandas as pd
import streamlit as st

from cap_viz.dashboard.components.measured_column import swatch
from cap_viz.dashboard.components.panels import escaped, listed, p_words, percent, problems_told
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.names import model_name, task_name
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.evaluation.eval_metrics import ACC
from cap_viz.evaluation.verdict import NO_DIFFERENCE, difference_words, is_ahead
from cap_viz.pruning import CRITERIA, criterion_title
from cap_viz.runs.comparison import SUBJECT
from cap_viz.runs.fixed_question import ON_TASK, ON_TEXT, OUTSIDE, RIVAL, Answer, Verdict, answered, question_runs
from cap_viz.settings import SPARSITIES

verdict_in = lru_cache(64)(answered)
NOT_MEASURED = "not measured"


def verdict_of(view: Frame, against: str = RIVAL) -> Verdict | None:
    """Answer the fixed question for the chosen model and task; None where its runs are not stored or unreadable."""
    found = question_runs(view.runs, view.model, view.task.name, against)
    if found is None:
        return None
    with problems_told():
        return verdict_in(view.store, found, view.task, against)
    return None


def verdict_strip(verdict: Verdict) -> None:
    """Draw model, task and size, and who is ahead at each sparsity by each measure; the question stands above."""
    st.caption(
        f"{escaped(model_name(verdict.model.id))} · {escaped(task_name(verdict.task.name))} · {verdict.n:,} questions"
        f"{rival_words(verdict)}"
    )
    st.table(strip(verdict), border="horizontal")


def strip(verdict: Verdict) -> pd.DataFrame:
    """Table of the answers, a row per measure and a column per sparsity; cells are Markdown."""
    rows = {"Accuracy": verdict.accuracy, "Choice loss": verdict.loss}
    rows["Running text"] = () if verdict.text is None else verdict.text.answers
    columns = {
        percent(sparsity, 0): [cell(found, sparsity, verdict.against) for found in rows.values()]
        for sparsity in SPARSITIES
    }
    return pd.DataFrame(columns, index=pd.Index(list(rows)))


def cell(found: Sequence[Answer], sparsity: float, against: str) -> str:
    answer = next((one for one in found if one.sparsity == sparsity), None)
    if answer is None:
        return NOT_MEASURED
    said = answer.outcome(criterion_title(against))
    if answer.grade == "clear":
        ahead = SUBJECT if is_ahead(answer.result, answer.measure) else against
        said = f"{swatch(ahead)} **{said}**"
    return f"{said}  \n{difference_words(answer.result, answer.measure)}, p {p_words(answer.p)}"


def rival_words(verdict: Verdict) -> str:
    """Say which Wandas are stored; empty for an opponent that is not calibrated."""
    sources = {source for one in (*verdict.accuracy, *verdict.loss) for source in one.opponents}
    if {ON_TASK, ON_TEXT} <= sources:
        return f" · {verdict.rival}: the better of two, calibrated on the task and on text"
    return f" · {verdict.rival} calibrated on the task alone" if CRITERIA[verdict.against].needs_calibration else ""


def verdict_line(verdict: Verdict) -> None:
    """Draw the short form: the answers on questions in one or two sentences."""
    st.markdown(f"**Is CAP better than {verdict.rival}?** {summary(verdict)}", help=GLOSSARY["verdict"])


def summary(verdict: Verdict) -> str:
    """State the answers in a sentence per outcome: `10 and 20 %: CAP ahead by choice loss, no clear …`."""
    by_outcome: dict[str, list[str]] = defaultdict(list)
    for accuracy, loss in zip(verdict.accuracy, verdict.loss, strict=True):
        by_outcome[both_words(accuracy, loss, verdict.rival)].append(f"{100 * accuracy.sparsity:.0f}")
    said = " ".join(f"{listed(places)} %: {words}." for words, places in by_outcome.items())
    return f"{said} ({verdict.n:,} questions)"


def both_words(accuracy: Answer, loss: Answer, rival: str) -> str:
    said, by_loss = accuracy.outcome(rival), loss.outcome(rival)
    if said == by_loss:
        return f"{said} by accuracy {'or' if said == NO_DIFFERENCE else 'and'} choice loss"
    return f"{by_loss} by choice loss, {said} by accuracy"


def best_line(verdict: Verdict) -> None:
    """Name the best criterion at the highest sparsity where it is clearly ahead of Wanda."""
    best = verdict.best
    if best is None:
        return
    names = listed([criterion_title(name) for name in best.criteria])
    st.markdown(
        f"Best at {percent(best.sparsity, 0)}: **{names} {percent(best.level.value)}**, "
        f"{difference_words(best.result, ACC)} against {verdict.rival}",
        help=f"The most accurate of {best.n_criteria} criteria stored on these questions; p = {p_words(best.p)}, "
        f"adjusted over all of them (Holm). A comparison {OUTSIDE}.",
        width="content",
    )
