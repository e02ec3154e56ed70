"""Structured pruning: importance against its definition, channels really gone, and hardware that is smaller."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx import Recipe
from qfx.errors import QfxError, UnsupportedError
from qfx.operators import Conv, Linear
from qfx.ptq import prune_channels
from qfx.ptq.floating.second_order import importance, surgeon


class Residual(nn.Module):
    """The shortcut's channels stay; those inside go."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1, self.bn1 = nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.conv2, self.bn2 = nn.Conv2d(12, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.pool, self.fc1, self.fc2 = nn.MaxPool2d(2), nn.Linear(8 * 9, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        return self.fc2(F.gelu(self.fc1(self.pool(x).flatten(1))))  # type: ignore[no-any-return]


def trained() -> tuple[Residual, Tensor]:
    torch.manual_seed(0)
    model, x = Residual(), torch.rand(64, 3, 6, 6)
    model(x)
    return model.eval(), x


def test_surgeon_costs_and_compensates_as_least_squares() -> None:
    """Optimal Brain Surgeon's own claim: no other weights with these columns at 0 are nearer, and of all channels it takes the cheapest."""
    torch.manual_seed(0)
    x = torch.randn(400, 12, dtype=torch.float64) @ torch.randn(12, 12, dtype=torch.float64)
    weight, hessian = torch.randn(5, 12, dtype=torch.float64), x.T @ x / 400
    before = list(range(4))
    for count in (3, 2, 1):
        kept, after = surgeon(weight, hessian, 3, count, damping=1e-13)
        errors = {}
        for gone in before:
            stay = [column for group in before if group != gone for column in range(3 * group, 3 * group + 3)]
            solved = torch.zeros_like(weight)
            solved[:, stay] = torch.linalg.lstsq(x[:, stay], x @ weight.T).solution.T
            errors[gone] = float((x @ (solved - weight).T).square().sum())
            if gone not in kept.tolist():
                assert torch.allclose(solved, after, atol=1e-6)
        (left,) = set(before) - set(kept.tolist())
        assert errors[left] <= min(errors.values()) * (1 + 1e-9)
        before = kept.tolist()


def test_apoptosis_is_the_taylor_expansion() -> None:
    torch.manual_seed(0)
    net, x, y = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double(), torch.randn(20, 3).double(), torch.randint(2, (20,))
    parameters = list(net.parameters())
    found = torch.cat([part.flatten() for part in importance(net, parameters, lambda model: F.cross_entropy(model(x), y))])
    flat = torch.cat([part.detach().flatten() for part in parameters])
    sizes = [part.numel() for part in parameters]
    names = [name for name, _ in net.named_parameters()]

    def loss(vector: Tensor) -> Tensor:
        parts = {name: part.view(own.shape) for name, part, own in zip(names, vector.split(sizes), parameters, strict=True)}
        return F.cross_entropy(torch.func.functional_call(net, parts, (x,)), y)

    slope, hessian = torch.autograd.functional.jacobian(loss, flat), torch.autograd.functional.hessian(loss, flat)
    assert torch.allclose(found, -flat * slope + flat * (hessian @ flat) / 2, atol=1e-12)


@pytest.mark.parametrize("method", ["surgeon", "apoptosis"])
def test_pruned_networks_are_smaller_hardware(method: str) -> None:
    model, x = trained()
    y = torch.arange(64) % 4
    pruned = prune_channels(model, x, keep=0.5, method=method, loss=lambda net: F.cross_entropy(net(x), y))  # type: ignore[arg-type]
    assert isinstance(pruned, Residual)
    shapes = {name: tuple(part.shape) for name, part in pruned.named_parameters()}
    assert (shapes["conv1.weight"], shapes["bn1.weight"], shapes["conv2.weight"]) == ((6, 8, 3, 3), (6,), (8, 6, 3, 3))
    assert (shapes["stem.weight"], shapes["fc1.weight"], shapes["fc2.weight"]) == ((8, 3, 3, 3), (5, 72), (4, 5))
    assert pruned.conv2.in_channels == pruned.bn1.num_features == pruned.conv1.out_channels == 6
    macs = []
    for net in (model, pruned):
        graph = qfx.to_graph(qfx.quantize(copy.deepcopy(net), x, Recipe.uniform(6)).eval())
        macs.append(sum(node.op.macs(graph.infos[node.name]) for node in graph.nodes if isinstance(node.op, Conv | Linear)))
    assert macs[1] < 0.7 * macs[0]
    assert model.conv1.out_channels == 12


def test_dead_channels_go_first_and_nothing_changes() -> None:
    model, x = trained()
    with torch.no_grad():
        for dead in (1, 4, 5):
            model.conv1.weight[dead] = 0
            model.bn1.bias[dead] = 0
            model.bn1.running_mean[dead] = 0
    pruned = prune_channels(model, x, keep=0.75)
    assert pruned.conv1.out_channels == 9  # type: ignore[union-attr]
    alone = copy.deepcopy(pruned)
    alone.fc1, alone.fc2 = model.fc1, model.fc2
    with torch.no_grad():
        assert torch.allclose(alone(x), model(x), atol=1e-4)


def test_surgeon_beats_magnitude_and_sequences_of_any_length() -> None:
    torch.manual_seed(0)
    sizes = (6, 32, 16, 4)
    net = nn.Sequential(*(part for pair in pairwise(sizes) for part in (nn.Linear(*pair), nn.ReLU())))[:-1]
    x = torch.randn(300, 6)
    pruned = prune_channels(net, x, keep=0.5)
    kept = {i: net[i].weight.abs().sum(1).argsort(descending=True)[: sizes[i // 2 + 1] // 2].sort().values for i in (0, 2)}
    plain = copy.deepcopy(net)
    for i in (0, 2):
        plain[i].weight.data, plain[i].bias.data = plain[i].weight[kept[i]], plain[i].bias[kept[i]]
        plain[i + 2].weight.data = plain[i + 2].weight[:, kept[i]]
    with torch.no_grad():
        errors = [(other(x) - net(x)).square().mean().item() for other in (pruned, plain)]
    assert errors[0] < 0.5 * errors[1]
    convs = nn.Sequential(nn.Conv1d(2, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.Conv1d(6, 4, 3, stride=2, padding=1))
    assert prune_channels(convs.eval(), torch.randn(8, 2, 12), keep=0.34)[3].in_channels == 3  # type: ignore[index, union-attr]


def test_refusals() -> None:
    model, x = trained()
    for keep in (0, 1.5, float("nan"), "half"):
        with pytest.raises(QfxError, match="keep is "):
            prune_channels(model, x, keep=keep)  # type: ignore[arg-type]
    with pytest.raises(QfxError, match="needs a loss"):
        prune_channels(model, x, method="apoptosis")
    with pytest.raises(QfxError, match="the method is 'magnitude'"):
        prune_channels(model, x, method="magnitude")  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="no layer's channels are read by one other layer alone"):
        prune_channels(nn.Linear(3, 3), torch.rand(4, 3))


def test_a_quantized_model_is_pruned_by_its_float_state_too() -> None:
    """As a float model with what fixed-point training learned, quantized again. (Itself: ``test_channels``.)"""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.rand(40, 6)
    q = qfx.quantize(model, x, Recipe.uniform(6))
    with torch.no_grad():
        dict(q.named_parameters())["0.weight"].mul_(0.5)  # as if trained
    learned = copy.deepcopy(model)
    learned.load_state_dict(qfx.float_state(q))
    pruned = prune_channels(learned, x)
    q = qfx.quantize(pruned, x, Recipe.uniform(6)).eval()
    assert [type(node.op).__name__ for node in qfx.to_graph(q).nodes].count("Linear") == 2
    assert q.get_submodule("0").weight.shape == (4, 6)
    rows = {tuple(row) for row in learned[0].weight.tolist()}  # type: ignore[index]
    assert all(tuple(row) in rows for row in q.get_submodule("0").weight.tolist())
