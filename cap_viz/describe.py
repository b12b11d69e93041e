"""What a run is about, in a few words: for lists in the shell and on the Runs page."""

from __future__ import annotations

from cap_viz.spec import EvalSpec, RoleSpec, RunSpec, ScoreSpec


def describe(spec: RunSpec) -> str:
    if isinstance(spec, ScoreSpec):
        about = "" if spec.metric is None else f" of {spec.metric}"
        what = "" if spec.parts is None else f"{spec.parts}, "
        return f"{what}{spec.estimator}{about}, {spec.ablation} ablation"
    if isinstance(spec, EvalSpec):
        what = "dense" if spec.mask is None else f"{spec.mask.criterion} at {percent(spec.mask.sparsity)}"
        return what if spec.protocol is None else f"{protocol_words(spec.protocol)}, {what}"
    if isinstance(spec, RoleSpec):
        return "what heads attend to"
    return f"{spec.mask.criterion}, all sparsities"


def protocol_words(protocol: str) -> str:
    """perplexity-1024 as "perplexity on 1024 tokens", generate-fewshot-256 as "written answers (fewshot)"."""
    kind, _, rest = protocol.partition("-")
    return f"written answers ({rest.partition('-')[0]})" if kind == "generate" else f"{kind} on {rest} tokens"


def percent(share: float) -> str:
    """As many digits as tell two asked sparsities apart: 50 %, 50.1 %."""
    return f"{100 * share:.6g}%"
