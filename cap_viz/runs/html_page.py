"""A stored run as one self-contained HTML file: facts, figure if it has one, numbers and manifest."""

from __future__ import annotations

import json
from html import escape

import plotly.graph_objects as go

from cap_viz.figures.head_grid import Grid, head_grid
from cap_viz.runs.kinds import describe, numbers_of
from cap_viz.runs.kinds.scores import load_scores
from cap_viz.runs.run_labels import ablation_words, making_of
from cap_viz.runs.run_queries import is_head_scores
from cap_viz.runs.store import Store, StoredRun
from cap_viz.stats import mean_with_ci

MOST_ROWS = 2_000
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #1f2430; }
h1 { font-size: 1.5rem; margin-bottom: 0.2rem; } p { color: #555c6b; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { text-align: right; padding: 3px 10px; border-bottom: 1px solid #e4e6ec; } th { position: sticky; top: 0;
background: #fff; } pre { background: #f5f6f9; padding: 1rem; overflow-x: auto; font-size: 12px; }
"""


def html_of(store: Store, run: StoredRun) -> str:
    """Return the whole page. Raises `DamagedRun` when a file of the run cannot be trusted."""
    title = f"{describe(run.spec)} · {run.spec.examples.task}"
    table = numbers_of(store, run)
    rows = "" if len(table) <= MOST_ROWS else f" The first {MOST_ROWS:,} of {len(table):,} rows; the CSV file has all."
    examples = f"{len(run.spec.examples.ids)} {run.spec.examples.split} examples"
    facts = f"{run.spec.model.id} · {examples} · run {run.key} · {making_of(run)}"
    return "\n".join(
        [
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
            f"<style>{STYLE}</style></head><body>",
            f"<h1>{escape(title)}</h1>",
            f"<p>{escape(facts)}</p>",
            figure_html(store, run),
            f"<h2>Numbers</h2><p>Made with CAP Viz.{rows}</p>",
            table.head(MOST_ROWS).to_html(index=False, border=0, float_format=lambda value: f"{value:.6g}"),
            f"<h2>Manifest</h2><pre>{escape(json.dumps(run.manifest, indent=2))}</pre>",
            "</body></html>",
        ]
    )


def figure_html(store: Store, run: StoredRun) -> str:
    """Head grid of a run of exact head scores, with Plotly inside the file; empty for other runs."""
    if not is_head_scores(run):
        return ""
    words = ablation_words(run.spec)
    grid = Grid.of(mean_with_ci(load_scores(store, run).effects("nll")), ends=words.ends)
    figure = go.Figure(head_grid(grid, unit="nats"))
    figure.update_layout(template="plotly_white", paper_bgcolor="white", width=520)
    return (
        f"<h2>Effect of {words.doing} each head{words.by}</h2><p>Answer loss, nats per token. Faded: the interval "
        "includes zero. A dot: survives the false-discovery control.</p>"
        f"{figure.to_html(full_html=False, include_plotlyjs=True)}"
    )
