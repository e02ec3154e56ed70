"""The float reference: the float model's numbers, node by node, on the quantized model's graph."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from ptq_nets import Small, digits, quantized_small, trained_small
from torch import nn

import qfx
import qfx.ptq
from qfx import Recipe, Spec
from qfx.errors import QfxError
from qfx.nn.casts.lean import LARGE
from qfx.ptq import fold_batch_norm
from qfx.ptq.float_reference import float_reference, reference_of


def test_reference_computes_what_the_float_model_does() -> None:
    x, _ = digits()
    reference = float_reference(quantized_small(3, 3))
    with torch.no_grad():
        assert torch.allclose(reference(x[:64]), trained_small()(x[:64]), atol=1e-4)


@pytest.mark.parametrize("batch_norm", ["keep", "fold"])
def test_reference_of_a_model_with_its_batch_norm(batch_norm: str) -> None:
    x, _ = digits()
    q = qfx.quantize(trained_small(), x[:64], Recipe(batch_norm=batch_norm, weight=Spec(4), activation=Spec(4)))  # type: ignore[arg-type]
    with torch.no_grad():
        assert torch.allclose(float_reference(q)(x[:64]), trained_small()(x[:64]), atol=1e-4)


def test_long_words_do_not_matter_to_the_reference() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU6(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(18, 3)).double()
    x = digits()[0][:5].double()
    reference = float_reference(qfx.quantize(model, x, Recipe(weight=Spec(24), activation=Spec(20), input=Spec(20))))
    with torch.no_grad():
        y = reference(x)
        assert y.dtype is torch.float64
        assert torch.allclose(y, model(x), rtol=1e-12)


def test_reference_keeps_its_weights_when_the_model_changes() -> None:
    q = quantized_small()
    reference = float_reference(q)
    before = reference.get_submodule("head").weight.clone()
    with torch.no_grad():
        q.get_submodule("head").weight.zero_()
    assert torch.equal(reference.get_submodule("head").weight, before)
    assert not any(parameter.requires_grad for parameter in reference.parameters())


def test_reference_of_large_weights() -> None:
    """Those that training does not keep twice: what makes them again asks the cast, which a reference has not."""
    torch.manual_seed(0)
    model, x = nn.Linear(300, 300), torch.rand(4, 300)
    assert model.weight.numel() >= LARGE
    assert torch.allclose(float_reference(qfx.quantize(model, x, Recipe.uniform(4)))(x), model(x), atol=1e-5)


def test_reference_of_another_model_is_refused() -> None:
    q = quantized_small()
    other = float_reference(qfx.quantize(nn.Linear(3, 2), torch.randn(4, 3)))
    with pytest.raises(QfxError, match="not of this model"):
        reference_of(q, other)
    with pytest.raises(QfxError, match="not a quantized model"):
        float_reference(fold_batch_norm(Small(), digits()[0][:4]))


def test_earlier_names_still_work() -> None:
    assert qfx.ptq.float_twin is qfx.ptq.float_reference
    x, _ = digits()
    q, again = quantized_small(3, 3), quantized_small(3, 3)
    reference = float_reference(q)
    blocks, tune = partial(qfx.ptq.adaround_blocks, iterations=1), partial(qfx.ptq.tune, epochs=1)
    passes: tuple[Callable[..., object], ...] = (qfx.ptq.correct_bias, qfx.ptq.gptq, blocks, tune)
    for run in passes:
        run(q, x[:64], twin=reference)
        run(again, x[:64], reference=reference)
        assert all(torch.equal(value, again.state_dict()[key]) for key, value in q.state_dict().items())
        with pytest.raises(QfxError, match="given twice"):
            run(q, x[:64], twin=reference, reference=reference)
