"""Import paths from before modules were sorted into packages: they work, and say where a name is now."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import pytest

from cap_viz._moved import MOVED


@pytest.mark.parametrize("former", MOVED)
def test_what_has_moved_is_where_the_table_says(former: str) -> None:
    import_module(f"cap_viz.{former}")
    for place in MOVED[former].split():
        assert find_spec(f"cap_viz.{place}") is not None


@pytest.mark.parametrize(
    ("module", "name", "home"),
    [
        ("models", "load_model", "models.loading"),
        ("models", "resolve", "models.catalogue"),
        ("evaluation", "evaluate", "evaluation.choice"),
        ("runs", "run_steps", "runs.execute"),
        ("store", "Store", "runs.store"),
        ("scoring", "exact_scores", "attribution.exact"),
        ("estimators", "score_heads", "attribution.estimators"),
        ("estimators.gradient", "gradient_effects", "attribution.gradient"),
        ("engine.capture", "dense_pass", "attribution.forward.dense_pass"),
        ("pruning.masks", "Mask", "pruning.mask"),
        ("results", "JointScores", "attribution.joint_scores"),
        ("generation", "generation_spec", "runs.protocols"),
    ],
)
def test_a_former_path_gives_the_very_object_with_a_warning(module: str, name: str, home: str) -> None:
    former = import_module(f"cap_viz.{module}")
    with pytest.warns(FutureWarning, match=rf"cap_viz\.{module}\.{name} is cap_viz\.{home}\.{name} now"):
        found = getattr(former, name)
    assert found is getattr(import_module(f"cap_viz.{home}"), name)


@pytest.mark.parametrize(
    ("module", "name", "home", "new"),
    [
        ("reading", "read_scores", "runs.kinds.scores", "load_scores"),
        ("reading", "read_report", "runs.kinds.evaluation", "load_report"),
        ("reading", "read_roles", "runs.kinds.patterns", "load_patterns"),
        ("engines", "EngineChoice", "runs.backends", "BackendChoice"),
        ("basis", "Basis", "runs.mask_provenance", "MaskProvenance"),
        ("stats", "MeanEstimate", "stats.head_estimate", "HeadEstimate"),
        ("measures", "Paired", "stats.paired", "PairedComparison"),
        ("stats", "PairedMeans", "stats.paired", "PairedComparison"),
        ("stats.paired_means", "PairedMeans", "stats.paired", "PairedComparison"),
        ("stats.intervals", "MeanEstimate", "stats.head_estimate", "HeadEstimate"),
    ],
)
def test_a_name_that_is_another_now_is_found_by_its_former(module: str, name: str, home: str, new: str) -> None:
    former = import_module(f"cap_viz.{module}")
    with pytest.warns(FutureWarning, match=rf"cap_viz\.{module}\.{name} is cap_viz\.{home}\.{new} now"):
        found = getattr(former, name)
    assert found is getattr(import_module(f"cap_viz.{home}"), new)


def test_names_that_never_were_are_errors() -> None:
    with pytest.raises(AttributeError, match=r"module 'cap_viz\.store' has no attribute 'Shop'"):
        _ = import_module("cap_viz.store").Shop
    with pytest.raises(ModuleNotFoundError):
        import_module("cap_viz.shop")
    with pytest.raises(ModuleNotFoundError):
        import_module("cap_viz.engine.shop")
