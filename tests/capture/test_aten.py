"""Core ATen: what docs/aten.md says is taken goes through an exported program; what it says is left is refused."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest
import torch
from support import aten_page
from support.aten_forms import BY_MEANING, FORMS, NOT_YET, Form, Model
from torch import Tensor, nn

import qfx
from qfx.capture.from_pt2 import from_pt2
from qfx.errors import QfxError
from qfx.testing import assert_bit_exact


def operators(program: torch.export.ExportedProgram) -> set[str]:
    return {str(node.target).split(".")[1] for node in program.graph.nodes if str(node.target).startswith("aten.")}


def through_the_door(name: str, form: Form, path: Path) -> tuple[nn.Module, Tensor, nn.Module]:
    """The form in float, data, and the module of its file: in core ATen, or as exported where torch takes the operator apart on the way there."""
    torch.manual_seed(0)
    model, x, batch = Model(form).eval(), form.data(), torch.export.Dim("batch", min=2, max=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself
        logging.disable(logging.WARNING)
        try:
            program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},), strict=False)
            decomposed = program.run_decompositions()
            program = decomposed if name in operators(decomposed) else program
            torch.export.save(program, path)
        finally:
            logging.disable(logging.NOTSET)
    assert name in operators(program)
    return model, x, from_pt2(path, x)


def quantized(name: str, form: Form, path: Path) -> nn.Module:
    _, x, found = through_the_door(name, form, path)
    return qfx.quantize(found, x).eval()


@pytest.mark.parametrize("name", FORMS)
def test_taken(name: str, tmp_path: Path) -> None:
    model, x, found = through_the_door(name, FORMS[name], tmp_path / "model.pt2")
    qmodel = qfx.quantize(found, x).eval()
    with torch.no_grad():
        y, expected = qmodel(x), model(x)
    assert_bit_exact(y.numpy(), qfx.run(qfx.to_graph(qmodel), x.numpy()), names=("torch", "interpreter"))
    assert y.shape == expected.shape
    assert (y - expected).abs().median() < 0.05 * expected.abs().max()  # a step that a rounded number passes is far off, but few are


@pytest.mark.parametrize("name", [name for name, (_, form) in NOT_YET.items() if form is not None])
def test_left(name: str, tmp_path: Path) -> None:
    """What is taken one day moves to the other table."""
    form = NOT_YET[name][1]
    assert form is not None
    with pytest.raises(QfxError):
        quantized(name, form, tmp_path / "model.pt2")


def test_every_core_operator_has_one_state_on_the_page() -> None:
    text = (aten_page.DOCS / "aten.md").read_text(encoding="utf-8")
    if f"torch {aten_page.VERSION} " not in text:
        pytest.skip("the page is of another torch, which has another list")
    tables = [name for table in (FORMS, NOT_YET, BY_MEANING) for name in table]
    assert sorted(tables) == sorted(aten_page.core())
    assert text == aten_page.page(), "make aten"
