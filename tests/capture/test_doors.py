"""One table of rules for all doors: what a module does goes through ``quantize`` and through its exported program alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from door_forms import forms
from torch import Tensor, nn

import qfx
from qfx.capture.from_pt2 import from_pt2
from qfx.testing import assert_bit_exact

torch.manual_seed(0)
FORMS = {name: (module.eval(), shape) for name, module, shape in forms()}


def check(module: nn.Module, x: Tensor, name: str) -> Tensor:
    """The fixed-point result, equal in torch and in the interpreter."""
    qmodel = qfx.quantize(module, x).eval()
    with torch.no_grad():
        y: Tensor = qmodel(x)
    assert_bit_exact(y.numpy(), qfx.run(qfx.to_graph(qmodel), x.numpy()), names=(f"torch, {name}", "interpreter"))
    return y


@pytest.mark.parametrize("name", FORMS)
def test_every_form_goes_through_both_doors(name: str, tmp_path: Path) -> None:
    module, shape = FORMS[name]
    torch.manual_seed(1)
    x = torch.randn(6, *shape)
    y = check(module, x, "the module")
    batch: Any = torch.export.Dim("batch", min=2, max=64)
    torch.export.save(torch.export.export(module, (x,), dynamic_shapes=({0: batch},), strict=False), tmp_path / "model.pt2")
    other = check(from_pt2(tmp_path / "model.pt2", x), x, "the exported program")
    assert_bit_exact(other.numpy(), y.numpy(), names=("the exported program", "the module"))


def test_a_planted_difference_is_seen() -> None:
    module, shape = FORMS["half"]
    x = torch.randn(6, *shape)
    y = check(module, x, "the module").numpy().copy()
    wrong = y.copy()
    wrong.reshape(-1)[-1] += 2.0**-12
    with pytest.raises(AssertionError, match="1 of"):
        assert_bit_exact(wrong, y)
