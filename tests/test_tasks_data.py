"""Data folders: what is read from them, and the one sentence with file and line for what is wrong in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cap_viz.errors import CapVizError, UsageError
from cap_viz.tasks import TASKS, Task, chance_level, load_task
from cap_viz.tasks.sources import read_json_lines

Fields = dict[str, Any]
SEPARATORS = "\u2028\u2029\u0085\x0b\x0c\x1c"


def arc_row(number: int, **changes: Any) -> Fields:
    choices = {"text": ["one", "two", "three"], "label": ["1", "2", "3"]}
    return {"id": f"q{number}", "question": f"Question {number}?", "choices": choices, "answerKey": "2"} | changes


def gsm8k_row(number: int, **changes: Any) -> Fields:
    return {"question": f"Question {number}?", "answer": f"So it is {number}.\n#### {number}"} | changes


def strategyqa_row(number: int, **changes: Any) -> Fields:
    return {"qid": f"s{number}", "question": f"Question {number}?", "answer": number % 2 == 0} | changes


def text_row(number: int, **changes: Any) -> Fields:
    return {"text": " ".join(f"word{number}" for _ in range(80))} | changes


# Task -> folder, file of either split, maker of sound rows.
LAYOUT: dict[str, tuple[str, str, str, Callable[..., Fields]]] = {
    "arc_easy": ("arc_easy", "train", "test", arc_row),
    "arc_challenge": ("arc_challenge", "train", "test", arc_row),
    "gsm8k": ("gsm8k", "train", "test", gsm8k_row),
    "strategyqa": ("strategyqa", "train", "dev", strategyqa_row),
    "generic_text": ("wikitext2", "calibration", "test", text_row),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder; the cached splits of the public tasks are forgotten around the test."""
    monkeypatch.setenv("CAP_VIZ_DATA", str(tmp_path))
    for name in LAYOUT:
        monkeypatch.setitem(TASKS, name, replace(TASKS[name]))
    return tmp_path


def write(folder: Path, task: str, calibration: list[Any], evaluation: list[Any]) -> None:
    """Write both splits of a task; a text stands for the line itself."""
    home, first, second, _ = LAYOUT[task]
    (folder / home).mkdir(parents=True)
    for split, rows in ((first, calibration), (second, evaluation)):
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
        (folder / home / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


@pytest.mark.parametrize("name", LAYOUT)
def test_every_public_task_is_read_from_a_data_folder(folder: Path, name: str) -> None:
    make = LAYOUT[name][3]
    write(folder, name, [make(1), make(2)], [make(3)])
    task = load_task(name)
    assert task.is_local()
    assert (len(task.splits.calibration), len(task.splits.evaluation)) == (2, 1)
    assert task.splits.origin == "the folder named by CAP_VIZ_DATA"


def test_arc_options_and_gold_of_mixed_counts(folder: Path) -> None:
    def row(number: int, labels: str, answer: str) -> Fields:
        return arc_row(
            number, choices={"text": [f"option {k}" for k in labels], "label": list(labels)}, answerKey=answer
        )

    write(folder, "arc_easy", [row(1, "ABC", "C"), row(2, "1234", "1"), row(3, "ABCDE", "E")], [row(4, "AB", "B")])
    task = load_task("arc_easy")
    three, four, five = task.splits.calibration
    assert three.options == (" option A", " option B", " option C")
    assert three.prompt == "Question: Question 1?\nAnswer:"
    assert [example.gold for example in (three, four, five)] == [2, 0, 4]
    assert [len(example.options) for example in (three, four, five)] == [3, 4, 5]
    # Guessing is right once in 3, once in 4 and once in 5 tries.
    assert chance_level(task, [three, four, five]) == pytest.approx((1 / 3 + 1 / 4 + 1 / 5) / 3)


def test_chance_of_yes_no_questions_is_the_share_of_the_commoner_answer(folder: Path) -> None:
    write(folder, "strategyqa", [strategyqa_row(0)], [strategyqa_row(k) for k in (1, 2, 3, 5, 7)])
    task = load_task("strategyqa")
    assert [example.gold for example in task.evaluation()] == [1, 0, 1, 1, 1]
    assert chance_level(task, task.evaluation()) == 0.8


def test_a_gsm8k_solution_is_the_one_continuation(folder: Path) -> None:
    write(folder, "gsm8k", [gsm8k_row(1)], [gsm8k_row(2)])
    (example,) = load_task("gsm8k").splits.evaluation
    assert (example.options, example.gold) == ((" So it is 2.\n#### 2",), 0)


def test_line_separators_within_texts_and_ids_end_no_line(folder: Path) -> None:
    odd = arc_row(1, id=f"q{SEPARATORS}1", question=f"two{SEPARATORS}lines")
    write(folder, "arc_easy", [odd, arc_row(2)], [arc_row(3)])
    first, second = load_task("arc_easy").splits.calibration
    assert (first.id, first.question) == (f"q{SEPARATORS}1", f"two{SEPARATORS}lines")
    assert second.id == "q2"


def test_byte_order_mark_windows_line_ends_blank_and_long_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    long = "x" * 3_000_000
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"a": "' + long.encode() + b'"}\r\n{"a": 3}')
    rows = read_json_lines(path)
    assert [row.fields["a"] for row in rows] == [1, long, 3]
    assert [row.place for row in rows] == [f"{path}, line {number}" for number in (1, 4, 5)]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "rows.jsonl is empty; every line should hold one example as JSON."),
        (b"\n \n", "rows.jsonl is empty"),
        (b'{"a": 1}\n\n{"a": \n', "line 3: not valid JSON (Expecting value at character"),
        (b'{"a": 1}\n\n\n{"a": "\xff"}\n', "line 4: not valid JSON in UTF-8 (invalid start byte at byte 8)"),
        ('{"a": 1}\n'.encode("utf-16"), "line 1: not valid JSON in UTF-8"),
        (b'{"a": NaN}\n', "line 1: not valid JSON (NaN is no JSON value)"),
        (b'{"a": [-Infinity]}\n', "line 1: not valid JSON (-Infinity is no JSON value)"),
        (b'{"a": 1}\n[1, 2]\n', "line 2: expected a JSON object."),
        (b"null\n", "line 1: expected a JSON object."),
        (b'{"a": 1} {"a": 2}\n', "line 1: not valid JSON (Extra data at character 10)"),
        (b"[" * 200_000, "line 1: not valid JSON (maximum recursion depth"),
        (b'{"a": ' + b"9" * 5000 + b"}", "line 1: not valid JSON (Exceeds the limit"),
    ],
)
def test_what_is_not_json_lines(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_json_lines(path)
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)


def without(row: Fields, name: str) -> Fields:
    return {key: value for key, value in row.items() if key != name}


def options(n: int, **changes: Any) -> Fields:
    labels = "ABCDE"[:n]
    return {"text": [f"option {label}" for label in labels], "label": list(labels)} | changes


@pytest.mark.parametrize(
    ("task", "row", "sentence"),
    [
        ("arc_easy", without(arc_row(2), "id"), "the field id is missing; there are question, choices, answerKey"),
        ("arc_easy", {}, "the field id is missing; there are no fields"),
        ("arc_easy", arc_row(2, id=7), "the field id should be a text, not a whole number"),
        ("arc_easy", arc_row(2, id=""), "the field id is empty"),
        ("arc_easy", without(arc_row(2), "question"), "the field question is missing"),
        ("arc_easy", arc_row(2, question=["why?"]), "the field question should be a text, not a list"),
        ("arc_easy", arc_row(2, question=" \n"), "the field question is empty"),
        ("arc_easy", '{"id": "q2", "question": "\\ud83d", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, '
         '"answerKey": "A"}', "the field question holds half of a surrogate pair"),
        ("arc_easy", arc_row(2, choices=["a", "b"]), "the field choices should be an object, not a list"),
        ("arc_easy", arc_row(2, choices={"text": ["a", "b"]}), "the field choices.label is missing; there are text"),
        ("arc_easy", arc_row(2, choices=options(3, text="abc")), "the field choices.text should be a list, not a text"),
        ("arc_easy", arc_row(2, choices=options(2, text=["a", 5])), "text[1] should be a text, not a whole number"),
        ("arc_easy", arc_row(2, choices=options(3, label=["1", "2"])), "choices has 2 labels for 3 texts"),
        ("arc_easy", arc_row(2, choices=options(2, text=["a", " "]), answerKey="A"), "field choices.text[1] is empty"),
        ("arc_easy", arc_row(2, answerKey="Z"), "answerKey 'Z' should be one of the labels 1, 2, 3"),
        ("arc_easy", arc_row(2, answerKey=2), "the field answerKey should be a text, not a whole number"),
        ("arc_easy", arc_row(2, choices=options(3, label=["A", "A", "B"]), answerKey="A"), "answerKey 'A' should be"),
        ("arc_easy", arc_row(2, choices=options(1), answerKey="A"), "a question needs at least 2 options, not 1"),
        ("arc_easy", arc_row(2, choices=options(0), answerKey="A"), "answerKey 'A' should be one of the labels"),
        ("arc_easy", arc_row(2, choices=options(3, text=["a", "b", "a"]), answerKey="A"), "'a' is there twice"),
        ("arc_challenge", arc_row(2, answerKey="Z"), "answerKey 'Z' should be one of the labels"),
        ("strategyqa", without(strategyqa_row(2), "qid"), "the field qid is missing"),
        ("strategyqa", strategyqa_row(2, answer="yes"), "the field answer should be true or false, not a text"),
        ("strategyqa", strategyqa_row(2, answer=1), "the field answer should be true or false, not a whole number"),
        ("strategyqa", strategyqa_row(2, answer=None), "the field answer should be true or false, not null"),
        ("strategyqa", strategyqa_row(2, question=""), "the field question is empty"),
        ("gsm8k", without(gsm8k_row(2), "answer"), "the field answer is missing; there are question"),
        ("gsm8k", gsm8k_row(2, answer=12.5), "the field answer should be a text, not a number"),
        ("gsm8k", gsm8k_row(2, question=None), "the field question should be a text, not null"),
        ("generic_text", {"texts": "x"}, "the field text is missing; there are texts"),
        ("generic_text", {"text": True}, "the field text should be a text, not true or false"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_by_file_and_line(folder: Path, task: str, row: Fields | str, sentence: str) -> None:
    home, split, _, make = LAYOUT[task]
    write(folder, task, [make(1), "", row], [make(9)])
    with pytest.raises(UsageError) as caught:
        load_task(task).calibration(1)
    assert str(caught.value).startswith(f"{folder / home / split}.jsonl, line 3: ")
    assert sentence in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("task", "calibration", "evaluation", "where", "what"),
    [
        ("arc_easy", [1, 2, 1], [9], ("train", 3, "train", 1), "the id 'q1'"),
        ("arc_easy", [1, 2], [9, 2], ("test", 2, "train", 2), "the id 'q2'"),
        ("strategyqa", [1], [9, 9], ("dev", 2, "dev", 1), "the id 's9'"),
        ("gsm8k", [1, 2], [2], ("test", 1, "train", 2), "the question"),
    ],
)
def test_repeated_examples_name_both_lines(
    folder: Path, task: str, calibration: list[int], evaluation: list[int], where: tuple[str, int, str, int], what: str
) -> None:
    home, _, _, make = LAYOUT[task]
    write(folder, task, [make(k) for k in calibration], [make(k) for k in evaluation])
    with pytest.raises(UsageError) as caught:
        load_task(task).calibration(1)
    split, line, first_split, first_line = where
    assert str(caught.value).startswith(
        f"{folder / home / split}.jsonl, line {line}: {what} is already that of "
        f"{folder / home / first_split}.jsonl, line {first_line};"
    )


def test_an_empty_split_names_its_file(folder: Path) -> None:
    write(folder, "arc_easy", [arc_row(1)], [])
    with pytest.raises(UsageError, match=r"test\.jsonl is empty; every line should hold one example as JSON"):
        load_task("arc_easy").calibration(1)


def test_texts_too_short_for_a_window_leave_an_empty_split(folder: Path) -> None:
    write(folder, "generic_text", [text_row(1)], [{"text": "Too short."}])
    with pytest.raises(UsageError, match="The evaluation split of generic_text is empty"):
        load_task("generic_text").calibration(1)


def test_missing_split_file(folder: Path) -> None:
    (folder / "arc_easy").mkdir()
    with pytest.raises(UsageError, match=r"train.jsonl does not exist; check CAP_VIZ_DATA"):
        load_task("arc_easy").calibration(1)


def test_a_split_that_is_a_folder(folder: Path) -> None:
    (folder / "arc_easy" / "train.jsonl").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"train.jsonl cannot be read \(Is a directory\)"):
        load_task("arc_easy").calibration(1)


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_data_folder_that_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    place = folder / "nowhere"
    if kind == "file":
        place.write_text("")
    monkeypatch.setenv("CAP_VIZ_DATA", str(place))
    task: Task = load_task("arc_easy")
    assert not task.is_local()
    with pytest.raises(UsageError, match=r"CAP_VIZ_DATA='.*/nowhere' is not a folder; correct or unset it"):
        task.calibration(1)


def test_a_data_folder_without_the_task_and_no_network(folder: Path) -> None:
    task = load_task("arc_easy")
    assert not task.is_local()
    with pytest.raises(CapVizError, match=r"set CAP_VIZ_DATA to a folder .* or use the offline task mini_science") as e:
        task.calibration(1)
    assert "arc_easy/train.jsonl and test.jsonl" in str(e.value)
    assert f"{folder} has no folder arc_easy" in str(e.value)
