"""Convert GGUF weights to float32 safetensors:  python -m cap_viz.models.gguf FOLDER FILE TARGET

Reading GGUF takes about 20 s of plain Python, so it runs in a separate process. Inside the dashboard's process it would
hold the interpreter's lock, so that no page is served meanwhile, and leave the memory of a second copy of the weights.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cap_viz.errors import CapVizError
from cap_viz.settings import PROJECT


def convert_apart(folder: Path, file: str, target: Path) -> None:
    """Convert in a child process. Raises `CapVizError` with the reason for a failure."""
    command = [sys.executable, "-m", "cap_viz.models.gguf", str(folder.resolve()), file, str(target.resolve())]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise CapVizError(f"{file} cannot be converted: {lines[-1]}")


def convert(folder: Path, file: str, target: Path) -> None:
    """Dequantise to float32 and save without `quantization_config`, which would make the copy refuse to save."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()
    quantised = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    settings = {k: v for k, v in quantised.config.to_dict().items() if k not in ("quantization_config", "model_type")}
    clean = type(quantised)(type(quantised.config)(**settings)).float()
    clean.load_state_dict(quantised.state_dict())
    clean.save_pretrained(target)
    AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(target)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
