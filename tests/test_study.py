"""The study: the runs it needs, calibration apart from evaluation, tables that agree with numbers by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cap_viz.attribution.exact import exact_scores
from cap_viz.attribution.joint_ablation import pair_effects
from cap_viz.attribution.paths import path_effects
from cap_viz.errors import UsageError
from cap_viz.evaluation.eval_metrics import ACC, Level
from cap_viz.models.catalogue import TOY_MODEL, resolve
from cap_viz.models.loading import ReasoningModel
from cap_viz.runs.fixed_question import Answer
from cap_viz.runs.kinds.evaluation import load_report
from cap_viz.runs.spec import EvalSpec, PairSpec, PathSpec, ScoreSpec
from cap_viz.runs.store import Store
from cap_viz.stats import Interval, compare_paired, holm
from cap_viz.tasks import Task
from cap_viz.tasks.example_sets import calibration_set, evaluation_set
from studies import circuits, command, study
from studies.circuits import stored_circuit
from studies.command import markdown
from studies.figures import FIGURES, LEAST_HEIGHT, height_of
from studies.run_many import computed_in_turn
from studies.study import COMPETING, PERMUTATIONS, STRONGEST, Setting, setting_of, study_parts
from studies.tables import TABLES, Study, verdict
from tests.shell import Shell

SMALL = Setting(
    main={"mini_math": 6, "mini_science": 6},
    text="mini_text",
    length=48,
    weak={"mini_strategy": 4},
    solutions={"mini_text": 2},
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same parts over a few questions of tasks that are always there."""
    monkeypatch.setattr(study, "USUAL", SMALL)
    monkeypatch.setattr(study, "N_CALIBRATION", 4)


def test_the_study_says_which_texts_it_lacks(tiny_model: ReasoningModel) -> None:
    with pytest.raises(UsageError, match=r"The study needs arc_easy, .*; name their folder by CAP_VIZ_DATA"):
        study_parts(tiny_model.ref)


def test_the_toy_model_is_asked_what_it_can_read() -> None:
    ref = resolve(TOY_MODEL).ref
    assert all(task.startswith("toy_") for task in setting_of(ref).tasks)
    names = {part.name for part in study_parts(ref)}
    assert {"ordering", "controls", "seeds"} < names
    assert not {"generic", "solutions", "weak"} & names, "no running text, no solutions, no task it is bad at"


@pytest.mark.usefixtures("small")
def test_parts_hold_what_their_questions_need(tiny_model: ReasoningModel) -> None:
    parts = {part.name: part for part in study_parts(tiny_model.ref)}
    assert len(parts["ordering"].specs) == 2 * (1 + 3 * len(COMPETING))
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


@pytest.fixture
def studies_shell(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    return Shell(capfd, monkeypatch, command.main)


def test_the_old_command_says_where_the_study_is(shell: Shell) -> None:
    code, _, err = shell("study", "--part", "weak", "--json")
    assert code == 2
    assert "python -m studies" in err


@pytest.mark.usefixtures("small")
def test_a_part_is_computed_once_and_then_there(studies_shell: Shell, tiny_folder: Path) -> None:
    arguments = ("--model", str(tiny_folder), "--part", "weak")
    (planned,) = studies_shell.json(*arguments, "--plan")["parts"]
    assert planned["missing"] == planned["runs"] == 7
    (computed,) = studies_shell.json(*arguments)["parts"]
    assert computed["missing"] == 0
    code, out, _ = studies_shell(*arguments)
    assert code == 0
    assert "weak" in out
    (table,) = studies_shell.json("--model", str(tiny_folder), "--table", "weak")["tables"].values()
    assert [row["criterion"] for row in table] == 2 * ["cap", "global_magnitude"]
    code, _, err = studies_shell("--model", str(tiny_folder), "--table", "ordering")
    assert code == 2
    assert "A run of the study is missing (mini_math); compute it with `python -m studies`." in err


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("option", "first"), [("part", "ordering"), ("table", "levels")])
def test_what_is_not_there_is_a_sentence(studies_shell: Shell, tiny_folder: Path, option: str, first: str) -> None:
    code, _, err = studies_shell("--model", str(tiny_folder), f"--{option}", "nothing")
    assert code == 2
    assert f"no {option} 'nothing'; choose one of {first}" in err


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_model: ReasoningModel) -> Iterator[Study]:
    """Every run of a small study, with few criteria and permutations."""
    folder = tmp_path_factory.mktemp("study")
    store = Store(shipped=folder / "shipped", local=folder / "local")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "N_CALIBRATION", 4)
        for module in ("studies.study", "studies.tables"):
            patch.setattr(f"{module}.PERMUTATIONS", 3)
            patch.setattr(f"{module}.COMPETING", STRONGEST)
        specs = dict.fromkeys(spec for part in study_parts(tiny_model.ref, SMALL) for spec in part.specs)
        for _ in computed_in_turn(list(specs), tiny_model, store):
            pass
        yield Study(store, tiny_model.ref, SMALL)


@pytest.fixture(scope="module")
def tables(whole: Study) -> dict[str, pd.DataFrame]:
    return {name: table(whole) for name, table in TABLES.items()}


@pytest.mark.slow
def test_every_table_follows_from_the_planned_runs(tables: dict[str, pd.DataFrame]) -> None:
    assert set(tables) == set(TABLES)
    for name, rows in tables.items():
        assert len(rows) > 0, name
        assert not rows.isna().to_numpy().all(axis=None), name
        assert markdown(rows).count("\n") == len(rows) + 1


@pytest.mark.slow
def test_every_table_is_drawn_with_its_numbers(tables: dict[str, pd.DataFrame]) -> None:
    assert set(FIGURES) == set(TABLES)
    columns = {
        "levels": "accuracy",
        "placebo": "cap",
        "survivors": "all_keep",
        "generic": "perplexity",
        "solutions": "loss",
    }
    for name, draw in FIGURES.items():
        table = tables[name]
        figure = draw(table)
        traces: Any = figure.data
        axes = [axis for trace in traces for axis in (trace.x, trace.y)]
        shown = np.array([float(value) for axis in axes for value in axis if not isinstance(value, str)])
        for value in table[columns.get(name, "difference")]:
            as_share_or_percent = np.isclose(shown, value) | np.isclose(shown, 100 * value)
            assert as_share_or_percent.any() or value == dense_of(table), name
        assert height_of(figure) >= LEAST_HEIGHT


def dense_of(table: pd.DataFrame) -> float:
    """Drawn as a line where the table is about running text."""
    rows = table[table["criterion"] == "dense"]
    return float(rows.iloc[0].get("perplexity", rows.iloc[0].get("loss")))


@pytest.mark.slow
def test_cap_against_the_better_wanda_by_hand(whole: Study, tables: dict[str, pd.DataFrame]) -> None:
    row = tables["ordering"].set_index(["task", "sparsity"]).loc[("mini_math", 0.5)]
    wandas = [
        whole.pruned("mini_math", "wanda", 0.5, **options).acc for options in ({}, {"calibration_task": "mini_text"})
    ]
    cap = whole.pruned("mini_math", "cap", 0.5)
    assert row.value == cap.acc
    assert row.other == max(wandas)
    assert row.difference == pytest.approx(cap.acc - max(wandas))
    assert row.n == 6


@pytest.mark.slow
def test_the_better_wanda_is_the_better_by_the_measure(whole: Study, tables: dict[str, pd.DataFrame]) -> None:
    rows = tables["ordering_loss"].set_index(["task", "sparsity"])
    for sparsity in (0.1, 0.5):
        losses = [
            whole.pruned("mini_math", "wanda", sparsity, **options).losses("choice_nll").mean()
            for options in ({}, {"calibration_task": "mini_text"})
        ]
        assert rows.loc[("mini_math", sparsity)].other == pytest.approx(min(losses))
    assert "verdict" not in rows.columns, "points of accuracy have a margin, nats have none"


@pytest.mark.slow
def test_the_placebo_p_counts_permutations_that_are_as_good(whole: Study, tables: dict[str, pd.DataFrame]) -> None:
    rows = tables["placebo"]
    row = rows[(rows.sparsity == 0.5) & (rows.measure == "accuracy")].iloc[0]
    others = [whole.pruned("mini_math", "shuffled_cap", 0.5, control_seed=seed).acc for seed in range(3)]
    assert row.p == (1 + sum(other >= row.cap for other in others)) / 4
    assert (row.lowest, row.highest) == (min(others), max(others))


@pytest.mark.slow
def test_solutions_are_paired_with_dense_by_hand(whole: Study, tables: dict[str, pd.DataFrame]) -> None:
    rows = tables["solutions"].set_index(["criterion", "sparsity"])
    runs = {
        None if run.spec.mask is None else (run.spec.mask.criterion, run.spec.mask.sparsity): run
        for run in whole.store.runs()
        if isinstance(run.spec, EvalSpec) and run.spec.protocol == "solution"
    }
    dense, cap = (load_report(whole.store, runs[key]).losses("nll") for key in (None, ("cap", 0.5)))
    assert rows.loc[("cap", 0.5)].minus_dense == pytest.approx((cap - dense).mean())
    assert np.isnan(rows.loc[("dense", 0.0)].minus_dense)


@pytest.mark.slow
def test_each_task_is_a_family_of_its_own(tables: dict[str, pd.DataFrame]) -> None:
    for name in ("ordering", "ordering_loss", "causality", "causality_loss"):
        for task, rows in tables[name].groupby("task"):
            assert rows["p_holm"].tolist() == pytest.approx(holm(rows["p"].to_numpy()).tolist()), (name, task)
    rows = tables["rest"]
    assert rows["p_holm"].tolist() == pytest.approx(holm(rows["p"].to_numpy()).tolist())


@pytest.mark.parametrize(
    ("sparsity", "low", "high", "p_holm", "expected"),
    [
        (0.1, 0.01, 0.05, 0.02, "better"),
        (0.5, -0.05, -0.01, 0.01, "worse"),
        (0.1, -0.02, -0.001, 0.04, "worse"),
        # The interval and the test disagree: a hint, and no verdict.
        (0.5, -0.05, 0.001, 0.04, "inconclusive"),
        (0.1, 0.01, 0.05, 0.06, "not worse by 3 points"),
        (0.2, -0.02, 0.04, 0.7, "not worse by 3 points"),
        (0.2, -0.04, 0.06, 0.7, "inconclusive"),
        (0.5, -0.02, 0.02, 0.9, "inconclusive"),
    ],
)
def test_verdicts_by_hand(sparsity: float, low: float, high: float, p_holm: float, expected: str) -> None:
    result = replace(
        compare_paired(np.array([True]), np.array([False])), difference=(low + high) / 2, ci=Interval(low, high)
    )
    level = Level(0.5, Interval(0.4, 0.6))
    assert verdict(Answer(sparsity, ACC, "task", ("task",), level, level, result, p_holm)) == expected


def test_markdown_by_hand() -> None:
    assert markdown(pd.DataFrame({"a": [1], "b": [0.12345]})) == "| a | b |\n|---|---|\n| 1 | 0.123 |"


def test_small_p_are_written_as_such() -> None:
    table = pd.DataFrame({"p": [0.0004, 0.25], "difference": [0.0004, -1.5], "n": [3, 4]})
    assert markdown(table).splitlines()[2:] == ["| < 0.001 | 0.000 | 3 |", "| 0.250 | -1.500 | 4 |"]


def test_a_circuit_stands_beside_all_other_sets_of_its_layers(
    tiny_model: ReasoningModel, tiny_task: Task, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of layers of four heads, the first of two layers: 3 × 3 other pairs, and 10 × 9 / 2 of any layers."""
    store = Store()
    heads = tuple((layer, head) for layer in range(3) for head in range(4))
    ref, asked = tiny_model.ref, evaluation_set(tiny_task, 4)
    runs = [ScoreSpec(ref, calibration_set(tiny_task, 6, 0)), PathSpec(ref, asked, heads)]
    list(computed_in_turn(runs, tiny_model, store))
    with pytest.raises(UsageError, match=r"Head scores, paths and pairs of .* on tiny are needed"):
        stored_circuit(store, ref.id, "tiny")
    list(computed_in_turn([PairSpec(ref, asked, heads)], tiny_model, store))
    circuit = stored_circuit(store, ref.id, "tiny")
    scores = exact_scores(tiny_model, tiny_task.calibration(6, 0))
    assert list(circuit.ranked) == scores.estimated("nll").top_heads(12)

    chosen = ((0, 1), (2, 3))
    paths = path_effects(tiny_model, tiny_task.evaluation(4), heads, progress=False)
    pairs = pair_effects(tiny_model, tiny_task.evaluation(4), chosen, progress=False)
    effects = dict(zip(map(str, paths.paths), paths.effects("nll").mean(axis=-1), strict=True))
    found = circuit.statistics(chosen)
    assert found["total effects"] == pytest.approx(effects["L0H1 → everything"] + effects["L2H3 → everything"])
    assert found["paths between them"] == pytest.approx(effects["L0H1 → L2H3"])
    assert found["paths to MLPs"] == pytest.approx(
        sum(effects[f"L0H1 → MLP {n}"] for n in range(3)) + effects["L2H3 → MLP 2"]
    )
    assert found["pair effects without sign"] == pytest.approx(abs(pairs.estimated("nll").mean[0]))
    others = circuit.other_sets(chosen, same_layers=True)
    assert sorted(others) == [((0, a), (2, b)) for a in (0, 2, 3) for b in (0, 1, 2)]
    table = circuit.tables(chosen)["Beside other heads"].set_index("sum or number")
    totals = [circuit.statistics(heads)["total effects"] for heads in others]
    row = table.loc["total effects"]
    assert row["same layers: mean"] == pytest.approx(np.mean(totals))
    assert row["same layers: reach it"] == f"{sum(total >= found['total effects'] for total in totals)} of 9"
    assert row["any layers: reach it"].endswith(" of 45")

    printing = Shell(capfd, monkeypatch, circuits.main)
    code, out, _ = printing("--model", ref.id, "--task", "tiny", "--top", "3")
    assert code == 0
    assert out.count("###") == 4
    code, _, err = printing("--model", ref.id, "--task", "tiny", "--top", "13")
    assert code == 2
    assert "--top 13: choose between 2 and 12 heads" in err
