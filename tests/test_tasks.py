"""Tasks: the written sets keep their promises, and examples are drawn as said."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest

from cap_viz.errors import UsageError
from cap_viz.settings import ASSETS
from cap_viz.tasks import Splits, Task, chance_level, load_task
from cap_viz.tasks.base import example_id
from cap_viz.tasks.generic_text import passages, plain
from cap_viz.tasks.rows import SourceRow
from cap_viz.tasks.sources import read_json_lines


def test_mini_science_keeps_its_promises() -> None:
    splits = load_task("mini_science").splits
    assert len(splits.calibration) >= 96
    assert len(splits.evaluation) >= 600
    for examples in (splits.calibration, splits.evaluation):
        golds = Counter(example.gold for example in examples)
        assert max(golds.values()) - min(golds.values()) <= 1, "gold positions are balanced"
        for example in examples:
            assert len(set(example.options)) == len(example.options) == 4
            assert all(option.startswith(" ") and option.strip() == option[1:] for option in example.options)
            assert example.id == example_id(example.question)
            assert example.prompt == f"Question: {example.question}\nAnswer:"
    assert chance_level(load_task("mini_science"), splits.evaluation) == 0.25


def test_mini_science_has_no_near_duplicates() -> None:
    splits = load_task("mini_science").splits
    words = [frozenset(re.findall(r"[a-z']+", e.question.lower())) for e in (*splits.calibration, *splits.evaluation)]
    for i, first in enumerate(words):
        for second in words[:i]:
            assert len(first & second) / len(first | second) < 0.6


def test_gold_is_not_given_away_by_length() -> None:
    examples = load_task("mini_science").evaluation()
    longest = sum(
        len(e.options[e.gold]) > max(len(o) for k, o in enumerate(e.options) if k != e.gold) for e in examples
    )
    assert 0.15 < longest / len(examples) < 0.35


def test_mini_math_answers_follow_from_their_expressions() -> None:
    rows = [
        row.fields
        for split in ("calibration", "evaluation")
        for row in read_json_lines(ASSETS / "mini_math" / f"{split}.jsonl")
    ]
    assert len(rows) == 340
    ranks = Counter()
    for row in rows:
        assert re.fullmatch(r"[0-9+\-*/%() ]+", row["expression"]), row["expression"]
        value = eval(row["expression"])
        options = [int(option) for option in row["options"]]
        assert options[row["gold"]] == value, row["question"]
        assert len(set(options)) == 4
        ranks[sorted(options).index(value)] += 1
    assert min(ranks.values()) / len(rows) > 0.2, "the size of a number gives nothing away"


def test_mini_strategy_is_balanced_and_shares_no_fact_between_splits() -> None:
    rows = {
        split: [row.fields for row in read_json_lines(ASSETS / "mini_strategy" / f"{split}.jsonl")]
        for split in ("calibration", "evaluation")
    }
    for split in rows.values():
        assert sum(row["answer"] for row in split) * 2 == len(split)
        assert all(len(row["facts"]) == 2 for row in split)
    facts = {name: {fact for row in split for fact in row["facts"]} for name, split in rows.items()}
    assert not facts["calibration"] & facts["evaluation"]
    assert len(rows["calibration"]) >= 96
    assert len(rows["evaluation"]) >= 224


@pytest.mark.parametrize("name", ["mini_math", "mini_strategy"])
def test_written_tasks_have_no_near_duplicates(name: str) -> None:
    splits = load_task(name).splits
    words = [frozenset(re.findall(r"[a-z']+", e.question.lower())) for e in (*splits.calibration, *splits.evaluation)]
    for i, first in enumerate(words):
        for second in words[:i]:
            assert len(first & second) / len(first | second) < 0.6


def test_mini_text_is_long_enough_and_continues_its_opening() -> None:
    texts = [row.fields["text"] for row in read_json_lines(ASSETS / "mini_text" / "pieces.jsonl")]
    assert sum(len(text.split()) for text in texts) >= 10_000
    splits = load_task("mini_text").splits
    whole = " ".join(" ".join(text.split()) for text in texts)
    for example in (*splits.calibration, *splits.evaluation):
        (rest,) = example.options
        assert example.prompt + rest in whole
        assert len(example.prompt.split()) == 12
        assert len((example.prompt + rest).split()) == 64


def test_guessing_level_of_yes_no_questions_is_the_majority() -> None:
    task = load_task("mini_strategy")
    yes = [e for e in task.evaluation() if e.gold == 0][:3]
    no = [e for e in task.evaluation() if e.gold == 1][:1]
    assert chance_level(task, [*yes, *no]) == 0.75


def test_wikitext_tokens_are_undone() -> None:
    assert plain("a well @-@ known ( old ) song , isn 't it ? It 's 1 @,@ 000 .") == (
        "a well-known (old) song, isn 't it? It's 1,000."
    )
    texts = [" = Title = ", "The <unk> went home . They came to the long river bend .", ""]
    assert passages([SourceRow({"text": text}, "here") for text in texts]) == ["They came to the long river bend."]


def test_calibration_is_nested_seeded_and_apart_from_evaluation() -> None:
    task = load_task("mini_science")
    assert task.calibration(8, seed=1) == task.calibration(20, seed=1)[:8]
    assert task.calibration(8, seed=1) != task.calibration(8, seed=2)
    assert not {e.id for e in task.calibration(120)} & {e.id for e in task.evaluation()}
    assert task.evaluation(5) == task.evaluation()[:5]


@pytest.mark.parametrize(("n", "sentence"), [(0, "at least one"), (-3, "at least one"), (10**6, "ask for fewer")])
def test_counts_out_of_range(n: int, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        load_task("mini_science").calibration(n)
    with pytest.raises(UsageError, match=sentence):
        load_task("mini_science").evaluation(n)


def test_unknown_task_and_ids() -> None:
    with pytest.raises(UsageError, match=r"task 'arc'.*mini_science, mini_math"):
        load_task("arc")
    task = load_task("mini_science")
    known = task.evaluation(2)[1].id
    assert task.by_ids([known])[0].id == known
    with pytest.raises(UsageError, match="'nope'"):
        task.by_ids([known, "nope"])
    with pytest.raises(UsageError, match=rf"{known!r}.*\btwice\b"):
        task.by_ids([known, known])
    with pytest.raises(UsageError, match="No example ids"):
        task.by_ids([])


def test_a_task_with_a_broken_example_is_refused(tiny_task: Task) -> None:
    good = tiny_task.evaluation(1)
    lonely = type(good[0])(id="x", question="q", prompt="p", options=(" a",), gold=0)
    broken = replace(tiny_task, load=lambda: Splits(calibration=(lonely,), evaluation=good))
    with pytest.raises(UsageError, match=r"'x'.*\btiny\b.*\b2 options\b"):
        broken.calibration(1)
