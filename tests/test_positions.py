"""Effects by position: spans of a text, the engine against plain forwards changed at some tokens, the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import Tensor
from transformers import AutoTokenizer, BertTokenizerLegacy

from cap_viz.attribution.exact import encode_all, exact_scores
from cap_viz.attribution.forward.packing import EncodedExample, encode
from cap_viz.attribution.forward.token_spans import name_tokens, names_in
from cap_viz.attribution.gradient import gradient_effects
from cap_viz.attribution.position_effects import PositionEffects
from cap_viz.attribution.positions import span_effects, step_effects
from cap_viz.attribution.results import Questions
from cap_viz.attribution.self_test import weights_digest
from cap_viz.errors import CapVizError, UsageError
from cap_viz.models.loading import ReasoningModel
from cap_viz.pruning import prune_mask
from cap_viz.settings import ASSETS
from cap_viz.tasks import Example, load_task
from cap_viz.tasks.spans import Span, in_order, prompt_spans, sentence_starts, step_spans, text_spans, with_solution
from cap_viz.tasks.toy_draws import as_example, drawn
from tests.test_engine import mean_z
from tests.test_replacement import plain_loglik
from tests.test_tasks_toy import TOYS
from tests.tiny import tiny_examples

HEADS = ((0, 1), (2, 3), (1, 2))


def pieces(text: str, spans: Sequence[Span]) -> list[tuple[str, str]]:
    ends = [*(span.start for span in spans[1:]), len(text)]
    return [(span.name, text[span.start : end]) for span, end in zip(spans, ends, strict=True)]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two? Three", ["One. ", "Two? ", "Three"]),
        ("Mr. Bo paid $2.50. He left.", ["Mr. Bo paid $2.50. ", "He left."]),
        ('"Go!" She said. and then', ['"Go!" ', "She said. and then"]),
        ("one line\nanother. \n\n#### 5\n", ["one line\n", "another. \n\n", "#### 5\n"]),
        (" 3 + 4 = 7. 7 - 2 = 5.", [" 3 + 4 = 7. ", "7 - 2 = 5."]),
        ("", [""]),
    ],
)
def test_sentences_and_lines(text: str, sentences: list[str]) -> None:
    starts = sentence_starts(text)
    assert [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)] == sentences


@pytest.mark.parametrize("name", TOYS)
def test_facts_are_what_the_generator_states(name: str) -> None:
    for index in range(40):
        found = drawn(name, "evaluation", TOYS[name], index)
        example = as_example(str(index), found)
        named = dict(pieces(example.prompt, prompt_spans(example)))
        assert named == {
            "template": "Question: ",
            "facts": f"{found.facts} ",
            "question": found.asked,
            "answer cue": "\nAnswer:",
        }


def test_options_that_are_worked_solutions_are_steps() -> None:
    example = as_example("0", drawn("toy_math", "evaluation", TOYS["toy_math"], 0))
    for option, text in enumerate(example.options):
        found = pieces(example.prompt + text, text_spans(example, option))
        steps = [(name, piece.strip()) for name, piece in found if "step" in name]
        sums = [one.strip() + "." for one in text.split("\n")[0].removesuffix(".").split(". ")]
        expected = [(f"step {number}", one) for number, one in enumerate(sums, start=1)]
        assert steps == [*expected, ("last step", text.split("\n")[1])]


def test_wrong_options_are_counted_in_their_order() -> None:
    example = replace(tiny_examples(1)[0], gold=1)
    names = [text_spans(example, option)[-1].name for option in range(4)]
    assert names == ["wrong option 1", "right option", "wrong option 2", "wrong option 3"]
    assert in_order([*names, "last step", "step 10", "step 9", "sink"]) == (
        ("sink", "step 9", "step 10", "last step", "right option", *(f"wrong option {k}" for k in (1, 2, 3)))
    )


def test_a_text_without_a_question_and_one_without_a_solution_are_refused() -> None:
    for task in ("toy_text", "mini_text"):
        with pytest.raises(UsageError, match=r"^Example '.+' asks no question in its prompt, .*choose a task with"):
            text_spans(load_task(task).evaluation(1)[0], 0)
    with pytest.raises(UsageError, match=r"^Example '0' has no worked solution, .*gsm8k or toy_math\.$"):
        with_solution(as_example("0", drawn("toy_choice", "evaluation", TOYS["toy_choice"], 0)))


@pytest.mark.parametrize("name", TOYS)
def test_spans_are_a_partition_of_the_tokens(name: str) -> None:
    """Every token has one name, and the characters of a name's tokens are those of its text."""
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "toy_reasoner")
    for index in range(8):
        example = as_example(str(index), drawn(name, "evaluation", TOYS[name], index))
        asked = range(len(example.options))
        encoded = encode(tokenizer, example, 512)
        named = name_tokens(tokenizer, example, encoded, asked)
        assert [len(named.prefix), *map(len, named.branches)] == [len(encoded.prefix), *map(len, encoded.branches)]
        assert len(named.fed) == encoded.row_length
        for option, branch in enumerate(named.branches):
            text, spans = example.prompt + example.options[option], text_spans(example, option)
            names = names_in(tokenizer, text, spans)
            first, *whole = (*named.prefix, *branch)
            assert first == "sink"
            assert all(one in (two, "options") for one, two in zip(whole, names[1:], strict=True))
            offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
            for span, piece in pieces(text, spans):
                own = [text[start:end] for (start, end), one in zip(offsets, names, strict=True) if one == span]
                assert "".join("".join(own).split()) == "".join(piece.split())


def test_a_tokenizer_without_offsets_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\n[PAD]\n[MASK]\nsun\n")
    slow = BertTokenizerLegacy(str(tmp_path / "vocab.txt"))
    with pytest.raises(CapVizError, match="does not say which characters its tokens stand for"):
        names_in(slow, "sun", [Span("question", 0)])


def replacing(layer: int, head: int, value: Any, places: Callable[[int], list[int]]) -> Any:
    """A hook that replaces z of a head at some positions of a row of that many tokens."""

    def hook(z: Tensor, hook: Any) -> Tensor:
        by_head = z.reshape(*z.shape[:2], 4, -1).clone()
        by_head[:, places(z.shape[1]), head] = torch.as_tensor(value[layer][head], dtype=z.dtype)
        return by_head.reshape(z.shape)

    return f"blocks.{layer}.attn.hook_z", hook


def places_by_hand(example: Example, encoded: EncodedExample) -> dict[str, Callable[[int], list[int]]]:
    """Positions of the tiny tokens "Question : … ? Answer : option"; the options of these examples share no token."""
    n = len(encoded.prefix)
    assert n == len(example.prompt.replace(":", " :").split())
    spans: dict[str, Callable[[int], list[int]]] = {
        "sink": lambda length: [0],
        "template": lambda length: [1],
        "question": lambda length: list(range(2, n - 2)),
        "answer cue": lambda length: [n - 2, n - 1],
        "right option": lambda length: list(range(n, length)),
        "everywhere": lambda length: list(range(length)),
    }
    return spans


@pytest.mark.parametrize(
    ("layout", "ablation"), [("direct", "mean"), ("own blocks", "zero"), ("separate rows", "mean"), ("pruned", "mean")]
)
def test_exact_spans_equal_plain_forwards(
    tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch, layout: str, ablation: Any
) -> None:
    if layout == "own blocks":
        monkeypatch.setattr("cap_viz.attribution.forward.shortcut_checks.direct_model", lambda model: None)
    if layout == "separate rows":
        monkeypatch.setattr("cap_viz.attribution.exact.packing_is_valid", lambda model, encoded: False)
    examples = (tiny_examples(2)[1], tiny_examples(5, n_options=3)[4])
    mask = prune_mask(tiny_model, "magnitude", sparsity=0.4, progress=False) if layout == "pruned" else None
    found = span_effects(tiny_model, examples, HEADS, ablation=ablation, mask=mask, progress=False)
    with nullcontext() if mask is None else tiny_model.masked(mask.keep):
        check_against_plain_forwards(tiny_model, examples, found, ablation)
    wrong = [part for part, name in enumerate(found.parts) if name.startswith("wrong")]
    assert len(wrong) == 2
    assert_allclose(np.nan_to_num(found.effects("nll")[:, wrong]), 0, atol=1e-5)
    assert np.abs(found.effects("nll")[:, found.parts.index("question")]).max() > 1e-2


def check_against_plain_forwards(
    tiny_model: ReasoningModel, examples: tuple[Example, ...], found: PositionEffects, ablation: str
) -> None:
    value = np.zeros((3, 4, 8)) if ablation == "zero" else mean_z(tiny_model, examples).numpy()
    assert found.metrics == ("nll", "choice_nll", "logit_diff", "accuracy")
    for i, (example, encoded) in enumerate(zip(examples, encode_all(tiny_model, examples), strict=True)):
        gold, options = example.gold, range(len(example.options))

        def logliks(*hook: Any, encoded: EncodedExample = encoded, options: range = options) -> np.ndarray:
            return np.array([plain_loglik(tiny_model, encoded, k, list(hook)) for k in options])

        dense = logliks()
        for name, places in places_by_hand(example, encoded).items():
            part = found.parts.index(name)
            for h, head in enumerate(HEADS[:2]):
                changed = logliks(replacing(*head, value, places))
                if name == "right option":
                    changed = np.where(np.arange(len(options)) == gold, changed, dense)
                nll = (dense - changed)[gold] / encoded.answer_lengths[gold]
                assert found.effects("nll")[h, part, i] == pytest.approx(nll, abs=1e-4)
                choice = np.logaddexp.reduce(changed) - changed[gold] - np.logaddexp.reduce(dense) + dense[gold]
                assert found.effects("choice_nll")[h, part, i] == pytest.approx(choice, abs=1e-4)


def test_exact_effects_everywhere_are_the_exact_scores(tiny_model: ReasoningModel) -> None:
    examples = tiny_examples(4)
    scores = exact_scores(tiny_model, examples, ablation="resample", seed=2)
    found = span_effects(tiny_model, examples, HEADS, ablation="resample", seed=2, progress=False)
    layers, heads = np.array(HEADS).T
    for metric in found.metrics:
        assert_allclose(found.effects(metric)[:, -1], scores.effects(metric)[layers, heads], atol=1e-4)
    assert_allclose(found.known_logliks, scores.dense, atol=1e-5)


@pytest.mark.parametrize("metric", ["nll", "choice_nll", "logit_diff"])
@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
def test_first_order_effects_add_up_over_spans(tiny_model: ReasoningModel, metric: str, ablation: Any) -> None:
    examples = (*tiny_examples(4), *tiny_examples(6, n_options=2)[4:])
    options: dict[str, Any] = {"metric": metric, "ablation": ablation, "seed": 1}
    whole = gradient_effects(tiny_model, examples, **options)
    found = span_effects(tiny_model, examples, **options, progress=False)
    effects = found.effects()
    assert found.heads == tuple(np.ndindex(3, 4))
    assert_allclose(np.nansum(effects[:, :-1], axis=1), whole.per_example.reshape(12, -1), atol=1e-5)
    assert_allclose(effects[:, -1], whole.per_example.reshape(12, -1), atol=1e-5)
    assert_array_equal(found.known_logliks, whole.known_logliks)
    # Where only the right option is part of the metric, the others have no positions.
    assert ("wrong option 1" in found.parts) == (metric != "nll")
    assert_array_equal(found.tokens[:, :-1].sum(axis=1), found.tokens[:, -1])


def test_what_all_options_begin_with_is_a_span_of_its_own(tiny_model: ReasoningModel) -> None:
    example = replace(tiny_examples(1)[0], options=(" sun is hot", " sun is a moon"))
    found = span_effects(tiny_model, [example], metric="choice_nll", progress=False)
    # Of " sun is" both are fed; of what follows only " a", since nothing is predicted from the last token.
    assert found.parts[-3:] == ("options", "wrong option 1", "everywhere")
    assert found.tokens[0, -3:-1].tolist() == [2, 1]


def solved(n: int) -> tuple[Example, ...]:
    """Tiny questions with solutions of two and three lines; the options are others."""
    texts = (" sun is a star\nmoon gives\nanswer rock", " water moves rock\nanswer plant sun")
    return tuple(replace(one, solution=texts[i % 2]) for i, one in enumerate(tiny_examples(n)))


@pytest.mark.parametrize(("own_blocks", "heads"), [(False, None), (True, HEADS)])
def test_steps_equal_plain_forwards_read_step_by_step(
    tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch, own_blocks: bool, heads: Any
) -> None:
    if own_blocks:
        monkeypatch.setattr("cap_viz.attribution.forward.shortcut_checks.direct_model", lambda model: None)
    examples = solved(3)
    found = step_effects(tiny_model, examples, heads, progress=False)
    assert found.parts == ("step 1", "step 2", "last step", "whole solution")
    assert found.tokens.tolist() == [[4, 2, 2, 8], [3, 0, 3, 6], [4, 2, 2, 8]]
    ends = {0: [0, 4, 6, 8], 1: [0, 3, 3, 6], 2: [0, 4, 6, 8]}
    for i, example in enumerate(examples):
        context = tiny_model.tokenizer.encode(example.prompt)
        ids = tiny_model.tokenizer.encode(example.prompt + str(example.solution))

        def losses(hooks: list[Any], ids: list[int] = ids, context: list[int] = context) -> np.ndarray:
            with torch.inference_mode(), tiny_model.bridge.hooks(fwd_hooks=hooks):
                log_probabilities = tiny_model.bridge(torch.tensor([ids])).double().log_softmax(-1)[0]
            return np.array([-float(log_probabilities[t - 1, ids[t]]) for t in range(len(context), len(ids))])

        for h, head in enumerate(found.heads):
            everywhere = replacing(*head, np.zeros((3, 4, 8)), lambda length: list(range(length)))
            change = losses([everywhere]) - losses([])
            expected = [change[a:b].mean() if b > a else np.nan for a, b in zip(ends[i], ends[i][1:], strict=False)]
            assert_allclose(found.effects()[h, :, i], [*expected, change.mean()], atol=1e-4)


def test_effects_on_steps_add_up_to_the_solution(tiny_model: ReasoningModel) -> None:
    examples = solved(4)
    found = step_effects(tiny_model, examples, ablation="mean", progress=False)
    scores = exact_scores(tiny_model, tuple(map(with_solution, examples)), ablation="mean")
    weighted = np.nansum(found.effects() * found.tokens.T, axis=1, where=(np.arange(4) < 3)[:, None])
    assert_allclose(weighted / found.tokens[:, -1], scores.effects("nll").reshape(12, -1), atol=1e-4)
    assert_allclose(found.effects()[:, -1], scores.effects("nll").reshape(12, -1), atol=1e-4)
    assert_allclose(found.known_logliks, scores.dense, atol=1e-4)


def test_a_pruned_model_by_step_and_to_first_order(tiny_model: ReasoningModel) -> None:
    examples, before = solved(4), weights_digest(tiny_model)
    mask = prune_mask(tiny_model, "magnitude", sparsity=0.4, progress=False)
    steps = step_effects(tiny_model, examples, mask=mask, progress=False)
    pruned = exact_scores(tiny_model, tuple(map(with_solution, examples)), mask=mask)
    assert_allclose(steps.effects()[:, -1], pruned.effects("nll").reshape(12, -1), atol=1e-4)
    spans = span_effects(tiny_model, examples, metric="nll", mask=mask, progress=False)
    whole = gradient_effects(tiny_model, examples, metric="nll", mask=mask)
    assert_allclose(spans.effects()[:, -1], whole.per_example.reshape(12, -1), atol=1e-5)
    assert weights_digest(tiny_model) == before


def by_hand() -> PositionEffects:
    """Two heads on three examples, of which one lacks the facts."""
    tokens = np.array([[1, 4, 5], [1, 2, 3], [1, 0, 1]])
    effects = np.array([[[[0.0, 0, 0], [1, 3, np.nan], [1, 3, 0]], [[2.0, 2, 2], [-5, -5.2, np.nan], [-3, -3, 2]]]])
    one = np.ones((3, 1), dtype=np.int64)
    questions = Questions(("a", "b", "c"), np.zeros(3, dtype=np.int64), one, one)
    logliks, parts = -np.ones((3, 1), dtype=np.float32), ("sink", "facts", "everywhere")
    return PositionEffects(
        questions, logliks, ((0, 1), (2, 0)), parts, tokens, ("nll",), effects.astype(np.float32), "gradient"
    )


def test_means_are_over_the_examples_that_have_the_part() -> None:
    found = by_hand()
    estimate = found.estimated()
    assert_allclose(estimate.mean, [[0, 2, 4 / 3], [2, -5.1, -4 / 3]], atol=1e-6)
    # Student's t with one degree of freedom: 12.706 · √2 / √2.
    assert estimate.high[0, 1] - estimate.mean[0, 1] == pytest.approx(12.706, abs=1e-3)
    table = found.to_pandas()
    assert table["n"].tolist() == [3, 2, 3] * 2
    assert table["tokens"].tolist() == [1, 3, 3] * 2
    assert table["span"].tolist() == ["sink", "facts", "everywhere"] * 2
    assert found.strongest(k=1) == [1]
    assert found.overview()["name"].tolist()[:2] == ["L2H0", "L0H1"]
    assert repr(found) == "PositionEffects(2 heads × 2 spans, 3 examples, first-order, nll)"
    assert found.by == "span"
    layout = found.plot().to_dict()["layout"]
    assert [layout[axis]["ticktext"] for axis in ("xaxis", "yaxis")] == [["sink", "facts", "everywhere"], found.names]
    with pytest.raises(UsageError, match=r"^These effects are about nll, not 'accuracy'"):
        found.effects("accuracy")


def test_tables_hold_everything() -> None:
    found = by_hand()
    again = PositionEffects.from_tables(found.to_tables(), estimator="gradient")
    assert (again.heads, again.parts, again.metrics) == (found.heads, found.parts, found.metrics)
    assert_array_equal(again.per_example, found.per_example)
    assert_array_equal(again.tokens, found.tokens)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"heads": []}, "Name at least one head"),
        ({"heads": [(0, 1), (0, 1)]}, "each once"),
        ({"heads": [(0, 9)]}, "There is no head 9 in layer 0"),
        ({"heads": [(0, 1)], "metric": "nll"}, "name heads or a metric"),
        ({"metric": "accuracy"}, "Metric 'accuracy' has no gradient"),
        ({"ablation": "noise"}, "ablation 'noise'"),
    ],
)
def test_mistakes_are_sentences(tiny_model: ReasoningModel, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        span_effects(tiny_model, tiny_examples(2), **options, progress=False)


def test_step_spans_reach_from_the_first_character_to_the_last() -> None:
    assert step_spans(" A is 3.", 10) == (Span("last step", 10),)
    assert [span.start for span in step_spans(" A is 3.\nSo 4.\n#### 4", 10)] == [10, 19, 25]
