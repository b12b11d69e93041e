"""Command `perplexity`: perplexity on running text, dense or pruned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cap_viz.cli.computing import stored_run
from cap_viz.cli.masking import MaskOptions, takes_mask
from cap_viz.cli.options import JsonOption, ModelOption
from cap_viz.cli.output import out, print_json, run_facts
from cap_viz.defaults import N_CALIBRATION
from cap_viz.evaluation.perplexity import USUAL_LENGTH, USUAL_WINDOWS
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.runs.run_labels import percent

if TYPE_CHECKING:
    from cap_viz.models.catalogue import ModelRef
    from cap_viz.runs.spec import EvalSpec


@takes_mask
def perplexity(
    text: Annotated[str, typer.Option(help="generic_text (WikiText-2) or mini_text (offline).")] = "generic_text",
    model: ModelOption = DEFAULT_MODEL,
    windows: Annotated[int, typer.Option(help="Windows of text, from its beginning; 0 for all.")] = USUAL_WINDOWS,
    length: Annotated[int, typer.Option(help="Tokens of a window.")] = USUAL_LENGTH,
    criterion: Annotated[str, typer.Option(help="Prune by this criterion first; dense if left out.")] = "",
    sparsity: Annotated[float, typer.Option(help="Share of weights set to zero.")] = 0.2,
    task: Annotated[str, typer.Option(help="The task whose examples the criterion is calibrated on.")] = "mini_science",
    n_calibration: Annotated[int, typer.Option(help="Calibration examples behind the criterion.")] = N_CALIBRATION,
    as_json: JsonOption = False,
    *,
    mask: MaskOptions,
) -> None:
    """Measure perplexity on running text, dense or pruned."""
    from cap_viz.evaluation.perplexity import perplexity_of
    from cap_viz.runs.kinds.evaluation import load_report
    from cap_viz.runs.protocols import perplexity_spec
    from cap_viz.runs.store import Store

    n_windows = windows or count_windows(text, model, length)

    def spec(ref: ModelRef) -> EvalSpec:
        pruned = mask.spec(ref, criterion, sparsity, task=task, n=n_calibration) if criterion else None
        return perplexity_spec(ref, text, n_windows=n_windows, length=length, mask=pruned)

    store = Store()
    run = stored_run(spec, model, store)
    found = perplexity_of(load_report(store, run))
    if as_json:
        interval = None if found.n_windows == 1 else [found.ci.low, found.ci.high]
        content = {"text": text, "windows": found.n_windows, "length": length, "tokens_scored": found.n_tokens}
        mask_facts = {"criterion": criterion or "dense", "sparsity": sparsity if criterion else 0.0}
        print_json({**run_facts(run), **content, **mask_facts, "perplexity": found.value, "perplexity_ci": interval})
        return
    label = f"{criterion} at {percent(sparsity)}" if criterion else "dense"
    out.print(f"{text}, {found.n_windows} windows of {length} tokens, {label}")
    interval = "" if found.n_windows == 1 else f"  [{found.ci.low:.2f}, {found.ci.high:.2f}] over windows"
    out.print(f"perplexity {found.value:.2f}{interval}")


def count_windows(text: str, model_id: str, length: int) -> int:
    """Count all windows of a text; loads the model for its tokenizer."""
    from cap_viz.evaluation.perplexity import text_task, token_windows
    from cap_viz.models.loading import load_model

    return len(token_windows(load_model(model_id), text_task(text), length))
