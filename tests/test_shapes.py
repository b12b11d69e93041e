"""Shapes in annotations are checked while tests run: all of them, and the check bites."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, get_type_hints

import jaxtyping
import numpy as np
import pytest
import torch

from cap_viz.attribution.forward.backward import nll
from cap_viz.attribution.gradient import GradientBlock
from cap_viz.models.tensors import Tensor
from cap_viz.pruning.calibration.activations import wanda_score
from cap_viz.stats.multiple import holm_flat
from tests import CHECKED, holds_shape

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@pytest.fixture(scope="module")
def modules(request: pytest.FixtureRequest) -> list[ModuleType]:
    """All modules under the check, imported."""
    *names, check = str(request.config.getoption("jaxtyping_packages")).split(",")
    assert check.strip() == "tests.check_shapes"
    found = []
    for name in names:
        module = importlib.import_module(name.strip())
        inner = pkgutil.walk_packages(getattr(module, "__path__", []), module.__name__ + ".")
        found += [module, *(importlib.import_module(each.name) for each in inner)]
    return found


def test_every_shape_is_checked(modules: list[ModuleType]) -> None:
    """A name that only type checkers see (`if TYPE_CHECKING`) or that is defined further down turns the check off."""
    annotated = {(module.__name__, *place) for module in modules for place in shapes_in(module)}
    checked = {(*function, name) for function, names in CHECKED.items() for name in names}
    assert len(annotated) > 400
    assert annotated - checked == set()


def test_shapes_of_inner_functions_can_be_read(modules: list[ModuleType]) -> None:
    """Functions in functions come under the check when they are made; their annotations are read in the module."""
    found = [
        (module, name, hint)
        for module in modules
        for name, definition in definitions(ast.parse(source(module)))
        if "<locals>" in name
        for hint in hints_of(definition).values()
        if holds_shape(evaluated(hint, everything(module)))
    ]
    assert len(found) > 10
    assert [(name, hint) for module, name, hint in found if not holds_shape(evaluated(hint, vars(module)))] == []


WRONG: dict[str, Callable[[], object]] = {
    "engine: two answers to three questions": lambda: nll(
        torch.zeros(3, 4), torch.zeros(2, dtype=torch.long), torch.ones(3, 4, dtype=torch.long)
    ),
    "estimators: effects of three examples, log-likelihoods of two": lambda: GradientBlock(
        batch=0, dense=np.zeros((2, 4)), effects=np.zeros((1, 4, 3)), units=None, work=2
    ),
    "pruning: norms of outputs, not of inputs": lambda: wanda_score(torch.zeros(4, 3), torch.zeros(4)),
    "pruning: whole numbers for scores": lambda: wanda_score(torch.zeros(4, 3, dtype=torch.long), torch.zeros(3)),
    "stats: a table of p-values where a list is meant": lambda: holm_flat(np.full((2, 3), 0.5)),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_a_wrong_shape_is_noticed(call: Callable[[], object]) -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        call()


def test_tensors_for_annotations_are_torchs() -> None:
    assert isinstance(torch.zeros(2), Tensor)
    assert isinstance(torch.nn.Parameter(torch.zeros(2)), Tensor)
    assert not isinstance(np.zeros(2), Tensor)


def shapes_in(module: ModuleType) -> Iterator[tuple[str, str]]:
    """The functions of a module, and which of their parameters (or "return") have a shape; fields are parameters."""
    names = everything(module)
    for name, definition in definitions(ast.parse(source(module))):
        if "<locals>" not in name:
            function = name if not isinstance(definition, ast.ClassDef) else f"{name}.__init__"
            for parameter, hint in hints_of(definition).items():
                if holds_shape(evaluated(hint, names)):
                    yield function, parameter


def definitions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """Functions and classes with their qualified names."""
    for child in ast.iter_child_nodes(node):
        inside = prefix
        if isinstance(child, Definition):
            yield prefix + child.name, child
            inside = f"{prefix}{child.name}." + "<locals>." * (not isinstance(child, ast.ClassDef))
        yield from definitions(child, inside)


def hints_of(definition: Definition) -> dict[str, str]:
    """Annotations as they are written, by parameter or field of a dataclass (other classes only declare theirs)."""
    if isinstance(definition, ast.ClassDef):
        if not any("dataclass" in ast.unparse(decorator) for decorator in definition.decorator_list):
            return {}
        fields = [child for child in definition.body if isinstance(child, ast.AnnAssign)]
        return {ast.unparse(field.target): ast.unparse(field.annotation) for field in fields}
    arguments = definition.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    found = {each.arg: ast.unparse(each.annotation) for each in every if each and each.annotation}
    return found | ({"return": ast.unparse(definition.returns)} if definition.returns else {})


def evaluated(hint: str, names: dict[str, Any]) -> Any:
    """What an annotation says; None where a name is missing."""
    try:
        return get_type_hints(type("Holder", (), {"__annotations__": {"hint": hint}}), names)["hint"]
    except NameError:
        return None


def everything(module: ModuleType) -> dict[str, Any]:
    """A module's names, with those that only type checkers see."""
    names = dict(vars(module))
    for node in ast.parse(source(module)).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            exec(compile(ast.Module(node.body, []), module.__name__, "exec"), names)
    return names


def source(module: ModuleType) -> str:
    assert module.__file__ is not None
    with open(module.__file__, encoding="utf-8") as file:
        return file.read()
