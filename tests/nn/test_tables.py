"""Functions by table: the same raw integers in torch, ONNX Runtime, the interpreter and both builds of the C simulation, for every number that can
come."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nn_models import Calls, check_exact
from support.bundles import build_bundle
from table_forms import FORMS, MODES, Form, compare, numbers, quantized, recipe_for
from torch import Tensor, nn

import qfx
from qfx import FixedType, Graph, OMode, Override, QMode, Recipe, Spec
from qfx.errors import ExactnessError
from qfx.fixed.reference import cast_float
from qfx.hardware.assets import hls_root, simulation_headers
from qfx.hardware.design.schedule import Folding, Schedule
from qfx.hardware.emit.emit import CSIM_FLAGS
from qfx.hardware.project.compile import compile_cpp
from qfx.hardware.project.execute import execute
from qfx.ir.graph import Node
from qfx.ir.interpret import quantize_input, run_from_raw, run_raw
from qfx.ir.passes.pipeline import optimize
from qfx.nn import rules
from qfx.nn.call import Call, Family, Part
from qfx.nn.layers import QMul
from qfx.nn.layers.tables import FAMILY, QInnerLookup, Tabled, error_bound, table
from qfx.nn.layers.tables.user import Lookup as Lookup_
from qfx.nn.quantizer import Quantizer
from qfx.operators import Cast, Const, Lookup, LookupLinear
from qfx.ptq import calibrate
from qfx.ptq.float_reference import float_reference
from qfx.testing import assert_bit_exact
from qfx.verify import raw_of


@pytest.mark.usefixtures("gxx")
def test_every_number_of_8_bits_in_every_executor(tmp_path: Path, thorough: bool) -> None:
    made = {}
    for number, (name, form) in enumerate(FORMS.items()):
        signed = number % 3 != 2
        x, output = numbers(8, signed=signed), MODES[number % len(MODES)]
        made[name] = quantized(form, x, recipe_for(8, signed=signed, output=output)), x
    compare(made, tmp_path, fast=thorough)


@pytest.mark.usefixtures("gxx")
def test_every_number_of_16_bits_by_lines(tmp_path: Path, thorough: bool) -> None:
    made = {}
    for number, name in enumerate(("sigmoid", "silu", "exp", "log", "reciprocal", "gelu by tanh", "sqrt", "hardshrink")):
        signed = number % 2 == 0
        x = numbers(16, signed=signed, frac_bits=12)
        q = quantized(FORMS[name], x, recipe_for(16, signed=signed, frac_bits=12, output=Spec(16 if number % 3 else 12)))
        made[name] = q, x
        (node,) = [node for node in qfx.to_graph(q).nodes if isinstance(node.op, LookupLinear)]
        assert node.op.values.raw.size <= 1 << 12
    compare(made, tmp_path, fast=thorough)


def test_entries_are_the_function_rounded_once() -> None:
    """Against the definition of Cast in Python integers."""
    for q, output in zip(QMode, (OMode.SAT, OMode.SAT_SYM, OMode.SAT_ZERO, OMode.WRAP, OMode.SAT, OMode.WRAP_SM, OMode.SAT), strict=True):
        x = numbers(8)
        layer = quantized(torch.sin, x, recipe_for(8, output=Spec(5, q=q, o=output, frac_bits=5, signed=True)))
        (node,) = [node for node in qfx.to_graph(layer).nodes if isinstance(node.op, Lookup)]
        to = FixedType(5, 0, True, q, output)
        assert node.op.entries.raw.tolist() == [cast_float(math.sin(raw / 32), to) for raw in range(-128, 128)]
        assert (node.op.first, node.op.frac_bits, node.op.entries.frac_bits) == (-128, 5, 5)


def test_a_wrong_entry_is_seen(tmp_path: Path) -> None:
    x = numbers(8)
    q = quantized(nn.Sigmoid(), x, recipe_for(8))
    graph = qfx.to_graph(q)
    (node,) = [node for node in graph.nodes if isinstance(node.op, Lookup)]
    raw = node.op.entries.raw.copy()
    raw[77] += 1
    planted = Node(node.name, replace(node.op, entries=Const(raw, node.op.entries.frac_bits)), node.inputs)
    wrong = Graph(graph.name, tuple(planted if other is node else other for other in graph.nodes), graph.output, graph.metadata)
    with torch.no_grad(), pytest.raises(AssertionError, match="1 of 256 numbers differ"):
        assert_bit_exact(raw_of(q(x).numpy(), graph, "torch"), run_raw(wrong, x.numpy()))


@pytest.mark.usefixtures("gxx")
def test_a_wrong_entry_in_the_file_or_the_c_is_seen(tmp_path: Path) -> None:
    x = numbers(8)
    graph = qfx.to_graph(quantized(nn.Tanh(), x, recipe_for(8)))
    expected = run_raw(graph, x.numpy())
    build_bundle([(graph, Schedule())], tmp_path)
    (place,) = [path for path in tmp_path.rglob("weights/*.h") if "rom_number" in path.read_text()]
    text = place.read_text()
    head, body = text.rsplit("{", 1)
    first, rest = body.split(",", 1)
    (tmp_path / "other").mkdir()
    place.write_text(f"{head}{{{int(first) + 1},{rest}")
    hls = hls_root()
    includes = (*simulation_headers(), "-isystem", str(hls / "sim" / "emulate"), f"-I{hls / 'include'}", f"-I{hls / 'templates'}")
    compile_cpp((tmp_path / "bundle.cpp",), includes, tmp_path / "wrong", CSIM_FLAGS)
    found = execute((str(tmp_path / "wrong"), "0"), quantize_input(graph, x.numpy()), graph.infos[graph.output].shape)
    with pytest.raises(AssertionError, match="1 of 256 numbers differ"):
        assert_bit_exact(found, expected)


class Between(nn.Module):
    """Tables behind a convolution, with channels in parallel, and what they give multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.gate, self.act, self.last = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Sigmoid(), nn.SiLU(), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm(self.conv(x)))
        return y * self.gate(self.last(F.dropout(y, training=self.training))) + torch.tanh(y)


@pytest.mark.usefixtures("gxx")
def test_in_a_network_with_lanes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 2, 6, 6)
    for name, recipe in {
        "tables": None,
        "lines": Recipe(activation=Spec(14)),
        "by channel": Recipe(activation=Spec(7, granularity="channel")),
    }.items():
        q = qfx.quantize(Between(), x, recipe)
        optimizer = torch.optim.SGD(q.parameters(), lr=0.02)
        q.train()
        for _ in range(3):
            optimizer.zero_grad()
            q(x).square().mean().backward()
            optimizer.step()
        graph = check_exact(q)
        assert all(not dict(qfx.quantizers(q))[label].frac_bits.dim() for label in ("act.output", "gate.output", "tanh.output"))
        wide = Schedule.of({node.name: Folding(4 if graph.infos[node.name].shape[0] == 4 else 2) for node in graph.nodes if node.op.pointwise})
        (tmp_path / name).mkdir()
        bundle = build_bundle([(optimize(graph), Schedule()), (graph, wide)], tmp_path / name)
        data = quantize_input(graph, np.random.default_rng(0).normal(size=(20, 2, 6, 6)).astype(np.float32) * 2)
        for design in (0, 1):
            assert_bit_exact(bundle.run_from_raw(design, data), run_from_raw(graph, data), names=("C simulation", f"interpreter, {name}"))


def test_one_rom_and_no_cast_behind_it_in_hardware() -> None:
    torch.manual_seed(0)
    q = qfx.quantize(nn.Sequential(nn.Linear(4, 3), nn.SiLU(), nn.Linear(3, 2)), torch.randn(64, 4))
    names = [node.name for node in qfx.to_graph(q).nodes]
    assert names == ["input", "0", "0.output", "1", "1.output", "2", "2.output"]
    assert [node.name for node in optimize(qfx.to_graph(q)).nodes] == ["input", "0", "0.output", "1", "2", "2.output"]
    assert [name for name, _ in qfx.quantizers(q)] == [
        "input", "0.weight", "0.bias", "0.output", "1.output", "2.weight", "2.bias", "2.output"
    ]  # fmt: skip


def _called(function: Callable[[Tensor], Tensor]) -> Form:
    changes = getattr(function, "__name__", "").endswith("_")
    return lambda x: function(x.clone() if changes else x)


ENTRIES: dict[str, nn.Module | Form] = {
    **{f"nn.{kind.__name__}": kind() for kind in FAMILY.modules if kind is not Lookup_},
    **{f"{function.__name__} {number}": _called(function) for number, function in enumerate(FAMILY.functions)},
    **{f"x.{name}": lambda x, name=name: getattr(x.clone(), name)() for name in FAMILY.methods},
}


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_of_the_table_of_operations(name: str) -> None:
    """Near the float operation, too: the right function, with the parameters that were given."""
    x = numbers(6, signed=False, frac_bits=4)[1:]
    form = ENTRIES[name]
    x = x[:12] if "tan" in name else x  # before its pole
    q = quantized(form, x, Recipe(input=Spec(6, frac_bits=4), output=Spec(24)))
    check_exact(q)
    with torch.no_grad():
        near = form(x.clone())
        held = near.isfinite() & (near.abs() < 60)
        torch.testing.assert_close(q(x)[held], near[held], rtol=2e-4, atol=2e-4)


PARAMETERS: dict[str, nn.Module | Form] = {
    "ELU": nn.ELU(0.3),
    "CELU": nn.CELU(2.0),
    "GELU": nn.GELU(approximate="tanh"),
    "Softplus": nn.Softplus(3.0, 1.0),
    "Hardshrink": nn.Hardshrink(0.25),
    "Softshrink": nn.Softshrink(0.75),
    "F.elu": lambda x: F.elu(x, 0.3),
    "F.softplus": lambda x: F.softplus(x, beta=3.0, threshold=1.0),
    "F.softshrink": lambda x: F.softshrink(x, 0.1),
    "logit": lambda x: torch.logit(x, eps=0.3),
    "x.logit": lambda x: x.logit(0.3),
    "x**0.3": lambda x: x**0.3,
    "x**-1": lambda x: x.pow(-1),
    "0.5**x": lambda x: 0.5**x,
    "x**1": lambda x: x**1,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_those_of_the_operation(name: str) -> None:
    x = numbers(7, frac_bits=5)
    if name in ("x**0.3", "x**-1"):
        x = x[x[:, 0] > 0]
    form = PARAMETERS[name]
    q = quantized(form, x, Recipe(input=Spec(7, frac_bits=5, signed=True), output=Spec(18)))
    check_exact(q)
    with torch.no_grad():
        torch.testing.assert_close(q(x), form(x), rtol=1e-3, atol=1e-3)


# --- gradients ------------------------------------------------------------------------------------------------------------------------


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


@pytest.mark.usefixtures("gxx")
def test_functions_of_the_user_are_tables(tmp_path: Path) -> None:
    made = {}
    for width, most in ((8, None), (16, None), (14, 1e-3)):
        x = numbers(width, frac_bits=width - 3)
        model = nn.Sequential(qfx.lookup(quick_gelu, max_error=most))
        made[f"{width} bits"] = qfx.quantize(model, x, recipe_for(width, frac_bits=width - 3)).eval(), x
    compare(made, tmp_path)
    alone = qfx.quantize(qfx.lookup(quick_gelu), *made["8 bits"][1:], recipe_for(8)).eval()
    check_exact(alone)
    layers = {name: next(layer for layer in q.modules() if isinstance(layer, Tabled)) for name, (q, _) in made.items()}
    assert repr(layers["8 bits"]).startswith("QLookup(\n  quick_gelu, 256 entries\n")
    assert error_bound(layers["8 bits"]) == 0.0
    assert 0.0 < error_bound(layers["14 bits"]) <= 1e-3
    assert f"lines, error up to {error_bound(layers['16 bits']):.3g}" in repr(layers["16 bits"])
    with pytest.raises(ExactnessError, match="1e-09 is out of reach") as caught:
        qfx.quantize(nn.Sequential(qfx.lookup(quick_gelu, max_error=1e-9)), numbers(16, frac_bits=13), recipe_for(16, frac_bits=13))
    assert caught.value.where == "0"


# --- inside an operation --------------------------------------------------------------------------------------------------------------


def test_an_inner_table_has_a_cast_of_its_own() -> None:
    x = numbers(8)
    cast_ = Quantizer(Spec(12), name="norm.rsqrt")
    layer = QInnerLookup(torch.exp, "exp", cast_)
    source = Quantizer(Spec(8, frac_bits=5, signed=True), name="input")
    source.initialize(x)
    with torch.no_grad():
        layer.initialize(source(x))
        y = layer(source(x))
    lookup, output = layer.operators()
    assert isinstance(lookup[1], Lookup)
    assert isinstance(output[1], Cast)
    assert (y.tensor().reshape(-1).double() * 2.0 ** lookup[1].entries.grid).tolist() == lookup[1].entries.raw.tolist()


def _softly(call: Call) -> list[Part]:
    """exp(x) / (1 + exp(x)) is x's sigmoid: exp(x) times a reciprocal, of two tables."""
    power = Part(table(torch.exp, call, "exp"), (0,), "_exp")
    less = Part(table(_one_over_more, call, "reciprocal", width=11, o="AP_SAT_SYM"), (power,), "_reciprocal")
    return [power, less, Part(QMul(), (power, less))]


def _one_over_more(x: Tensor) -> Tensor:
    return torch.reciprocal(1 + x)


@pytest.mark.usefixtures("gxx")
@pytest.mark.parametrize("width", [8, 13])
def test_inner_tables_in_a_small_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setitem(rules.FUNCTIONS, torch.digamma, ("input", _softly))
    monkeypatch.setitem(rules.FAMILY_OF, _softly, Family(layers=(QInnerLookup, QMul)))
    x = numbers(width, frac_bits=width - 3)
    recipe = Recipe(
        input=Spec(width, frac_bits=width - 3, signed=True),
        internal=Spec(width, granularity="channel"),
        output=Spec(10),
        overrides=(Override("digamma.exp", {"width": width + 1}),),
    )
    q = qfx.quantize(Calls(lambda _, value: torch.digamma(value)), x, recipe).eval()
    assert [name for name, _ in qfx.quantizers(q)] == ["input", "digamma.exp", "digamma.reciprocal", "digamma.output"]
    types = {name: cast.types()[0] for name, cast in qfx.quantizers(q)}
    assert (types["digamma.exp"].width, types["digamma.reciprocal"].width, types["digamma.reciprocal"].o) == (width + 1, 11, OMode.SAT_SYM)
    calibrate(q, x)
    compare({"softly": (q, x)}, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(q(x), torch.sigmoid(x), rtol=0, atol=0.06 if width == 8 else 0.02)
        torch.testing.assert_close(float_reference(q)(x), torch.sigmoid(x))
    q.train()(x).sum().backward()
    assert all(cast.frac_bits.grad is not None for _, cast in qfx.quantizers(q))


# --- after training -------------------------------------------------------------------------------------------------------------------
