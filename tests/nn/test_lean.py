"""A backward pass finds what its forward saw, though the large operands of products are not kept."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

import qfx
from qfx.fixed.arith import Interval
from qfx.nn.casts import lean
from qfx.nn.qtensor import QTensor

X = torch.randn(4, 8, 6, 6, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(8, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.ConvTranspose2d(12, 6, 2), nn.Flatten(), nn.Linear(150, 4))


class Block(nn.Module):
    """Two convolutions with norms, added: where float32 cannot hold the sum it is one of float64."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Sequential(nn.Conv2d(8, 12, 3), nn.BatchNorm2d(12)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.first(x) + self.second(x))


def added() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Block(), nn.Flatten(), nn.Linear(192, 4))


RECIPES = {
    "8 bits": qfx.Recipe.uniform(8),
    "sums that need float64": qfx.Recipe.uniform(20),
    "channels": qfx.Recipe(weight=qfx.Spec(6, granularity="channel")),
    "folded": qfx.Recipe.uniform(8, batch_norm="fold"),
    "learned words": qfx.Recipe(weight=qfx.Spec(6, granularity="element", learn_width=True)),
}


def trained(qmodel: nn.Module, run: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    optimizer = torch.optim.SGD(qmodel.parameters(), lr=0.05)
    for step in range(3):
        optimizer.zero_grad()
        F.cross_entropy(run(X + step), torch.arange(4)).backward()
        optimizer.step()
    return dict(qmodel.state_dict())


def let_large_be(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("casts.lean", "layers.weighted", "qtensor"):
        monkeypatch.setattr(f"qfx.nn.{module}.LARGE", size)


@pytest.mark.parametrize(("build", "name"), [*((network, name) for name in RECIPES), (added, "8 bits"), (added, "sums that need float64")])
def test_training_is_the_same(build: Callable[[], nn.Module], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    qmodel = qfx.quantize(build(), X, RECIPES[name]).train()
    states = []
    for large in (1 << 40, 1):
        let_large_be(large, monkeypatch)
        other = copy.deepcopy(qmodel)
        states.append(trained(other, other))
    assert all(torch.equal(states[0][key], value) for key, value in states[1].items())


def kept_by(qmodel: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch, large: int) -> int:
    """The bytes of tensors that autograd holds after a forward and that are no parameters."""
    let_large_be(large, monkeypatch)
    seen: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in qmodel.parameters()} | {x.untyped_storage().data_ptr()}
    out = qmodel(x)
    waiting, met = [out.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in met:
            continue
        met.add(node)
        waiting += [after for after, _ in node.next_functions]
        for field in ("_raw_saved_weight", "_raw_saved_input", "_raw_saved_mat1", "_raw_saved_mat2"):
            raw = getattr(node, field, None)
            try:
                data = None if raw is None else raw.data
            except RuntimeError:  # it went through a hook: what is kept is a function
                continue
            if isinstance(data, Tensor) and data.untyped_storage().data_ptr() not in own:
                seen[data.untyped_storage().data_ptr()] = data.untyped_storage().nbytes()
    return sum(seen.values())


def test_weights_are_not_kept_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    qmodel = qfx.quantize(
        nn.Sequential(nn.Conv2d(64, 64, 5), nn.ReLU(), nn.Conv2d(64, 64, 1)), torch.randn(1, 64, 8, 8), qfx.Recipe.uniform(8)
    ).train()
    x = torch.randn(1, 64, 8, 8)
    held, lean_held = (kept_by(qmodel, x, monkeypatch, large) for large in (1 << 40, 1 << 16))
    weights = 64 * 64 * 25 * 4
    assert held - lean_held >= weights


def test_a_weight_that_changed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    let_large_be(1, monkeypatch)
    qmodel = qfx.quantize(network(), X, qfx.Recipe.uniform(8)).train()
    loss = qmodel(X).sum()
    with torch.no_grad():
        qmodel.get_parameter("5.weight").mul_(0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_other_hooks_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    let_large_be(1, monkeypatch)
    qmodel = qfx.quantize(network(), X, qfx.Recipe.uniform(8)).train()
    shapes = []
    with saved_tensors_hooks(lambda t: shapes.append(tuple(t.shape)) or t, lambda t: t):
        qmodel(X).sum().backward()
    assert (12, 8, 3, 3) in shapes
    assert not lean.hooked()


@pytest.mark.parametrize("large", [1, 1 << 40])
def test_sums_of_two_layers_are_kept_as_float32(large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a backward pass finds of a sum in float64 is made again of what the layers gave: no float64 of its size is kept."""
    let_large_be(large, monkeypatch)
    qmodel = qfx.quantize(added(), X, qfx.Recipe.uniform(8)).train()
    packed: list[tuple[Tensor, Callable[[], Tensor]]] = []

    def seen(made: Mapping[Tensor, Callable[[], Tensor]]) -> AbstractContextManager[Any]:
        packed.extend(pair for pair in made.items() if pair[0].numel() >= lean.LARGE)
        return nullcontext()

    for module in ("qtensor", "quantizer"):
        monkeypatch.setattr(f"qfx.nn.{module}.keeping", seen)
    qmodel(X)
    found = tuple(packed)
    assert len(found) == (3 if large == 1 else 0)  # what is scaled, and both operands of the sum
    for tensor, make in found:
        assert tensor.dtype is torch.float64
        assert make().dtype is torch.float64
        assert torch.equal(tensor, make())
        assert not torch.equal(tensor + 2.0**-12, make())


def test_a_second_derivative_goes_through_what_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for large in (1, 1 << 40):
        let_large_be(large, monkeypatch)
        value = torch.linspace(-1, 1, 12).reshape(2, 3, 2).requires_grad_()
        scale = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
        result = QTensor(value, Interval(-8, 8, 2), scale).tensor()
        (by_scale,) = torch.autograd.grad((result * result).sum(), scale, create_graph=True)
        found.append(torch.autograd.grad(by_scale.sum(), value)[0])
    assert torch.equal(*found)
    assert found[0].abs().min() > 0
