"""The study's plan: the runs it says it needs, nothing asked twice, calibration apart from evaluation."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from cap_viz import study
from cap_viz.errors import UsageError
from cap_viz.models import ReasoningModel
from cap_viz.spec import EvalSpec
from cap_viz.study import COMPETING, PERMUTATIONS, study_parts
from cap_viz.tasks import Task
from tests.shell import Shell


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tiny_task: Task) -> None:
    """The same parts over tasks that are always there."""
    monkeypatch.setattr(study, "MAIN_TASKS", {"arc_easy": 6, "mini_science": 6})
    monkeypatch.setattr(study, "BELOW_CHANCE", {"tiny": 4})
    monkeypatch.setattr(study, "GENERIC_TEXT", "mini_text")
    monkeypatch.setattr(study, "N_CALIBRATION", 4)
    real = study.Masks

    def stand_in(name: str) -> str:
        return "mini_math" if name == "arc_easy" else name

    monkeypatch.setattr(study, "Masks", lambda model, task: real(model, stand_in(task)))
    for name in ("evaluation_set", "calibration_set"):
        whole = getattr(study, name)
        monkeypatch.setattr(study, name, lambda task, n=None, whole=whole: whole(stand_in(task), n))
    monkeypatch.setattr(study, "load_task", lambda name: tiny_task)


def test_the_study_says_which_texts_it_lacks(tiny_model: ReasoningModel) -> None:
    with pytest.raises(UsageError, match=r"The study needs arc_easy, .*; name their folder by CAP_VIZ_DATA"):
        study_parts(tiny_model.ref)


@pytest.mark.usefixtures("small")
def test_parts_hold_what_their_questions_need(tiny_model: ReasoningModel) -> None:
    parts = {part.name: part for part in study_parts(tiny_model.ref)}
    main = [spec for spec in parts["ordering"].specs if isinstance(spec, EvalSpec)]
    assert len(main) == 2 * (1 + 3 * len(COMPETING))
    shuffled = [
        spec.mask.control_seed
        for spec in parts["controls"].specs
        if isinstance(spec, EvalSpec) and spec.mask is not None and spec.mask.criterion == "shuffled_cap"
    ]
    assert Counter(shuffled) == Counter(2 * list(range(PERMUTATIONS)))
    for part in parts.values():
        assert len(set(part.specs)) == len(part.specs), part.name


@pytest.mark.usefixtures("small")
def test_no_mask_is_judged_on_what_it_was_made_from(tiny_model: ReasoningModel) -> None:
    for part in study_parts(tiny_model.ref):
        for spec in part.specs:
            if not isinstance(spec, EvalSpec) or spec.mask is None:
                continue
            for made_from in (spec.mask.calibration, None if spec.mask.scores is None else spec.mask.scores.examples):
                if made_from is not None and made_from.task == spec.examples.task:
                    assert not set(made_from.ids) & set(spec.examples.ids)


@pytest.mark.usefixtures("small")
def test_a_part_is_computed_once_and_then_there(shell: Shell, tiny_folder: Path) -> None:
    arguments = ("study", "--model", str(tiny_folder), "--part", "below_chance")
    (planned,) = shell.json(*arguments, "--plan")["parts"]
    assert planned["missing"] == planned["runs"] == 7
    (computed,) = shell.json(*arguments)["parts"]
    assert computed["missing"] == 0
    code, out, _ = shell(*arguments)
    assert code == 0
    assert "below_chance" in out


@pytest.mark.usefixtures("small")
def test_an_unknown_part_is_a_sentence(shell: Shell, tiny_folder: Path) -> None:
    code, _, err = shell("study", "--model", str(tiny_folder), "--part", "nothing")
    assert code == 2
    assert "no part 'nothing'; choose one of ordering" in err
