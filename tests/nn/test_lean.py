"""A backward pass finds what its forward saw, though the large operands of products are not kept."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

import qfx
from qfx.nn.layers.products import lean

X = torch.randn(4, 8, 6, 6, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(8, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.ConvTranspose2d(12, 6, 2), nn.Flatten(), nn.Linear(150, 4))


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


@pytest.mark.parametrize("name", RECIPES)
def test_training_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    qmodel = qfx.quantize(network(), X, RECIPES[name]).train()
    states = []
    for large in (1 << 40, 1):
        monkeypatch.setattr(lean, "LARGE", large)
        monkeypatch.setattr("qfx.nn.layers.weighted.LARGE", large)
        other = copy.deepcopy(qmodel)
        states.append(trained(other, other))
    assert all(torch.equal(states[0][key], value) for key, value in states[1].items())


def kept_by(qmodel: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch, large: int) -> int:
    """The bytes of tensors that autograd holds after a forward and that are no parameters."""
    monkeypatch.setattr(lean, "LARGE", large)
    monkeypatch.setattr("qfx.nn.layers.weighted.LARGE", large)
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
    monkeypatch.setattr(lean, "LARGE", 1)
    monkeypatch.setattr("qfx.nn.layers.weighted.LARGE", 1)
    qmodel = qfx.quantize(network(), X, qfx.Recipe.uniform(8)).train()
    loss = qmodel(X).sum()
    with torch.no_grad():
        qmodel.get_parameter("5.weight").mul_(0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_other_hooks_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean, "LARGE", 1)
    monkeypatch.setattr("qfx.nn.layers.weighted.LARGE", 1)
    qmodel = qfx.quantize(network(), X, qfx.Recipe.uniform(8)).train()
    shapes = []
    with saved_tensors_hooks(lambda t: shapes.append(tuple(t.shape)) or t, lambda t: t):
        qmodel(X).sum().backward()
    assert (12, 8, 3, 3) in shapes
    assert not lean.hooked()
