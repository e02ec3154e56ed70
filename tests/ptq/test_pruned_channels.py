"""Structured pruning of quantized models: channels leave with their formats, and what is left computes what the model without them computed."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

import qfx
from qfx import Override, Recipe, Spec
from qfx.errors import QfxError, UnsupportedError
from qfx.faults.definition import Faults
from qfx.faults.training import inject
from qfx.hardware.board import board
from qfx.hardware.cost.estimate import estimate
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Schedule
from qfx.ir.interpret import run_raw
from qfx.ptq import prune_channels
from qfx.ptq.channels import chains, parts, smoothed
from qfx.ptq.floating.second_order import importance
from qfx.training.low_rank import low_rank


class Net(nn.Module):
    """A shortcut, whose channels stay; norms, poolings, a flattened map and a table, through which channels go."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.conv1, self.bn1 = nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv3, self.pool = nn.Conv2d(6, 5, 3), nn.AvgPool2d(2)
        self.fc1, self.fc2 = nn.Linear(5 * 4, 9), nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        x = self.pool(torch.relu(self.conv3(x))).flatten(1)
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


CHAINS = [("conv1", "conv2"), ("conv3", "fc1"), ("fc1", "fc2")]


def network() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model, x = Net(), torch.rand(48, 2, 6, 6)
    for _ in range(3):
        model(x)  # statistics
    return model.eval(), x


def loss(x: Tensor) -> Any:
    y = torch.arange(len(x)) % 4
    return lambda net: F.cross_entropy(net(x), y)


def without(q: nn.Module, pruned: nn.Module) -> nn.Module:
    """``q`` with 0 for every weight that reads a channel that ``pruned`` has not: its channels are known by their rows."""
    zeroed = copy.deepcopy(q)
    for first, second in CHAINS:
        rows, left = (each.get_submodule(first).weight.detach() for each in (q, pruned))
        read: Any = zeroed.get_submodule(second)
        if first == "fc1":  # inputs of it have gone, too
            kept_inputs = _kept(q.get_submodule("conv3").weight.detach(), pruned.get_submodule("conv3").weight.detach())  # type: ignore[operator]
            rows = rows.reshape(9, 5, 4)[:, kept_inputs].flatten(1)  # type: ignore[operator]
        gone = sorted(set(range(len(rows))) - set(_kept(rows, left)))  # type: ignore[arg-type]
        weight = read.weight.detach().reshape(len(read.weight), len(rows), -1)  # type: ignore[arg-type]
        with torch.no_grad():
            weight[:, gone] = 0.0
    return zeroed


def _kept(rows: Tensor, left: Tensor) -> list[int]:
    return [next(place for place, row in enumerate(rows) if torch.equal(row, one)) for one in left]


RECIPES = {
    "tensor": Recipe.uniform(5),
    "channel": Recipe(
        weight=Spec(5, granularity="channel"),
        bias=Spec(12, granularity="channel"),
        scale=Spec(8, granularity="channel"),
        shift=Spec(12, granularity="channel"),
        activation=Spec(6, granularity="channel"),
    ),
    "element, folded": Recipe(weight=Spec(5, granularity="element"), activation=Spec(6, granularity="element"), batch_norm="fold"),
    "learned words": Recipe(
        weight=Spec(5, granularity="element", learn_width=True), activation=Spec(6, granularity="channel", learn_width=True), batch_norm="fold"
    ),
    "numbers, digits, n:m rows": Recipe(
        weight=Spec(5, granularity="channel"),
        activation=Spec(6),
        overrides=(
            Override("conv2.weight", {"numbers": "E2M1"}),
            Override("fc1.weight", {"digits": 2}),
            Override("conv1.weight", {"sparsity": "1:2"}),
        ),
    ),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_left_computes_what_the_model_without_the_channels_computes(recipe: str) -> None:
    """In torch and, raw by raw, in the interpreter; types included."""
    model, x = network()
    q = qfx.quantize(model, x, RECIPES[recipe]).eval()
    assert [(chain.first, chain.second) for chain in chains(q)] == CHAINS
    method: Any = "surgeon" if recipe in ("tensor", "learned words") else "apoptosis"
    before = {name: tensor.clone() for name, tensor in q.state_dict().items()}
    pruned = prune_channels(q, x, keep=0.6, method=method, loss=loss(x), make_up=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in q.state_dict().items())
    sizes = [len(pruned.get_submodule(path).weight) for path, _ in CHAINS]  # type: ignore[arg-type]
    assert sizes == [5, 3, 6]
    zeroed = without(q, pruned)
    images = torch.rand(20, 2, 6, 6, generator=torch.Generator().manual_seed(1)) * 2 - 0.5
    with torch.no_grad():
        assert torch.equal(pruned(images), zeroed(images))
        assert not torch.equal(pruned(images), q(images))
    graphs = [qfx.to_graph(each) for each in (pruned, zeroed)]
    found, wanted = (run_raw(graph, images.numpy(), check_ranges=True) for graph in graphs)
    assert np.array_equal(found, wanted)
    assert graphs[0].infos[graphs[0].output].type == graphs[1].infos[graphs[1].output].type
    last: Any = pruned.get_submodule("fc2")
    with torch.no_grad():  # one last place of weights would be seen
        last.weight += torch.exp2(-last.weight_cast.points())
    assert not np.array_equal(run_raw(qfx.to_graph(pruned), images.numpy()), wanted)


def test_it_trains_saves_and_is_smaller_hardware() -> None:
    model, x = network()
    q = qfx.quantize(model, x, Recipe(weight=Spec(6, granularity="channel"), activation=Spec(6))).eval()
    pruned = prune_channels(q, x, keep=0.5)
    again = copy.deepcopy(pruned)
    optimizer = torch.optim.SGD(qfx.parameter_groups(pruned, lr=0.1), 0.1)
    pruned.train()
    loss(x)(pruned).backward()
    optimizer.step()
    assert not torch.equal(pruned(x), again(x))
    again.load_state_dict(pruned.state_dict())
    assert torch.equal(pruned.eval()(x), again.eval()(x))
    assert qfx.float_state(pruned)["conv1.weight"].shape == (4, 6, 3, 3)
    with pytest.raises((QfxError, RuntimeError)):
        q.load_state_dict(pruned.state_dict())
    totals = [estimate(lower(qfx.to_graph(each), Schedule()), board("ultra96v2")).total for each in (q, pruned)]
    assert totals[1].lut < totals[0].lut
    assert totals[1].dsp <= totals[0].dsp


def test_the_surgeon_makes_up_on_cast_numbers() -> None:
    """What is left is nearer to the quantized model than without the surgeon's compensation, by much."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 6))
    x = torch.rand(400, 8)
    q = qfx.quantize(model, x, Recipe(weight=Spec(8, granularity="channel"), activation=Spec(8))).eval()
    errors = []
    for make_up in (True, False):
        with torch.no_grad():
            errors.append((prune_channels(q, x, keep=0.5, make_up=make_up)(x) - q(x)).square().mean().item())
    assert errors[0] < 0.2 * errors[1]


def test_apoptosis_differentiates_through_the_casts() -> None:
    """Against the definition: a cast's numbers, moved along by its own derivative (0 where it saturates), and a table's by its function's."""
    torch.manual_seed(0)
    model, x, y = nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 2)), torch.randn(30, 3), torch.randint(2, (30,))
    recipe = Recipe(weight=Spec(3, frac_bits=2), bias=Spec(8), activation=Spec(4, frac_bits=3), input=Spec(6), output=Spec(5, frac_bits=4))
    q = qfx.quantize(model, x, recipe).eval()
    (chain,) = chains(q)
    smooth = smoothed(q)
    assert torch.equal(smooth(x), q(x))
    own = [part for part, _ in parts(smooth, chain)]
    found = torch.cat([each.flatten() for each in importance(smooth, own, lambda net: F.cross_entropy(net(x), y))])

    def moved(value: Tensor, number: Tensor, points: int, width: int) -> Tensor:
        """A cast that has the derivative of its range."""
        low, high = -(2.0 ** (width - 1 - points)), (2.0 ** (width - 1) - 1) * 2.0**-points
        inside = ((number.detach() >= low - 2.0 ** (-points - 1)) & (number.detach() < high + 2.0 ** (-points - 1))).double()
        return value.detach().double() + inside * (number - number.detach())

    layers = [q.get_submodule(str(place)) for place in (0, 2)]
    seen: dict[str, Tensor] = {}
    for path, layer in q.named_modules():
        layer.register_forward_hook(
            lambda _, args, result, path=path: seen.__setitem__(path, result.tensor() if hasattr(result, "tensor") else result)
        )
    with torch.no_grad():
        q(x)
        held = {f"{path}.{role}": each for path, layer in zip("02", layers, strict=True) for role, each in zip("wb", layer.constants(), strict=True)}

    def surrogate(flat: Tensor) -> Tensor:
        w0, b0, w1 = flat[:15].reshape(5, 3), flat[15:20], flat[20:].reshape(2, 5)
        hidden = seen["input"].double() @ moved(held["0.w"].tensor(), w0, 2, 3).T + (held["0.b"].tensor().double().detach() + b0 - b0.detach())
        hidden = moved(seen["0.output_cast"], hidden, 3, 4)
        table = F.gelu(hidden)
        hidden = moved(seen["1.output_cast"], seen["1"].double() + table - table.detach(), 3, 4)
        result = hidden @ moved(held["2.w"].tensor(), w1, 2, 3).T + held["2.b"].tensor().double()
        return F.cross_entropy(moved(seen["2.output_cast"], result, 4, 5), y)

    flat = torch.cat([part.detach().double().flatten() for part in own])
    slope, hessian = torch.autograd.functional.jacobian(surrogate, flat), torch.autograd.functional.hessian(surrogate, flat)
    wanted = -flat * slope + flat * (hessian @ flat) / 2
    assert torch.allclose(found.double(), wanted, atol=1e-6)
    assert not torch.allclose(-flat * slope, wanted, atol=1e-4)  # the second order counts


def test_what_cannot_be_left_out_is_refused_by_name() -> None:
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.rand(20, 4)

    def refused(told: str, q: nn.Module, **options: Any) -> None:
        with pytest.raises(UnsupportedError, match=told):
            prune_channels(q, x, **options)

    refused(r"(?s)^2\.weight.*2 of each 4 neighbouring inputs", qfx.quantize(copy.deepcopy(model), x, Recipe(weight=Spec(6, sparsity="2:4"))))
    refused(r"^0\.weight.*within an accumulator", qfx.quantize(copy.deepcopy(model), x, Recipe(weight=Spec(6, accumulator=14))))
    broken = qfx.quantize(copy.deepcopy(model), x, Recipe.uniform(6))
    inject(broken, Faults(flips=0.1))
    refused(r"^0\.weight.*faults or gradients of few bits", broken)
    inject(broken, None)
    assert prune_channels(broken, x).get_submodule("0").weight.shape == (4, 4)
    added = copy.deepcopy(model)
    low_rank(added, rank=1)
    refused(r"^0: has a weight that is computed", qfx.quantize(added, x, Recipe.uniform(6)))
    refused("no layer's channels are read by one other layer alone", qfx.quantize(nn.Linear(4, 2), x))
    with pytest.raises(QfxError, match=r"is not a quantized model\n.*give its quantized part, \.0"):
        prune_channels(nn.Sequential(broken), x)
    refused("no second derivative", broken, method="apoptosis", loss=lambda net: _Once.apply(net(x)).square().sum())  # type: ignore[no-untyped-call]
    for other in (lambda net: net(x), lambda net: 1.0, lambda net: torch.tensor(1.0)):
        with pytest.raises(QfxError, match="the loss is no number that depends on the model"):
            prune_channels(broken, x, method="apoptosis", loss=other)  # type: ignore[arg-type]
    with pytest.raises(QfxError, match="does not change with any weight"):
        prune_channels(broken, x, method="apoptosis", loss=lambda net: model(x).sum())
    soft = qfx.quantize(nn.Sequential(*copy.deepcopy(model), nn.Softmax(1)), x).eval()  # tables inside
    assert torch.equal(smoothed(soft)(x), soft(x))  # type: ignore[arg-type]
    assert prune_channels(soft, x, method="apoptosis", loss=lambda net: net(x).square().sum()).get_submodule("2").weight.shape == (3, 4)


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad
