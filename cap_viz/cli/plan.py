"""Command `plan`: memory and operations a model would need, estimated without loading it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Annotated

import typer

from cap_viz.cli.options import JsonOption, TaskOption
from cap_viz.cli.output import out, print_json
from cap_viz.errors import UsageError
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.progress import duration
from cap_viz.settings import N_CALIBRATION, requested_dtype

if TYPE_CHECKING:
    from cap_viz.tasks import Example


def plan(
    task: TaskOption = "mini_science",
    model: Annotated[
        str,
        typer.Option("--model", "-m", help="Catalogue name, hub id, or a folder with config.json and the tokenizer."),
    ] = DEFAULT_MODEL,
    n: Annotated[int, typer.Option("--n", help="Calibration examples of the head scores.")] = N_CALIBRATION,
    n_evaluation: Annotated[int, typer.Option(help="Evaluation examples per accuracy.")] = 600,
    teraflops: Annotated[
        float, typer.Option(help="Measured rate of matrix products, in 10^12 operations a second; 0: no times.")
    ] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Estimate memory and operations of head scores and accuracies from the config and the tokenizer alone.

    With --teraflops also estimate times: give the measured rate of matrix products, not the maker's figure.
    """
    from cap_viz.attribution.exact import MOST_TOKENS_PER_STEP
    from cap_viz.models.cost_model import dimensions_in, mean_operations, memory_plan
    from cap_viz.tasks import load_task

    if teraflops < 0:
        raise UsageError(f"{teraflops} teraflops make no sense; give 0 for no times, or a number above it.")
    folder, chosen, dtype = folder_of(model), load_task(task), requested_dtype()
    sizes = dimensions_in(folder)
    scored, asked = (
        items_of(folder, examples) for examples in (chosen.calibration(n), chosen.evaluation(n_evaluation))
    )
    longest = max(tokens for tokens, _ in scored)
    memory = memory_plan(sizes, dtype, max(MOST_TOKENS_PER_STEP, longest))
    each, each_answer = mean_operations(sizes, scored), mean_operations(sizes, asked)
    total = {"exact": n * each.exact, "gradient": n * each.gradient, "accuracy": n_evaluation * each_answer.evaluation}
    seconds = {name: work / (teraflops * 1e12) for name, work in total.items()} if teraflops else None
    content = {
        "model": model,
        "task": task,
        "dtype": dtype,
        "shape": asdict(sizes.shape),
        "tokens_of_an_item": mean(tokens for tokens, _ in scored),
        "reads_of_an_item": mean(reads for _, reads in scored),
        "bytes": {"weights": memory.weights, "to_score": memory.to_score, "to_prune": memory.to_prune},
        "operations": total,
        "seconds": seconds,
    }
    if as_json:
        print_json(content)
        return
    shape = sizes.shape
    out.print(f"{shape.n_params:,} parameters: {shape.n_layers} layers, {shape.n_heads} heads, d_model {shape.d_model}")
    tokens, reads = content["tokens_of_an_item"], content["reads_of_an_item"]
    out.print(f"{tokens:.0f} tokens a question of {task}, read at {reads:.0f} places")
    for name, size in content["bytes"].items():
        out.print(f"{name.replace('_', ' '):9} {size / 2**30:8.2f} GiB in {dtype}", highlight=False)
    named = {"exact": f"exact, n = {n}", "gradient": f"gradient, n = {n}", "accuracy": f"accuracy, n = {n_evaluation}"}
    for name, work in total.items():
        time = f", {duration(seconds[name])} at {teraflops:g} TFLOP/s" if seconds else ""
        out.print(f"{named[name]:20} {work / 1e12:12,.1f} TFLOP{time}", highlight=False)


def folder_of(model: str) -> Path:
    """Return the folder of the config: a given folder, whatever else it holds, or the resolved model's files."""
    from cap_viz.models.catalogue import resolve
    from cap_viz.models.loading import readable_folder

    folder = Path(model).expanduser()
    return folder if folder.is_dir() else readable_folder(resolve(model))


def items_of(folder: Path, examples: tuple[Example, ...]) -> list[tuple[int, int]]:
    """Count the tokens of every example and the positions where its answers are read."""
    from transformers import AutoTokenizer

    from cap_viz.attribution.forward.packing import encode

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        # A damaged or missing tokenizer can raise almost any error.
        raise UsageError(
            f"The tokenizer in {folder} cannot be read ({error!r:.80}); a plan counts its tokens."
        ) from error
    encoded = [encode(tokenizer, example, max_length=1 << 30) for example in examples]
    return [(one.row_length, one.n_reads) for one in encoded]
