"""The float twin: the float model's numbers, node by node, on the quantized model's graph."""

from __future__ import annotations

import pytest
import torch
from ptq_nets import Small, digits, quantized_small, trained_small
from torch import nn

import qfx
from qfx import Recipe, Spec
from qfx.errors import QfxError
from qfx.ptq import fold_batch_norm
from qfx.ptq.float_reference import float_twin, twin_of


def test_twin_computes_what_the_float_model_does() -> None:
    x, _ = digits()
    twin = float_twin(quantized_small(3, 3))
    with torch.no_grad():
        assert torch.allclose(twin(x[:64]), trained_small()(x[:64]), atol=1e-4)


@pytest.mark.parametrize("batch_norm", ["keep", "fold"])
def test_twin_of_a_model_with_its_batch_norm(batch_norm: str) -> None:
    x, _ = digits()
    q = qfx.quantize(trained_small(), x[:64], Recipe(batch_norm=batch_norm, weight=Spec(4), activation=Spec(4)))  # type: ignore[arg-type]
    with torch.no_grad():
        assert torch.allclose(float_twin(q)(x[:64]), trained_small()(x[:64]), atol=1e-4)


def test_long_words_do_not_matter_to_the_twin() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU6(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(18, 3)).double()
    x = digits()[0][:5].double()
    twin = float_twin(qfx.quantize(model, x, Recipe(weight=Spec(24), activation=Spec(20), input=Spec(20))))
    with torch.no_grad():
        y = twin(x)
        assert y.dtype is torch.float64
        assert torch.allclose(y, model(x), rtol=1e-12)


def test_twin_keeps_its_weights_when_the_model_changes() -> None:
    q = quantized_small()
    twin = float_twin(q)
    before = twin.get_submodule("head").weight.clone()
    with torch.no_grad():
        q.get_submodule("head").weight.zero_()
    assert torch.equal(twin.get_submodule("head").weight, before)
    assert not any(parameter.requires_grad for parameter in twin.parameters())


def test_twin_of_another_model_is_refused() -> None:
    q = quantized_small()
    other = float_twin(qfx.quantize(nn.Linear(3, 2), torch.randn(4, 3)))
    with pytest.raises(QfxError, match="not of this model"):
        twin_of(q, other)
    with pytest.raises(QfxError, match="not a quantized model"):
        float_twin(fold_batch_norm(Small(), digits()[0][:4]))
