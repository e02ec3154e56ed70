"""Torch -> Graph: every layer as the operators it is made of, with the constants and the types that the emulator uses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx import DataError, Override, Recipe, Spec, UnsupportedError
from qfx import operators as ops
from qfx.ir import interpret
from qfx.ir.graph import Graph
from qfx.testing import adversarial_inputs, assert_bit_exact
from qfx.verify import raw_of

X = torch.randn(8, 2, 6, 6, generator=torch.Generator().manual_seed(0))


class Everything(nn.Module):
    """At least one layer for every operator."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding="same")
        self.norm = nn.BatchNorm2d(4)
        self.other = nn.Conv2d(2, 4, 1)
        self.up = nn.ConvTranspose2d(2, 4, 2, stride=2)
        self.act = nn.LeakyReLU(0.25)
        self.pool = nn.MaxPool2d(2)
        self.mean = nn.AvgPool2d(3)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        small = x[:, :, ::2, ::2]
        y = self.norm(self.conv(x)) + self.other(x) + self.up(small)
        y = self.pool(self.act(y) - self.other(F.interpolate(small, scale_factor=2)))
        y = F.relu6(F.pad(y, (1, 0, 1, 0))) * F.relu(F.pad(y, (0, 1, 0, 1)))
        y = torch.cat([y, y[:, ::2].flip(2)], 1).permute(0, 2, 3, 1)
        y = self.drop(self.mean(y[:, :3, :3].permute(0, 3, 1, 2)))
        return self.head(torch.tanh(y).flatten(1))


def made(recipe: Recipe | None = None) -> qfx.Graph:
    torch.manual_seed(0)
    return qfx.to_graph(qfx.quantize(Everything(), X, recipe))


def operators(graph: Graph) -> list[str]:
    return [type(node.op).__name__ for node in graph.nodes]


class Modern(nn.Module):
    """What the network above does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.slope(torch.maximum(x, x.flip(2))) * x.amax((2, 3), keepdim=True) - x.amin(1, keepdim=True)
        y = torch.minimum(torch.where(y > 0.5, y, x), x)
        return (y @ x.transpose(2, 3)).topk(2)[0].sum(1) + x.argmin(1)[:, :, :2]


def test_every_operator_has_a_layer() -> None:
    torch.manual_seed(0)
    modern = qfx.quantize(Modern(), torch.randn(4, 3, 5, 5))
    tokens = qfx.quantize(nn.Embedding(9, 4), torch.arange(8).reshape(2, 4))
    found = {
        *operators(made()),
        *operators(made(Recipe(activation=Spec(14)))),
        *operators(made(Recipe(activation=Spec(numbers="E4M3")))),
        *operators(qfx.to_graph(modern)),
        *operators(qfx.to_graph(tokens)),
    }
    assert found == {op.__name__ for op in ops.OPERATORS if op is not ops.Scan}


@pytest.mark.parametrize("granularity", ["tensor", "channel", "element"])
@pytest.mark.parametrize("style", ["keep", "fold"])
def test_torch_equals_the_interpreter(granularity: str, style: str) -> None:
    torch.manual_seed(0)
    roles = dict.fromkeys(("input", "weight", "bias", "activation", "output"), Spec(7, granularity=granularity))
    q = qfx.quantize(Everything(), X, Recipe(**roles, batch_norm=style)).eval()
    graph = qfx.to_graph(q)
    x = adversarial_inputs(graph, np.random.default_rng(0), 40)
    actual = raw_of(q(torch.from_numpy(x)).detach().numpy(), graph, "torch")
    expected = interpret.run_raw(graph, x, check_ranges=True)
    assert_bit_exact(actual, expected)
    actual[3, 1] += 1
    with pytest.raises(AssertionError, match=r"first at \(3, 1\)"):
        assert_bit_exact(actual, expected)


def test_every_value_on_the_way_is_the_emulators() -> None:
    """Not only the output: what every quantizer gives in torch is what its Cast gives in the interpreter."""
    torch.manual_seed(0)
    q = qfx.quantize(Everything(), X, Recipe(activation=Spec(6, granularity="channel"))).eval()
    graph = qfx.to_graph(q)
    seen: dict[str, list[Tensor]] = {}
    for name, quantizer in qfx.quantizers(q):
        quantizer.register_forward_hook(lambda _module, _args, result, name=name: seen.setdefault(name, []).append(result.tensor().detach()))
    q(X)
    values = interpret.trace(graph, X.numpy(), check_ranges=True)
    casts = [node.name for node in graph.nodes if isinstance(node.op, ops.Cast)]
    assert casts == ["act.output", "sub.output", "mul.output", "mean.output", "tanh.output", "head.output"]
    for name in casts:
        grid = graph.infos[name].type.frac_bits
        assert_bit_exact(np.ldexp(seen[name][0].double().numpy(), grid).astype(np.int64), values[name])


def test_nodes_are_named_after_layers_and_the_recipe_goes_along() -> None:
    recipe = Recipe(overrides=(Override("head.weight", {"width": 3}),))
    graph = made(recipe)
    names = [node.name for node in graph.nodes]
    assert names[0] == "input"
    for name in ("conv", "norm", "other", "other_1", "act", "act.output", "pool", "mean.sum", "mean", "head", "head.output"):
        assert name in names
    assert graph.output == "head.output"
    assert Recipe.from_toml(graph.metadata["recipe"]) == recipe
    assert graph.name == "model"
    torch.manual_seed(0)
    assert qfx.to_graph(qfx.quantize(Everything(), X), "mine").name == "mine"


def test_constants_are_what_the_quantizers_give() -> None:
    torch.manual_seed(0)
    q = qfx.quantize(Everything(), X, Recipe(weight=Spec(5, granularity="channel")))
    graph = qfx.to_graph(q)
    for name in ("conv", "head"):
        layer = q.get_submodule(name)
        node = graph.node(name).op
        assert isinstance(node, ops.Conv | ops.Linear)
        assert np.array_equal(node.weight.values, layer.weight_cast(layer.weight).value.detach().double().numpy())
        assert node.bias is not None
        assert np.array_equal(node.bias.values, layer.bias_cast(layer.bias).value.detach().double().numpy())
    norm = graph.node("norm").op
    assert isinstance(norm, ops.Affine)
    assert np.array_equal(norm.scale.values, q.get_submodule("norm").constants()[0].value.detach().double().numpy())


def test_the_graph_is_the_model_as_it_is_now() -> None:
    torch.manual_seed(0)
    q = qfx.quantize(Everything(), X)
    before = qfx.to_graph(q)
    assert qfx.to_graph(q) == before
    assert qfx.to_graph(q.train()) == before
    assert qfx.to_graph(q.eval()) == before
    with torch.no_grad():
        q.get_submodule("act.output_cast").frac_bits -= 0.6
    after = qfx.to_graph(q)
    assert after.infos["act.output"].type.frac_bits == before.infos["act.output"].type.frac_bits - 1
    assert after != before


@pytest.mark.parametrize(
    "name", ["conv.weight", "head.bias", "norm.running_var", "norm.weight", "head.output_cast.frac_bits", "conv.weight_cast.frac_bits"]
)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_model_that_diverged_is_refused(name: str, bad: float) -> None:
    q = qfx.quantize(Everything(), X)
    q.state_dict()[name].view(-1)[0] = bad
    with pytest.raises(DataError, match=f"^{name}: NaN or infinity"):
        qfx.to_graph(q)


def test_a_module_put_in_by_hand_is_refused() -> None:
    q = qfx.quantize(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.randn(4, 3))
    q.set_submodule("1", nn.ReLU())
    with pytest.raises(UnsupportedError, match=r"^1: ReLU has no operator\n  remedy: "):
        qfx.to_graph(q)


def test_dropout_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 2), nn.Dropout(0.5))
    assert operators(qfx.to_graph(qfx.quantize(model, torch.randn(4, 3)))) == ["Input", "Linear", "Cast"]
