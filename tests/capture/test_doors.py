"""One table of rules for all doors: what a module does goes through ``quantize``, its exported program and its float ONNX file alike."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from door_forms import ELSEWHERE, NO_FILE, NOT_YET, forms
from torch import Tensor, nn

import qfx
from qfx.capture.from_onnx import from_onnx
from qfx.capture.from_pt2 import from_pt2
from qfx.errors import QfxError
from qfx.recipe import ROLES, Recipe, Spec
from qfx.testing import assert_bit_exact

torch.manual_seed(0)
FORMS = {name: (module.eval(), shape) for name, module, shape in forms()}
RECIPE = Recipe(**{role: Spec(12) for role in ROLES})
"""One word length: a file's operators may stand in other roles, as a result that is made of slices."""


def names(door: str) -> list[Any]:
    """The forms for a door, those that it does not take yet marked: strict, so that whoever mends it takes it off the list."""
    found = []
    for name in FORMS:
        reason = NOT_YET.get(name, {}).get(door) or NOT_YET.get(name, {}).get("all")
        if door in NO_FILE.get(name, {}):
            continue
        marks = [] if reason is None else [pytest.mark.xfail(raises=QfxError, strict=True, reason=reason)]
        found.append(pytest.param(name, marks=marks))
    return found


def data(name: str) -> Tensor:
    return torch.randn(6, *FORMS[name][1], generator=torch.Generator().manual_seed(1))


def check(module: nn.Module, x: Tensor, name: str) -> Tensor:
    """The fixed-point result, equal in torch and in the interpreter."""
    qmodel = qfx.quantize(module, x, RECIPE).eval()
    with torch.no_grad():
        y: Tensor = qmodel(x)
    assert_bit_exact(y.numpy(), qfx.run(qfx.to_graph(qmodel), x.numpy()), names=(f"torch, {name}", "interpreter"))
    return y


@cache
def through_the_module(name: str) -> Tensor:
    return check(FORMS[name][0], data(name), "the module")


def compare(name: str, door: str, found: Tensor) -> None:
    """Raw equality where the file says the same operations; where it says others, both are near the float result."""
    if name not in ELSEWHERE[door] and "module" not in NOT_YET.get(name, {}):
        assert_bit_exact(found.numpy(), through_the_module(name).numpy(), names=(door, "the module"))
    else:
        near(name, found)


def near(name: str, found: Tensor) -> None:
    module, _ = FORMS[name]
    with torch.no_grad():
        expected = module(data(name))
    assert found.shape == expected.shape
    error, signal = (found - expected).double().square().mean().sqrt(), (expected.double() - expected.double().mean()).square().mean().sqrt()
    assert error < 0.05 * signal + 1e-3, name


@contextlib.contextmanager
def unsaid() -> Iterator[None]:
    """Without what the exporters say about themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", names("module"))
def test_a_module_computes_what_it_does_in_float(name: str) -> None:
    near(name, through_the_module(name))


@pytest.mark.parametrize("name", names("pt2"))
def test_an_exported_program_gives_the_same(name: str, tmp_path: Path) -> None:
    x, batch = data(name), torch.export.Dim("batch", min=2, max=64)
    with unsaid():
        exported = torch.export.export(FORMS[name][0], (x,), dynamic_shapes=({0: batch},), strict=False)
        torch.export.save(exported, tmp_path / "model.pt2")
    compare(name, "pt2", check(from_pt2(tmp_path / "model.pt2", x), x, "the exported program"))


class Together(nn.Module):
    """All forms for one shape: exporting them one by one would take minutes."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.forms = nn.ModuleList(FORMS[name][0] for name in names)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(form(x) for form in self.forms)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file for each form."""
    pytest.importorskip("onnxscript")
    folder, found = tmp_path_factory.mktemp("onnx"), {}
    taken = [param.values[0] for param in names("onnx")]
    for shape in dict.fromkeys(FORMS[name][1] for name in taken):
        group = [name for name in taken if FORMS[name][1] == shape]
        outputs = [f"y{place}" for place in range(len(group))]
        whole, batch = folder / "whole.onnx", torch.export.Dim("batch", min=2, max=64)
        with unsaid():
            torch.onnx.export(
                Together(group).eval(), (torch.randn(6, *shape),), whole, dynamo=True, dynamic_shapes=({0: batch},), verbose=False,
                input_names=["x"], output_names=outputs, external_data=False,
            )  # fmt: skip
        extractor = onnx.utils.Extractor(onnx.load(whole))
        for name, output in zip(group, outputs, strict=True):
            found[name] = folder / f"{len(found)}.onnx"
            onnx.save(extractor.extract_model(["x"], [output]), found[name])
    return found


@pytest.mark.parametrize("name", names("onnx"))
def test_a_float_onnx_file_gives_the_same(name: str, exported: dict[str, Path]) -> None:
    x = data(name)
    compare(name, "onnx", check(from_onnx(exported[name], x), x, "the ONNX file"))


def test_a_planted_difference_is_seen() -> None:
    wrong = through_the_module("half").numpy().copy()
    wrong.reshape(-1)[-1] += 2.0**-12
    with pytest.raises(AssertionError, match="1 of"):
        assert_bit_exact(wrong, through_the_module("half").numpy())


def test_the_lists_name_forms() -> None:
    assert {*NOT_YET, *NO_FILE, *(name for table in ELSEWHERE.values() for name in table)} <= set(FORMS)
