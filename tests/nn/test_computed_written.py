"""Passes that write a weight which is computed make it a parameter first."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from computed_models import IMAGE, MODELS, P, chain, made
from nn_models import check_exact
from torch import Tensor, nn

import qfx
from qfx import Recipe, ptq
from qfx.nn.layers import Weighted
from qfx.nn.layers.elementwise.held import HeldConstant
from qfx.nn.layers.products.computed import Computed
from qfx.nn.layers.products.materialize import materialize


@pytest.mark.parametrize("name", MODELS)
def test_materialized_it_computes_the_same(name: str) -> None:
    model, x = made(name)
    q = qfx.quantize(model, x).eval()
    before, fresh = q(x), copy.deepcopy(q)
    names = materialize(q)
    assert bool(names) == (name not in ("bias of positions", "combined", "token"))
    assert torch.equal(q(x), before)
    assert all(how.itself for layer in q.modules() if isinstance(layer, Weighted) for how in layer.computed().values())
    check_exact(q)
    unread = [path for path, parameter in q.named_parameters() if torch.autograd.grad(q(x).sum(), parameter, allow_unused=True)[0] is None]
    assert not unread
    fresh.load_state_dict(q.state_dict())
    assert torch.equal(fresh(x), before)
    assert list(fresh.state_dict()) == list(q.state_dict())
    if names:
        with pytest.raises(RuntimeError):
            q.load_state_dict(model.state_dict())


def test_a_constant_that_is_computed_of_a_weight_which_passes_write_stays_what_it_was() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.other = nn.Linear(4, 4), P(torch.rand(1, 8))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) * self.layer.weight.mean(1) + self.other[:, :4]

    torch.manual_seed(0)
    model, x = Scaled().eval(), torch.randn(16, 4)
    q = qfx.quantize(model, x, Recipe.uniform(4)).eval()
    ptq.round_weights(q, x, "comq")
    constants = [layer for layer in q.modules() if isinstance(layer, HeldConstant)]
    assert torch.equal(constants[0].real(), model.layer.weight.mean(1).double())
    assert [layer.computed is None for layer in constants] == [True, False]
    assert "other" in q.state_dict()
    check_exact(q)


@pytest.mark.parametrize("name", ["pruned", "weight_norm, parametrized", "standardized", "tied", "attention", "transposed"])
@pytest.mark.parametrize("method", ["adaround", "comq", "gptq"])
def test_rounding_passes_write_what_the_layer_reads(name: str, method: Any) -> None:
    model, x = made(name)
    q = qfx.quantize(model, x, Recipe.uniform(4)).eval()
    reference = ptq.float_reference(q)
    result = ptq.round_weights(q, x, method, reference=reference, correct_bias=name != "tied")
    layers = [q.get_submodule(row.path) for row in result]
    for layer in layers:
        weight = layer.cast_weight()
        assert isinstance(layer.weight, nn.Parameter)
        assert torch.equal(layer.weight_cast(weight).tensor().to(weight.dtype), weight)
    check_exact(q)
    assert torch.allclose(reference(x), model(x), atol=1e-5)


@pytest.mark.parametrize("name", ["pruned", "standardized", "attention", "tied"])
def test_tuning_and_bias_correction_work_on_what_is_computed(name: str) -> None:
    model, x = made(name)
    q = qfx.quantize(model, x, Recipe.uniform(4)).eval()
    reference = ptq.float_reference(q)
    ptq.correct_bias(q, x, reference=reference)
    result = ptq.tune(q, x, reference=reference, epochs=2)
    assert result.after <= result.before
    check_exact(q)


def test_a_load_that_fails_leaves_a_computed_weight_computed() -> None:
    model, x = made("pruned")
    q = qfx.quantize(model, x).eval()
    before, names = q(x), list(q.state_dict())
    other = copy.deepcopy(q)
    materialize(other)
    state = other.state_dict()
    state["0.weight"] = state["0.weight"][:2]
    with pytest.raises(RuntimeError):
        q.load_state_dict(state)
    assert list(q.state_dict()) == names
    assert torch.equal(q(x), before)


@pytest.mark.parametrize("name", ["pruned", "weight_norm", "weight_norm, parametrized", "spectral_norm", "a parametrization"])
def test_float_passes_write_plain_weights(name: str) -> None:
    model, x = made(name)
    folded = ptq.fold_batch_norm(model, x)
    assert isinstance(folded[1], nn.Identity)  # type: ignore[index]
    equal = ptq.equalize(folded, x)
    assert torch.allclose(equal(x), model(x), atol=1e-5)
    assert torch.allclose(folded(x), model(x), atol=1e-5)
    assert isinstance(equal[0].weight, nn.Parameter)  # type: ignore[index]
    qfx.quantize(equal, x)


def test_a_model_without_computed_weights_has_none() -> None:
    q = qfx.quantize(chain(nn.Conv2d(3, 4, 3)), torch.randn(4, *IMAGE))
    assert not any(isinstance(part, Computed) for part in q.modules())
    assert materialize(q) == ()
