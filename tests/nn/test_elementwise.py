"""Constants in arithmetic, broadcasting, reductions and piecewise linear functions: the same raw integers in torch, ONNX Runtime, the interpreter and
both builds of the C simulation; what is trained; what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nn_models import WIDE, check_exact
from support.bounded import build as build_bounded
from support.bounded import differences
from support.bundles import build_bundle
from torch import Tensor, nn

import qfx
from qfx import Recipe, Spec
from qfx.errors import UnsupportedError
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Schedule
from qfx.hardware.timing.fifo import size_fifos
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.ir.passes.pipeline import optimize
from qfx.nn.layers.elementwise.held import HeldConstant
from qfx.operators import Affine, Cast
from qfx.testing import adversarial_inputs, assert_bit_exact
from qfx.verify import onnx_runtime, raw_of

IMAGE = (3, 4, 5)
P = nn.Parameter


class Form(nn.Module):
    """A forward given as a function of the module and its input; tensors become buffers."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **held: nn.Module | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in held.items():
            if isinstance(value, nn.Module | nn.Parameter):
                setattr(self, name, value)
            else:
                self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


@dataclass(frozen=True)
class Case:
    """A forward, what it reads, and what the module holds, made anew each time."""

    function: Callable[[Any, Tensor], Tensor]
    shape: tuple[int, ...] = IMAGE
    held: Callable[[], dict[str, Any]] = field(default=dict)

    def model(self) -> tuple[nn.Module, Tensor]:
        torch.manual_seed(0)
        return Form(self.function, **self.held()).eval(), torch.randn(8, *self.shape)


def conv(outputs: int = 3) -> dict[str, Any]:
    return {"c": nn.Conv2d(3, outputs, 1)}


CONSTANTS = {
    "x * 0.5": Case(lambda m, x: x * 0.5),
    "-4 * conv": Case(lambda m, x: -4 * m.c(x), held=conv),
    "x / 255": Case(lambda m, x: x / 255),
    "1 - x": Case(lambda m, x: 1 - x),
    "-x": Case(lambda m, x: -x),
    "x + 0 + 3": Case(lambda m, x: (x + 0) + 3),
    "(x - mean) / std": Case(lambda m, x: (x - m.mean) / m.std, held=lambda: {"mean": torch.rand(1, 3, 1, 1), "std": torch.rand(3, 1, 1) + 0.5}),
    "channel scale": Case(lambda m, x: x * m.gamma, held=lambda: {"gamma": P(torch.rand(3, 1, 1))}),
    "layer scale": Case(lambda m, x: m.gamma * m.c(x) + x, held=lambda: {**conv(), "gamma": P(torch.tensor(0.3))}),
    "position embedding": Case(lambda m, x: x + m.pos, held=lambda: {"pos": P(torch.randn(1, *IMAGE))}),
    "a row of factors": Case(lambda m, x: (x * m.row).relu(), held=lambda: {"row": P(torch.randn(5))}),
    "a plane of factors": Case(lambda m, x: m.c(x) * m.plane, held=lambda: {**conv(), "plane": torch.randn(1, 4, 5)}),
    "minus features": Case(lambda m, x: m.f - x, (6,), lambda: {"f": P(torch.randn(6))}),
    "alpha of a constant": Case(lambda m, x: torch.sub(x, m.f, alpha=0.3), (4, 6), lambda: {"f": torch.randn(1, 6)}),
    "alpha of a value": Case(lambda m, x: x.add(x.relu(), alpha=0.7), (4, 6)),
    "rsub": Case(lambda m, x: torch.rsub(x, m.f, alpha=2), (4, 6), lambda: {"f": torch.randn(4, 1)}),
    "addcmul": Case(lambda m, x: torch.addcmul(x, x, m.f, value=0.5), (4, 6), lambda: {"f": torch.randn(1, 6)}),
    "addcdiv": Case(lambda m, x: torch.addcdiv(x, x, m.f, value=0.5), (4, 6), lambda: {"f": torch.rand(4, 1) + 1}),
    "lerp of values": Case(lambda m, x: torch.lerp(x, torch.relu(x), 0.3), (4, 6)),
    "lerp to a constant": Case(lambda m, x: torch.lerp(x, m.end, 0.25), (4, 6), lambda: {"end": torch.rand(6)}),
    "a constant larger than the value": Case(lambda m, x: m.c(x) * m.d, held=lambda: {"c": nn.Conv2d(3, 1, 1), "d": torch.rand(4, 1, 1)}),
    "five axes": Case(lambda m, x: x * m.f + m.g, (2, 3, 2, 1, 2), lambda: {"f": torch.randn(2, 1, 2, 1, 1), "g": P(torch.randn(3, 1, 1, 2))}),
    "expanded to the value": Case(lambda m, x: x + m.bias.expand_as(x), held=lambda: {"bias": P(torch.rand(1, 3, 1, 1))}),
    "expanded beyond the value": Case(lambda m, x: m.c(x) * m.f.expand(len(x), 3, 4, 5), held=lambda: {**conv(1), "f": torch.rand(1, 3, 1, 1)}),
    "repeated for each sample": Case(lambda m, x: x + m.eye.view(1, 16).repeat(x.size(0), 1), (16,), lambda: {"eye": torch.eye(4)}),
    "made for each sample": Case(lambda m, x: x - torch.full((x.size(0), 4, 6), 0.3), (4, 6)),
    "computed of a parameter": Case(lambda m, x: x * torch.exp(m.log), held=lambda: {"log": P(torch.rand(3, 1, 1))}),
}

BROADCASTS = {
    "squeeze and excite": Case(lambda m, x: x * m.c(x.mean((2, 3), keepdim=True)).relu(), held=conv),
    "spatial attention": Case(lambda m, x: x * m.c(x), held=lambda: conv(1)),
    "max and mean over channels": Case(
        lambda m, x: x - m.c(torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)), held=lambda: {"c": nn.Conv2d(2, 1, 3, padding=1)}
    ),
    "rows against columns": Case(lambda m, x: x.amax(2, keepdim=True) + x.amin(3, keepdim=True)),
    "features": Case(lambda m, x: x * x.sum(1, keepdim=True), (7,)),
    "sequence": Case(lambda m, x: x - x.amax(1, keepdim=True), (3, 8)),
    "many axes": Case(lambda m, x: x.amax((1, 3), keepdim=True) + x, (2, 3, 2, 3, 2)),
}

REDUCTIONS = {
    "sum over space": Case(lambda m, x: x.sum((2, 3))),
    "mean over channels": Case(lambda m, x: x.mean(1, keepdim=True)),
    "mean over rows": Case(lambda m, x: x.mean(2)),
    "mean over the last": Case(lambda m, x: x.mean(-1), (3, 5)),
    "mean over channels and columns": Case(lambda m, x: m.c(x).mean((1, 3)), held=conv),
    "mean over features": Case(lambda m, x: x.mean(-1, keepdim=True), (12,)),
    "amax over channels": Case(lambda m, x: x.amax(1)),
    "amin over two": Case(lambda m, x: x.amin((1, 3))),
    "amax over space": Case(lambda m, x: x.amax((2, 3))),
    "sum of five axes": Case(lambda m, x: x.sum((2, 4)), (2, 3, 2, 3, 2)),
    "sum of four axes": Case(lambda m, x: torch.sum(x, dim=[1, 3], keepdim=True), (2, 3, 2, 3)),
    "pool: padding not counted": Case(lambda m, x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)),
    "pool: ceil": Case(lambda m, x: F.avg_pool2d(x, 3, 2, ceil_mode=True), (3, 6, 7)),
    "pool: ceil, padding counted": Case(lambda m, x: F.avg_pool2d(x, (3, 2), 2, 1, ceil_mode=True), (3, 6, 7)),
    "pool: ceil, padding not counted": Case(lambda m, x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False).relu(), (3, 6, 7)),
    "pool: ceil, divisor": Case(lambda m, x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, divisor_override=7), (3, 6, 8)),
    "pool: 1d": Case(lambda m, x: F.avg_pool1d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False), (3, 8)),
}

PIECEWISE = {
    "maximum": Case(lambda m, x: torch.maximum(x, m.c(x)), held=conv),
    "minimum, broadcast": Case(lambda m, x: torch.minimum(x, m.c(x)), held=lambda: conv(1)),
    "torch.max of two": Case(lambda m, x: torch.max(x, m.c(x)), held=conv),
    "maximum with zeros": Case(lambda m, x: torch.maximum(x, m.z), held=lambda: {"z": torch.zeros(1)}),
    "maximum with channels": Case(lambda m, x: torch.maximum(m.c(x), m.f), held=lambda: {**conv(), "f": P(torch.rand(3, 1, 1) - 0.5)}),
    "minimum with one parameter": Case(lambda m, x: torch.minimum(m.f, x), held=lambda: {"f": P(torch.tensor(0.3))}),
    "minimum with a map": Case(
        lambda m, x: m.c(x).minimum(m.f) * m.g, held=lambda: {**conv(), "f": P(torch.randn(1, *IMAGE)), "g": P(torch.rand(1, 3, 1, 1))}
    ),
    "torch.max with a row": Case(lambda m, x: torch.max(m.f, m.c(x).relu()), held=lambda: {**conv(1), "f": torch.rand(3, 1, 5)}),
    "torch.min with features": Case(lambda m, x: x.min(m.f), (6,), lambda: {"f": P(torch.randn(6))}),
    "clamp to tensors": Case(lambda m, x: m.c(x).clamp(m.f, m.g), held=lambda: {**conv(), "f": P(torch.rand(3, 1, 1) - 1), "g": torch.rand(5)}),
    "clamp to a tensor and a value": Case(lambda m, x: torch.clamp(m.c(x), m.f, x), held=lambda: {**conv(), "f": torch.randn(3, 1, 1)}),
    "clamp from below by a tensor": Case(lambda m, x: torch.clamp_min(x, m.f), (4, 6), lambda: {"f": torch.randn(6)}),
    "clamp from below": Case(lambda m, x: x.clamp(min=-0.3)),
    "clamp from above": Case(lambda m, x: x.clamp(max=1)),
    "clamp": Case(lambda m, x: m.c(x).clamp(-0.1, 0.7), held=conv),
    "hardtanh": Case(lambda m, x: F.hardtanh(m.c(x)), held=conv),
    "sign": Case(lambda m, x: torch.sign(m.c(x)), held=conv),
    "leaky": Case(lambda m, x: F.leaky_relu(m.c(x), 0.1), held=conv),
    "leaky, steep": Case(lambda m, x: F.leaky_relu(x, 1.5)),
    "prelu": Case(lambda m, x: m.p(m.c(x)), held=lambda: {**conv(), "p": nn.PReLU(3)}),
    "prelu, one slope": Case(lambda m, x: m.p(x), held=lambda: {"p": nn.PReLU()}),
    "rrelu": Case(lambda m, x: m.p(x), held=lambda: {"p": nn.RReLU()}),
    "threshold": Case(lambda m, x: m.p(m.c(x)), held=lambda: {**conv(), "p": nn.Threshold(0.2, -0.35)}),
    "where": Case(lambda m, x: torch.where(x > 0, x, 0.1 * x)),
    "where, broadcast": Case(lambda m, x: torch.where(m.c(x) <= 0.25, x, 0.5), held=lambda: conv(1)),
    "where of two": Case(lambda m, x: torch.where(x >= m.c(x), x, m.c(x)), held=conv),
    "masked": Case(lambda m, x: (x < 0.4) * x),
    "number first": Case(lambda m, x: torch.gt(x, 0.4) * x),
}

ROUNDED = {
    "round": Case(lambda m, x: torch.round(4 * x)),
    "round what is not cast": Case(lambda m, x: m.c(x).round_(), held=conv),
    "floor": Case(lambda m, x: m.c(x).floor() * 0.3, held=conv),
    "ceil": Case(lambda m, x: torch.ceil(m.c(x)) + x, held=conv),
    "trunc": Case(lambda m, x: torch.trunc(3 * x), (7,)),
    "fix": Case(lambda m, x: torch.fix(x).relu(), (3, 4)),
    "towards zero of little": Case(lambda m, x: x.clamp(-0.7, 0.2).trunc() + x),
    "frac": Case(lambda m, x: m.c(4 * x).frac(), held=conv),
    "round whole numbers": Case(lambda m, x: torch.floor(64 * torch.round(x))),
}

CASES = {**ROUNDED, **CONSTANTS, **BROADCASTS, **REDUCTIONS, **PIECEWISE}

RECIPES = {
    "8 bits": Recipe(),
    "by channel": Recipe(
        input=Spec(7, granularity="channel"),
        activation=Spec(6, granularity="channel"),
        constant=Spec(9, granularity="channel"),
        reciprocal=Spec(9, granularity="element"),
    ),
}


@pytest.mark.usefixtures("gxx")
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_executor_gives_the_same(recipe: str, tmp_path: Path, thorough: bool) -> None:
    made = {}
    for number, (name, case) in enumerate(CASES.items()):
        model, example = case.model()
        q = qfx.quantize(model, example, RECIPES[recipe])
        graph = check_exact(q, seed=number)
        x = adversarial_inputs(graph, np.random.default_rng(number), 6)
        expected = run_from_raw(graph, quantize_input(graph, x))
        training = copy.deepcopy(q).train()(torch.from_numpy(x))
        assert_bit_exact(raw_of(training.detach().numpy(), graph, "torch"), expected, names=("torch in training", f"interpreter, {name}"))
        path = tmp_path / f"{number}.onnx"
        qfx.export_onnx(q, path)
        assert qfx.load_graph(path).infos == graph.infos
        assert_bit_exact(onnx_runtime(path, graph)(x), expected, names=("ONNX Runtime", f"interpreter, {name}"))
        made[name] = graph, x, expected
    if not thorough and recipe == "by channel":
        return  # grids of channels are in the directed graphs, and in random ones
    for fast in (False, True) if thorough else (False,):
        folder = tmp_path / str(fast)
        folder.mkdir()
        bundle = build_bundle([(optimize(graph), Schedule()) for graph, _, _ in made.values()], folder, fast=fast)
        for number, (name, (graph, x, expected)) in enumerate(made.items()):
            assert_bit_exact(bundle.run_from_raw(number, quantize_input(graph, x)), expected, names=("C simulation", f"interpreter, {name}"))


@pytest.mark.parametrize("name", CASES)
def test_the_fixed_point_model_is_near_the_float_model(name: str) -> None:
    """At 16 bits everywhere; where a comparison decides, a few numbers may fall on the other side."""
    model, x = CASES[name].model()
    q = qfx.quantize(model, x, Recipe(**{role: Spec(16) for role in ("input", "weight", "scale", "activation", "output")}))
    with torch.no_grad():
        expected, found = model(x), q(x)
    assert found.shape == expected.shape
    far = (found - expected).abs() > 2e-3 * (1 + expected.abs())
    assert far.float().mean() < 0.02


def test_whole_numbers_are_those_of_torch_with_ties_to_even_and_no_gradient() -> None:
    """Nothing is lost before: every half step of the input's type."""
    x = torch.arange(-32, 32).reshape(-1, 2) / 4
    recipe = Recipe(input=Spec(6, frac_bits=2), output=Spec(12))
    for function in (torch.round, torch.floor, torch.ceil, torch.trunc, torch.frac):
        q = qfx.quantize(Form(lambda m, x, function=function: function(x)), x, recipe)
        given = x.clone().requires_grad_()
        y = q(given)
        assert torch.equal(y, function(x))
        y.sum().backward()
        assert given.grad is not None
        assert torch.equal(given.grad, torch.full_like(x, float(function is torch.frac)))


@pytest.mark.parametrize("name", CASES)
def test_a_float_checkpoint_loads(name: str) -> None:
    model, x = CASES[name].model()
    q = qfx.quantize(model, x)
    with torch.no_grad():
        before = q(x)
    q.load_state_dict(model.state_dict())
    q.load_state_dict(copy.deepcopy(q.state_dict()))
    with torch.no_grad():
        assert torch.equal(q(x), before)


def test_a_changed_parameter_of_a_float_checkpoint_counts() -> None:
    model, x = CONSTANTS["channel scale"].model()
    q = qfx.quantize(model, x, WIDE)
    state = model.state_dict()
    state["gamma"] = state["gamma"] / 2
    before = q(x)
    q.load_state_dict(state)
    assert torch.allclose(q(x), before / 2, atol=1e-3)


# --- powers of two and integers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.5, 2, -1, 0.125, 1024])
def test_a_power_of_two_needs_neither_a_cast_nor_a_multiplier(factor: float) -> None:
    q = qfx.quantize(Form(lambda m, x: x * factor), torch.randn(4, 3, 2, 2))
    graph = check_exact(q)
    assert not any(isinstance(node.op, Cast) for node in graph.nodes)
    if factor > 0:
        (pointwise,) = (process for process in lower(graph, Schedule()).processes if hasattr(process, "epilogue"))
        assert not pointwise.epilogue.steps


@pytest.mark.parametrize("number", [1, 255, 0.75, 32767, 2.0**-20])
def test_what_the_word_length_holds_is_exact_and_stays(number: float) -> None:
    q = qfx.quantize(Form(lambda m, x: number * 3 - x), torch.randn(4, 3), WIDE)
    (constant,) = (layer for layer in q.modules() if isinstance(layer, HeldConstant))
    assert constant.exact == (abs(number * 3) < 2**15)
    if constant.exact:
        assert float(constant().value.detach()) == number * 3
        assert not constant.cast.frac_bits.requires_grad


def test_a_reciprocal_is_computed_in_float64_and_rounded_once() -> None:
    q = qfx.quantize(Form(lambda m, x: x / 255), torch.rand(4, 3), Recipe(constant=Spec(32)))
    (constant,) = (layer for layer in q.modules() if isinstance(layer, HeldConstant))
    grid = int(constant.cast.points())
    assert float(constant().value.detach()) == round(2**grid / 255) / 2**grid


# --- training ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "channel scale",
        "layer scale",
        "position embedding",
        "a row of factors",
        "minus features",
        "expanded to the value",
        "maximum with channels",
        "minimum with a map",
        "torch.min with features",
    ],
)
def test_parameters_are_trained_with_the_gradient_of_the_float_model(name: str) -> None:
    """In wide words a cast passes every gradient on, so both gradients are nearly equal."""
    model, x = CASES[name].model()
    q = qfx.quantize(copy.deepcopy(model), x, Recipe(**{role: Spec(20) for role in ("input", "weight", "constant", "activation", "output")}))
    for network in (model, q):
        network(x).square().sum().backward()
    own = dict(model.named_parameters())
    held = {layer.origin: layer.get_parameter(layer.own) for layer in q.modules() if isinstance(layer, HeldConstant)}
    assert held
    for path, parameter in held.items():
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, own[path].grad, rtol=2e-3, atol=2e-3)


def test_the_binary_point_of_a_trained_constant_is_learned_if_the_recipe_says_so() -> None:
    model, x = CONSTANTS["channel scale"].model()
    for learn in (True, False):
        q = qfx.quantize(copy.deepcopy(model), x, Recipe(constant=Spec(4, learn=learn)))
        (constant,) = (layer for layer in q.modules() if isinstance(layer, HeldConstant))
        q(x).square().sum().backward()
        assert (constant.cast.frac_bits.grad is not None) == learn


@pytest.mark.parametrize(
    "name",
    [
        "prelu",
        "prelu, one slope",
        "maximum",
        "maximum with channels",
        "clamp to tensors",
        "clamp",
        "where",
        "mean over channels",
        "amax over channels",
        "pool: ceil",
    ],
)
def test_gradients_of_the_input_are_those_of_the_float_model(name: str) -> None:
    model, x = CASES[name].model()
    wide = Recipe(**{role: Spec(20) for role in ("input", "weight", "constant", "activation", "output")})
    q = qfx.quantize(copy.deepcopy(model), x, wide)
    grads = []
    for network in (model, q):
        leaf = x.clone().requires_grad_()
        network(leaf).square().sum().backward()
        assert leaf.grad is not None
        grads.append(leaf.grad)
    far = (grads[0] - grads[1]).abs() > 1e-2 * (1 + grads[0].abs())
    assert far.float().mean() < 0.01


def test_a_layer_scale_trains() -> None:
    """Towards a target that half of it would reach: the constant moves there."""
    model, x = CONSTANTS["channel scale"].model()
    target = model(x).detach() / 2
    q = qfx.quantize(model, x).train()
    optimizer = torch.optim.SGD(q.parameters(), lr=0.2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.mse_loss(q(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 20


# --- planted errors ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["position embedding", "a plane of factors", "channel scale"])
def test_one_lsb_of_one_constant_is_seen(name: str) -> None:
    model, x = CONSTANTS[name].model()
    graph = qfx.to_graph(qfx.quantize(model, x))
    (node,) = (node for node in graph.nodes if isinstance(node.op, Affine))
    const = node.op.shift if node.op.scale is None else node.op.scale
    raw = const.raw.copy()
    raw.reshape(-1)[-1] += 1
    changed = type(const)(raw, const.frac_bits)
    op = Affine(None, changed) if node.op.scale is None else Affine(changed, node.op.shift)
    wrong = graph.with_nodes(tuple(type(node)(each.name, op if each is node else each.op, each.inputs) for each in graph.nodes))
    inner, out = node.name, graph.output
    assert (inner, out) == (node.name, wrong.output)
    cut = [each.with_nodes(tuple(n for n in each.nodes if not isinstance(n.op, Cast)), output=inner) for each in (graph, wrong)]
    x_raw = quantize_input(cut[0], adversarial_inputs(cut[0], np.random.default_rng(0), 8))
    with pytest.raises(AssertionError, match="differ"):
        assert_bit_exact(run_from_raw(cut[1], x_raw), run_from_raw(cut[0], x_raw))


# --- hardware ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("gxx")
def test_branches_of_different_shapes_run_over_bounded_fifos(tmp_path: Path) -> None:
    """The FIFO of the other branch is as deep as the frame that it waits for, which the analysis finds."""
    graphs = [optimize(qfx.to_graph(qfx.quantize(*case.model()))) for case in BROADCASTS.values()]
    designs = [size_fifos(lower(graph, Schedule())) for graph in graphs]
    bundle = build_bounded(designs, tmp_path, flags=("-O0",))
    for number, (graph, design) in enumerate(zip(graphs, designs, strict=True)):
        x_raw = quantize_input(graph, adversarial_inputs(graph, np.random.default_rng(number), 3))
        found = bundle.run(number, x_raw)
        assert_bit_exact(found.y_raw, run_from_raw(graph, x_raw), names=("bounded simulation", "interpreter"))
        assert differences(design, found) == []
    deepest = max(stream.depth for stream in designs[0].streams)
    assert deepest >= 3 * 4 * 5  # squeeze and excite: a frame waits for its mean


def test_a_constant_for_each_element_is_a_memory_of_the_process() -> None:
    graph = optimize(qfx.to_graph(qfx.quantize(*CONSTANTS["position embedding"].model())))
    memories = [memory for process in lower(graph, Schedule()).processes for memory in process.memories]
    assert any(memory.depth == 3 * 4 * 5 and memory.constant for memory in memories)


# --- refusals ---------------------------------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "division by 0": (lambda m, x: x / m.zero, "holds 0"),
    "cumsum": (lambda m, x: x.cumsum(1), "cumsum"),
    "product": (lambda m, x: x.prod(), "prod"),
    "products of many": (lambda m, x: x.flatten(1).prod(1, keepdim=True), "product of 60"),
    "over the batch": (lambda m, x: x.amax((0, 1), keepdim=True) + x, "batch"),
    "another for each sample": (lambda m, x: x + torch.arange(x.shape[0]).view(-1, 1, 1, 1), "length of 1 along the batch"),
    "decimals": (lambda m, x: torch.round(x, decimals=1), "decimals"),
    "infinite": (lambda m, x: x + float("inf"), "inf"),
    "rounded quotient": (lambda m, x: torch.div(x, 3, rounding_mode="floor"), "rounding_mode"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_words(name: str) -> None:
    function, words = REFUSED[name]
    held = {"zero": torch.zeros(3, 1, 1)}
    with pytest.raises(UnsupportedError, match=words) as caught:
        qfx.quantize(Form(function, **held), torch.randn(2, *IMAGE))
    assert "remedy" in str(caught.value)


@pytest.mark.parametrize("bits", [8, 16])
def test_unit_length_in_words_of_any_width(bits: int) -> None:
    """The tiny bound beside the norm needs no more bits than there are."""
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    recipe = Recipe() if bits == 8 else Recipe(input=Spec(16), weight=Spec(16), activation=Spec(16), output=Spec(16))
    model = Form(lambda m, x: F.normalize(m.l(x), dim=1), l=nn.Linear(8, 8))
    q = qfx.quantize(model, x, recipe)
    check_exact(q)
    with torch.no_grad():
        assert float((q(x) - model(x)).abs().max()) < (0.05 if bits == 8 else 1e-3)
