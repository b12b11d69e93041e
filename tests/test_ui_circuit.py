"""The Circuit page: its numbers are those of the stored paths and pairs, also where a larger circuit is stored."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from cap_viz.attribution.path_scores import ANSWER, EVERYTHING, HeadPath, PathScores, strongest_heads
from cap_viz.attribution.prompt_intervention import encode_prompt, read_prompt
from cap_viz.dashboard.circuit.data import path_id
from cap_viz.dashboard.circuit.page import N_QUESTIONS
from cap_viz.errors import UsageError
from cap_viz.figures.circuit import HeadMark, PathMark, circuit_graph, path_curve
from cap_viz.figures.theme import HELPS, HURTS, signed
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds.joint import load_pairs
from cap_viz.runs.kinds.paths import load_paths
from cap_viz.runs.kinds.scores import load_scores
from cap_viz.runs.run_queries import pair_spec, path_spec, position_spec
from cap_viz.runs.spec import RunSpec, ScoreSpec
from cap_viz.runs.store import Store
from cap_viz.settings import PROJECT
from cap_viz.stats import mean_with_ci
from cap_viz.stats.joint import Head
from cap_viz.tasks import Task
from cap_viz.tasks.example_sets import calibration_set, evaluation_set
from tests.words import saying

N, K = 6, 5


@pytest.fixture
def heads(store: Store, tiny_model: ReasoningModel, tiny_task: Task) -> tuple[Head, ...]:
    """The heads of the largest effects, whose paths, pairs and spans are stored."""
    scores = ScoreSpec(tiny_model.ref, calibration_set("tiny", N))
    run = finish(run_steps(scores, tiny_model, store))
    found = strongest_heads(mean_with_ci(load_scores(store, run).effects("nll")), K)
    examples = evaluation_set("tiny", N)
    specs: list[RunSpec] = [make(scores, found, examples=examples) for make in (path_spec, pair_spec)]
    for spec in (*specs, position_spec(scores, examples, "nll")):
        finish(run_steps(spec, tiny_model, store))
    return found


def opened(model: ReasoningModel, **params: str) -> AppTest:
    at = AppTest.from_file(str(PROJECT / "app.py"), default_timeout=60)
    at.switch_page("pages/circuit.py")
    for name, value in {"model": model.ref.id, "task": "tiny", **params}.items():
        at.query_params[name] = value
    at.run()
    assert not at.exception
    return at


def stored_paths(store: Store) -> PathScores:
    return load_paths(store, next(run for run in store.runs() if run.kind == "paths"))


def told(at: AppTest, *parts: str) -> str:
    return "\n".join(saying(at, *parts))


def traces(at: AppTest, figure: int = 0) -> list[dict[str, Any]]:
    return json.loads(at.get("plotly_chart")[figure].proto.spec)["data"]


def test_the_selected_head_is_that_of_the_largest_effect_and_its_numbers_are_the_stored_ones(
    store: Store, tiny_model: ReasoningModel, heads: tuple[Head, ...]
) -> None:
    at, paths = opened(tiny_model, k=str(K)), stored_paths(store)
    totals = {head: mean_with_ci(effects_of(paths, HeadPath(head, EVERYTHING))).mean for head in heads}
    layer, head = max(heads, key=lambda one: abs(totals[one]))
    assert at.selectbox(key="shown").value == f"L{layer}H{head}"
    said = told(at, f"head {head} of layer {layer}")
    assert signed(float(totals[layer, head])) in said
    direct = mean_with_ci(effects_of(paths, HeadPath((layer, head), ANSWER)))
    assert f"{signed(float(direct.mean))} [{signed(float(direct.low))}, {signed(float(direct.high))}]" in said


def effects_of(paths: PathScores, path: HeadPath) -> np.ndarray:
    return paths.effects("nll")[paths.paths.index(path)]


def test_a_link_opens_on_a_path_with_its_questions(
    store: Store, tiny_model: ReasoningModel, heads: tuple[Head, ...]
) -> None:
    paths = stored_paths(store)
    path = next(one for one in paths.paths if one.receiver.kind == "mlp")
    effects = effects_of(paths, path)
    at = opened(tiny_model, k=str(K), shown=path_id(path))
    assert signed(float(effects.mean())) in told(at, str(path), "only this receiver")
    assert signed(float(effects[np.abs(effects).argmax()]), 2) in "".join(one.value for one in at.markdown)


def test_fewer_heads_are_read_from_the_stored_circuit(
    store: Store, tiny_model: ReasoningModel, heads: tuple[Head, ...]
) -> None:
    at = opened(tiny_model, k="3", least="0")
    assert not [button for button in at.button if button.label.startswith("Measure the")]
    drawn = [one for one in traces(at) if one["mode"] == "markers+text" and "customdata" in one]
    names = {one[0] for one in drawn[-1]["customdata"]}
    assert len(names) == 3
    assert names < {f"L{layer}H{head}" for layer, head in heads}


def test_more_heads_than_stored_are_offered_with_their_cost(
    tiny_model: ReasoningModel, tiny_task: Task, heads: tuple[Head, ...]
) -> None:
    at = opened(tiny_model, k=str(K + 1))
    assert at.button(key="circuit_measure").label == f"Measure the paths and pairs of these {K + 1} heads"
    passes = 1 + (K + 1) + (K + 1) * K // 2
    questions = min(N_QUESTIONS, len(tiny_task.splits.evaluation))
    assert f"{questions * passes:,} passes" in "".join(one.value for one in at.caption)
    assert not at.get("plotly_chart")


def test_a_question_is_played_without_the_selected_head(
    store: Store, tiny_model: ReasoningModel, tiny_task: Task, heads: tuple[Head, ...]
) -> None:
    """The question that needs the head most, its tokens coloured by how much less expected they are without it."""
    path = next(one for one in stored_paths(store).paths if one.receiver.kind == "mlp")
    effects = effects_of(stored_paths(store), HeadPath(path.sender, EVERYTHING))
    example = tiny_task.evaluation(N)[int(effects.argmax())]
    assert not [page for page in pages(opened(tiny_model, k=str(K), shown=path_id(path))) if "cv-played" in page]
    at = opened(tiny_model, k=str(K), shown=path_id(path), reading="true")
    assert at.selectbox(key="example").value == example.id
    tokens = encode_prompt(tiny_model, example.prompt + example.options[example.gold])
    dense, without = (read_prompt(tiny_model, tokens, off).token_logprobs for off in ((), (path.sender,)))
    (first,) = [page for page in pages(at) if 'class="cv-played"' in page]
    assert re.findall(r'title="([^"]*) nats"', first) == [signed(float(one), 2) for one in (without - dense)[1:]]
    assert re.findall(r"--token:(\d+);", first) == [str(place) for place in range(len(tokens))]
    at.button(key="circuit_replay").click().run()
    (second,) = [page for page in pages(at) if 'class="cv-played"' in page]
    # The same tokens in an element of another name, which the browser plays anew.
    assert second != first
    assert second.replace("play-1", "play-0") == first


def pages(at: AppTest) -> list[str]:
    return [str(getattr(element, "value", "")) for element in at.get("html")]


def test_pairs_are_counted_and_listed(store: Store, tiny_model: ReasoningModel, heads: tuple[Head, ...]) -> None:
    pairs = load_pairs(store, next(run for run in store.runs() if run.kind == "pairs"))
    said = told(opened(tiny_model, k=str(K)), "pairs", "overlap")
    assert f"Of {K * (K - 1) // 2} pairs, **{pairs.kinds('nll').count('back-up')}**" in said


def test_a_model_without_scores_is_sent_to_heads(store: Store, tiny_model: ReasoningModel, tiny_task: Task) -> None:
    at = opened(tiny_model)
    assert at.button(key="circuit_start").label == "Measure on the Heads page"
    assert not at.get("plotly_chart")


def test_among_keeps_the_numbers_and_names_what_is_missing(store: Store, heads: tuple[Head, ...]) -> None:
    paths = stored_paths(store)
    few = paths.among(heads[:2])
    for path in few.paths:
        np.testing.assert_array_equal(effects_of(few, path), effects_of(paths, path))
    assert {path.sender for path in few.paths} == set(heads[:2])
    assert {(path.receiver.layer, path.receiver.head) for path in few.paths if path.receiver.kind == "head"} <= set(
        heads
    )
    missing = next((layer, head) for layer in range(2) for head in range(4) if (layer, head) not in heads)
    with pytest.raises(UsageError, match=f"L{missing[0]}H{missing[1]}"):
        paths.among([missing])
    pairs = load_pairs(store, next(run for run in store.runs() if run.kind == "pairs"))
    fewer = pairs.among([heads[0], heads[2]])
    place = pairs.pairs.index((0, 2))
    np.testing.assert_allclose(fewer.effects("nll")[0], pairs.effects("nll")[place])
    with pytest.raises(UsageError, match="was not removed in pairs"):
        pairs.among([heads[0], missing])


def test_marks_hold_the_sign_the_doubt_and_the_receiver() -> None:
    shape = (3, 4)
    heads = [HeadMark("L0H1", 0.4, False, "", (0, 1)), HeadMark("L2H0", -0.1, True, "", (2, 0))]
    paths = [
        PathMark("L0H1-L2H0", 0.2, False, "", (0, 1), (2, 0)),
        PathMark("L0H1-MLP1", -0.1, True, "", (0, 1), 1),
        PathMark("L0H1-answer", 0.05, False, "", (0, 1), None),
    ]
    data: list[Any] = list(circuit_graph(heads, paths, shape, selected="L2H0").data)
    lines = [one for one in data if one.mode == "lines"]
    # Large ones last, on top.
    assert [one.line.color for one in lines] == [HURTS, HELPS, HURTS]
    assert [(one.x[0], one.y[0]) for one in lines] == [(1, 0)] * 3
    assert (lines[-1].x[-1], lines[-1].y[-1]) == (0, 2)
    assert lines[1].opacity < lines[0].opacity < lines[-1].opacity
    assert lines[-1].line.width == 9
    squares = next(one for one in data if one.marker.symbol == "square")
    assert list(squares.text) == ["MLP 1", "answer"]


def test_a_curve_starts_and_ends_at_its_places_and_bends_past_its_own_column() -> None:
    x, y = path_curve((1, 0), (1, 4))
    assert (x[0], y[0], x[-1], y[-1]) == (1, 0, 1, 4)
    assert x.max() > 1.3
    assert (np.diff(y) > 0).all()


def test_paths_into_single_parts_are_no_circuit(
    store: Store, tiny_model: ReasoningModel, heads: tuple[Head, ...]
) -> None:
    """A run of queries alone, on more questions, is not what the page draws."""
    run = next(run for run in store.runs() if run.kind == "paths")
    scores = ScoreSpec(tiny_model.ref, calibration_set("tiny", N))
    queries = path_spec(scores, heads, parts=("q",), examples=evaluation_set("tiny", N + 2))
    finish(run_steps(queries, tiny_model, store))
    assert f"{len(run.spec.examples.ids)} evaluation" in told(opened(tiny_model, k=str(K)), "zero ablation")
