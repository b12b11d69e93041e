"""The model card of an exported pruned model: source weights, pruning recipe, and the stored evaluations."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from cap_viz.models.catalogue import ModelRef
from cap_viz.pruning import criterion_named
from cap_viz.pruning.mask import Mask
from cap_viz.runs.kinds.evaluation import levels_of, measures_of
from cap_viz.runs.run_queries import runs_of
from cap_viz.runs.spec import EvalSpec, MaskSpec, mask_dict
from cap_viz.runs.store import Store, StoredRun

if TYPE_CHECKING:
    from cap_viz.models.loading import ReasoningModel


def model_card(model: ReasoningModel, mask: Mask, spec: MaskSpec, store: Store) -> str:
    """Compose README.md: source weights, pruning recipe and stored accuracies."""
    criterion = criterion_named(spec.criterion)
    update = "The weights that stay were adjusted." if mask.updated else "The other weights are unchanged."
    saved = (
        f"The zeros fill whole rows and columns: {mask.parameters_saved:,} parameters a smaller model can leave out."
        if mask.structured
        else "Zeros alone make neither the file smaller nor the model faster."
    )
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "tags:",
            "- pruned",
            f"- {spec.criterion}",
            "---",
            "",
            f"# {model.title}, pruned: {criterion.title} at {spec.sparsity:.0%}",
            "",
            f"{mask.reached:.3%} of {int(mask.counts.sizes.sum()):,} weights in the scope “{spec.scope}” are zero. "
            f"{update} {saved}",
            "",
            f"Source weights: `{model.ref.id}`, fingerprint `{model.ref.fingerprint}`. The licence of the source model "
            "applies.",
            "",
            f"Criterion: {criterion.summary} ({criterion.source})",
            "",
            "## Accuracy",
            "",
            *accuracy_lines(model.ref, spec, store),
            "",
            "## Recipe",
            "",
            "```json",
            json.dumps(mask_dict(spec), indent=1),
            "```",
            "",
        ]
    )


def accuracy_lines(model: ModelRef, spec: MaskSpec, store: Store) -> list[str]:
    """Make a Markdown table of the stored evaluations of exactly this mask, each beside the dense model's."""
    rows: list[str] = []
    for run in runs_of(store.runs(), EvalSpec):
        if (run.spec.model, run.spec.mask) == (model, spec) and measures_of(run.spec):
            dense, examples = store.get(replace(run.spec, mask=None)), run.spec.examples
            beside = "not measured" if dense is None else measured(store, dense)
            rows.append(f"| {examples.task} | {len(examples.ids)} | {measured(store, run)} | {beside} |")
    if not rows:
        return ["Not measured. `python -m cap_viz eval` with the same options measures it."]
    return ["| task | examples | result, 95 % interval | dense |", "|---|---|---|---|", *rows]


def measured(store: Store, run: StoredRun[EvalSpec]) -> str:
    """Format the main number of an evaluation with its interval: `accuracy 65.8 % [62.0 – 69.5 %]`."""
    measure, level = next(iter(levels_of(store, run).items()))
    return f"{measure.title.lower()} {measure.words(level.value)} [{measure.interval_words(level.ci)}]"
