"""The Compare page's paired table, and its downloads: table as CSV and JSON, figure as HTML."""

from __future__ import annotations

import json
from math import isfinite
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from cap_viz.dashboard.compare.data import Comparison
from cap_viz.dashboard.compare.words import evidence_words, level_range, name_of, signed_range
from cap_viz.dashboard.components.panels import percent
from cap_viz.evaluation.eval_metrics import Level
from cap_viz.runs.comparison import DENSE, Cell, Contrast, contrast_facts
from cap_viz.runs.spec import spec_dict
from cap_viz.runs.spreadsheet import csv_text

REFERENCE_WORDS, BOTH_AT_CHANCE = "reference", "both at chance"


def table_rows(comparison: Comparison) -> list[tuple[Cell, Contrast | None]]:
    """List every cell shown with each of its contrasts; a cell without any (such as the reference) appears once."""
    rows: list[tuple[Cell, Contrast | None]] = []
    for cell in comparison.cells:
        found = [contrast for contrast in comparison.contrasts if contrast.first == cell]
        rows += [(cell, contrast) for contrast in found] or [(cell, None)]
    return rows


def shown_table(comparison: Comparison) -> pd.DataFrame:
    """Table for display: values in per cent or nats, differences in points or nats, verdicts in words."""
    measure, scale = comparison.measure, comparison.measure.scale
    rows = []
    for cell, contrast in table_rows(comparison):
        level = comparison.levels[cell]
        row: dict[str, Any] = {
            "Sparsity": round(100 * comparison.share(cell), 2),
            "Criterion": name_of(cell),
            measure.title: scale * level.value,
            "95 % interval": level_range(level, measure),
            "Against": "–" if contrast is None else name_of(contrast.second),
            "Verdict": verdict_words(comparison, cell, contrast),
            "Difference": None if contrast is None else scale * contrast.result.difference,
            "Its 95 % interval": "" if contrast is None else signed_range(contrast, measure),
            "p": None if contrast is None else contrast.result.p_value,
            "Holm p": None if contrast is None else contrast.p_holm,
        }
        if measure.is_share:
            row["Gained"] = None if contrast is None else contrast.result.only_a
            row["Lost"] = None if contrast is None else contrast.result.only_b
        row["Detectable"] = None if contrast is None else scale * contrast.result.minimum_detectable
        rows.append(row)
    return pd.DataFrame(rows)


def verdict_words(comparison: Comparison, cell: Cell, contrast: Contrast | None) -> str:
    if contrast is not None:
        return (
            BOTH_AT_CHANCE
            if comparison.guesses(contrast, comparison.measure)
            else evidence_words(contrast, comparison.measure)
        )
    if cell in comparison.removed:
        return f"{percent(cell[1], 0)} of heads"
    return REFERENCE_WORDS if cell[0] == comparison.choice.reference else "reference not measured"


def table_csv(comparison: Comparison) -> bytes:
    """Table as CSV, dense first, with plain column names; values and differences are fractions or nats.

    `sparsity` is the share of weights removed, `sparsity_asked` the share of the heads where a criterion counts these.
    """
    rows = [
        {
            "criterion": cell[0],
            "sparsity": comparison.share(cell),
            "sparsity_asked": cell[1],
            "n": comparison.n,
            "measure": comparison.measure.name,
            **level_facts(comparison.levels[cell]),
            "against": None if contrast is None else contrast.second[0],
            **({} if contrast is None else flat_facts(contrast)),
            "verdict": verdict_words(comparison, cell, contrast),
            "run": comparison.runs[cell].key,
        }
        for cell, contrast in [(DENSE, None), *table_rows(comparison)]
    ]
    rows[0]["verdict"] = ""
    table = pd.DataFrame(rows)
    last = ["verdict", "run"]
    return csv_text(table.loc[:, [*table.columns.drop(last), *last]]).encode()


def level_facts(level: Level) -> dict[str, float | None]:
    return {"value": level.value, "ci_low": known(level.ci.low), "ci_high": known(level.ci.high)}


def flat_facts(contrast: Contrast) -> dict[str, Any]:
    facts = contrast_facts(contrast)
    low, high = facts.pop("ci")
    return {"difference": facts.pop("difference"), "difference_low": low, "difference_high": high, **facts}


def table_json(comparison: Comparison) -> bytes:
    """Comparison as JSON: levels, contrasts, the adjustment of p-values, and the spec of every run."""
    choice, group = comparison.choice, comparison.choice.group
    content = {
        "model": comparison.dense.spec.model.id,
        "fingerprint": comparison.dense.spec.model.fingerprint,
        "task": comparison.task.name,
        "n": comparison.n,
        "measure": choice.measure.name,
        "reference": choice.reference,
        "built_on": None if group is None else group.name,
        "adjustment": f"Holm over the {len(comparison.contrasts)} comparisons listed",
        "chance": comparison.test.chance,
        "dense_p_above_chance": comparison.test.p_value,
        "levels": [
            {
                "criterion": cell[0],
                "sparsity": comparison.share(cell),
                "sparsity_asked": cell[1],
                **level_facts(level),
            }
            for cell, level in comparison.levels.items()
        ],
        "contrasts": [
            {
                "first": contrast.first[0],
                "second": contrast.second[0],
                "sparsity": comparison.share(contrast.first),
                **{name: finite(value) for name, value in contrast_facts(contrast).items()},
                "verdict": verdict_words(comparison, contrast.first, contrast),
            }
            for contrast in comparison.contrasts
        ],
        "runs": [
            {"key": run.key, "origin": run.origin, "created": run.created, "spec": spec_dict(run.spec)}
            for run in comparison.runs.values()
        ],
    }
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def known(value: float) -> float | None:
    """Replace a non-finite number by None: JSON has no NaN, and a single question has no interval."""
    return value if isfinite(value) else None


def finite(value: Any) -> Any:
    if isinstance(value, list):
        return [finite(item) for item in value]
    return known(value) if isinstance(value, float) else value


def figure_html(figure: go.Figure, title: str) -> bytes:
    """Standalone page that needs no network: the figure on white, with its title and Plotly inside."""
    page = go.Figure(figure)
    margin = page.to_dict()["layout"]["margin"]
    page.update_layout(
        template="plotly_white",
        title={"text": title, "font": {"size": 15}, "x": 0, "xref": "paper"},
        paper_bgcolor="#ffffff",
        plot_bgcolor="#ffffff",
        # The browser's own font is wider than the dashboard's.
        margin={**margin, "t": margin["t"] + 40, "r": margin["r"] + 40},
        height=560,
    )
    return page.to_html(include_plotlyjs=True, full_html=True).encode()
