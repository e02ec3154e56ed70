"""Weights and constants that a model computes of parameters: those stand under the user's names and are trained through, and what is computed is the
same in torch, in the interpreter and in ONNX Runtime; passes that write such a weight make it a parameter first."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nn_models import check_exact
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint

import qfx
from qfx import Recipe, Spec, ptq
from qfx.ir.interpret import run_raw
from qfx.nn.layers import Weighted
from qfx.nn.layers.elementwise.held import HeldConstant
from qfx.nn.layers.products.computed import Computed
from qfx.nn.layers.products.materialize import materialize
from qfx.testing import adversarial_inputs, assert_bit_exact
from qfx.verify import onnx_runtime

P = nn.Parameter
FINE = Recipe(**{role: Spec(20) for role in ("input", "weight", "bias", "scale", "shift", "constant", "internal", "activation", "output")})


class Standardized(nn.Conv2d):
    """Weight standardization, as in networks with group normalization."""

    def forward(self, input: Tensor) -> Tensor:
        mean, var = self.weight.mean((1, 2, 3), keepdim=True), self.weight.var((1, 2, 3), keepdim=True)
        return F.conv2d(input, (self.weight - mean) / torch.sqrt(var + 1e-5), self.bias, self.stride, self.padding)


class Signs(nn.Module):
    """Binary weights with the gradient that their author gave them: (sign(w) - w).detach() + w."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.log = P(torch.randn(4, 6)), P(torch.zeros(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, ((torch.sign(self.weight) - self.weight).detach() + self.weight) * self.log.exp())


class Tied(nn.Module):
    """Encoder and decoder with one weight, a centred one, a position embedding that is cut, and a scale computed in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(6, 4)
        self.pos, self.gamma = P(torch.randn(1, 9)), P(torch.randn(4) / 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.encoder(x) * self.gamma.exp() + self.pos[:, :4]
        return F.linear(torch.relu(y), self.encoder.weight.t())


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attn(x, x, x, need_weights=False)[0]


class Filled(nn.Module):
    """A matrix that is put together in the forward, of a parameter, constants and pieces, and written to in place."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = P(torch.randn(3)), P(torch.randn(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        matrix = torch.stack([self.a, torch.ones(3), torch.arange(3.0).to(x.device)]).clone().mul_(2.0)
        first, second = self.b.chunk(2)
        return F.linear(F.linear(x, matrix), torch.cat([first, second, first + second])[:, :3])


class Bias(nn.Module):
    """Attention's numbers with a bias from a table of parameters, one from a small network of positions, and a scale that is clamped."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.scale = P(torch.randn(9, 2)), P(torch.zeros(2, 1, 1))
        self.network = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2, bias=False))
        self.register_buffer("index", torch.randint(0, 9, (16,)))
        self.register_buffer("positions", torch.randn(9, 2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        first = self.table[self.index].view(4, 4, -1).permute(2, 0, 1).contiguous().unsqueeze(0)
        second = 4 * torch.sigmoid(self.network(self.positions)[self.index].view(4, 4, -1).permute(2, 0, 1))
        return x * self.scale.clamp(max=4.6).exp() + first + second.unsqueeze(0)


class Token(nn.Module):
    """A class token that is scaled, joined to the values."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.layer = P(torch.randn(1, 1, 6)), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([(self.token * 2).expand(x.shape[0], -1, -1), self.layer(x)], 1)


class Table(nn.Module):
    """An embedding whose table is scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.scale, self.layer = P(torch.randn(8, 4)), P(torch.rand(4)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(F.embedding(x, self.table * self.scale.exp()))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 3, batch_first=True)
        prune.random_unstructured(self.lstm, "weight_hh_l0", 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


class Combined(nn.Module):
    """Operations of a value and several constants."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.slope = P(torch.randn(4)), P(torch.rand(4) + 1), P(torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.addcdiv(torch.addcmul(x, self.a, self.b, value=0.5), self.a, self.b)
        return F.prelu(x, self.slope * 2)


class Double(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 2 + 0.25


def chain(conv: nn.Module) -> nn.Module:
    return nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1))


def pruned(layer: nn.Module) -> nn.Module:
    prune.random_unstructured(layer, "weight", 0.5)
    return layer


def parametrized(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Double())
    return layer


def old(name: str, layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(nn.utils, name)(layer)  # type: ignore[no-any-return]


IMAGE = (3, 6, 6)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "pruned": (lambda: chain(pruned(nn.Conv2d(3, 4, 3))), IMAGE),
    "weight_norm": (lambda: chain(old("weight_norm", nn.Conv2d(3, 4, 3))), IMAGE),
    "weight_norm, parametrized": (lambda: chain(parametrizations.weight_norm(nn.Conv2d(3, 4, 3))), IMAGE),
    "spectral_norm": (lambda: chain(old("spectral_norm", nn.Conv2d(3, 4, 3))), IMAGE),
    "spectral_norm, parametrized": (lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 4)), nn.ReLU()), (6,)),
    "a parametrization": (lambda: chain(parametrized(nn.Conv2d(3, 4, 3))), IMAGE),
    "transposed": (lambda: nn.Sequential(pruned(nn.ConvTranspose2d(3, 4, 2, 2)), nn.ReLU()), IMAGE),
    "standardized": (lambda: chain(Standardized(3, 4, 3)), IMAGE),
    "signs": (Signs, (6,)),
    "tied": (Tied, (6,)),
    "attention": (Attention, (5, 8)),
    "filled": (Filled, (3,)),
    "bias of positions": (Bias, (2, 4, 4)),
    "combined": (Combined, (4,)),
    "token": (Token, (4, 6)),
}


def made(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model, x = make(), torch.randn(16, *shape)
    with torch.no_grad():
        model.train()(x)  # which gives a BatchNorm statistics
    return model.eval(), x


def steps(q: nn.Module, x: Tensor, count: int = 3) -> None:
    q.train()
    optimizer = torch.optim.SGD(q.parameters(), lr=1e-2, momentum=0.9)
    for _ in range(count):
        optimizer.zero_grad()
        q(x).square().mean().backward()
        optimizer.step()


def own_names(q: nn.Module) -> set[str]:
    """The tensors of a model but for those of its casts."""
    return {name for name in q.state_dict() if name.rpartition(".")[2] not in ("frac_bits", "frac_start", "cast_type")}


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
