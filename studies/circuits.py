"""Circuits in stored runs: `python -m studies.circuits --model toy-reasoner --task toy_math`.

Heads are ranked by their stored effects on calibration questions; their paths and pairs were measured on evaluation
questions. The tables hold the effects and sums of paths of the first heads, their largest paths, their pairs, and
statistics of this set beside those of as many other heads, of the same layers and of any. Nothing is computed anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations, product
from typing import Annotated

import numpy as np
import pandas as pd
import typer

import cap_viz.cli
from cap_viz.attribution.pair_scores import BACK_UP, OVERLAP
from cap_viz.attribution.path_scores import words_of
from cap_viz.attribution.results import largest_first
from cap_viz.cli.options import ModelOption, TaskOption
from cap_viz.cli.output import out
from cap_viz.errors import UsageError
from cap_viz.models.catalogue import TOY_MODEL
from cap_viz.runs.kinds.joint import load_pairs
from cap_viz.runs.kinds.paths import load_paths
from cap_viz.runs.kinds.scores import load_scores
from cap_viz.runs.run_queries import model_ref, runs_of, score_runs
from cap_viz.runs.spec import PairSpec, PathSpec
from cap_viz.runs.store import Store
from cap_viz.settings import start_logging
from cap_viz.stats import mean_with_ci
from cap_viz.stats.joint import Head, HeadSet
from studies.command import markdown

METRIC = "nll"
# Paths printed, and control sets drawn where there are more.
MOST_PATHS, MOST_SETS = 10, 1000


@dataclass(frozen=True)
class StoredCircuit:
    """Sums of paths, single paths and pairs of the same heads; `ranked` by their effects on other questions."""

    headline: str
    ranked: tuple[Head, ...]
    sums: pd.DataFrame
    paths: pd.DataFrame
    pairs: pd.DataFrame

    def statistics(self, heads: Sequence[Head]) -> dict[str, float]:
        """Sums over a set, and how many of its paths and pairs survive; those between heads have both in the set."""
        sums, paths = among(self.sums, heads, "sender"), among(self.paths, heads, "sender")
        between, pairs = among(paths, heads, "receiver"), among(self.pairs, heads, "first", "second")
        found = {
            "total effects": sums["total"],
            "paths to the answer": sums["answer"],
            "paths to MLPs": sums["mlps"],
            "paths between them": between["mean_effect"],
            "paths from them that survive": paths["survives"],
            "paths between them that survive": between["survives"],
            "pair effects without sign": pairs["pair_effect"].abs(),
            "pairs that back each other up": pairs["kind"] == BACK_UP,
            "pairs that overlap": pairs["kind"] == OVERLAP,
        }
        return {name: values.to_numpy().sum() for name, values in found.items()}

    def other_sets(self, chosen: Sequence[Head], *, same_layers: bool) -> list[HeadSet]:
        """List the sets of as many other heads; draw `MOST_SETS` of them where there are more."""
        others = [head for head in self.ranked if head not in chosen]
        pools = [(others, len(chosen))]
        if same_layers:
            wanted = Counter(layer for layer, _ in chosen)
            pools = [([head for head in others if head[0] == layer], n) for layer, n in wanted.items()]
        sets = [tuple(chain(*parts)) for parts in product(*(combinations(pool, n) for pool, n in pools))]
        return [sets[place] for place in np.random.default_rng(0).permutation(len(sets))[:MOST_SETS]]

    def tables(self, chosen: Sequence[Head]) -> dict[str, pd.DataFrame]:
        sums, pairs = among(self.sums, chosen, "sender"), among(self.pairs, chosen, "first", "second")
        paths = largest_first(among(self.paths, chosen, "sender")).head(MOST_PATHS)
        pairs = pairs.sort_values("pair_effect", key=abs, ascending=False, kind="stable")
        beside = pd.DataFrame({"these heads": self.statistics(chosen)})
        for name, same_layers in (("same layers", True), ("any layers", False)):
            if sets := self.other_sets(chosen, same_layers=same_layers):
                found = pd.DataFrame(map(self.statistics, sets))
                reach = (found >= beside["these heads"]).sum().map(f"{{}} of {len(sets)}".format)
                columns = {"mean": found.mean(), "largest": found.max(), "reach it": reach}
                beside = beside.assign(**{f"{name}: {what}": values for what, values in columns.items()})
        ends = sums[["sender", "total", "answer", "heads", "mlps"]]
        return {
            "Effects and sums of paths": ends.assign(remainder=intervals(sums, "remainder")),
            "Largest paths": paths[["sender", "receiver", "q_value"]].assign(effect=intervals(paths, "mean_effect")),
            "Pairs": pairs[["first", "second", "effect_both", "kind"]].assign(effect=intervals(pairs, "pair_effect")),
            "Beside other heads": beside.reset_index(names="sum or number"),
        }


def among(table: pd.DataFrame, heads: Sequence[Head], *columns: str) -> pd.DataFrame:
    """Keep the rows whose columns all name one of the heads."""
    names = [words_of([head]) for head in heads]
    return table.loc[np.logical_and.reduce([table[column].isin(names) for column in columns])]


def intervals(table: pd.DataFrame, mean: str) -> list[str]:
    """Format means with their 95 % intervals."""
    rows = table[[mean, "ci_low", "ci_high"]].to_numpy()
    return [f"{value:+.3f} [{low:.3f}, {high:.3f}]" for value, low, high in rows]


def stored_circuit(store: Store, model: str, task: str) -> StoredCircuit:
    """Load the circuit of the most heads. Raises `UsageError` where head scores, paths or pairs are missing."""
    ref, runs = model_ref(store, model), store.runs()
    of_task = [run for run in runs_of(runs, PathSpec) if run.spec.examples.task == task]
    # Dense, zero ablation, heads as a whole.
    plain = [run for run in of_task if run.spec == PathSpec(ref, run.spec.examples, run.spec.heads)]
    of_paths = max(plain, key=lambda run: len(run.spec.heads), default=None)
    of_pairs = of_paths and store.get(PairSpec(ref, of_paths.spec.examples, of_paths.spec.heads))
    ranking = score_runs(runs, ref, task)
    if of_paths is None or of_pairs is None or not ranking:
        raise UsageError(f"Head scores, paths and pairs of {model} on {task} are needed; see score, paths and pairs.")
    paths, pairs = load_paths(store, of_paths), load_pairs(store, of_pairs)
    order = mean_with_ci(load_scores(store, ranking[0]).effects(METRIC))
    return StoredCircuit(
        headline=f"{model}, {task}: {paths.headline}; {pairs.headline}",
        ranked=tuple(head for head in order.top_heads(order.mean.size) if head in of_paths.spec.heads),
        sums=paths.balance(METRIC),
        paths=paths.to_pandas(METRIC).assign(survives=paths.estimated(METRIC).survives),
        pairs=pairs.to_pandas(METRIC),
    )


def circuits(
    task: TaskOption = "toy_math",
    model: ModelOption = TOY_MODEL,
    top: Annotated[int, typer.Option(help="Number of heads, those of the largest effects on other questions.")] = 4,
) -> None:
    """Print what stored paths and pairs say about the heads of the largest effects, beside other heads."""
    circuit = stored_circuit(Store(), model, task)
    if not 2 <= top <= len(circuit.ranked):
        raise UsageError(f"--top {top}: choose between 2 and {len(circuit.ranked)} heads, whose paths are stored.")
    out.print(circuit.headline, highlight=False, soft_wrap=True)
    for title, table in circuit.tables(circuit.ranked[:top]).items():
        out.print(f"\n### {title}\n\n{markdown(table)}", highlight=False, soft_wrap=True, markup=False)


def main() -> None:
    commands = typer.Typer(pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]})
    commands.command()(circuits)
    start_logging()
    cap_viz.cli.main(commands)


if __name__ == "__main__":
    main()
