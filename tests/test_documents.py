"""What the documents say holds: links lead somewhere, snippets run, the Space's files agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from cap_viz.settings import PROJECT

DOCUMENTS = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_within_the_project_lead_somewhere(document: Path) -> None:
    broken = []
    for link in LINK.findall(document.read_text(encoding="utf-8")):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def snippet(document: str) -> str:
    """The first Python snippet of a document."""
    found = re.search(r"```python\n(.+?)```", (PROJECT / document).read_text(encoding="utf-8"), re.S)
    assert found is not None
    return found[1]


def test_the_hook_of_the_head_mask_page_removes_heads(tiny_folder: Path) -> None:
    names: dict[str, object] = {}
    exec(snippet("docs/head_mask.md"), names)
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).eval()
    words = torch.arange(12).unsqueeze(0)
    with torch.no_grad():
        dense = model(words).logits
        handles = names["without_heads"](model, [(1, 2), (0, 1)])  # pyright: ignore[reportCallIssue, reportUnknownVariableType]
        hooked = model(words).logits
        for handle in handles:
            handle.remove()
        restored = model(words).logits
        size = model.config.hidden_size // model.config.num_attention_heads
        for layer, head in ((1, 2), (0, 1)):
            model.model.layers[layer].self_attn.o_proj.weight[:, head * size : (head + 1) * size] = 0
        zeroed = model(words).logits
    assert torch.equal(restored, dense)
    assert (hooked - zeroed).abs().max() < 1e-5
    assert (hooked - dense).abs().max() > 1e-3


def test_the_space_serves_strangers_on_the_port_it_announces() -> None:
    front = yaml.safe_load((PROJECT / "deploy/space/README.md").read_text(encoding="utf-8").split("---")[1])
    image = (PROJECT / "deploy/space/Dockerfile").read_text(encoding="utf-8")
    assert front["sdk"] == "docker"
    assert f"EXPOSE {front['app_port']}" in image
    assert f"--port {front['app_port']}" in image
    assert "CAP_VIZ_SERVER=1" in image
    assert "\nUSER 1000\n" in image
