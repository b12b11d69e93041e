"""The Compare page: its figure, words and files, and the page itself on a tiny model's real runs."""

from __future__ import annotations

import inspect
import io
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from cap_viz.dashboard.compare.command import USUAL_N, USUAL_REFERENCE, next_command
from cap_viz.dashboard.compare.figure import CurvePoint, Curves, curves, dodges, readable_ticks, spread_labels
from cap_viz.dashboard.compare.reported import ReportedPoint, reported_accuracy
from numpy.testing import assert_allclose
from streamlit.testing.v1 import AppTest

from cap_viz.cli.compare import compare
from cap_viz.dashboard.compare.data import Comparison, ComparisonChoice, Stored, compared, stored_comparison
from cap_viz.dashboard.compare.page import curves_of, facts_of
from cap_viz.dashboard.compare.table import figure_html, shown_table, table_csv, table_json
from cap_viz.dashboard.compare.words import NO_SIGN, clause, evidence_words, loss_level_note, subject_of, verdicts
from cap_viz.dashboard.components.panels import escaped, p_words
from cap_viz.defaults import MAIN_CRITERIA, SEED
from cap_viz.defaults import N_CALIBRATION as N_CALIBRATED
from cap_viz.evaluation.eval_metrics import ACC, CHOICE_LOSS, Level, Measure
from cap_viz.evaluation.perplexity import perplexity_of
from cap_viz.figures.theme import criterion_colour, display_order
from cap_viz.models.catalogue import resolve
from cap_viz.models.loading import ReasoningModel, load
from cap_viz.progress import finish
from cap_viz.runs.comparison import DENSE, Cell, Contrast, comparison_specs
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds.evaluation import load_report
from cap_viz.runs.kinds.profile import load_zeros
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.protocols import perplexity_spec, solution_spec
from cap_viz.runs.queue import shared_queue
from cap_viz.runs.spec import EvalSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.settings import PROJECT
from cap_viz.stats import Interval, compare_paired
from cap_viz.tasks import TASKS, load_task
from cap_viz.tasks.example_sets import evaluation_set
from tests.tiny import listed_run, write_tiny_model
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


def traces(figure: go.Figure) -> list[Any]:
    return list(cast(Any, figure.data))


def labels_of(figure: go.Figure) -> list[Any]:
    return list(cast(Any, figure.layout).annotations)


def level(value: float, room: float = 0.05) -> Level:
    return Level(value, Interval(value - room, value + room))


def shown_curves(**changes: Any) -> Curves:
    points = [
        CurvePoint("wanda", 0.5, level(0.5), "w"),
        CurvePoint("cap", 0.2, level(0.6), "a"),
        CurvePoint("cap", 0.5, level(0.49), "b"),
    ]
    return Curves(**{"measure": ACC, "dense": level(0.62), "guess": 0.25, "points": points, **changes})


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
    paper = (ReportedPoint("t", "accuracy", "cap", 0.1, 0.742), ReportedPoint("t", "accuracy", "wanda", 0.5, 0.085))
    figure = curves(shown_curves(paper=paper))
    cap, wanda = traces(figure)[-2:]
    assert (cap.marker.symbol, cap.marker.color) == ("diamond-open", criterion_colour("cap"))
    assert_allclose([*cap.y, *wanda.y], [74.2, 8.5])
    assert "second-hand" in cap.text[0]
    low, high = cast(Any, figure.layout).yaxis.range
    assert low < 8.5
    assert high > 74.2


def test_on_the_floor_everything_is_greyed() -> None:
    assert {trace.opacity for trace in traces(curves(shown_curves(greyed=True)))} == {0.35}


def test_unknown_criteria_are_drawn_after_the_known_ones() -> None:
    assert display_order({"zeta", "wanda", "alpha", "cap"}) == ["cap", "wanda", "alpha", "zeta"]
    points = [CurvePoint("novel", 0.5, level(0.4), "n"), CurvePoint("cap", 0.5, level(0.4), "c")]
    figure = curves(shown_curves(points=points))
    assert [trace.name for trace in traces(figure)][1::2] == ["CAP", "novel"]


def test_losses_are_drawn_in_nats() -> None:
    figure = curves(shown_curves(measure=CHOICE_LOSS))
    assert_allclose(traces(figure)[0].y, [0.62, 0.6, 0.49])
    assert cast(Any, figure.layout).yaxis.title.text == "choice loss, nats"


# Words ------------------------------------------------------------------------------------------------------------


def contrast(difference: float, p: float, p_holm: float, low: float, high: float) -> Contrast:
    result = replace(compare_paired(np.array([True, False]), np.array([True, True])), difference=difference)
    result = replace(result, ci=Interval(low, high), p_value=p)
    return Contrast(("cap", 0.5), ("wanda", 0.5), result, p_holm)


def test_a_clear_difference_is_said_with_its_direction_and_interval() -> None:
    found = contrast(-0.1367, 0.00002, 0.0001, -0.197, -0.077)
    assert found.evidence == "clear"
    said = clause(found, ACC)
    assert {"13.7", "7.7", "19.7"} <= numbers(said)
    assert all(word in said for word in ("points", "below", "Wanda"))
    assert "worse" in evidence_words(found, ACC)
    # As a loss, less is better.
    said = clause(found, CHOICE_LOSS)
    assert {"0.137", "0.077", "0.197"} <= numbers(said)
    assert all(word in said for word in ("nats", "better", "Wanda"))
    assert "better" in evidence_words(found, CHOICE_LOSS)


def test_noise_is_called_noise() -> None:
    found = contrast(0.02, 0.21, 1.0, -0.007, 0.047)
    assert found.evidence == "noise"
    for said in (clause(found, ACC), evidence_words(found, ACC)):
        assert "noise" in said
        assert not any(word in said for word in ("above", "better"))
    assert "Wanda" in clause(found, ACC)
    assert {"+2.0", "−0.7", "+4.7"} <= numbers(clause(found, ACC))


@pytest.mark.parametrize(("low", "high"), [(-0.061, -0.002), (0.002, 0.035)])
def test_an_interval_without_0_is_never_called_noise(low: float, high: float) -> None:
    """The page printed “within noise of Wanda (−6.1 to −0.2)”: an exact test beside a bootstrap interval."""
    found = contrast((low + high) / 2, 0.06, 0.2, low, high)
    assert found.evidence == "alone"
    assert not any("noise" in said for said in (clause(found, ACC), evidence_words(found, ACC)))
    assert contrast(0.02, 0.01, 0.02, -0.001, 0.041).evidence == "alone"


def test_what_does_not_survive_the_adjustment_says_so() -> None:
    found = contrast(0.04, 0.023, 0.16, 0.01, 0.07)
    assert found.evidence == "alone"
    said = clause(found, ACC)
    assert all(word in said for word in ("above", "Wanda"))
    assert {"4.0", "1.0", "7.0", p_words(0.023), p_words(0.16)} <= numbers(said)
    assert all(word in evidence_words(found, ACC) for word in ("better", "Holm"))
    assert evidence_words(found, ACC) != evidence_words(replace(found, p_holm=0.03), ACC)


def test_verdicts_name_reference_and_control_at_every_sparsity(world: World) -> None:
    said = verdicts(world.comparison())
    assert [sentence[:8] for sentence in said] == ["**20 %**", "**50 %**"]
    assert all("Wanda" in sentence and "Global magnitude" in sentence for sentence in said)
    assert all(
        "Dense" not in sentence and "dense" in sentence for sentence in verdicts(world.comparison(reference="dense"))
    )


@pytest.mark.usefixtures("all_shipped")
@pytest.mark.parametrize(
    ("model", "task", "n", "controls"),
    [
        ("smollm2-135m-instruct-q4_1", "mini_science", 600, {"global_magnitude"}),
        ("toy-reasoner", "toy_math", 200, {"global_magnitude", "shuffled_cap"}),
    ],
)
def test_what_causal_scores_add_is_judged_by_both_measures(model: str, task: str, n: int, controls: set[str]) -> None:
    """The first screen said "no sign" from accuracy where the choice loss of the same answers was clearly better."""
    store = Store()
    runs = store.runs()
    ref = next(run.spec.model for run in runs if run.spec.model.id == model)
    stored = stored_comparison(store, runs, ref, load_task(task), n)
    assert stored.dense is not None
    criteria = ("cap", "wanda", "global_magnitude")
    choices = [ComparisonChoice(one, criteria, "wanda", stored.groups[0], paper=False) for one in (ACC, CHOICE_LOSS)]
    by_measure = {choice.measure: compared(store, load_task(task), stored.dense, choice) for choice in choices}
    for shown in by_measure.values():
        check_evidence(shown, by_measure, controls)
    # SmolLM2's loss is above an even guess although most answers are right, which needs a word; the toy's is not.
    loss = by_measure[CHOICE_LOSS]
    dense = loss.levels[DENSE].value
    levels = {f"{dense:.3f}", f"{loss.guess:.3f}", f"{100 * loss.test.accuracy:.1f}"}
    assert (levels <= numbers(loss_level_note(loss))) == (dense > loss.guess) == (task == "mini_science")
    assert not loss_level_note(by_measure[ACC])


@pytest.mark.usefixtures("all_shipped")
def test_whole_heads_stand_at_the_share_of_weights_they_remove() -> None:
    """20 % of the heads stood beside 20 % of the weights, and the page called them clearly better."""
    store, task = Store(), load_task("toy_math")
    runs = store.runs()
    ref = next(run.spec.model for run in runs if run.spec.model.id == "toy-reasoner")
    stored = stored_comparison(store, runs, ref, task, 200)
    assert stored.dense is not None

    def shown(reference: str, *criteria: str) -> Comparison:
        assert stored.dense is not None
        return compared(store, task, stored.dense, ComparisonChoice(ACC, criteria, reference, stored.groups[0], False))

    both = shown("wanda", "head", "wanda")
    cells = [cell for cell in both.cells if cell[0] == "head"]
    assert cells
    for cell in cells:
        zeros = load_zeros(store, both.runs[cell])
        assert both.share(cell) == pytest.approx(zeros.reached[0])
        assert 0 < both.share(cell) < 0.5 * cell[1]
    assert not [one for one in both.contrasts if "head" in (one.first[0], one.second[0])]
    assert subject_of(both) is None
    points = {point.criterion for point in curves_of(both).points if point.between}
    assert points == {"head"}
    table = pd.read_csv(io.BytesIO(table_csv(both))).query("criterion == 'head'")
    assert table["sparsity"].tolist() == pytest.approx([both.share(cell) for cell in cells])
    assert table["sparsity_asked"].tolist() == [cell[1] for cell in cells]
    assert table["against"].isna().to_numpy().all()
    # The dense model is no criterion: everything may be compared with it.
    (said, *_) = verdicts(shown("dense", "head"))
    assert {f"{100 * both.share(cells[0]):.1f}", f"{100 * cells[0][1]:.0f}"} <= numbers(said)


def test_among_guesses_nobody_wins(world: World) -> None:
    """A share below chance was called the best one."""
    comparison = world.comparison()
    assert {DENSE, *comparison.cells} == set(comparison.at_chance)
    assert all(
        comparison.guesses(one, ACC) and not comparison.guesses(one, CHOICE_LOSS) for one in comparison.contrasts
    )
    assert not any(word in said for said in verdicts(comparison) for word in ("above Wanda", "below", "noise"))
    verdict = pd.read_csv(io.BytesIO(table_csv(comparison)))["verdict"].dropna()
    assert set(verdict) == {"both at chance", "reference"}


def check_evidence(shown: Comparison, by_measure: dict[Measure, Comparison], controls: set[str]) -> None:
    said = dict(zip(shown.sparsities, verdicts(shown), strict=True))
    differing = 0
    for sparsity in shown.sparsities:
        evidence = shown.causal_evidence(sparsity)
        assert {one.second[0] for _, one in evidence} == controls
        # The other measure's contrasts are those of its own table, adjustment and all.
        for one_measure, one in evidence:
            assert by_measure[one_measure].contrast(one.first, one.second) == one
        found = {one.evidence for _, one in evidence}
        assert (NO_SIGN in said[sparsity]) == (found == {"noise"})
        by_accuracy = {one.evidence for one_measure, one in evidence if one_measure == ACC}
        by_loss = {one.evidence for one_measure, one in evidence if one_measure == CHOICE_LOSS}
        # Accuracies that may all be guesses are no evidence.
        assert (ACC.title.lower() in said[sparsity]) == bool(by_accuracy)
        assert CHOICE_LOSS.title.lower() in said[sparsity]
        differing += by_accuracy == {"noise"} and "clear" in by_loss
    assert differing, "no sparsity at which the two measures differ: the test says nothing"


def test_causal_scores_are_no_verdict_about_other_criteria(world: World) -> None:
    """Wanda beside global magnitude was said to tell whether CAP's causal scores help."""
    stored = world.stored()
    assert stored.dense is not None
    choice = ComparisonChoice(ACC, ("wanda",), "global_magnitude", stored.groups[0], paper=False)
    found = verdicts(compared(world.store, load_task(TASK), stored.dense, choice))
    assert len(found) == 2
    assert not any("causal" in sentence for sentence in found)


# Table and files --------------------------------------------------------------------------------------------------


def test_the_table_holds_every_cell_and_its_paired_differences(world: World) -> None:
    comparison = world.comparison()
    table = shown_table(comparison)
    # CAP twice (reference and control), the reference once, the control once; at two sparsities.
    assert table["Criterion"].tolist() == ["CAP", "CAP", "Wanda", "Global magnitude"] * 2
    assert table["Against"].tolist()[:4] == ["Wanda", "Global magnitude", "–", "Wanda"]
    assert len(comparison.contrasts) == 6
    first = compare_paired(*(load_report(world.store, world.run((name, 0.2))).correct for name in ("cap", "wanda")))
    row = table.iloc[0]
    assert row["Difference"] == pytest.approx(100 * first.difference)
    assert [row["Gained"], row["Lost"], row["p"]] == [first.only_a, first.only_b, first.p_value]
    assert row["Detectable"] == pytest.approx(100 * first.minimum_detectable)
    assert row["Holm p"] >= row["p"]


def test_against_dense_every_criterion_has_a_difference(world: World) -> None:
    comparison = world.comparison(reference="dense")
    pairs = {(one.first, one.second) for one in comparison.contrasts}
    assert {(cell, DENSE) for cell in comparison.cells} <= pairs
    assert (("cap", 0.5), ("global_magnitude", 0.5)) in pairs
    for one in comparison.contrasts:
        if one.second == DENSE:
            expected = comparison.levels[one.first].value - comparison.levels[DENSE].value
            assert one.result.difference == pytest.approx(expected)


def test_losses_have_no_flips(world: World) -> None:
    comparison = world.comparison(CHOICE_LOSS)
    table = shown_table(comparison)
    assert "Gained" not in table
    losses = load_report(world.store, world.run(("cap", 0.5))).losses("choice_nll")
    assert comparison.levels["cap", 0.5].value == pytest.approx(losses.mean())
    assert json.loads(table_json(comparison))["measure"] == "choice_nll"


def test_files_say_what_the_page_says(world: World) -> None:
    comparison = world.comparison()
    table = pd.read_csv(io.BytesIO(table_csv(comparison)))
    assert table["criterion"].tolist() == ["dense", *(["cap", "cap", "wanda", "global_magnitude"] * 2)]
    assert table["value"].tolist()[0] == pytest.approx(load_report(world.store, world.run(DENSE)).acc)
    content = json.loads(table_json(comparison))
    assert content["built_on"] == f"{TASK}-n{N_CALIBRATION}-seed0"
    assert len(content["contrasts"]) == len(comparison.contrasts)
    assert {run["key"] for run in content["runs"]} == {run.key for run in comparison.runs.values()}
    page = figure_html(curves(shown_curves()), "A title").decode()
    assert "A title" in page
    assert "<script src=" not in page, "it must open without a network"


def test_the_comparison_is_the_library_s(world: World) -> None:
    for one in world.comparison().contrasts:
        reports = [load_report(world.store, world.run(cell)) for cell in (one.first, one.second)]
        assert one.result == compare_paired(reports[0].correct, reports[1].correct)


# Commands ---------------------------------------------------------------------------------------------------------


def test_the_command_names_what_is_missing(world: World) -> None:
    stored = world.stored()
    found = next_command(stored, stored.groups[0], model=world.id, task=TASK, n=N_ITEMS, reference="wanda").text
    assert found == (
        f"python -m cap_viz compare --task {TASK} --model {world.id} --criteria cap,wanda,magnitude,global_magnitude "
        f"--sparsities 0.1,0.2,0.5 --n {N_ITEMS} --n-calibration {N_CALIBRATION}"
    )


def test_with_nothing_missing_the_command_goes_on_to_other_sparsities(world: World) -> None:
    group = world.stored().groups[0]
    every = {(name, sparsity): world.run(("cap", 0.2)) for name in MAIN_CRITERIA for sparsity in (0.1, 0.2, 0.5)}
    full = replace(group, runs=every)
    found = next_command(world.stored(), full, model="m", task=TASK, n=N_ITEMS, reference="dense")
    assert "--sparsities 0.3,0.4,0.6 --against dense" in found.text


def test_options_left_out_have_the_shell_s_own_defaults() -> None:
    defaults = {name: option.default for name, option in inspect.signature(compare).parameters.items()}
    assert (defaults["against"], defaults["n"]) == (USUAL_REFERENCE, USUAL_N)
    assert (defaults["n_calibration"], defaults["seed"], defaults["metric"]) == (N_CALIBRATED, SEED, "nll")


def test_what_the_shell_cannot_compute_is_said(world: World) -> None:
    spec = mask_spec_for(world.model.ref, "cap", 0.5, task=TASK, n=2, scope="mlp")
    run = listed_run(replace(world.specs["cap", 0.5], mask=spec))
    stored = stored_comparison(world.store, [run, world.run(DENSE)], world.model.ref, load_task(TASK), N_ITEMS)
    found = next_command(stored, stored.groups[0], model="m", task=TASK, n=N_ITEMS, reference="wanda")
    assert found.text == ""
    assert "Prune page" in found.reason


# The page ---------------------------------------------------------------------------------------------------------


def test_the_page_shows_figure_verdicts_and_table(world: World, page: AppTest) -> None:
    opened(page, world)
    assert len(page.get("plotly_chart")) == 1
    shown = texts(page)
    comparison = world.comparison()
    assert len(comparison.sparsities) == len(verdicts(comparison)) == 2
    assert all(sentence in shown for sentence in verdicts(comparison))
    (facts,) = [caption.value for caption in page.caption if "-badge[live]" in caption.value]
    assert all(fact in facts.replace("\\", "") for fact in facts_of(comparison)[:-1])
    assert {str(N_ITEMS), str(N_CALIBRATION), "0"} <= numbers(facts)
    assert len(page.dataframe[0].value) == 8
    assert "python -m cap_viz compare" in page.code[-1].value
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
    for control, asked in (("measure", "f1"), ("criterion", "magic"), ("reference", "luck")):
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
    names = page.selectbox(key="basis").options
    assert names == [f"{TASK}-n{N_CALIBRATION}-seed0", f"{TASK}-n{N_CALIBRATION}-seed1"]
    page.selectbox(key="basis").set_value(names[1]).run()
    assert not page.exception
    assert "seed 1" in texts(page)
    assert "CAP" not in page.dataframe[0].value["Criterion"].tolist()


def test_nothing_stored_is_an_invitation(world: World, page: AppTest) -> None:
    shutil.rmtree(Store().local)
    opened(page, world)
    (title,) = bold_titles(page)
    assert str(page.selectbox(key="model").value) in title
    assert load_task(TASK).title in title
    assert "compare_prune" in [button.key for button in page.button]
    assert not page.get("plotly_chart")
    assert "--criteria cap,wanda,magnitude,global_magnitude --sparsities 0.1,0.2,0.5" in page.code[-1].value


def test_pruned_runs_without_their_dense_one_are_mentioned(world: World, page: AppTest) -> None:
    forget(DENSE, world=world)
    opened(page, world)
    assert len(bold_titles(page)) == 1
    assert len(world.specs) == 7
    assert "6" in numbers(texts(page))
    assert not page.get("plotly_chart")


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
        assert len(page.dataframe[0].value) == 6
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
    (note,) = page.info
    assert {str(asked), str(shown)} <= numbers(note.value)
    (facts,) = [caption.value for caption in page.caption if "-badge[" in caption.value]
    assert str(shown) in numbers(facts)


def test_other_sizes_that_are_stored_are_named(world: World, page: AppTest) -> None:
    opened(page, world)
    before = [caption.value for caption in page.main.caption]
    finish(run_steps(EvalSpec(world.model.ref, evaluation_set(TASK, N_ITEMS // 2)), world.model, Store()))
    page.run()
    (added,) = [caption.value for caption in page.main.caption if caption.value not in before]
    assert numbers(added) == {str(N_ITEMS // 2)}


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
    (said,) = [caption.value for caption in page.caption if "paper" in caption.value and escaped(TASK) in caption.value]
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
    (link,) = [code.value for code in page.code if "paper=" in code.value]
    (asked,) = parse_qs(urlsplit(link).query)["paper"]
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
    (shown,) = [table.value for table in test.table if "Loss" in table.value.columns]
    assert shown["Weights"].tolist() == ["dense", "Global magnitude"]
    difference = (pruned.losses("nll") - dense.losses("nll")).mean()
    assert shown["Against dense"].iloc[1].startswith(f"{difference:+.3f} [".replace("-", "\u2212"))


def test_without_perplexity_the_command_is_shown(page: AppTest, world: World) -> None:
    test = opened(page, world)
    assert any(code.value.startswith("python -m cap_viz perplexity --text") for code in test.code)
