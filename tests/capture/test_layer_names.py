"""Layers may be called whatever torch lets them be called: through training, checkpoints, copies, the graph, the file and the C++."""

from __future__ import annotations

import copy
import glob
import io
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nn_models import check_exact
from support.bundles import build_bundle
from torch import Tensor, nn

import qfx
from qfx import Override, Recipe, Spec, UnsupportedError
from qfx.capture.any_names import RESERVED, is_plain
from qfx.hardware.design.schedule import Schedule
from qfx.ir.graph import check_name, graph_name
from qfx.ir.interpret import quantize_input, run_raw
from qfx.ir.passes.pipeline import optimize
from qfx.ptq import float_reference

X = torch.randn(6, 3, 8, 8)

KEYWORDS = ["class", "in", "is", "None", "True", "lambda", "if", "match", "int", "void", "ap_fixed", "stream"]
SPELLINGS = ["conv 1", "1x1", "0", "größe", "卷积", "ﬁ", 'he"llo', "it's", "back\\slash", "new\nline", "a/b", "/", "*", "[x]", "a:b", "conv-1"]
OURS = ["self", "x", "input", "output", "weight", "frac_bits", "output_cast", "weight_cast", "relu", "add", "name", "cast", "getattr", "torch", "inf"]
THEIRS = ["graph", "code", "meta", "recompile", "_graph"]


class Inside(nn.Module):
    """The name within a container, over layers of every role."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.last = name, nn.Linear(48, 2)
        self.parts = nn.ModuleDict({name: nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2))})

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.parts[self.name](x)).flatten(1))


class AtTheTop(nn.Module):
    """The name as that of the model's own layer."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.key = name
        self.add_module(name, nn.Conv2d(3, 3, 1))
        self.last = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self._modules[self.key](x)))


@pytest.mark.parametrize("name", [*KEYWORDS, *SPELLINGS, *OURS])
@pytest.mark.parametrize("kind", [Inside, AtTheTop])
def test_any_name_works(kind: type[nn.Module], name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = kind(name)
    q = qfx.quantize(model, X)
    assert set(model.state_dict()) <= set(q.state_dict())
    optimizer = torch.optim.SGD(qfx.parameter_groups(q, lr=0.01))
    q(X).square().mean().backward()
    optimizer.step()
    q.load_state_dict(model.state_dict())
    qfx.calibrate(q, X)
    q.eval()
    expected = q(X)
    buffer = io.BytesIO()
    torch.save(q, buffer)
    buffer.seek(0)
    for again in (copy.deepcopy(q), torch.load(buffer, weights_only=False), copy.deepcopy(copy.deepcopy(q))):
        assert torch.equal(again(X), expected)
        assert list(again.state_dict()) == list(q.state_dict())
    float_reference(q)
    check_exact(q)
    qfx.export_onnx(q, tmp_path / "model.onnx")
    assert (qfx.run(qfx.load_graph(tmp_path / "model.onnx"), X.numpy()) == expected.detach().numpy()).all()


@pytest.mark.parametrize("name", ["class", "conv 1", "[x]", "*", "größe", 'he"llo', "input"])
def test_recipes_reach_any_name(name: str) -> None:
    names = [each for each, _ in qfx.quantizers(qfx.quantize(Inside(name), X))]
    assert len(set(names)) == len(names)
    recipe = Recipe(overrides=tuple(Override(glob.escape(each), {"width": 7}) for each in names))
    recipe = Recipe.from_toml(recipe.to_toml())
    assert {quantizer.word_length for _, quantizer in qfx.quantizers(qfx.quantize(Inside(name), X, recipe))} == {7}


@pytest.mark.parametrize("name", THEIRS)
def test_names_that_a_traced_module_needs_itself(name: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"^{name}: has a name that torch\.fx takes for itself.*\n.*call it {name}_") as caught:
        qfx.quantize(AtTheTop(name), X)
    q = qfx.quantize(AtTheTop(f"{name}_"), X)  # the remedy
    text = caught.value.remedy.partition("so in checkpoints: ")[2]
    state = eval(text, {"re": __import__("re"), "state": AtTheTop(name).state_dict()})
    q.load_state_dict(state)
    qfx.quantize(Inside(name), X)  # below the top it is free
    assert name in RESERVED


class Many(nn.Module):
    """All of them in one network, in names that meet in the graph."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: nn.Conv1d(2, 2, 1) for name in names})

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts.values():
            x = F.relu(part(x)) + x
        return x


def test_names_that_become_one_in_the_graph_stay_apart(tmp_path: Path, gxx: str) -> None:
    names = [*KEYWORDS, *SPELLINGS, "conv_1", "conv.1".replace(".", "?"), "a_b", "CLASS", "abs", "std", "main", "ap_int", "hls"]
    q = qfx.quantize(Many(names), torch.randn(8, 2, 5), Recipe.uniform(6, input=Spec(6))).eval()
    graph = check_exact(q)
    assert len({node.name for node in graph.nodes}) == len(graph.nodes)
    bundle = build_bundle([(optimize(graph), Schedule())], tmp_path)
    x = np.random.default_rng(0).normal(size=(4, 2, 5)).astype(np.float32)
    assert (bundle.run_from_raw(0, quantize_input(graph, x)) == run_raw(graph, x)).all()


def test_graph_names() -> None:
    for label in (*KEYWORDS, *SPELLINGS, "", "/x", "..", "a/../b", "../b", "a//b", "m.conv 1.weight", "\x00"):
        check_name(graph_name(label))
    for label in ("features.0.conv-1", "a/b:c", "x_1"):
        assert graph_name(label) == label


def test_plain_names() -> None:
    assert all(is_plain(name) for name in ("conv1", "_x", "größe", "match"))
    assert not any(is_plain(name) for name in ("class", "1x", "a b", "ﬁ", ""))


class Nets(nn.Module):
    """A model with a layer called input, and constants with odd names that are not used for arithmetic with data."""

    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Linear(4, 3)
        self.register_buffer("class", torch.ones(1))
        self.other = nn.ParameterDict({"in": nn.Parameter(torch.ones(1))})

    def forward(self, x: Tensor) -> Tensor:
        _ = getattr(self, "class") + self.other["in"]
        return self.input(x)


def test_a_layer_called_input_keeps_its_parameters_names() -> None:
    q = qfx.quantize(Nets(), torch.randn(4, 4))
    assert {"input.weight", "input.bias"} <= set(q.state_dict())
    assert [name for name, _ in qfx.quantizers(q)][:2] == ["input", "input.weight"]
    check_exact(q)


def test_constants_may_have_odd_names() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("class", torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            return x * getattr(self, "class")

    x = torch.randn(4, 4)
    q = qfx.quantize(Net(), x)
    q.load_state_dict({"class": torch.full((4,), 2.0)})
    torch.testing.assert_close(q(x), 2 * x, atol=0.1, rtol=0)


class Differs(nn.Module):
    """Arguments and layers of names that torch makes of each other."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.input_1 = nn.Linear(4, 4), nn.Linear(4, 4)


class Numbered(Differs):
    def forward(self, x: Tensor, x_1: Tensor) -> Tensor:
        return self.x(x) - 2 * self.input_1(x_1)


class Shadowing(Differs):
    def forward(self, input: Tensor, input_1: Tensor) -> Tensor:
        return self.x(input) - 2 * self.input_1(input_1)


class Starred(Differs):
    def forward(self, *x: Tensor) -> Tensor:
        return self.x(x[0]) - 2 * self.input_1(x[1])


@pytest.mark.parametrize("kind", [Numbered, Shadowing, Starred])
def test_arguments_whose_names_torch_gives_to_others(kind: type[Differs], tmp_path: Path) -> None:
    """Every copy reads each argument where it is given."""
    model, pair = kind(), (torch.randn(5, 4), torch.randn(5, 4))
    q = qfx.quantize(model, pair, Recipe(weight=Spec(16), activation=Spec(16), input=Spec(16), output=Spec(16)))
    torch.save(q, tmp_path / "q.pt")
    with torch.no_grad():
        expected = q(*pair)
        assert torch.allclose(expected, model(*pair), atol=1e-2)
        for other in (copy.deepcopy(q), copy.deepcopy(copy.deepcopy(q)), torch.load(tmp_path / "q.pt", weights_only=False)):
            assert torch.equal(other(*pair), expected)
