"""Written answers: how they are asked for, read, stored and resumed."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from pandas.testing import assert_frame_equal

import cap_viz as cv
from cap_viz.attribution.prompt_intervention import continuation_steps
from cap_viz.errors import UsageError
from cap_viz.evaluation.generation import (
    END_OF_TEXT,
    FORMATS,
    LENGTH,
    NO_TOKEN,
    STOP_STRING,
    Block,
    GenerationPlan,
    GenerationProtocol,
    GenerationReport,
    generation_plan,
    generation_steps,
    gold_answer,
    prompt_text,
    shots,
)
from cap_viz.models.loading import ModelShape, ReasoningModel
from cap_viz.progress import finish
from cap_viz.runs.audit import audit_of
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds.evaluation import load_answers, load_report
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.protocols import generation_spec, protocol_of
from cap_viz.runs.self_generated_calibration import own_solutions_task
from cap_viz.runs.spec import EvalSpec, ScoreSpec, spec_dict, spec_from_dict, spec_key
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks import TASKS, Task, all_tasks, load_task
from cap_viz.tasks.example_sets import calibration_set, evaluation_set, examples_of
from cap_viz.tasks.writing import NUMBER, YES_NO, Writing
from tests.shell import Shell
from tests.test_decoding import plain_greedy

MOST = 12
WORD = Writing(
    instruction="answer",
    strict=re.compile(r"(sun|moon)"),
    flexible=re.compile(r"(sun|moon|water|rock)"),
    normal=str.upper,
    stops=("Question",),
    max_tokens=MOST,
    shots=2,
)


@pytest.fixture
def task(tiny_task: Task, monkeypatch: pytest.MonkeyPatch) -> Task:
    """The tiny task with solutions that all say sun."""
    splits = tiny_task.splits
    solved = replace(
        splits,
        calibration=tuple(replace(example, solution=" the sun .") for example in splits.calibration),
        evaluation=tuple(replace(example, solution=" the sun .") for example in splits.evaluation),
    )
    written = replace(tiny_task, writing=WORD, load=lambda: solved)
    monkeypatch.setitem(TASKS, written.name, written)
    return written


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(shipped=tmp_path / "shipped", local=tmp_path / "local")


def spec_of(model: ReasoningModel, n: int = 5, **options: object) -> EvalSpec:
    return generation_spec(model.ref, evaluation_set("tiny", n), **options)  # pyright: ignore[reportArgumentType]


def planned(model: ReasoningModel, spec: EvalSpec) -> GenerationPlan:
    protocol = protocol_of(spec)
    assert isinstance(protocol, GenerationProtocol)
    return generation_plan(model, load_task(spec.examples.task), protocol, examples_of(spec.examples))


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        (" 3 + 4 = 7\n#### 7\n\n", "7", "7"),
        ("#### 1,234.", "1234", "1234"),
        ("#### $18", None, "18"),
        ("#### -5 and #### 6", "-5", "6"),
        ("The answer is 42.", None, "42"),
        ("It costs $1,000.50 in all", None, "1000.50"),
        ("no number", None, None),
        ("", None, None),
        ("####7", None, "7"),
    ],
)
def test_numbers_are_read_as_in_lm_evaluation_harness(text: str, strict: str | None, flexible: str | None) -> None:
    """Worked out by hand from the filters and normalisation of its task gsm8k."""
    assert NUMBER.read_strictly(text) == strict
    assert NUMBER.read_flexibly(text) == flexible


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        (" Ice is water. So the answer is yes.", "yes", "yes"),
        ("The Answer is No, since yes is wrong", "no", "yes"),
        ("Nobody knows, yesterday", None, None),
        ("Yes. No", None, "no"),
    ],
)
def test_yes_and_no_are_read(text: str, strict: str | None, flexible: str | None) -> None:
    assert YES_NO.read_strictly(text) == strict
    assert YES_NO.read_flexibly(text) == flexible


@pytest.mark.parametrize("name", ["mini_math", "mini_strategy"])
def test_solutions_of_the_written_tasks_end_in_the_gold_option(name: str) -> None:
    task = load_task(name)
    for example in (*task.splits.calibration, *task.splits.evaluation):
        assert gold_answer(task, example) == example.options[example.gold].strip()


def test_mini_math_solutions_are_right() -> None:
    for example in load_task("mini_math").splits.calibration:
        steps, _, result = (example.solution or "").partition("\n")[0].partition(" = ")
        assert re.fullmatch(r"[0-9 ()+*/%-]+", steps)
        assert eval(steps) == int(result)


def test_the_few_shot_text_is_worked_examples_then_the_question(task: Task) -> None:
    first, second = task.splits.calibration[:2]
    example = task.splits.evaluation[0]
    assert prompt_text(task, example, "fewshot") == (
        f"{first.prompt} the sun .\n\n{second.prompt} the sun .\n\n{example.prompt}"
    )
    assert prompt_text(task, example, "zeroshot") == f"answer\n\n{example.prompt}"
    assert prompt_text(task, example, "chat") == f"{example.question}\n\nanswer"


def test_a_question_is_never_its_own_worked_example(task: Task) -> None:
    pool = task.splits.calibration
    assert shots(task, pool[0]) == (pool[1], pool[2])
    assert shots(task, pool[5]) == (pool[0], pool[1])


def test_texts_are_those_of_plain_decoding_up_to_the_first_stop(task: Task, tiny_model: ReasoningModel) -> None:
    plan = planned(tiny_model, spec_of(tiny_model))
    (block,) = [step for step in generation_steps(tiny_model, plan) if isinstance(step, Block)]
    stop = tiny_model.tokenizer.convert_tokens_to_ids("Question")
    for row, prompt in enumerate(plan.prompts):
        whole = plain_greedy(tiny_model, list(prompt), MOST)
        expected = whole[: whole.index(stop) + 1] if stop in whole else whole
        assert block.tokens[row][block.tokens[row] != NO_TOKEN].tolist() == expected
        assert block.ended[row] == (STOP_STRING if stop in whole else LENGTH)
    assert len(set(block.ended.tolist())) > 0


def test_writing_ends_at_the_end_of_text_token(
    task: Task, tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(tiny_model, spec_of(tiny_model, 1))
    whole = plain_greedy(tiny_model, list(plan.prompts[0]), MOST)
    end = whole[2]
    monkeypatch.setattr("cap_viz.attribution.forward.greedy.end_tokens", lambda model: {end})
    (block,) = [step for step in generation_steps(tiny_model, plan) if isinstance(step, Block)]
    expected = whole[: whole.index(end)]
    assert block.tokens[0][block.tokens[0] != NO_TOKEN].tolist() == expected
    assert block.ended.tolist() == [END_OF_TEXT]


def test_the_playground_ends_a_text_where_generate_does(
    task: Task, tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models may end a turn with a token that is not the tokenizer's; the Playground wrote on after it."""
    plan = planned(tiny_model, spec_of(tiny_model, 1))
    whole = plain_greedy(tiny_model, list(plan.prompts[0]), MOST)
    assert tiny_model.tokenizer.eos_token_id not in whole[:2]
    monkeypatch.setattr(tiny_model.bridge.original_model.config, "eos_token_id", [whole[1]])
    (block,) = [step for step in generation_steps(tiny_model, plan) if isinstance(step, Block)]
    assert block.ended.tolist() == [END_OF_TEXT]
    written = block.tokens[0][block.tokens[0] != NO_TOKEN].tolist()
    assert list(continuation_steps(tiny_model, plan.prompts[0], MOST)) == written == whole[: whole.index(whole[1])]


def test_a_stored_run_holds_texts_and_readings(task: Task, tiny_model: ReasoningModel, store: Store) -> None:
    spec = spec_of(tiny_model)
    assert spec_from_dict(spec_dict(spec)) == spec
    run = finish(run_steps(spec, tiny_model, store))
    report = load_answers(store, run)
    assert report.ids == spec.examples.ids
    assert report.gold == ("SUN",) * 5
    for text, strict, flexible in zip(report.texts, report.strict, report.flexible, strict=True):
        assert "Question" not in text
        assert strict == WORD.read_strictly(text)
        assert flexible == WORD.read_flexibly(text)
    with pytest.raises(UsageError, match=f"{run.key}.*options"):
        load_report(store, run)
    choices = finish(run_steps(EvalSpec(tiny_model.ref, evaluation_set("tiny", 5)), tiny_model, store))
    with pytest.raises(UsageError, match=f"{choices.key}.*answers"):
        load_answers(store, choices)


def test_key_follows_format_and_length(task: Task, tiny_model: ReasoningModel) -> None:
    specs = [spec_of(tiny_model), spec_of(tiny_model, format="zeroshot"), spec_of(tiny_model, max_tokens=5)]
    assert len({spec_key(spec) for spec in specs}) == 3
    assert protocol_of(specs[2]) == GenerationProtocol("fewshot", 5)


def test_report_by_hand() -> None:
    report = GenerationReport(
        ids=("a", "b", "c", "d"),
        texts=("", "", "", ""),
        gold=("1", "2", "3", "4"),
        strict=("1", None, "5", None),
        flexible=("1", "2", "5", None),
        tokens=np.array([1, 2, 3, 0]),
        ended=np.array([0, 1, 2, 1]),
        dropped=np.zeros(4, dtype=int),
    )
    assert report.correct.tolist() == [True, False, False, False]
    assert report.correct_flexible.tolist() == [True, True, False, False]
    assert (report.parse_rate, report.parse_rate_flexible) == (0.5, 0.75)


def test_python_writes_what_a_run_stores(task: Task, tiny_model: ReasoningModel, store: Store) -> None:
    pruned = cv.prune_mask(tiny_model, "magnitude", sparsity=0.7, progress=False)
    spec = mask_spec_for(tiny_model.ref, "magnitude", 0.7, task="tiny", n=4)
    for mask, recipe in ((None, None), (pruned, spec)):
        run = finish(run_steps(spec_of(tiny_model, mask=recipe), tiny_model, store))
        fresh = cv.generate(tiny_model, task, task.evaluation(5), mask=mask, progress=False)
        assert_frame_equal(fresh.to_pandas(), load_answers(store, run).to_pandas(), check_dtype=False)
        assert fresh.tasks == (task.as_version,)


def test_python_refuses_what_cannot_be_asked(task: Task, tiny_model: ReasoningModel) -> None:
    examples = task.evaluation(2)
    for options, sentence in (
        ({"format": "rhyme"}, "'rhyme'.*fewshot"),
        ({"max_tokens": 0}, "at least 1"),
        ({"max_tokens": 128}, "no room for a prompt"),
        ({"examples": ()}, "no examples"),
        ({"task": load_task("mini_science")}, "mini_science"),
    ):
        asked = {"task": task, "examples": examples, **options}
        with pytest.raises(UsageError, match=sentence):
            cv.generate(tiny_model, progress=False, **asked)  # pyright: ignore[reportArgumentType]


def test_interrupted_writing_resumes_to_the_same_bits(
    task: Task, tiny_model: ReasoningModel, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cap_viz.evaluation.generation.ROWS", 2)
    spec = spec_of(tiny_model)
    whole = finish(run_steps(spec, tiny_model, Store(shipped=tmp_path / "s", local=tmp_path / "other")))
    steps = run_steps(spec, tiny_model, store)
    while len(list(store.partial_run_dir(spec).glob("batch-*"))) < 2:
        next(steps)
    steps.close()
    resumed = finish(run_steps(spec, tiny_model, store))
    assert resumed.digests == whole.digests
    assert resumed.provenance["resumed_batches"] == 2


def test_the_first_items_of_a_longer_run_are_not_written_again(
    task: Task, tiny_model: ReasoningModel, store: Store
) -> None:
    longer = finish(run_steps(spec_of(tiny_model, 5), tiny_model, store))
    shorter = finish(run_steps(spec_of(tiny_model, 3), tiny_model, store))
    assert shorter.provenance["taken_from"] == longer.key
    assert load_answers(store, shorter).texts == load_answers(store, longer).texts[:3]


def test_pruned_weights_write_other_texts_and_are_taken_out_again(
    task: Task, tiny_model: ReasoningModel, store: Store
) -> None:
    mask = mask_spec_for(tiny_model.ref, "magnitude", 0.7, task="tiny", n=4)
    dense = finish(run_steps(spec_of(tiny_model), tiny_model, store))
    pruned = finish(run_steps(spec_of(tiny_model, mask=mask), tiny_model, store))
    assert load_answers(store, pruned).texts != load_answers(store, dense).texts
    again = Store(shipped=store.shipped, local=store.local.parent / "again")
    assert finish(run_steps(spec_of(tiny_model), tiny_model, again)).digests == dense.digests


def test_a_long_prompt_loses_its_beginning_and_the_run_says_so(
    task: Task, tiny_model: ReasoningModel, store: Store
) -> None:
    spec = spec_of(tiny_model, 2, max_tokens=100)
    plan = planned(tiny_model, spec)
    full = [tiny_model.tokenizer.encode(prompt_text(task, example, "fewshot")) for example in plan.examples]
    assert [list(prompt) for prompt in plan.prompts] == [tokens[-28:] for tokens in full]
    run = finish(run_steps(spec, tiny_model, store))
    cut = [len(tokens) - 28 for tokens in full]
    assert run.provenance["truncated"] == {"examples": 2, "tokens": sum(cut)}
    assert load_answers(store, run).dropped.tolist() == cut


def refused(model: ReasoningModel, store: Store, sentence: str, spec: EvalSpec) -> None:
    with pytest.raises(UsageError, match=sentence):
        finish(run_steps(spec, model, store))


def test_what_cannot_be_asked_is_refused_in_one_sentence(
    task: Task, tiny_model: ReasoningModel, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=f"'rhyme'.*{', '.join(FORMATS)}"):
        spec_of(tiny_model, format="rhyme")
    with pytest.raises(UsageError, match=r"\b0 tokens\b.*\b1\b"):
        spec_of(tiny_model, max_tokens=0)
    with pytest.raises(UsageError, match=r"mini_science\b.*mini_math\b"):
        generation_spec(tiny_model.ref, evaluation_set("mini_science", 2))
    refused(tiny_model, store, r"\b128\b.*\b128 tokens\b", spec_of(tiny_model, max_tokens=128))
    refused(tiny_model, store, r"chat template.*\bfewshot or zeroshot\b", spec_of(tiny_model, format="chat"))
    refused(tiny_model, store, "'generate-x'", replace(spec_of(tiny_model), protocol="generate-x"))
    unsolved = replace(task, load=lambda: replace(task.splits, calibration=task.splits.calibration[:1]))
    monkeypatch.setitem(TASKS, "tiny", unsolved)
    refused(tiny_model, store, r"\b1 worked examples.*\b2\b", spec_of(tiny_model))


def test_chat_prompts_go_through_the_template(task: Task, tiny_model: ReasoningModel) -> None:
    tiny_model.tokenizer.chat_template = "{% for m in messages %}what {{ m['content'] }} answer{% endfor %}"
    try:
        plan = planned(tiny_model, spec_of(tiny_model, 1, format="chat"))
    finally:
        tiny_model.tokenizer.chat_template = None
    text = f"what {prompt_text(task, plan.examples[0], 'chat')} answer"
    assert list(plan.prompts[0]) == tiny_model.tokenizer.encode(text)


SHAPE = asdict(ModelShape(3, 4, 2, 32, 8, 48, 128, 40_000))


def stored(store: Store, spec: EvalSpec, right: list[bool]) -> StoredRun:
    """A run as if the model had written "the sun" or "the rock"."""
    texts = tuple(" the sun .\n" if one else " the rock ." for one in right)
    zeros = np.zeros(len(right), dtype=int)
    report = GenerationReport(
        ids=spec.examples.ids,
        texts=texts,
        gold=("SUN",) * len(right),
        strict=tuple(WORD.read_strictly(text) for text in texts),
        flexible=tuple(WORD.read_flexibly(text) for text in texts),
        tokens=zeros + 3,
        ended=zeros,
        dropped=zeros,
    )
    return store.save(spec, report.to_tables(), {"seconds": 1.0, "shape": SHAPE})


def test_own_correct_solutions_become_a_task_to_calibrate_on(
    task: Task, tiny_model: ReasoningModel, store: Store
) -> None:
    examples = calibration_set("tiny", 12)
    spec = generation_spec(tiny_model.ref, examples, format="fewshot")
    run = stored(store, spec, [number % 3 > 0 for number in range(12)])
    own = own_solutions_task(store, run, "own_tiny")
    first = {one.id for one in task.splits.calibration[:2]}
    right = [one for number, one in enumerate(examples.ids) if number % 3 > 0 and one not in first]
    kept = (*own.splits.calibration, *own.splits.evaluation)
    assert sorted(one.id for one in kept) == sorted(right)
    for one in kept:
        assert one.prompt == prompt_text(task, task.by_ids([one.id])[0], "fewshot")
        assert one.options == (" the sun .",)
    assert own.title == "Own solutions, Tiny"
    assert tiny_model.ref.id in own.source
    scores = ScoreSpec(tiny_model.ref, calibration_set("own_tiny", 3))
    assert finish(run_steps(scores, tiny_model, store)).spec == scores
    mask = mask_spec_for(tiny_model.ref, "cap", 0.5, task="tiny", n=3, scores_task="own_tiny")
    assert mask.scores == scores


def test_what_cannot_be_kept_is_refused(task: Task, tiny_model: ReasoningModel, store: Store) -> None:
    examples = calibration_set("tiny", 4)
    few = stored(store, generation_spec(tiny_model.ref, examples), [False] * 4)
    with pytest.raises(UsageError, match=r"\b0 of 4\b"):
        own_solutions_task(store, few, "own_tiny")
    chat = stored(store, generation_spec(tiny_model.ref, examples, format="chat"), [True] * 4)
    with pytest.raises(UsageError, match=r"chat\b.*\bfewshot or zeroshot\b"):
        own_solutions_task(store, chat, "own_tiny")
    evaluated = stored(store, spec_of(tiny_model), [True] * 5)
    with pytest.raises(UsageError, match=rf"{evaluated.key}.*--split calibration"):
        own_solutions_task(store, evaluated, "own_tiny")
    choices = finish(run_steps(EvalSpec(tiny_model.ref, evaluation_set("tiny", 3)), tiny_model, store))
    with pytest.raises(UsageError, match=f"{choices.key}.*`generate`"):
        own_solutions_task(store, choices, "own_tiny")
    assert "own_tiny" not in all_tasks()


def test_the_shell_writes_and_audits(task: Task, tiny: list[str], shell: Shell, tmp_path: Path) -> None:
    found = shell.json("generate", *tiny, "--n", "3")
    assert (found["n"], found["format"], found["criterion"]) == (3, "fewshot", "dense")
    assert 0 <= found["exact_match"] <= found["parse_rate"] <= 1
    code, out, err = shell("generate", *tiny, "--n", "3")
    assert code == 0, err
    shares = [re.findall(r"[\d.]+%", line) for line in out.splitlines() if line.startswith(("strict", "flexible"))]
    assert [(row[0], row[3]) for row in shares] == [
        (f"{found['exact_match']:.1%}", f"{found['parse_rate']:.1%}"),
        (f"{found['exact_match_flexible']:.1%}", f"{found['parse_rate_flexible']:.1%}"),
    ]
    code, out, err = shell("runs", "audit", found["key"])
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["id"] for row in rows] == list(evaluation_set("tiny", 3).ids)
    assert all(row["prompt"].endswith("Answer:") and row["gold"] == "SUN" for row in rows)
    target = tmp_path / "audit.csv"
    assert shell("runs", "audit", found["key"], "--to", str(target))[0] == 0
    assert target.read_text().startswith("id,prompt,text,strict,flexible,gold,right")
    code, _, err = shell("runs", "audit", found["key"], "--to", str(target))
    assert code == 2
    assert str(target) in err


def test_an_audit_of_choices_has_every_option(tiny_task: Task, tiny_model: ReasoningModel, store: Store) -> None:
    run = finish(run_steps(EvalSpec(tiny_model.ref, evaluation_set("tiny", 4)), tiny_model, store))
    table, report = audit_of(store, run), load_report(store, run)
    assert table["right"].tolist() == report.correct.tolist()
    example = tiny_task.evaluation(4)[2]
    assert table["option_1"].tolist()[2] == example.options[1].strip()
    assert table["loglik_1"].tolist()[2] == pytest.approx(float(report.logliks[2, 1]))
    assert table["gold"].tolist() == [one.options[one.gold].strip() for one in tiny_task.evaluation(4)]
