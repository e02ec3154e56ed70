"""Weights and constants that a model computes of parameters: those stand under the user's names and are trained through, and what is computed is the
same in torch, in the interpreter and in ONNX Runtime."""

from __future__ import annotations

import copy
import io
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from computed_models import FINE, IMAGE, MODELS, Recurrent, Table, made, old, own_names, steps
from nn_models import check_exact
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import qfx
from qfx import Recipe
from qfx.ir.interpret import run_raw
from qfx.nn.layers.products.computed import Computed
from qfx.testing import adversarial_inputs, assert_bit_exact
from qfx.verify import onnx_runtime


@pytest.mark.parametrize("style", ["fold", "keep"])
@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_is_trained_with_the_gradient_of_the_float_model(name: str, style: str) -> None:
    """In wide words a cast passes every gradient on, so both gradients are nearly equal."""
    model, x = made(name)
    q = qfx.quantize(model, x, replace(FINE, batch_norm=style))
    for network in (model, q):
        network(x).square().sum().backward()
    mine = dict(q.named_parameters())
    where = {"attn.out_proj.weight": "attn.linear_3.weight", "attn.out_proj.bias": "attn.linear_3.bias"}
    for path, parameter in model.named_parameters():
        gradient = mine[where.get(path, path)].grad
        assert parameter.grad is not None
        assert gradient is not None, path
        assert torch.isfinite(gradient).all()
        scale = float(parameter.grad.abs().max())
        assert torch.allclose(gradient, parameter.grad, rtol=1e-2, atol=1e-2 * scale + 1e-5), path


@pytest.mark.parametrize("name", [name for name in MODELS if name != "attention"])
def test_names_are_those_of_the_float_model_and_its_checkpoint_loads(name: str) -> None:
    model, x = made(name)
    q = qfx.quantize(model, x)
    assert own_names(q) == set(model.state_dict())
    other, _ = made(name)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.75)
    state = {key: value.clone() for key, value in other.state_dict().items()}
    q.load_state_dict(state)
    assert all(torch.equal(q.state_dict()[key], value) for key, value in state.items())
    again = qfx.quantize(other, x)
    again.load_state_dict(q.state_dict())
    assert torch.equal(q.eval()(x), again.eval()(x))


def test_attention_trains_its_one_parameter_for_query_key_and_value() -> None:
    model, x = made("attention")
    q = qfx.quantize(model, x)
    assert {"attn.in_proj_weight", "attn.in_proj_bias"} <= set(dict(q.named_parameters()))
    q.load_state_dict(model.state_dict())
    before = q.get_parameter("attn.in_proj_weight").detach().clone()
    steps(q, x)
    moved = (q.get_parameter("attn.in_proj_weight") - before).abs().reshape(3, -1).amax(1)
    assert bool((moved > 0).all())


@pytest.mark.parametrize("name", MODELS)
def test_torch_interpreter_and_onnx_runtime_agree_after_steps_of_training(name: str, tmp_path: Path) -> None:
    model, x = made(name)
    q = qfx.quantize(model, x)
    check_exact(q)
    steps(q, x)
    graph = check_exact(q)
    qfx.export_onnx(q, tmp_path / "model.onnx")
    samples = adversarial_inputs(graph, np.random.default_rng(1), 12)
    raws = onnx_runtime(tmp_path / "model.onnx", graph)(samples)
    assert_bit_exact(raws, run_raw(graph, samples), names=("ONNX Runtime", "interpreter"))


@pytest.mark.parametrize("name", MODELS)
def test_training_mode_gives_the_numbers_of_evaluation(name: str) -> None:
    model, x = made(name)
    q = qfx.quantize(model, x)
    expected = q.eval()(x)
    assert torch.equal(q.train()(x), expected)


@pytest.mark.parametrize("name", MODELS)
def test_copies_have_parameters_of_their_own(name: str) -> None:
    model, x = made(name)
    q = qfx.quantize(model, x).eval()
    file = io.BytesIO()
    torch.save(q, file)
    file.seek(0)
    copies = [copy.deepcopy(q), pickle.loads(pickle.dumps(q)), torch.load(file, weights_only=False), copy.deepcopy(copy.deepcopy(q))]
    before = q(x)
    for other in copies:
        assert list(other.state_dict()) == list(q.state_dict())
        assert torch.equal(other(x), before)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(0.125)
        assert not torch.equal(other(x), before)
        assert torch.equal(other(x), copies[0](x))
        check_exact(other)
    assert torch.equal(q(x), before)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_in_double_computes_in_double(name: str) -> None:
    model, x = made(name)
    q = qfx.quantize(model, x).double()
    assert all(part().dtype is torch.float64 for part in q.modules() if isinstance(part, Computed))
    check_exact(q, dtype=torch.float64)
    steps(q, x.double())
    check_exact(q, dtype=torch.float64)


def test_pruned_places_stay_zero() -> None:
    model, x = made("pruned")
    q = qfx.quantize(model, x)
    zero = model[0].weight_mask == 0  # type: ignore[index]
    steps(q, x, 5)
    conv: Any = q.get_submodule("0")
    assert bool((conv.weight[zero] == 0).all())
    assert bool((conv.weight[~zero] != 0).all())
    assert bool((conv.weight_cast(conv.weight).tensor()[zero] == 0).all())


def test_a_tied_weight_is_one_parameter() -> None:
    model, x = made("tied")
    q = qfx.quantize(model, x)
    assert len(list(q.parameters())) == len({id(parameter) for parameter in q.parameters()})
    steps(q, x)
    encoder: Any = q.get_submodule("encoder")
    (decoder,) = (part for part in q.modules() if isinstance(part, Computed) and [leaf.names for leaf in part.leaves] == [("encoder.weight",)])
    assert torch.equal(decoder(), encoder.weight.t())
    assert decoder.leaves[0].tensor() is encoder.weight


def test_the_norm_behind_a_computed_weight_is_folded() -> None:
    for name in ("pruned", "weight_norm", "weight_norm, parametrized", "a parametrization", "standardized"):
        model, x = made(name)
        q = qfx.quantize(model, x, Recipe(batch_norm="fold"))
        names = {type(layer).__name__ for layer in q.modules()}
        assert "QFoldedBatchNorm" in names
        assert "QBatchNorm" not in names


def test_a_mask_of_a_checkpoint_is_taken() -> None:
    model, x = made("pruned")
    q = qfx.quantize(model, x)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    state["0.weight_mask"] = 1 - state["0.weight_mask"]
    q.load_state_dict(state)
    conv: Any = q.get_submodule("0")
    assert torch.equal(conv.weight, state["0.weight_orig"] * state["0.weight_mask"])


def test_a_computed_weight_that_is_no_number_is_refused_at_export() -> None:
    model, x = made("weight_norm")
    q = qfx.quantize(model, x)
    with torch.no_grad():
        q.get_parameter("0.weight_v").zero_()
    with pytest.raises(qfx.errors.DataError):
        qfx.to_graph(q)


class TwiceNormed(nn.Module):
    """Two layers with one normalized weight between them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = old("weight_norm", nn.Linear(4, 4)), old("weight_norm", nn.Linear(4, 4))
        self.b.weight_g, self.b.weight_v = self.a.weight_g, self.a.weight_v

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


def test_a_parameter_with_two_names_has_both_and_stays_one() -> None:
    model, x = TwiceNormed().eval(), torch.randn(8, 4)
    q = qfx.quantize(model, x)
    assert own_names(q) == set(model.state_dict())
    q.load_state_dict(model.state_dict())
    for each in (q, copy.deepcopy(q), pickle.loads(pickle.dumps(q))):
        steps(each, x)
        assert each.get_parameter("a.weight_v") is each.get_parameter("b.weight_v")
        assert torch.equal(each.get_submodule("a").weight, each.get_submodule("b").weight)  # type: ignore[arg-type]
        check_exact(each)


class Keeps(nn.Module):
    """Numbers that its checkpoints do not have."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.layer = torch.randn(4, 6), nn.Linear(4, 4)
        self.register_buffer("fixed", torch.randn(1, 4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(F.linear(x, self.plain) + self.fixed)


class Normalized(nn.Module):
    """Numbers that are prepared by buffers, which its forward brings into shape."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.rand(3))
        self.register_buffer("std", torch.rand(3) + 0.5)
        self.register_buffer("kernel", torch.randint(-3, 4, (2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d((x - self.mean.view(1, -1, 1, 1)) / self.std.view(1, -1, 1, 1), self.kernel[:, :, None, None].float())


def test_the_table_of_an_embedding_may_be_computed() -> None:
    torch.manual_seed(0)
    model, x = Table().eval(), torch.randint(0, 8, (16, 5))
    q = qfx.quantize(model, x, FINE)
    assert own_names(q) == set(model.state_dict())
    q.load_state_dict(model.state_dict())
    for network in (model, q):
        network(x).square().sum().backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(q.get_parameter(path).grad, parameter.grad, rtol=1e-2, atol=1e-2)  # type: ignore[arg-type]


def test_a_pruned_weight_of_a_recurrent_network_is_trained_under_its_name() -> None:
    torch.manual_seed(0)
    model, x = Recurrent().eval(), torch.randn(16, 5, 4)
    q = qfx.quantize(model, x)
    q.load_state_dict(model.state_dict())
    steps(q, x)
    assert q.get_parameter("lstm.weight_hh_l0_orig").grad is not None
    for each in (q, copy.deepcopy(q), pickle.loads(pickle.dumps(q))):
        check_exact(each)


class Mean(nn.Module):
    """A buffer and an operation of one name."""

    def __init__(self, view: bool) -> None:
        super().__init__()
        self.view = view
        self.register_buffer("mean", torch.rand(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - (self.mean.view(3, 1, 1) if self.view else self.mean)).mean((2, 3))


def test_an_operation_gives_way_to_a_buffer_of_its_name_that_is_read_there() -> None:
    for view in (True, False):
        model = Mean(view).eval()
        q = qfx.quantize(model, torch.rand(8, *IMAGE))
        q.load_state_dict(model.state_dict())
        assert ("mean" in q.state_dict()) == view
        assert ("mean" in dict(q.named_modules())) != view


def test_buffers_that_are_brought_into_shape_are_those_of_the_checkpoint() -> None:
    torch.manual_seed(0)
    models, x = [Normalized().eval() for _ in range(2)], torch.rand(8, *IMAGE)
    q = qfx.quantize(models[0], x)
    assert own_names(q) == set(models[0].state_dict())
    q.load_state_dict(models[1].state_dict())
    assert (q.eval()(x) - models[1](x)).abs().max() < 0.05 * models[1](x).abs().max()
    check_exact(q)


def test_numbers_that_checkpoints_do_not_have_stay() -> None:
    model = Keeps().eval()
    q = qfx.quantize(model, torch.randn(8, 6))
    q.load_state_dict(model.state_dict())


@pytest.mark.parametrize("name", MODELS)
def test_a_call_with_parameters_of_ones_own_reads_those(name: str) -> None:
    model, x = made(name)
    q = qfx.quantize(model, x).eval()
    other = copy.deepcopy(q)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.125)
    before = q(x)
    assert torch.equal(torch.func.functional_call(q, dict(other.named_parameters()), (x,)), other(x))
    assert torch.equal(q(x), before)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ["pruned", "standardized", "tied"])
def test_activation_checkpointing_gives_the_same_gradients(name: str, reentrant: bool) -> None:
    model, x = made(name)
    q = qfx.quantize(model, x).train()
    again = copy.deepcopy(q)
    q(x).square().sum().backward()
    checkpoint(again, x.requires_grad_(), use_reentrant=reentrant).square().sum().backward()
    for (path, parameter), other in zip(q.named_parameters(), again.parameters(), strict=True):
        assert (parameter.grad is None) == (other.grad is None), path
        assert parameter.grad is None or torch.equal(parameter.grad, other.grad), path


# --- passes that write weights ----------------------------------------------------------------------------------------------------------
