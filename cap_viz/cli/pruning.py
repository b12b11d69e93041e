"""Commands `prune` and `export`: build a mask and locate its zeros; write the pruned model or the mask to files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from cap_viz.cli.computing import ModelRuns
from cap_viz.cli.masking import CalibratedMask, takes_mask
from cap_viz.cli.options import (
    CriterionOption,
    JsonOption,
    ModelOption,
    SparsityOption,
    TaskOption,
)
from cap_viz.cli.output import out, print_json
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.runs.run_labels import percent
from cap_viz.settings import N_CALIBRATION


@takes_mask
def prune(
    criterion: CriterionOption = "cap",
    sparsity: SparsityOption = 0.2,
    task: TaskOption = "mini_science",
    model: ModelOption = DEFAULT_MODEL,
    n: Annotated[int, typer.Option("--n", help="Calibration examples of scores or activations.")] = N_CALIBRATION,
    as_json: JsonOption = False,
    *,
    mask: CalibratedMask,
) -> None:
    """Build a mask and report where its zeros are."""
    runs = ModelRuns(model)
    found = runs.mask(mask.spec(runs.ref, criterion, sparsity, task=task, n=n))
    counts = found.counts
    if as_json:
        print_json(
            {
                "criterion": criterion,
                "sparsity": sparsity,
                "reached": found.reached,
                "digest": found.digest,
                "parameters_saved": found.parameters_saved,
                "matrices": [
                    {"layer": m.layer, "kind": m.kind, "part": m.part, "zeros": zeros, "size": m.size}
                    for m, zeros in zip(counts.matrices, counts.zeros[0].tolist(), strict=True)
                ],
            }
        )
        return
    table = Table("layer", "attention", "MLP", "both", title=f"{criterion} at {percent(sparsity)}: share of zeros")
    parts = [counts.by_layer(part)[0] for part in ("attention", "mlp", None)]
    for layer, shares in enumerate(zip(*parts, strict=True)):
        table.add_row(str(layer), *(f"{share:.1%}" for share in shares))
    out.print(table)
    out.print(f"Reached {found.reached:.3%} of {counts.sizes.sum():,} weights.")
    if found.parameters_saved:
        out.print(f"A model rebuilt without these heads has {found.parameters_saved:,} parameters fewer.")
    else:
        out.print("Zeros alone change neither file size nor latency.")


@takes_mask
def export(
    to: Annotated[Path, typer.Option(help="New folder, or with --mask-only new file.")],
    criterion: CriterionOption = "cap",
    sparsity: SparsityOption = 0.2,
    task: TaskOption = "mini_science",
    model: ModelOption = DEFAULT_MODEL,
    n: Annotated[int, typer.Option("--n", help="Calibration examples of scores or activations.")] = N_CALIBRATION,
    mask_only: Annotated[bool, typer.Option("--mask-only", help="Write the mask as one safetensors file.")] = False,
    *,
    mask: CalibratedMask,
) -> None:
    """Write the pruned model as a Hugging Face folder with its recipe, or the mask alone."""
    from cap_viz.pruning.export import check_absent, export_mask, export_model
    from cap_viz.runs.model_card import model_card
    from cap_viz.runs.spec import mask_dict

    check_absent(to)
    runs = ModelRuns(model)
    spec = mask.spec(runs.ref, criterion, sparsity, task=task, n=n)
    found = runs.mask(spec)
    if mask_only:
        out.print(f"Wrote {export_mask(found, mask_dict(spec), runs.ref, to)}")
    else:
        out.print(f"Wrote {export_model(runs.model, found, to, card=model_card(runs.model, found, spec, runs.store))}")
