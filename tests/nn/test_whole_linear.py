"""A linear layer that trains as one step of autograd does what its casts and its product do one by one: the same bits, gradients and refusals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from both_ways import Run, both_ways, taken, trained
from torch import Tensor, nn

import qfx
from qfx.errors import ExactnessError
from qfx.fixed.recorded import recorded
from qfx.nn.layers import QLinear
from qfx.nn.layers.products import whole
from qfx.nn.qtensor import QTensor

pytestmark = pytest.mark.skipif(recorded() is None, reason="recorded.cpp cannot be built here: no compiler, or no headers of Python")


@pytest.fixture
def x() -> Tensor:
    return torch.randn(12, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def qmodel(x: Tensor) -> nn.Module:
    torch.manual_seed(0)
    qmodel: nn.Module = qfx.quantize(nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3)), x, qfx.Recipe.uniform(6)).train()
    qmodel(x)  # where it is learned what a layer needs
    return qmodel


def layers(qmodel: nn.Module) -> list[QLinear]:
    return [layer for layer in qmodel.modules() if isinstance(layer, QLinear)]


def both(monkeypatch: pytest.MonkeyPatch, run: Run, expected: list[bool]) -> None:
    """``run`` as one step where that is possible, which is where ``expected`` says, and one by one: the same to the bit."""
    both_ways(monkeypatch, "forward", run, expected, off="cast_of")  # with their results' casts: test_linear_chain.py


@pytest.mark.parametrize("loss", [torch.sum, lambda out: (out * out).sum(), lambda out: (out.t() * torch.arange(12.0).cos()).sum()])
def test_numbers_and_gradients(qmodel: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    both(monkeypatch, trained(qmodel, x, loss), [True, True])


def test_one_bit_more_is_seen(qmodel: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison is one: a result of one LSB more differs."""

    def planted(layer: QLinear, found: whole.Whole, given: QTensor) -> QTensor | None:
        result = forward(layer, found, given)
        return None if result is None else QTensor(result.value + 2.0**-4, result.interval)

    forward = whole.forward
    monkeypatch.setattr(whole, "forward", planted)
    with pytest.raises(AssertionError):
        both(monkeypatch, trained(qmodel, x, torch.sum), [True, True])


@pytest.mark.parametrize("frozen", ["weight", "bias", "weight_cast.frac_bits", "bias_cast.frac_bits"])
def test_what_does_not_train(qmodel: nn.Module, x: Tensor, frozen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layers(qmodel)[0].get_parameter(frozen).requires_grad_(False)
    both(monkeypatch, trained(qmodel, x, torch.sum), [True, True])


def test_it_trains_on_as_binary_points_move(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps so wide that points move, start by start, and are put back into their reach: both ways end at the same weights and points."""
    ends, went = [], []
    for way in (whole.forward, lambda *_: None):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3))
        qmodel = qfx.quantize(model, x, qfx.Recipe.uniform(6)).train()
        optimizer = torch.optim.Adam(qmodel.parameters(), lr=0.3)
        with taken(monkeypatch, "forward", way, off="cast_of") as seen:
            for _ in range(12):
                optimizer.zero_grad()
                qmodel(x).square().sum().backward()
                optimizer.step()
        ends.append([parameter.detach() for parameter in qmodel.parameters()])
        went.append(seen)
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    assert {True, False} == set(went[0])  # one step where nothing moved, one by one where something did
    assert not any(went[1])


def test_a_bias_that_outgrows_its_range_gets_room(qmodel: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    first = layers(qmodel)[0]
    before = first.bias_cast.points()
    with torch.no_grad():
        assert first.bias is not None
        first.bias[0] = 1e3
    both(monkeypatch, trained(qmodel, x, torch.sum), [False, True])
    assert (first.bias_cast.points() < before).all()


def test_what_goes_one_by_one(qmodel: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(qmodel, x, torch.sum)
    first, _ = layers(qmodel)
    first.weight_cast.off = True
    both(monkeypatch, run, [False, True])
    first.weight_cast.off = False
    run()  # learns it again
    first.weight_cast.behind = (lambda _, result: result,)
    both(monkeypatch, run, [False, True])
    first.weight_cast.behind = ()
    run()
    both(monkeypatch, run, [True, True])
    both(monkeypatch, trained(qmodel, x[:1], torch.sum), [False, False])  # torch multiplies one row in another order
    qmodel.eval()
    with taken(monkeypatch, "forward", whole.forward, off="cast_of") as went, torch.no_grad():
        qmodel(x)
    assert went == []


def test_a_layer_that_loses_inputs_is_looked_at_anew(qmodel: nn.Module, x: Tensor) -> None:
    first, _ = layers(qmodel)
    cast = QTensor(x[:, :4].contiguous(), first._whole.x)  # type: ignore[union-attr]
    first.weight = nn.Parameter(first.weight[:, :4].detach().clone())
    before = first._whole
    assert first(cast).interval != before.result  # type: ignore[union-attr]
    assert first(cast).interval == first._whole.result  # type: ignore[union-attr]


def test_refusals(qmodel: nn.Module, x: Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.float16), pytest.raises(ExactnessError, match="autocast is on"):
        layers(qmodel)[0](QTensor(x, layers(qmodel)[0]._whole.x))  # type: ignore[union-attr]
    given = x.clone().requires_grad_()
    (by_x,) = torch.autograd.grad(qmodel(given).square().sum(), given, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        by_x.sum().backward()  # type: ignore[no-untyped-call]
    out = qmodel(x)
    with torch.no_grad():
        layers(qmodel)[0].weight += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()
