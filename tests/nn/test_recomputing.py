"""Activation checkpointing: what runs again inside the backward pass must be what ran before it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import qfx
from qfx import DataError, QfxError, Recipe

X = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Conv2d(6, 5, 3, stride=2),
        nn.BatchNorm2d(5, momentum=None),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(20, 7, bias=False),
        nn.BatchNorm1d(7, affine=False),
        nn.Linear(7, 2),
    )


def batches(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 3, 8, 8, generator=generator) for _ in range(count)]


def plainly(q: nn.Module, x: Tensor) -> Tensor:
    return q(x)  # type: ignore[no-any-return]


def again(q: nn.Module, x: Tensor) -> Tensor:
    return checkpoint(q, x, use_reentrant=False)  # type: ignore[no-any-return]


def again_reentrant(q: nn.Module, x: Tensor) -> Tensor:
    return checkpoint(q, x.clone().requires_grad_(), use_reentrant=True)  # type: ignore[no-any-return]


def nested(q: nn.Module, x: Tensor) -> Tensor:
    return checkpoint(lambda y: checkpoint(q, 2 * y, use_reentrant=False), x / 2, use_reentrant=False)  # type: ignore[no-any-return]


def nested_reentrant(q: nn.Module, x: Tensor) -> Tensor:
    def inner(y: Tensor) -> Tensor:
        return checkpoint(q, 2 * y, use_reentrant=True)  # type: ignore[no-any-return]

    return checkpoint(inner, (x / 2).requires_grad_(), use_reentrant=True)  # type: ignore[no-any-return]


def step_by_step(q: nn.Module, xs: Iterable[Tensor], run: Callable[[nn.Module, Tensor], Tensor]) -> list[Tensor]:
    outputs = []
    for x in xs:
        y = run(q, x)
        y.square().sum().backward()
        outputs.append(y.detach())
    return outputs


def all_at_once(q: nn.Module, xs: Iterable[Tensor], run: Callable[[nn.Module, Tensor], Tensor]) -> list[Tensor]:
    outputs = [run(q, x) for x in xs]
    torch.stack([y.square().sum() for y in outputs]).sum().backward()
    return [y.detach() for y in outputs]


def first_in_first_out(q: nn.Module, xs: Iterable[Tensor], run: Callable[[nn.Module, Tensor], Tensor]) -> list[Tensor]:
    outputs = [run(q, x) for x in xs]
    for y in outputs:
        y.square().sum().backward()
    return [y.detach() for y in outputs]


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("style", ["keep", "fold"])
@pytest.mark.parametrize("run", [again, again_reentrant, nested, nested_reentrant])
@pytest.mark.parametrize("order", [step_by_step, all_at_once, first_in_first_out])
def test_forward_gradients_and_statistics_are_those_without_it(style: str, run: Callable[..., Tensor], order: Callable[..., list[Tensor]]) -> None:
    q = qfx.quantize(network(), X, Recipe.uniform(6, batch_norm=style)).train()
    other, xs = copy.deepcopy(q), batches(3)
    torch.manual_seed(5)
    expected = order(q, xs, plainly)
    torch.manual_seed(5)
    found = order(other, xs, run)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert all(torch.equal(q.state_dict()[name], value) for name, value in other.state_dict().items())
    assert int(other.get_buffer("1.num_batches_tracked")) == 3
    for (name, a), (_, b) in zip(q.named_parameters(), other.named_parameters(), strict=True):
        if a.grad is None:
            assert b.grad is None, name
        else:
            assert torch.allclose(a.grad, b.grad, rtol=1e-5, atol=1e-6 * float(a.grad.abs().max())), name  # floats, added up in another order


def test_training_on_one_batch_over_and_over_is_the_same() -> None:
    q = qfx.quantize(network(), X).train()
    q.get_submodule("3").p = 0.0
    other = copy.deepcopy(q)
    for model, run in ((q, plainly), (other, again)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in range(40):
            optimizer.zero_grad()
            run(model, X).square().sum().backward()
            optimizer.step()
    assert all(torch.equal(q.state_dict()[name], value) for name, value in other.state_dict().items())


def test_a_retained_graph_goes_back_twice() -> None:
    q = qfx.quantize(network(), X).train()
    q.get_submodule("3").p = 0.0
    loss = again(q, X).square().sum()
    loss.backward(retain_graph=True)
    first = [p.grad.clone() for p in q.parameters() if p.grad is not None]
    statistics = q.get_buffer("1.running_mean").clone()
    q.zero_grad()
    loss.backward()
    assert all(torch.equal(a, b) for a, b in zip(first, [p.grad for p in q.parameters() if p.grad is not None], strict=True))
    assert torch.equal(statistics, q.get_buffer("1.running_mean"))


@pytest.mark.parametrize("style", ["keep", "fold"])
def test_what_cannot_be_recalled_is_refused(style: str) -> None:
    q = qfx.quantize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), X, Recipe(batch_norm=style)).train()
    y = again(q, X)
    for x in batches(40):
        q(x)
    with pytest.raises(QfxError, match=r"^1: is computed again inside a backward pass") as caught:
        y.sum().backward()
    assert caught.value.remedy


def test_copies_and_pickles_do_not_carry_the_past() -> None:
    q = qfx.quantize(network(), X).train()
    empty = len(pickle.dumps(q))
    for x in batches(20):
        q(x)
    assert abs(len(pickle.dumps(q)) - empty) < 1000
    assert not copy.deepcopy(q).get_submodule("1")._past.steps
    assert pickle.loads(pickle.dumps(q)).get_submodule("1")(qfx.nn.qtensor.QTensor(torch.ones(2, 6, 1, 1), qfx.fixed.arith.Interval(0, 1, 0)))


@pytest.mark.parametrize("style", ["keep", "fold"])
@pytest.mark.parametrize(("shape", "model"), [((1, 3), nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))), ((1, 3, 3, 3), None)])
def test_one_value_per_channel_is_refused_in_training(style: str, shape: tuple[int, ...], model: nn.Module | None) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)) if model is None else model
    example = torch.randn(4, *shape[1:])
    q = qfx.quantize(model, example, Recipe(batch_norm=style)).train()
    before = copy.deepcopy(q.state_dict())
    with pytest.raises(DataError, match=r"^1: .*more than 1 value per channel when training") as caught:
        q(example[:1])
    assert "eval()" in caught.value.remedy
    assert all(torch.equal(before[name], value) for name, value in q.state_dict().items())
    q(example)
    q.get_submodule("1").eval()
    q(example[:1])
    q.eval()
    q(example[:1])


def test_an_example_of_one_value_per_channel_gives_an_untrained_norm_no_statistics() -> None:
    q = qfx.quantize(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), torch.randn(1, 3))
    assert q.get_buffer("1.running_var").tolist() == [1.0] * 4
    assert q.get_buffer("1.running_mean").tolist() == [0.0] * 4
