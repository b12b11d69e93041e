"""The Compare page: its figure, words and files, and the page itself on a tiny model's real runs."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from numpy.testing import assert_allclose
from streamlit.testing.v1 import AppTest

from cap_viz.dashboard.compare.controls import FIRST_SHOWN
from cap_viz.dashboard.compare.data import Comparison, ComparisonChoice, Stored, compared, stored_comparison
from cap_viz.dashboard.compare.page import curves_of, loss_level_note, unit_note
from cap_viz.dashboard.compare.table import shown_table, table_csv
from cap_viz.dashboard.components.verdict import NOT_MEASURED, strip, summary
from cap_viz.evaluation.eval_metrics import ACC, CHOICE_LOSS, Measure
from cap_viz.evaluation.perplexity import perplexity_of
from cap_viz.figures.compare import CurvePoint, Curves, curves, dodges, figure_html, readable_ticks, spread_labels
from cap_viz.figures.reported import ReportedPoint, reported_accuracy
from cap_viz.figures.theme import criterion_colour, display_order
from cap_viz.models.catalogue import DEFAULT_MODEL, resolve
from cap_viz.models.loading import ReasoningModel, load
from cap_viz.progress import finish
from cap_viz.runs.comparison import DENSE, Cell, comparison_specs
from cap_viz.runs.execute import run_steps
from cap_viz.runs.fixed_question import AT_CHANCE, fixed_question, missing_text
from cap_viz.runs.kinds.evaluation import load_report
from cap_viz.runs.kinds.profile import load_zeros
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.protocols import perplexity_spec, solution_spec
from cap_viz.runs.queue import shared_queue
from cap_viz.runs.spec import EvalSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.settings import PROJECT
from cap_viz.stats import compare_paired
from cap_viz.tasks import TASKS, load_task
from cap_viz.tasks.example_sets import evaluation_set
from tests.tiny import write_tiny_model
from tests.words import bold_titles, numbers

TASK, N_ITEMS, N_CALIBRATION = "mini_science", 40, 2
CRITERIA, SPARSITIES = ("cap", "wanda", "global_magnitude"), (0.2, 0.5)


@dataclass(frozen=True)
class World:
    """A tiny model with real runs: dense and three criteria at two sparsities."""

    model: ReasoningModel
    cache: Path
    shipped: Path
    specs: dict[Cell, EvalSpec]

    @property
    def store(self) -> Store:
        return Store(shipped=self.shipped, local=self.cache)

    @property
    def id(self) -> str:
        return self.model.ref.id

    def run(self, cell: Cell) -> StoredRun:
        found = self.store.get(self.specs[cell])
        assert found is not None
        return found

    def comparison(self, measure: Measure = ACC, reference: str = "wanda") -> Comparison:
        stored = self.stored()
        assert stored.dense is not None
        choice = ComparisonChoice(measure, CRITERIA, reference, stored.groups[0], paper=False)
        return compared(self.store, load_task(TASK), stored.dense, choice)

    def stored(self) -> Stored:
        return stored_comparison(self.store, self.store.runs(), self.model.ref, load_task(TASK), N_ITEMS)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("compare")
    model = load(resolve(str(write_tiny_model(folder / "tiny"))))
    specs = comparison_specs(model.ref, TASK, CRITERIA, SPARSITIES, n=N_ITEMS, n_calibration=N_CALIBRATION)
    made = World(model, folder / "cache", folder / "shipped", specs)
    for spec in specs.values():
        finish(run_steps(spec, model, made.store))
    return made


@pytest.fixture
def page(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AppTest]:
    """The Compare page before its first run, on a copy of the world's runs."""
    shutil.copytree(world.cache, tmp_path / "cache")
    monkeypatch.setattr("cap_viz.runs.store.shipped_folder", lambda: world.shipped)
    shared_queue.cache_clear()
    yield AppTest.from_file(str(PROJECT / "app.py"), default_timeout=60)
    shared_queue.cache_clear()


def opened(test: AppTest, world: World, **query: str | list[str]) -> AppTest:
    """A deep link: the page is the first thing the session runs."""
    test.switch_page("pages/compare.py")
    for key, value in {"model": world.id, **query}.items():
        test.query_params[key] = value
    test.run()
    assert not test.exception
    return test


def texts(test: AppTest) -> str:
    elements = [*test.markdown, *test.caption, *test.info, *test.warning, *test.error]
    return "\n".join(str(element.value) for element in elements).replace("\\", "")


def forget(*cells: Cell, world: World) -> None:
    """Delete runs from the page's own copy."""
    for cell in cells:
        run = Store().get(world.specs[cell])
        assert run is not None
        shutil.rmtree(run.folder)


def saved(comparison: Comparison) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(table_csv(comparison)))


def traces(figure: go.Figure) -> list[Any]:
    return list(cast(Any, figure.data))


def labels_of(figure: go.Figure) -> list[Any]:
    return list(cast(Any, figure.layout).annotations)


def point(criterion: str, title: str, sparsity: float, value: float, hover: str) -> CurvePoint:
    return CurvePoint(criterion, title, sparsity, value, value - 5, value + 5, hover)


def shown_curves(**changes: Any) -> Curves:
    points = [
        point("wanda", "Wanda", 0.5, 50, "w"),
        point("cap", "CAP", 0.2, 60, "a"),
        point("cap", "CAP", 0.5, 49, "b"),
    ]
    usual = {"measure": "Accuracy", "unit": "%", "dense": (62, 57, 67), "guess": ("chance", 25), "points": points}
    return Curves(**{**usual, **changes})


# Figure -----------------------------------------------------------------------------------------------------------


def test_a_line_runs_from_the_dense_model_through_the_marks() -> None:
    cap_line, cap_marks, wanda_line, wanda_marks = traces(curves(shown_curves()))
    assert_allclose(cap_line.y, [62, 60, 49])
    assert_allclose(wanda_line.y, [62, 50])
    assert (cap_line.line.color, wanda_line.line.color) == ("#0072B2", "#C98600")
    # Two criteria stand half a dodge to either side of their sparsity.
    assert_allclose(cap_marks.x, [20 - 0.275, 50 - 0.275])
    assert_allclose(wanda_marks.x, [50.275])
    assert_allclose(cap_marks.error_y.array, [5, 5])
    assert_allclose(cap_marks.error_y.arrayminus, [5, 5])


def test_dense_is_dashed_in_its_band_and_chance_dotted() -> None:
    shapes = list(cast(Any, curves(shown_curves()).layout).shapes)
    band, dense, chance = shapes[:3]
    assert (band.y0, band.y1) == (pytest.approx(57), pytest.approx(67))
    assert (dense.y0, dense.line.dash) == (62, "dash")
    assert (chance.y0, chance.line.dash) == (25, "dot")


def test_every_line_is_named_at_its_end_without_collisions() -> None:
    figure = curves(shown_curves())
    named = {re.sub("<[^>]*>", "", one.text): one.y for one in labels_of(figure)}
    assert set(named) == {"dense 62.0 %", "chance 25.0 %", "● CAP 49.0 %", "■ Wanda 50.0 %"}
    layout = cast(Any, figure.layout)
    pixels = layout.height - layout.margin.t - layout.margin.b
    per_pixel = (layout.yaxis.range[1] - layout.yaxis.range[0]) / pixels
    assert min(np.diff(sorted(named.values()))) >= 15.9 * per_pixel
    assert named["■ Wanda 50.0 %"] > named["● CAP 49.0 %"]


def test_labels_move_as_little_as_possible() -> None:
    assert_allclose(spread_labels(np.array([10.0, 10.0]), 4, 0, 100), [8, 12])
    assert_allclose(spread_labels(np.array([50.0, 20.0]), 4, 0, 100), [50, 20])
    # Against the lower edge the pair moves up together; where nothing fits the gap shrinks.
    assert_allclose(spread_labels(np.array([1.0, 1.0]), 4, 0, 100), [0, 4])
    assert_allclose(spread_labels(np.array([5.0, 5.0, 5.0]), 40, 0, 10), [0, 5, 10])


def test_neighbouring_sparsities_never_share_marks() -> None:
    assert dodges(1, [20.0]) == [0.0]
    offsets = dodges(8, [10.0, 12.0])
    assert max(offsets) - min(offsets) == pytest.approx(0.45 * 2)


def test_sparsities_too_close_to_label_are_left_out() -> None:
    assert readable_ticks([10, 20, 50], 52.5) == [10, 20, 50]
    assert readable_ticks([10, 11, 50], 52.5) == [11, 50]


def test_the_paper_s_points_are_hollow_diamonds_inside_the_range() -> None:
    paper = (point("cap", "CAP", 0.1, 74.2, "second-hand"), point("wanda", "Wanda", 0.5, 8.5, "second-hand"))
    figure = curves(shown_curves(paper=paper))
    cap, wanda = traces(figure)[-2:]
    assert (cap.marker.symbol, cap.marker.color) == ("diamond-open", criterion_colour("cap"))
    assert_allclose([*cap.y, *wanda.y], [74.2, 8.5])
    assert cap.error_y.array is None, "a paper without intervals has no whiskers"
    low, high = cast(Any, figure.layout).yaxis.range
    assert low < 8.5
    assert high > 74.2


def test_on_the_floor_everything_is_greyed() -> None:
    assert {trace.opacity for trace in traces(curves(shown_curves(greyed=True)))} == {0.35}


def test_unknown_criteria_are_drawn_after_the_known_ones() -> None:
    assert display_order({"zeta", "wanda", "alpha", "cap"}) == ["cap", "wanda", "alpha", "zeta"]
    points = [point("novel", "novel", 0.5, 40, "n"), point("cap", "CAP", 0.5, 40, "c")]
    figure = curves(shown_curves(points=points))
    assert [trace.name for trace in traces(figure)][1::2] == ["CAP", "novel"]


def test_losses_are_drawn_in_nats() -> None:
    figure = curves(shown_curves(measure="Choice loss", unit="nats", dense=(0.62, 0.5, 0.7)))
    assert_allclose(traces(figure)[0].y[0], 0.62)
    assert cast(Any, figure.layout).yaxis.title.text == "choice loss, nats"
    assert any("dense 0.620" in one.text for one in labels_of(figure))


def test_the_figure_says_its_numbers() -> None:
    said = shown_curves().in_words()
    assert {"62.0", "57.0", "67.0", "25.0", "20", "60.0", "50", "49.0"} <= numbers(said)
    assert all(name in said for name in ("CAP", "Wanda", "dense", "chance"))


# The answer to the fixed question ---------------------------------------------------------------------------------


def shipped_page(**query: str | list[str]) -> AppTest:
    test = AppTest.from_file(str(PROJECT / "app.py"), default_timeout=120)
    test.switch_page("pages/compare.py")
    for key, value in query.items():
        test.query_params[key] = value
    test.run()
    assert not test.exception
    return test


def shown_strip(test: AppTest) -> pd.DataFrame:
    return next(table.value for table in test.table if "Choice loss" in table.value.index)


@pytest.mark.usefixtures("all_shipped")
def test_the_answer_stands_first_and_nothing_ticked_moves_it() -> None:
    """The verdict depended on which curves were ticked, and on the evaluation size."""
    test = shipped_page(task="mini_science")
    store = Store()
    runs = store.runs()
    ref = next(run.spec.model for run in runs if run.spec.model.id == DEFAULT_MODEL)
    found = fixed_question(store, runs, ref, load_task("mini_science"))
    assert found is not None
    first = shown_strip(test)
    pd.testing.assert_frame_equal(first, strip(found))
    assert first.columns.tolist() == ["10 %", "20 %", "50 %"]
    # Both measures are said: they differ here.
    assert "CAP ahead" in first.loc["Choice loss", "20 %"]
    assert "CAP ahead" not in first.loc["Accuracy", "20 %"]
    assert "Wanda ahead" in first.loc["Accuracy", "50 %"]
    assert set(first.loc["Running text"]) == {NOT_MEASURED}
    assert "by choice loss, no clear difference by accuracy" in summary(found)
    assert any("57.2" in numbers(one.value) and "CAP fine" in one.value for one in test.markdown), "best at 50 %"
    # At most four curves, the dense model's among them.
    figure = json.loads(test.get("plotly_chart")[0].proto.spec)
    assert {trace["name"] for trace in figure["data"] if "name" in trace} == {"CAP", "Wanda", "CAP fine"}
    test.multiselect(key="criteria").set_value(["cap", "taylor"]).run()
    test.selectbox(key="reference").set_value("magnitude").run()
    test.segmented_control(key="measure").set_value("choice_nll").run()
    test.selectbox(key="n").set_value("600").run()
    assert not test.exception
    pd.testing.assert_frame_equal(shown_strip(test), first)
    assert not any("Holm" in column or column == "p" for column in test.dataframe[0].value)


@pytest.mark.usefixtures("all_shipped")
def test_among_guesses_nobody_is_crowned() -> None:
    test = shipped_page(task="strategyqa")
    shown = shown_strip(test)
    assert all(AT_CHANCE in shown.loc["Accuracy", place] for place in ("20 %", "50 %"))
    assert shown.loc["Accuracy", "10 %"] == NOT_MEASURED
    assert not any("Best at" in one.value for one in test.markdown)
    assert AT_CHANCE in set(test.dataframe[0].value["Note"])


@pytest.mark.usefixtures("all_shipped")
def test_running_text_is_measured_by_a_button(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default task listed no CAP and no Wanda on running text, and said nothing."""
    asked: list[EvalSpec] = []
    monkeypatch.setattr("cap_viz.dashboard.frame.install_hint", lambda model_id: "")
    monkeypatch.setattr("cap_viz.dashboard.components.submission.submit_run", lambda spec, title: asked.append(spec))
    test = shipped_page(task="mini_science")
    test.button(key="compare_measure_text").click().run()
    assert not test.exception
    ref = resolve(DEFAULT_MODEL).ref if asked == [] else asked[0].model
    assert asked == missing_text(Store(), ref, load_task("mini_science"))
    # All of ARC-Easy's are stored.
    assert not [one for one in shipped_page(task="arc_easy").button if one.key == "compare_measure_text"]


@pytest.mark.usefixtures("all_shipped")
def test_what_the_causal_scores_add_is_asked_by_the_same_rule() -> None:
    test = shipped_page(task="mini_science")
    tables = [table.value for table in test.table if "Choice loss" in table.value.index]
    assert len(tables) == 2
    assert all("CAP ahead" in tables[1].loc["Choice loss", place] for place in ("10 %", "20 %", "50 %"))


# Own comparisons --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("all_shipped")
def test_a_loss_above_an_even_guess_is_explained() -> None:
    store = Store()
    runs = store.runs()
    ref = next(run.spec.model for run in runs if run.spec.model.id == DEFAULT_MODEL)
    task = load_task("mini_science")
    stored = stored_comparison(store, runs, ref, task, 600)
    assert stored.dense is not None
    by_measure = {
        one: compared(
            store, task, stored.dense, ComparisonChoice(one, ("cap",), "wanda", stored.groups[0], paper=False)
        )
        for one in (ACC, CHOICE_LOSS)
    }
    loss = by_measure[CHOICE_LOSS]
    dense = loss.levels[DENSE].value
    assert dense > loss.guess
    levels = {f"{dense:.3f}", f"{loss.guess:.3f}", f"{100 * loss.test.accuracy:.1f}"}
    assert levels <= numbers(loss_level_note(loss))
    assert not loss_level_note(by_measure[ACC])


@pytest.mark.usefixtures("all_shipped")
def test_whole_heads_stand_at_the_share_of_weights_they_remove() -> None:
    """20 % of the heads stood beside 20 % of the weights, and the page called them clearly better."""
    store, task = Store(), load_task("toy_math")
    runs = store.runs()
    ref = next(run.spec.model for run in runs if run.spec.model.id == "toy-reasoner")
    stored = stored_comparison(store, runs, ref, task, 200)
    assert stored.dense is not None
    choice = ComparisonChoice(ACC, ("head", "wanda"), "wanda", stored.groups[0], paper=False)
    both = compared(store, task, stored.dense, choice)
    cells = [cell for cell in both.cells if cell[0] == "head"]
    assert cells
    for cell in cells:
        zeros = load_zeros(store, both.runs[cell])
        assert both.share(cell) == pytest.approx(zeros.reached[0])
        assert 0 < both.share(cell) < 0.5 * cell[1]
    assert not [one for one in both.differences if "head" in (one.first[0], one.second[0])]
    points = {point.criterion for point in curves_of(both).points if point.between}
    assert points == {"head"}
    table = saved(both).query("criterion == 'head'")
    assert table["sparsity"].tolist() == pytest.approx([both.share(cell) for cell in cells])
    assert table["sparsity_asked"].tolist() == [cell[1] for cell in cells]
    assert table["against"].isna().to_numpy().all()
    most = max(cells, key=lambda cell: cell[1])
    assert {f"{100 * both.share(most):.1f}", f"{100 * most[1]:.0f}"} <= numbers(unit_note(both))
    # The dense model is no criterion: everything may be compared with it.
    against_dense = compared(store, task, stored.dense, replace(choice, reference="dense"))
    assert {one.second for one in against_dense.differences if one.first[0] == "head"} == {DENSE}


def test_between_two_guesses_the_table_says_so(world: World) -> None:
    """A share below chance was called the best one."""
    comparison = world.comparison()
    assert {DENSE, *comparison.cells} == set(comparison.at_chance)
    assert all(comparison.guesses(one) for one in comparison.differences)
    assert not any(world.comparison(CHOICE_LOSS).guesses(one) for one in world.comparison(CHOICE_LOSS).differences)
    note = saved(comparison)["note"].dropna()
    assert set(note) == {AT_CHANCE, "reference"}


# Table and files --------------------------------------------------------------------------------------------------


def test_the_table_holds_every_cell_and_its_paired_differences(world: World) -> None:
    comparison = world.comparison()
    table = shown_table(comparison)
    # CAP twice (reference and control), the reference once, the control once; at two sparsities.
    assert table["Criterion"].tolist() == ["CAP", "CAP", "Wanda", "Global magnitude"] * 2
    assert table["Against"].tolist()[:4] == ["Wanda", "Global magnitude", "–", "Wanda"]
    assert len(comparison.differences) == 6
    first = compare_paired(*(load_report(world.store, world.run((name, 0.2))).correct for name in ("cap", "wanda")))
    row = table.iloc[0]
    assert row["Difference"] == pytest.approx(100 * first.difference)
    assert [row["Gained"], row["Lost"]] == [first.only_a, first.only_b]
    assert row["Detectable"] == pytest.approx(100 * first.minimum_detectable)


def test_against_dense_every_criterion_has_a_difference(world: World) -> None:
    comparison = world.comparison(reference="dense")
    pairs = {(one.first, one.second) for one in comparison.differences}
    assert {(cell, DENSE) for cell in comparison.cells} <= pairs
    assert (("cap", 0.5), ("global_magnitude", 0.5)) in pairs
    for one in comparison.differences:
        if one.second == DENSE:
            expected = comparison.levels[one.first].value - comparison.levels[DENSE].value
            assert one.result.difference == pytest.approx(expected)


def test_losses_have_no_flips(world: World) -> None:
    comparison = world.comparison(CHOICE_LOSS)
    table = shown_table(comparison)
    assert "Gained" not in table
    losses = load_report(world.store, world.run(("cap", 0.5))).losses("choice_nll")
    assert comparison.levels["cap", 0.5].value == pytest.approx(losses.mean())
    assert set(saved(comparison)["measure"]) == {"choice_nll"}


def test_files_say_what_the_page_says(world: World) -> None:
    comparison = world.comparison()
    table = saved(comparison)
    assert table["criterion"].tolist() == ["dense", *(["cap", "cap", "wanda", "global_magnitude"] * 2)]
    assert table["value"].tolist()[0] == pytest.approx(load_report(world.store, world.run(DENSE)).acc)
    assert set(table["task"]) == {TASK}
    compared_rows = table[table["against"].notna()]
    assert_allclose(compared_rows["p_unadjusted"], [one.result.p_value for one in comparison.differences])
    assert_allclose(compared_rows["difference"], [one.result.difference for one in comparison.differences])
    assert set(table["run"]) == {run.key for run in comparison.runs.values()}
    page = figure_html(curves(shown_curves()), "A title").decode()
    assert "A title" in page
    assert "<script src=" not in page, "it must open without a network"


def test_the_comparison_is_the_library_s(world: World) -> None:
    for one in world.comparison().differences:
        reports = [load_report(world.store, world.run(cell)) for cell in (one.first, one.second)]
        assert one.result == compare_paired(reports[0].correct, reports[1].correct)


# The page ---------------------------------------------------------------------------------------------------------


def test_the_page_shows_figure_facts_and_table(world: World, page: AppTest) -> None:
    opened(page, world)
    assert len(page.get("plotly_chart")) == 1
    comparison = world.comparison()
    (facts,) = [caption.value for caption in page.caption if "-badge[live]" in caption.value]
    assert {str(comparison.n), str(N_ITEMS), str(N_CALIBRATION)} <= numbers(facts)
    # CAP with its control and Wanda, at two sparsities: global magnitude is not shown at first.
    assert page.multiselect(key="criteria").value == [name for name in FIRST_SHOWN if name in CRITERIA]
    assert len(page.dataframe[0].value) == 6
    assert "python -m cap_viz compare" in page.code[-1].value
    # Masks from two examples do not answer the fixed question, and the page says what does.
    assert "48" in numbers(texts(page))
    assert not [table for table in page.table if "Choice loss" in table.value.index]
    assert not shared_queue().listing()


def test_the_link_sets_every_control(world: World, page: AppTest) -> None:
    opened(page, world, measure="choice_nll", criteria=["cap", "global_magnitude"], reference="dense")
    assert page.multiselect(key="criteria").value == ["cap", "global_magnitude"]
    assert page.selectbox(key="reference").value == "dense"
    table = page.dataframe[0].value
    assert set(table["Criterion"]) == {"CAP", "Global magnitude"}
    assert "Choice loss" in table


def test_a_link_with_nonsense_says_so(world: World, page: AppTest) -> None:
    opened(page, world, measure="f1", criteria=["cap", "magic"], reference="luck")
    notes = [note.value for note in page.info]
    for control, asked in (("measure", "f1"), ("criteria", "magic"), ("reference", "luck")):
        (note,) = [note for note in notes if asked in note]
        assert control in note
    assert page.selectbox(key="reference").value == "wanda"


def test_clearing_the_criteria_keeps_the_page_up(world: World, page: AppTest) -> None:
    opened(page, world)
    assert not bold_titles(page)
    page.multiselect(key="criteria").set_value([]).run()
    assert not page.exception
    assert len(bold_titles(page)) == 1
    assert len(page.get("plotly_chart")) == 1
    assert not page.dataframe


def test_groups_are_never_mixed_without_a_word(world: World, page: AppTest) -> None:
    other = mask_spec_for(world.model.ref, "wanda", 0.5, task=TASK, n=N_CALIBRATION, seed=1)
    spec = replace(world.specs["wanda", 0.5], mask=other)
    finish(run_steps(spec, world.model, Store()))
    opened(page, world)
    control = page.selectbox(key="basis")
    assert control.value == f"{TASK}-n{N_CALIBRATION}-seed0"
    assert len(set(control.options)) == 2
    control.set_value(f"{TASK}-n{N_CALIBRATION}-seed1").run()
    assert not page.exception
    assert "draw 1" in texts(page)
    assert "CAP" not in page.dataframe[0].value["Criterion"].tolist()


def test_nothing_stored_is_an_invitation(world: World, page: AppTest) -> None:
    shutil.rmtree(Store().local)
    opened(page, world)
    (title,) = bold_titles(page)
    assert load_task(TASK).title in title
    assert "compare_prune" in [button.key for button in page.button]
    assert not page.get("plotly_chart")
    command = page.code[-1].value
    assert "--criteria cap,wanda,magnitude,global_magnitude --sparsities 0.1,0.2,0.5 --n" in command
    assert f"--task {TASK} " in command


def test_with_only_the_dense_run_it_is_drawn_alone(world: World, page: AppTest) -> None:
    forget(*(cell for cell in world.specs if cell != DENSE), world=world)
    opened(page, world)
    (title,) = bold_titles(page)
    assert str(N_ITEMS) in numbers(title)
    assert len(page.get("plotly_chart")) == 1
    assert not page.dataframe


def test_a_damaged_run_is_told_and_left_out(world: World, page: AppTest) -> None:
    run = Store().get(world.specs["cap", 0.5])
    assert run is not None
    (run.folder / "options.parquet").write_bytes(b"not a table")
    opened(page, world)
    for _ in range(2):
        (error,) = page.error
        assert all(name in error.value.replace("\\", "") for name in ("CAP", "50 %", run.title, "options.parquet"))
        assert len(page.dataframe[0].value) == 4
        page.run()


def test_a_damaged_dense_run_is_told(world: World, page: AppTest) -> None:
    run = Store().get(world.specs[DENSE])
    assert run is not None
    (run.folder / "options.parquet").write_bytes(b"not a table")
    opened(page, world)
    told_damaged_dense(page, run)
    (title,) = bold_titles(page)
    assert world.id in title


def told_damaged_dense(page: AppTest, run: StoredRun) -> None:
    (error,) = page.error
    assert all(name in error.value.replace("\\", "") for name in ("Dense", run.title, "options.parquet"))


def test_a_damaged_dense_run_hides_no_other_size(world: World, page: AppTest) -> None:
    small = EvalSpec(world.model.ref, evaluation_set(TASK, N_ITEMS // 2))
    finish(run_steps(small, world.model, Store()))
    run = Store().get(world.specs[DENSE])
    assert run is not None
    (run.folder / "options.parquet").write_bytes(b"not a table")
    opened(page, world, n="100")
    told_damaged_dense(page, run)
    told_other_size(page, asked=100, shown=N_ITEMS // 2)


def test_another_size_shows_the_largest_and_says_so(world: World, page: AppTest) -> None:
    opened(page, world, n="600")
    told_other_size(page, asked=600, shown=N_ITEMS)


def told_other_size(page: AppTest, asked: int, shown: int) -> None:
    (note,) = [one for one in page.info if {str(asked), str(shown)} <= numbers(one.value)]
    assert str(shown) in note.value
    (facts,) = [caption.value for caption in page.caption if "-badge[" in caption.value]
    assert str(shown) in numbers(facts)


def test_a_model_that_guesses_is_called_out(world: World, page: AppTest) -> None:
    test = world.comparison().test
    assert not test.clearly_above
    opened(page, world)
    (warning,) = page.warning
    assert {f"{100 * test.accuracy:.1f}", f"{100 * test.chance:.1f}", f"{test.p_value:.2g}"} <= numbers(warning.value)
    figure = json.loads(page.get("plotly_chart")[0].proto.spec)
    assert {trace["opacity"] for trace in figure["data"]} == {0.35}


def test_a_task_without_options_says_where_to_go(world: World, page: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    # The sidebar may leave such tasks out; the page must not depend on that.
    monkeypatch.setitem(TASKS, TASK, replace(TASKS[TASK], kind="text"))
    monkeypatch.setattr("cap_viz.dashboard.frame.load_task", lambda name: replace(TASKS[TASK], kind="text"))
    opened(page, world)
    (title,) = bold_titles(page)
    assert TASKS[TASK].title in title
    assert not page.get("plotly_chart")
    assert "compare_heads" in [button.key for button in page.button]


def test_the_paper_s_numbers_are_in_their_table(world: World, page: AppTest) -> None:
    opened(page, world)
    table = page.table[0].value
    assert len(table) == 11
    assert "second-hand" in texts(page)
    assert not reported_accuracy(TASK)
    (said,) = [
        caption.value for caption in page.caption if "paper" in caption.value and TASKS[TASK].title in caption.value
    ]
    assert not numbers(said)


def test_the_paper_s_points_wait_to_be_asked_for(world: World, page: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tiny model's task stands in for one the paper reports; those need data that is not in the repository.
    def reported(name: str) -> tuple[ReportedPoint, ...]:
        return reported_accuracy("arc_challenge")

    monkeypatch.setattr("cap_viz.dashboard.compare.page.reported_accuracy", reported)
    monkeypatch.setattr("cap_viz.dashboard.compare.controls.reported_accuracy", reported)
    opened(page, world)
    assert diamonds_on(page) == 0, "second-hand numbers of another model stood in the figure unasked"
    page.toggle(key="paper").set_value(True).run()
    assert diamonds_on(page) == 2
    asked = page.query_params["paper"]
    asked = asked if isinstance(asked, str) else asked[-1]
    again = opened(AppTest.from_file(str(PROJECT / "app.py"), default_timeout=60), world, paper=asked)
    assert again.toggle(key="paper").value
    assert diamonds_on(again) == 2
    page.segmented_control(key="measure").set_value("choice_nll").run()
    assert not page.exception
    assert diamonds_on(page) == 0, "accuracies do not belong on an axis of losses"


def diamonds_on(page: AppTest) -> int:
    figure = json.loads(page.get("plotly_chart")[0].proto.spec)
    return sum(trace.get("marker", {}).get("symbol") == "diamond-open" for trace in figure["data"])


def test_perplexity_is_paired_with_dense(page: AppTest, world: World) -> None:
    mask = world.specs[("cap", 0.2)].mask
    specs = [perplexity_spec(world.model.ref, "mini_text", n_windows=4, length=48, mask=one) for one in (None, mask)]
    dense, pruned = (load_report(Store(), finish(run_steps(spec, world.model, Store()))) for spec in specs)
    test = opened(page, world)
    (shown,) = [table.value for table in test.table if "Perplexity" in table.value.columns]
    assert shown["Weights"].tolist() == ["dense", "CAP"]
    assert shown["Perplexity"].iloc[0].startswith(f"{perplexity_of(dense).value:.2f} [")
    # By hand: the mean difference of the windows' mean losses, as a factor.
    losses = [-report.logliks[:, 0] / report.questions.tokens[:, 0] for report in (pruned, dense)]
    assert shown["Against dense"].iloc[1].startswith(f"× {np.exp((losses[0] - losses[1]).mean()):.3f} [")
    other = opened(AppTest.from_file(str(PROJECT / "app.py"), default_timeout=60), world, task="arc_easy")
    assert all("Against dense" not in table.value.columns for table in other.table)


def test_tasks_without_options_compare_the_loss_on_their_solutions(page: AppTest, world: World) -> None:
    test = opened(page, world, task="mini_text")
    assert any(code.value.startswith("python -m cap_viz solution-loss --task mini_text") for code in test.code)
    mask = mask_spec_for(world.model.ref, "global_magnitude", 0.5, task="mini_text", n=2)
    specs = [solution_spec(world.model.ref, evaluation_set("mini_text", 4), one) for one in (None, mask)]
    dense, pruned = (load_report(Store(), finish(run_steps(spec, world.model, Store()))) for spec in specs)
    test.run()
    (shown,) = [table.value for table in test.table if "Token loss" in table.value.columns]
    assert shown["Weights"].tolist() == ["dense", "Global magnitude"]
    difference = (pruned.losses("nll") - dense.losses("nll")).mean()
    assert shown["Against dense"].iloc[1].startswith(f"{difference:+.3f} nats per token [".replace("-", "\u2212"))
