"""Linear layers behind each other, called as one, do what their modules do one by one: the same bits, gradients, states and refusals."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from both_ways import Run, both_ways, taken, trained
from torch import Tensor, nn

import qfx
from qfx.errors import DataError, ExactnessError
from qfx.fixed.recorded import recorded
from qfx.nn.casts import quick
from qfx.nn.layers import QInput, QLinear, QReLU
from qfx.nn.layers.products import whole
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer

pytestmark = pytest.mark.skipif(recorded() is None, reason="recorded.cpp cannot be built here: no compiler, or no headers of Python")


class Branched(nn.Module):
    """A chain of two, whose result is read twice; one in the middle; and a last one whose result meets something else before its cast."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 7), nn.Linear(7, 6)
        self.left, self.right = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(F.relu(self.first(x)))
        return F.relu(self.left(x)) + self.right(x)


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 5), nn.Linear(5, 4), nn.ReLU6(), nn.Linear(4, 3))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(12, 6, generator=torch.Generator().manual_seed(0))


def made(build: Callable[[], nn.Module], x: Tensor, bits: int = 6) -> nn.Module:
    torch.manual_seed(0)
    qmodel: nn.Module = qfx.quantize(build(), x, qfx.Recipe.uniform(bits)).train()
    qmodel(x)  # where it is learned what the layers need
    return qmodel


def both(monkeypatch: pytest.MonkeyPatch, run: Run, expected: list[bool]) -> None:
    """``run`` in one step a layer, where ``expected`` says that this is possible, and module by module: the same to the bit."""
    both_ways(monkeypatch, "cast_of", run, expected)


@pytest.mark.parametrize("loss", [torch.sum, lambda out: (out * out).sum(), lambda out: (out.t() * torch.arange(12.0).cos()).sum()])
@pytest.mark.parametrize(("build", "steps"), [(perceptron, [True] * 3), (Branched, [True] * 3)], ids=["perceptron", "branched"])
def test_numbers_and_gradients(
    build: Callable[[], nn.Module], steps: list[bool], loss: Callable[[Tensor], Tensor], x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    both(monkeypatch, trained(made(build, x), x, loss), steps)


def test_one_bit_more_is_seen(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison is one: a result of one LSB more differs."""
    real = whole.cast_of

    def planted(*given: object) -> Tensor | None:
        found = real(*given)  # type: ignore[arg-type]
        return None if found is None else found + 2.0**-4

    qmodel = made(perceptron, x)
    monkeypatch.setattr(whole, "cast_of", planted)
    with pytest.raises(AssertionError):
        both(monkeypatch, trained(qmodel, x), [True] * 3)


def test_the_result_is_cast_where_the_range_ends(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saturated numbers, and those that a ReLU stops, have the gradients that they have without."""
    both(monkeypatch, trained(made(perceptron, x), 20 * x, lambda out: (out * out).sum()), [True] * 3)


@pytest.mark.parametrize("frozen", ["0.weight", "0.bias", "0.weight_cast.frac_bits", "0.bias_cast.frac_bits"])
def test_what_does_not_train(x: Tensor, frozen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    qmodel = made(perceptron, x)
    linear = next(layer for layer in qmodel.modules() if isinstance(layer, QLinear))
    linear.get_parameter(frozen.removeprefix("0.")).requires_grad_(False)
    both(monkeypatch, trained(qmodel, x), [True] * 3)


def test_a_point_of_a_result_that_does_not_train_goes_module_by_module(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    qmodel = made(perceptron, x)
    qmodel.get_parameter("1.output_cast.frac_bits").requires_grad_(False)
    both(monkeypatch, trained(qmodel, x), [False, True, True])


def test_it_trains_on_as_binary_points_move(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps so wide that points move and are put back into their reach: both ways end at the same weights and points."""
    ends, went = [], []
    for way in (whole.cast_of, lambda *_: None):
        qmodel = made(perceptron, x)
        optimizer = torch.optim.Adam(qmodel.parameters(), lr=0.3)
        with taken(monkeypatch, "cast_of", way) as seen:
            for _ in range(12):
                optimizer.zero_grad()
                qmodel(x).square().sum().backward()
                optimizer.step()
        ends.append([parameter.detach() for parameter in qmodel.parameters()])
        went.append(seen)
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    assert {True, False} == set(went[0])
    assert not any(went[1])


@pytest.mark.parametrize("kind", [QLinear, QReLU, Quantizer])
def test_hooks_are_called(x: Tensor, kind: type[nn.Module]) -> None:
    """A hook of a layer within a chain, and one of all modules, sees what it saw before; and what it gives instead counts."""
    qmodel = made(perceptron, x)
    nodes = [node for node in qmodel.graph.nodes if node.op == "call_module"]  # type: ignore[union-attr]
    layers = [qmodel.get_submodule(str(node.target)) for node in nodes]
    layer = next(layer for layer in layers if type(layer) is kind)
    seen: list[nn.Module] = []
    handle = layer.register_forward_hook(lambda module, given, result: seen.append(module))
    qmodel(x)
    assert seen == [layer]
    handle.remove()
    before = qmodel(x)
    zeros = layer.register_forward_pre_hook(lambda module, given: (QTensor(given[0].value * 0, given[0].interval),))
    assert not torch.equal(qmodel(x), before)
    zeros.remove()
    seen.clear()
    everywhere = nn.modules.module.register_module_forward_hook(lambda module, given, result: seen.append(module))
    try:
        qmodel(x)
    finally:
        everywhere.remove()
    assert [module for module in seen if module in layers] == layers


def test_another_forward_of_a_layer_counts(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    qmodel = made(perceptron, x)
    before = qmodel(x)
    relu = next(layer for layer in qmodel.modules() if isinstance(layer, QReLU))
    monkeypatch.setattr(relu, "forward", lambda given: QTensor(given.value * 0, given.interval))
    assert not torch.equal(qmodel(x), before)


def test_a_layer_put_in_the_place_of_another_counts(x: Tensor) -> None:
    qmodel, other = made(perceptron, x), made(perceptron, x)
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.dim() == 2:
                parameter.neg_()
    name = next(name for name, layer in qmodel.named_modules() if isinstance(layer, QLinear))
    before = qmodel(x)
    setattr(qmodel, name, other.get_submodule(name))
    assert not torch.equal(qmodel(x), before)


def test_copies_and_pickles_have_chains_of_their_own(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    qmodel = made(perceptron, x)
    expected = trained(qmodel, x)()
    for other in (copy.deepcopy(qmodel), pickle.loads(pickle.dumps(qmodel))):
        other(x)
        both(monkeypatch, trained(other, x), [True] * 3)
        assert all(a is None or b is None or torch.equal(a, b) for a, b in zip(trained(other, x)(), expected, strict=True))
        with torch.no_grad():
            next(other.parameters()).zero_()
        assert torch.equal(expected[0], qmodel(x).detach())  # type: ignore[arg-type]


def test_a_backward_pass_within_autocast_is_that_of_without(x: Tensor) -> None:
    found = []
    for within in (False, True):
        qmodel = made(perceptron, x)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=within):
            (qmodel(x).square().sum()).backward()
        found.append([parameter.grad for parameter in qmodel.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True) if a is not None and b is not None)
    assert sum(grad is not None for grad in found[1]) > 8


@pytest.mark.parametrize("frozen", [False, True])
def test_the_input_is_looked_at_once(x: Tensor, frozen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where C++ does not take the input's cast, as on a device, too: to look may be to wait."""
    qmodel = made(perceptron, x)
    if frozen:
        qfx.freeze(qmodel)
        monkeypatch.setattr(quick, "cast", lambda *_: None)
    looked: list[str] = []
    real = QInput.checked

    def counted(layer: QInput, given: Tensor) -> Tensor:
        looked.append(layer.label)
        return real(layer, given)

    monkeypatch.setattr(QInput, "checked", counted)
    qmodel(x)
    assert len(looked) == 1


def test_refusals_stay(x: Tensor) -> None:
    qmodel = made(perceptron, x)
    with pytest.raises(DataError, match="expected"):
        qmodel(x[:, :5])
    with pytest.raises(DataError, match="NaN"):
        qmodel(torch.full_like(x, torch.nan))
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(ExactnessError, match="may be rounded"):
            qmodel(x)
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_second_derivative_is_refused(x: Tensor) -> None:
    qmodel = made(perceptron, x)
    given = x.clone().requires_grad_()
    (by,) = torch.autograd.grad(qmodel(given).sum(), given, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        by.sum().backward()  # type: ignore[no-untyped-call]
