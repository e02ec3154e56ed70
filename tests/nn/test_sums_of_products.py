"""Products of values, and of values with tensors that a model holds: one number in torch, ONNX Runtime, interpreter and C simulation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from support.bundles import build_bundle
from torch import Tensor, nn

import qfx
from qfx.errors import ExactnessError, UnsupportedError
from qfx.fixed.arith import Interval
from qfx.hardware.design.schedule import Schedule
from qfx.ir.graph import Graph
from qfx.ir.interpret import quantize_input, run, run_from_raw
from qfx.ir.passes.pipeline import optimize
from qfx.nn.layers.products.matmul import QMatMul
from qfx.nn.qtensor import QTensor
from qfx.recipe import Recipe, Spec
from qfx.testing import adversarial_inputs, assert_bit_exact
from qfx.verify import raw_of


class Holding(nn.Module):
    """A function of the input and of parameters ``w`` and ``b`` that no layer of torch holds."""

    def __init__(self, function: Callable[..., Tensor], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        for name, shape in zip("wb", shapes, strict=False):
            self.register_parameter(name, nn.Parameter(torch.randn(*shape) * 0.3))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self._parameters.values())


class Two(nn.Module):
    """Two linear layers on the last axis."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(features, 5), nn.Linear(5, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x)))


class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.form = nn.Bilinear(6, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.form(x, x[..., :4])


def turned(x: Tensor) -> Tensor:
    return x.transpose(-1, -2)


FORMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: Two(6), (3, 6)),
    "channels_last": (lambda: Two(3), (4, 5, 3)),
    "many_axes": (lambda: Two(3), (2, 1, 2, 2, 3)),
    "f_linear": (lambda: Holding(F.linear, (5, 6), (5,)), (6,)),
    "f_linear_axes": (lambda: Holding(F.linear, (5, 6), (5,)), (3, 6)),
    "f_linear_plain": (lambda: Holding(F.linear, (5, 6)), (2, 3, 6)),
    "f_conv1d": (lambda: Holding(lambda x, w: F.conv1d(x, w, None, 1, "same", 1, 2), (4, 2, 3)), (4, 7)),
    "f_conv2d": (lambda: Holding(lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=(1, 0)), (4, 3, 3, 3), (4,)), (3, 6, 6)),
    "f_conv_transpose2d": (
        lambda: Holding(lambda x, w, b: F.conv_transpose2d(x, w, b, 2, (1, 0), (1, 0), 3), (3, 2, 3, 2), (6,)),
        (3, 4, 3),
    ),
    "times_matrix": (lambda: Holding(lambda x, w: x @ w, (6, 5)), (6,)),
    "rows_times_matrix": (lambda: Holding(torch.matmul, (6, 5)), (3, 6)),
    "rows_times_vector": (lambda: Holding(torch.matmul, (6,)), (3, 6)),
    "matrix_times": (lambda: Holding(lambda x, w: w @ x, (5, 3)), (3, 6)),
    "vector_times": (lambda: Holding(lambda x, w: w @ x, (3,)), (3, 6)),
    "matrices_times": (lambda: Holding(lambda x, w: w @ x, (2, 5, 3)), (2, 3, 6)),
    "heads_times_matrices": (lambda: Holding(torch.matmul, (1, 2, 6, 5)), (2, 3, 6)),
    "one_times_matrices": (lambda: Holding(torch.matmul, (4, 6, 5)), (1, 3, 6)),
    "mm": (lambda: Holding(torch.mm, (6, 4)), (6,)),
    "addmm": (lambda: Holding(lambda x, w, b: torch.addmm(b, x, w), (6, 5), (5,)), (6,)),
    "inner": (lambda: Holding(torch.inner, (5, 6)), (3, 6)),
    "tensordot": (lambda: Holding(lambda x, w: torch.tensordot(x, w, dims=([1], [0])), (3, 2, 4)), (3, 6)),
    "square": (lambda: Holding(lambda x: x @ turned(x)), (3, 6)),
    "heads": (lambda: Holding(lambda x: torch.matmul(x, turned(x))), (2, 3, 6)),
    "repeated_heads": (lambda: Holding(lambda x: x @ turned(x[:, :1])), (2, 3, 6)),
    "bmm": (lambda: Holding(lambda x: torch.bmm(turned(x), x)), (3, 6)),
    "baddbmm": (lambda: Holding(lambda x: torch.baddbmm(torch.bmm(x, turned(x)), x, turned(x))), (3, 6)),
    "attention": (lambda: Holding(lambda x: F.relu(x @ turned(x)) @ x), (3, 6)),
    "bilinear": (lambda: Bilinear(), (6,)),
    "bilinear_axes": (lambda: Bilinear(), (2, 3, 6)),
    "e_scores": (lambda: Holding(lambda x: torch.einsum("bhqd,bhkd->bhqk", x, x)), (2, 3, 6)),
    "e_outer": (lambda: Holding(lambda x: torch.einsum("bi,bj->bij", x, x)), (6,)),
    "e_elementwise": (lambda: Holding(lambda x: torch.einsum("bij,bij->bij", x, x)), (3, 6)),
    "e_turned_product": (lambda: Holding(lambda x: torch.einsum("bij,bkj->bki", x, x[:, :2])), (3, 6)),
    "e_rows": (lambda: Holding(lambda x: torch.einsum("bij,bij->bi", x, x)), (3, 6)),
    "e_transposed": (lambda: Holding(lambda x: torch.einsum("b...i->bi...", x)), (3, 2, 6)),
    "e_graph": (lambda: Holding(lambda x, w: torch.einsum("nctv,vw->nctw", x, w), (6, 4)), (2, 3, 6)),
    "e_first": (lambda: Holding(lambda x, w: torch.einsum("kj,bik->bji", w, x), (6, 5)), (3, 6)),
    "e_ellipsis": (lambda: Holding(lambda x, w: torch.einsum("b...k,kj->b...j", x, w), (6, 5)), (2, 3, 6)),
    "e_groups": (lambda: Holding(lambda x, w: torch.einsum("bhik,hkj->bihj", x, w), (2, 6, 4)), (2, 3, 6)),
    "e_two_axes": (lambda: Holding(lambda x, w: torch.einsum("bik,kij->bj", x, w), (6, 3, 4)), (3, 6)),
    "e_channels": (lambda: Holding(lambda x, w: torch.einsum("bchw,c->bchw", x, w), (2,)), (2, 3, 4)),
}


def quantized(name: str, recipe: Recipe | None = None) -> tuple[nn.Module, Tensor, nn.Module, Graph]:
    torch.manual_seed(1)
    make, shape = FORMS[name]
    model, x = make().eval(), torch.randn(16, *shape)
    qmodel = qfx.quantize(model, x, recipe)
    return model, x, qmodel, qfx.to_graph(qmodel)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_torch_onnx_and_interpreter_agree_and_are_near_float(name: str, granularity: str, tmp_path: Path) -> None:
    spec = Spec(width=8, granularity=granularity)  # type: ignore[arg-type]
    model, x, qmodel, graph = quantized(name, Recipe(weight=spec, activation=spec))
    with torch.no_grad():
        float_result, found = model(x), qmodel(x)
    assert found.shape == float_result.shape
    assert float((found - float_result).abs().max()) <= 0.06 * float(float_result.abs().max())
    path = tmp_path / "model.onnx"
    qfx.export_onnx(qmodel, path)
    session = ort.InferenceSession(path)
    nasty = adversarial_inputs(graph, np.random.default_rng(2), 6)
    expected = run(graph, nasty)
    (in_runtime,) = session.run(None, {session.get_inputs()[0].name: nasty})
    with torch.no_grad():
        in_torch = qmodel(torch.from_numpy(nasty)).numpy()
    assert_bit_exact(in_runtime.astype(np.float64), expected.astype(np.float64), names=("ONNX Runtime", "interpreter"))
    assert_bit_exact(in_torch.astype(np.float64), expected.astype(np.float64), names=("torch", "interpreter"))


@pytest.mark.usefixtures("gxx")
def test_c_simulation_agrees(fast: bool, tmp_path: Path) -> None:
    models = [quantized(name) for name in FORMS]
    bundle = build_bundle([(optimize(graph), Schedule()) for *_, graph in models], tmp_path, fast=fast)
    for index, (name, (_, _, qmodel, graph)) in enumerate(zip(FORMS, models, strict=True)):
        x = adversarial_inputs(graph, np.random.default_rng(3), 4)
        x_raw = quantize_input(graph, x)
        simulated = bundle.run_from_raw(index, x_raw)
        assert_bit_exact(simulated, run_from_raw(graph, x_raw), names=(f"{name} in C", "interpreter"))
        with torch.no_grad():
            assert_bit_exact(simulated, raw_of(qmodel(torch.from_numpy(x)).numpy(), graph, "torch"), names=(f"{name} in C", "torch"))


def test_one_lsb_of_a_held_parameter_is_seen() -> None:
    _, x, qmodel, graph = quantized("rows_times_matrix")
    weight, cast = qmodel.get_parameter("matmul.weight"), qmodel.get_submodule("matmul.weight_cast")
    with torch.no_grad():
        weight[2, 3] += 2.0 ** -float(cast.frac_bits)
    nasty = x.numpy()
    with pytest.raises(AssertionError, match="differ"):
        assert_bit_exact(run(qfx.to_graph(qmodel), nasty), run(graph, nasty))


@pytest.mark.parametrize(
    "name", ["linear", "channels_last", "f_linear_axes", "f_conv2d", "matrix_times", "e_groups", "heads", "attention", "e_outer"]
)
def test_gradients_are_those_of_float_but_for_rounding(name: str) -> None:
    """Words so long that the casts hardly round."""
    spec = Spec(width=20)
    wide = Recipe(input=Spec(width=12), weight=spec, bias=spec, activation=spec, output=spec)
    model, x, qmodel, _ = quantized(name, wide)
    grads = []
    for network in (model, qmodel):
        network.zero_grad()
        given = x.clone().requires_grad_()
        network(given).double().square().sum().backward()
        named = dict(network.named_parameters())
        weights = [named[key].grad for key in named if key.rpartition(".")[2] in ("weight", "bias", "w", "b") and "cast" not in key]
        grads.append([given.grad, *weights])
    for expected, found in zip(*grads, strict=True):
        assert expected is not None
        assert found is not None
        assert float((expected - found).norm()) <= 0.02 * float(expected.norm())


def test_the_product_of_values_has_the_gradient_of_matmul() -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randint(-8, 8, shape, generator=rng).float().requires_grad_() for shape in ((2, 3, 4, 5), (2, 3, 5, 6)))
    layer, bound = QMatMul(5), Interval(-8, 7, 0)
    found = layer(QTensor(a, bound), QTensor(b, bound)).tensor()
    given = torch.randn(found.shape, generator=rng)
    pairs = zip(torch.autograd.grad(found, (a, b), given), torch.autograd.grad(a @ b, (a, b), given), strict=True)
    assert torch.equal(found, a @ b)
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


def test_sums_of_more_than_24_bits_are_taken_in_double_and_beyond_53_refused() -> None:
    layer = QMatMul(64)
    layer.name = "scores"
    for bits, dtype in ((9, torch.float32), (10, torch.float64)):  # 2**(2 * bits) * 2**6
        bound = Interval(-(1 << bits), 1 << bits, 0)
        a, b = torch.full((1, 2, 64), float(1 << bits)), torch.full((1, 64, 2), float((1 << bits) - 1))
        found = layer(QTensor(a, bound), QTensor(b, bound)).tensor()
        assert found.dtype == dtype
        assert float(found[0, 0, 0]) == 64 * (1 << bits) * ((1 << bits) - 1)
    wide = QTensor(torch.ones(1, 2, 64), Interval(-(1 << 24), 1 << 24, 0))
    with pytest.raises(ExactnessError, match="scores"):
        layer(wide, QTensor(torch.ones(1, 64, 2), Interval(-(1 << 24), 1 << 24, 0)))


def test_float_checkpoints_load_under_the_names_of_the_model() -> None:
    for name in ("channels_last", "f_linear_axes", "matrix_times", "e_groups"):
        model, x, qmodel, _ = quantized(name)
        other = {key: value + 0.125 for key, value in model.state_dict().items()}
        given = dict(other)
        qmodel.load_state_dict(given)
        assert set(given) == set(other)  # untouched
        model.load_state_dict(other)
        with torch.no_grad():
            assert float((qmodel(x) - model(x)).abs().mean()) <= 0.2 * float(model(x).abs().mean())
        again = qmodel.state_dict()
        qmodel.load_state_dict(again)


def test_the_parameter_is_the_models_own_and_is_trained() -> None:
    torch.manual_seed(0)
    model = FORMS["rows_times_matrix"][0]()
    x = torch.randn(8, 3, 6)
    qmodel = qfx.quantize(model, x)
    before = qmodel.get_parameter("matmul.weight").detach().clone()
    optimizer = torch.optim.SGD(qfx.parameter_groups(qmodel, lr=0.1))
    qmodel(x).square().mean().backward()
    optimizer.step()
    assert not torch.equal(before, qmodel.get_parameter("matmul.weight"))


@pytest.mark.parametrize(
    ("function", "shape", "message"),
    [
        (lambda x: torch.einsum("bii->bi", x), (3, 3), "takes a diagonal"),
        (lambda x: torch.einsum("bij->bi", x), (3, 6), "of 1 operands"),
        (lambda x: torch.einsum("bij,bjk,bkl->bil", x, turned(x), x), (3, 6), "of 3 operands"),
        (lambda x: torch.einsum("bij,bkl->bik", x, x), (3, 6), "sums over axes that one operand has alone"),
    ],
)
def test_what_has_no_form_is_refused(function: Callable[[Tensor], Tensor], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        qfx.quantize(Holding(function), torch.randn(4, *shape))
