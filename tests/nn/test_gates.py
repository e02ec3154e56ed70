"""A gated linear unit is its first half times the sigmoid of its second, over any axis but the batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from executors import same_in_cpp, same_in_torch_and_the_file
from nn_models import Calls
from torch import Tensor, nn

import qfx
from qfx.errors import UnsupportedError
from qfx.recipe import ROLES, Recipe, Spec

MAP, ROW = torch.randn(6, 4, 4, 6), torch.randn(6, 8)


def maps() -> nn.Module:
    return nn.Conv2d(4, 4, 1)


MODELS: dict[str, tuple[nn.Module, Tensor]] = {
    "channels": (nn.Sequential(maps(), nn.GLU(1), nn.Conv2d(2, 3, 1)), MAP),
    "rows": (nn.Sequential(maps(), nn.GLU(2)), MAP),
    "columns": (nn.Sequential(maps(), nn.GLU(), nn.ReLU()), MAP),
    "a vector": (Calls(lambda m, x: F.glu(m.a(x)) * 0.5 + x[:, :4], a=nn.Linear(8, 8)), ROW),
}


@pytest.mark.parametrize("name", MODELS)
def test_gates_in_torch_and_the_file(name: str, tmp_path: Path) -> None:
    model, x = MODELS[name]
    q = qfx.quantize(model.eval(), x).eval()
    same_in_torch_and_the_file(q, x, tmp_path)
    with torch.no_grad():
        assert float((q(x) - model(x)).abs().max()) < 0.05 * float(model(x).abs().max())


def test_gates_in_cpp(tmp_path: Path) -> None:
    models = [(qfx.quantize(model.eval(), x).eval(), x) for model, x in MODELS.values()]
    same_in_cpp(models, tmp_path / "plain", fast=False)
    same_in_cpp(models, tmp_path / "fast", fast=True)


@pytest.mark.parametrize("dim", [1, 2, -1])
def test_a_gate_is_what_it_is_written_out_as(dim: int) -> None:
    a = maps().eval()

    def written(m: nn.Module, x: Tensor) -> Tensor:
        first, second = m.a(x).chunk(2, dim)
        result: Tensor = first * torch.sigmoid(second)
        return result

    recipe = Recipe(**{role: Spec(12) for role in ROLES})  # one word length: inside an operation sums and tables have more bits else
    written_out, gate = (qfx.quantize(Calls(form, a=a), MAP, recipe).eval() for form in (written, lambda m, x: F.glu(m.a(x), dim)))
    with torch.no_grad():
        assert torch.equal(written_out(MAP), gate(MAP))
    gate.train()(MAP).square().mean().backward()
    assert all(float(parameter.grad.abs().sum()) > 0 for parameter in gate.a.parameters())


def test_a_gate_over_the_batch_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="batch"):
        qfx.quantize(Calls(lambda m, x: F.glu(m.a(x), 0), a=nn.Linear(8, 8)), ROW)
