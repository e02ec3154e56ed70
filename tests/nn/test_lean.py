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


def test_a_number_that_is_made_again_wrongly_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: each of them is 2**-12 too large."""
    let_large_be(1, monkeypatch)
    qmodel = qfx.quantize(added(), X, RECIPES["sums that need float64"]).train()
    other = copy.deepcopy(qmodel)
    right = trained(qmodel, qmodel)

    def off(make: Callable[[], Tensor] | None) -> Callable[[], Tensor] | None:
        return None if make is None else lambda: make() + 2.0**-12

    for module in ("qtensor", "quantizer"):
        monkeypatch.setattr(f"qfx.nn.{module}.keeping", lambda made: lean.keeping({tensor: off(make) for tensor, make in made.items()}))
    wrong = trained(other, other)
    assert not all(torch.equal(right[key], value) for key, value in wrong.items())


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


UNCAST: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "a norm": (lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)), (2, 4, 8, 8)),
    "what it multiplies, kept beside a weight": (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()), (2, 4, 8, 8)),
    "a weight without a cast": (lambda: nn.Sequential(nn.Linear(6, 5)), (3, 6)),
}


def touched(name: str, touch: Callable[[nn.Module, Tensor], object]) -> None:
    """A backward pass of a network whose casts are off, ``touch`` having been called between."""
    torch.manual_seed(0)
    build, shape = UNCAST[name]
    x = torch.randn(*shape)
    qmodel = qfx.quantize(build(), x, qfx.Recipe.uniform(8)).train()
    qfx.switch(qmodel, on=False)
    y = qmodel(x)
    with torch.no_grad():
        touch(qmodel, x)
    y.square().sum().backward()


@pytest.mark.parametrize("name", UNCAST)
def test_an_input_that_changed_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where casts are off, what a backward pass makes its numbers of may be the user's own tensor, such as a buffer that is filled again."""
    let_large_be(1, monkeypatch)
    touched(name, lambda _, x: x + 1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        touched(name, lambda _, x: x.zero_())


def test_a_weight_without_a_cast_that_changed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    let_large_be(1, monkeypatch)
    torch.manual_seed(0)
    x = torch.randn(3, 6)
    qmodel = qfx.quantize(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)), x, qfx.Recipe.uniform(8)).train()
    qfx.switch(qmodel, on=False)
    loss = qmodel(x).sum()
    with torch.no_grad():
        qmodel.get_parameter("2.weight").mul_(0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("which", ["value", "scale", "shift"])
@pytest.mark.parametrize("first", [False, True])
def test_an_operand_of_a_sum_that_changed_is_refused(which: str, first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either of them: one is made again of what it would be computed of, the other of its float32."""
    let_large_be(1, monkeypatch)
    cast = next(found for name, found in qfx.quantizers(qfx.quantize(added(), X, qfx.Recipe.uniform(8)).train()) if name.endswith("output"))
    parts = [{"value": torch.ones(2, 3, 4), "scale": torch.full((3,), 0.5), "shift": torch.ones(3)} for _ in range(2)]
    for part in parts:
        part["value"].requires_grad_()
    one, two = (QTensor(part["value"] * 1, Interval(-(1 << 30), 1 << 30, 8), part["scale"], part["shift"]) for part in parts)
    result = cast(one.add(two))
    with torch.no_grad():
        held = getattr(one if first else two, which)
        held.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.value.sum().backward()


def test_products_in_float64_notice_what_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    let_large_be(1, monkeypatch)
    torch.manual_seed(0)
    x = torch.randn(3, 6)
    qmodel = qfx.quantize(nn.Sequential(nn.Linear(6, 5)), x, qfx.Recipe.uniform(20)).train()
    layer: Any = qmodel.get_submodule("0")
    value = torch.ones(3, 6)
    result = layer(QTensor(value, Interval(-(1 << 19), 1 << 19, 10)))
    result = result.value if isinstance(result, QTensor) else result
    assert result.dtype is torch.float64
    value.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.sum().backward()


def test_what_inference_mode_made_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody counts what is written into it: so nothing is made again of it."""
    let_large_be(1, monkeypatch)
    with torch.inference_mode():
        value = torch.linspace(-1, 1, 12).reshape(2, 3, 2)
    scale = torch.ones(3, dtype=torch.float64, requires_grad=True)
    result = QTensor(value, Interval(-8, 8, 2), scale).tensor()
    expected = value.double().sum((0, 2))
    with torch.inference_mode():
        value.zero_()
    result.sum().backward()
    assert scale.grad is not None
    assert torch.equal(scale.grad, expected)


@pytest.mark.parametrize("large", [1, 1 << 40])
def test_sums_of_two_layers_are_kept_as_float32(large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a backward pass finds of a sum in float64 is made again of what the layers gave: no float64 of its size is kept."""
    let_large_be(large, monkeypatch)
    qmodel = qfx.quantize(added(), X, qfx.Recipe.uniform(8)).train()
    packed: list[tuple[Tensor, Callable[[], Tensor]]] = []

    def seen(made: Mapping[Tensor, Callable[[], Tensor] | None]) -> AbstractContextManager[Any]:
        packed.extend((tensor, make) for tensor, make in made.items() if make is not None and tensor.numel() >= lean.LARGE)
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
