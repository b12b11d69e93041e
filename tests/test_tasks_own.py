"""Tasks of one's own: read with line numbers, kept, found by name, never mixed with another version."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from cap_viz.errors import UsageError
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.runs.execute import run_steps
from cap_viz.runs.spec import EvalSpec
from cap_viz.runs.store import Store
from cap_viz.settings import PROJECT, local_folder
from cap_viz.tasks import TASKS, Task, all_tasks, load_task
from cap_viz.tasks.description import described, splits_of, task_of
from cap_viz.tasks.example_sets import evaluation_set
from cap_viz.tasks.own import add_task, own_tasks, remove_task
from tests.moves import look_after_every_move
from tests.shell import Shell

CHOICES = [
    {"question": f"what is {word} ?", "options": ["sun", "moon"], "gold": number % 2}
    for number, word in enumerate(["ice", "fire", "sand", "rain", "wind", "salt", "gold", "wood", "snow", "mud"])
]
YAML = """\
name: riddles
kind: choice
prompt: "what {question} answer"
data: riddles.jsonl
"""


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "riddles.jsonl", CHOICES)


def described_as(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "riddles.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("answer", "gold"), [("moon", 1), (" Sun ", 0), ("B", 1), ("a", 0), ("C", None), ("star", None), (1, None)]
)
def test_an_answer_beside_options_names_the_right_one(tmp_path: Path, answer: object, gold: int | None) -> None:
    """By its text or its letter; a number could be counted from 0 or from 1."""
    rows = [{**row, "answer": answer} for row in CHOICES]
    for row in rows:
        del row["gold"]
    file = write_rows(tmp_path / "answers.jsonl", rows)
    if gold is None:
        with pytest.raises(UsageError, match=r"line 1: .*(answer|gold)"):
            add_task(file, tuple(TASKS))
        return
    assert {example.gold for example in add_task(file, tuple(TASKS)).splits.evaluation} == {gold}


def test_an_option_that_is_a_letter_is_taken_by_its_text(tmp_path: Path) -> None:
    rows = [{"question": f"{number} ?", "options": ["B", "A"], "answer": "A"} for number in range(4)]
    task = add_task(write_rows(tmp_path / "letters.jsonl", rows), tuple(TASKS))
    assert {example.gold for example in task.splits.evaluation} == {1}


def test_json_lines_alone_make_a_task(jsonl: Path) -> None:
    task = add_task(jsonl, tuple(TASKS))
    assert (task.name, task.kind) == ("riddles", "choice")
    # Three tenths for calibration, dealt out evenly: rows 1, 4, 7 and 10 would be 4 of 10, so the tenth is not.
    assert [example.question for example in task.splits.calibration] == [CHOICES[i]["question"] for i in (0, 3, 6)]
    assert len(task.splits.evaluation) == 7
    example = task.splits.evaluation[0]
    assert (example.prompt, example.options, example.gold) == (
        "Question: what is fire ?\nAnswer:",
        (" sun", " moon"),
        1,
    )
    assert load_task("riddles") is task
    assert list(all_tasks())[-1] == "riddles"


def test_a_description_sets_prompt_and_files(tmp_path: Path) -> None:
    write_rows(tmp_path / "c.jsonl", CHOICES[:4])
    write_rows(tmp_path / "e.jsonl", CHOICES[4:])
    text = "name: riddles\nkind: choice\ntitle: Old riddles\nprompt: 'what {question} answer'\n"
    task = add_task(described_as(tmp_path, f"{text}calibration: c.jsonl\nevaluation: e.jsonl\n"), tuple(TASKS))
    assert (len(task.splits.calibration), len(task.splits.evaluation)) == (4, 6)
    assert task.splits.evaluation[0].prompt == "what what is wind ? answer"
    assert task.title == "Old riddles"


@pytest.mark.parametrize(
    ("row", "kind", "options"),
    [
        ({"question": "q", "answer": True}, "yes_no", (" yes", " no")),
        ({"question": "q", "answer": "the sun"}, "text", (" the sun",)),
        ({"question": "q", "solution": "1 + 2 = 3\n#### 3"}, "text", (" 1 + 2 = 3\n#### 3",)),
    ],
)
def test_the_kind_follows_from_the_fields(
    tmp_path: Path, row: dict[str, object], kind: str, options: tuple[str, ...]
) -> None:
    rows = [{**row, "question": f"q{number}"} for number in range(8)]
    task = add_task(write_rows(tmp_path / "mine.jsonl", rows), tuple(TASKS))
    assert task.kind == kind
    assert task.splits.evaluation[0].options == options
    assert (task.writing is not None) == ("solution" in row)


def test_changed_content_is_another_version_and_old_runs_are_refused(
    jsonl: Path, tiny_model: ReasoningModel, tmp_path: Path
) -> None:
    first = add_task(jsonl, tuple(TASKS))
    spec = EvalSpec(tiny_model.ref, evaluation_set("riddles", 3))
    write_rows(jsonl, [{**row, "gold": 0} for row in CHOICES])
    second = add_task(jsonl, tuple(TASKS))
    assert second.version != first.version
    assert second.splits.evaluation[0].gold == 0
    store = Store(shipped=tmp_path / "shipped", local=tmp_path / "runs")
    with pytest.raises(UsageError, match=f"needs version {first.version} of task riddles"):
        finish(run_steps(spec, tiny_model, store))


def test_a_task_is_there_and_whole_all_the_while_it_is_replaced(jsonl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder was moved away before the new one was there, and with it the rows of who had read its description."""
    first = add_task(jsonl, tuple(TASKS))
    write_rows(jsonl, [{**row, "gold": 0} for row in CHOICES])
    second = task_of(described(jsonl))
    found: list[dict[str, Task]] = []
    with monkeypatch.context() as patch:
        look_after_every_move(patch, lambda: found.append(own_tasks()))
        assert add_task(jsonl, tuple(TASKS)).version == second.version
    assert [list(tasks) for tasks in found] == [["riddles"]] * len(found)
    golds = {first.version: [1, 0, 0, 1, 1, 0, 1], second.version: [0] * 7}
    assert {tasks["riddles"].version for tasks in found} == golds.keys()
    for tasks in found:
        # The rows are read only here: those of the earlier task still are its own.
        assert [row.gold for row in tasks["riddles"].splits.evaluation] == golds[tasks["riddles"].version]


def test_rows_of_the_task_before_the_last_are_removed(jsonl: Path) -> None:
    for gold in range(4):
        write_rows(jsonl, [{**row, "gold": gold % 2, "id": f"{gold}-{number}"} for number, row in enumerate(CHOICES)])
        add_task(jsonl, tuple(TASKS))
    assert len(list((local_folder() / "tasks" / "riddles").iterdir())) == 3


def test_removed_is_removed(jsonl: Path) -> None:
    add_task(jsonl, tuple(TASKS))
    remove_task("riddles")
    assert own_tasks() == {}
    with pytest.raises(UsageError, match="Unknown task 'riddles'"):
        load_task("riddles")
    for name in ("riddles", "../riddles", "mini_science"):
        with pytest.raises(UsageError, match="among those added on this machine"):
            remove_task(name)


PYTHON = """\
from cap_viz.tasks import Example, Splits, Task

examples = tuple(
    Example(id=str(n), question=f"q{n}", prompt=f"q{n}", options=(" sun", " moon"), gold=n % 2) for n in range(8)
)
TASK = Task(
    name="coded", title="Coded", summary="From a file.", version=1, source="here", licence="none",
    prompt_format="{question}", load=lambda: Splits(examples[:3], examples[3:]), is_local=lambda: True,
)
"""


def test_a_python_file_makes_a_task(tmp_path: Path) -> None:
    file = tmp_path / "coded.py"
    file.write_text(PYTHON, encoding="utf-8")
    task = add_task(file, tuple(TASKS))
    assert load_task("coded").splits.evaluation[0].question == "q3"
    file.write_text(PYTHON + "\n", encoding="utf-8")
    assert add_task(file, tuple(TASKS)).version != task.version


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("raise RuntimeError('no')", r"cannot be run \(RuntimeError: no\)"),
        ("TASK = 1", "should define TASK"),
        (PYTHON.replace('"coded"', '"../x"'), "lower-case letters"),
    ],
)
def test_a_bad_python_file_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "coded.py"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=sentence):
        add_task(file, tuple(TASKS))
    assert own_tasks() == {}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            YAML.replace("kind: choice", "kind: quiz"),
            r"yaml, line 2: the field kind should be 'choice', .*, not 'quiz'",
        ),
        (YAML + "colour: red\n", r"line 5: the field colour is unknown; there are name, kind, title"),
        (YAML.replace("{question}", ""), r"line 3: the field prompt should hold \{question\} once"),
        (
            YAML.replace("riddles\n", "My Riddles\n", 1),
            r"line 1: the field name should be lower.*, not 'My Riddles'",
        ),
        (YAML.replace("data: riddles.jsonl", "calibration: riddles.jsonl"), "either as data"),
        (YAML.replace("data: riddles.jsonl", "data: none.jsonl"), r"none.jsonl cannot be read \(No such file"),
        (YAML + "calibration_share: 1.5\n", "line 5: the field calibration_share should be less than 1, not 1.5"),
        (YAML + "answer: rhyme\n", "line 5: the field answer should be 'number' or 'yes_no', not 'rhyme'"),
        (YAML + "title: 3\n", "line 5: the field title should be a text, not a whole number"),
        ("name: [", r"line 1|line 2.*not valid YAML"),
        ("!!python/object/apply:os.system [ls]", "one on each line"),
        ("name: !!python/object/apply:os.system [ls]\n", "not valid YAML"),
        ("- a\n- b\n", "expected fields such as name, kind and data"),
        ("name: mini_math\nkind: choice\ndata: riddles.jsonl\n", "comes with CAP Viz; choose another"),
        (YAML.replace("choice", "written"), "riddles.jsonl, line 1: the field solution is missing"),
    ],
)
def test_a_bad_description_is_one_sentence_with_its_line(jsonl: Path, tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        add_task(described_as(tmp_path, text), tuple(TASKS))
    assert own_tasks() == {}


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"question": "q", "options": ["a"], "gold": 0}, "line 11: a question needs at least 2 options"),
        ({"question": "q", "options": ["a", "b"], "gold": 2}, "line 11: the right option is number 2"),
        ({"question": "q", "options": ["a", "a"], "gold": 0}, "line 11: the option 'a' is there twice"),
        ({"question": " ", "options": ["a", "b"], "gold": 0}, "line 11: the field question is empty"),
        ({"question": "q", "options": [str(n) for n in range(27)], "gold": 0}, "line 11: there are 27 options"),
        ({"question": "x" * 20_001, "options": ["a", "b"], "gold": 0}, "line 11: the field question has 20001"),
        ({"question": CHOICES[0]["question"], "options": ["a", "b"], "gold": 0}, "line 11: the question is already"),
        ({"question": "q", "options": "a", "gold": 0}, "line 11: the field options should be a list"),
    ],
)
def test_a_bad_row_is_one_sentence_with_its_line(tmp_path: Path, row: dict[str, object], sentence: str) -> None:
    path = write_rows(tmp_path / "riddles.jsonl", [*CHOICES, row])
    with pytest.raises(UsageError, match=sentence):
        add_task(path, tuple(TASKS))
    assert own_tasks() == {}


def test_limits_on_size(tmp_path: Path, jsonl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cap_viz.tasks.description.MAX_ROWS", 9)
    with pytest.raises(UsageError, match="has 10 rows, at most 9"):
        splits_of(described(jsonl))
    monkeypatch.setattr("cap_viz.tasks.description.MAX_BYTES", 100)
    with pytest.raises(UsageError, match="is larger than 0 MB"):
        described(jsonl)


def test_solutions_without_an_answer_are_refused(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"question": f"q{n}", "solution": f"#### {n}"} for n in range(4)]
    path = write_rows(tmp_path / "sums.jsonl", [*rows, {"question": "q", "solution": "no number"}])
    with pytest.raises(UsageError, match="line 5: no answer can be read from the solution"):
        add_task(path, tuple(TASKS))


def test_names_come_from_file_names(tmp_path: Path) -> None:
    assert described(write_rows(tmp_path / "My Riddles (2).jsonl", CHOICES)).name == "my_riddles_2"
    assert described(write_rows(tmp_path / "2024.jsonl", CHOICES)).name == "task_2024"


def test_a_damaged_own_task_hides_no_other(jsonl: Path) -> None:
    add_task(jsonl, tuple(TASKS))
    broken = local_folder() / "tasks" / "broken"
    broken.mkdir()
    (broken / "task.yaml").write_text("kind: [", encoding="utf-8")
    assert list(own_tasks()) == ["riddles"]
    with pytest.raises(UsageError, match="not valid YAML"):
        load_task("broken")


def test_the_shell_takes_a_file_as_a_task(jsonl: Path, tiny_folder: Path, shell: Shell) -> None:
    found = shell.json("eval", "--model", str(tiny_folder), "--task", str(jsonl), "--n", "5")
    assert (found["task"], found["n"]) == ("riddles", 5)
    assert "riddles" in [row["task"] for row in shell.json("tasks")["tasks"]]
    code, out, _ = shell("tasks", "remove", "riddles")
    assert (code, out) == (0, "Removed riddles\n")
    code, _, err = shell("tasks", "add", str(jsonl.with_suffix(".txt")))
    assert code == 2
    assert "should end in one of .jsonl, .yaml, .yml, .py" in err


def tasks_page() -> AppTest:
    page = AppTest.from_file(str(PROJECT / "app.py"), default_timeout=60)
    page.switch_page("pages/tasks.py").run()
    assert not page.exception
    return page


def test_the_tasks_page_adds_an_upload_and_forgets_it(jsonl: Path) -> None:
    page = tasks_page()
    page.file_uploader(key="own_upload").set_value(("riddles.jsonl", jsonl.read_bytes(), "application/json")).run()
    assert not page.exception
    page.button(key="own_add").click().run()
    assert not page.exception
    assert page.success[0].value.startswith("Added riddles: 3 calibration and 7 evaluation")
    assert load_task("riddles").splits.evaluation
    page.button(key="own_remove_riddles").click().run()
    assert not page.exception
    assert own_tasks() == {}


def test_a_bad_upload_is_one_sentence_with_its_own_name() -> None:
    page = tasks_page()
    page.file_uploader(key="own_upload").set_value(("mine.jsonl", b'{"question": 1', "application/json")).run()
    assert not page.exception
    assert page.error[0].value.startswith("mine.jsonl, line 1: not valid JSON")
