"""Functions by table: the same raw integers in torch, ONNX Runtime, the interpreter and both builds of the C simulation, for every number that can
come; and their gradients."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nn_models import Calls, check_exact
from support.bundles import build_bundle
from torch import Tensor, nn

import qfx
from qfx import FixedType, Graph, OMode, Override, QMode, Recipe, Spec
from qfx.errors import DataError, ExactnessError, QfxError
from qfx.fixed.arith import Interval
from qfx.fixed.kernel import cast
from qfx.fixed.reference import cast_float
from qfx.hardware.assets import hls_root, simulation_headers
from qfx.hardware.design.schedule import Folding, Schedule
from qfx.hardware.emit.emit import CSIM_FLAGS
from qfx.hardware.project.compile import compile_cpp
from qfx.hardware.project.execute import execute
from qfx.ir.graph import Node
from qfx.ir.interpret import quantize_input, run_from_raw, run_raw
from qfx.ir.passes.pipeline import optimize
from qfx.ir.values import RawArray
from qfx.nn import rules
from qfx.nn.call import Call, Family, Part
from qfx.nn.clipped import Clipped
from qfx.nn.layers import QMul
from qfx.nn.layers.tables import FAMILY, QInnerLookup, QLookup, Tabled, error_bound, table
from qfx.nn.layers.tables.entries import evaluate, lines
from qfx.nn.layers.tables.user import Lookup as Lookup_
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer
from qfx.operators import Cast, Const, Lookup, LookupLinear
from qfx.ptq import calibrate
from qfx.ptq.float_reference import float_reference
from qfx.testing import assert_bit_exact
from qfx.verify import onnx_runtime, raw_of

Form = Callable[[Tensor], Tensor]

FORMS: dict[str, nn.Module | Form] = {
    "sigmoid": nn.Sigmoid(),
    "tanh": torch.tanh,
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "elu": nn.ELU(0.7),
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 1.5),
    "softplus": nn.Softplus(2.0),
    "mish": nn.Mish(),
    "exp": torch.exp,
    "log": lambda x: x.log(),
    "reciprocal": torch.reciprocal,
    "sqrt": torch.sqrt,
    "rsqrt": lambda x: x.rsqrt(),
    "log_sigmoid": nn.LogSigmoid(),
    "erf": torch.erf,
    "sin": torch.sin,
    "cos": lambda x: x.cos(),
    "softsign": nn.Softsign(),
    "hardsigmoid": nn.Hardsigmoid(),
    "hardswish": F.hardswish,
    "tanhshrink": nn.Tanhshrink(),
    "hardshrink": nn.Hardshrink(0.4),
    "softshrink": lambda x: F.softshrink(x, 0.3),
    "cube": lambda x: x**3,
    "root": lambda x: torch.pow(x, 0.3),
    "power of two": lambda x: 2**x,
    "sinc": torch.sinc,
}

MODES = [Spec(8, q=q, o=o) for q, o in zip(QMode, [*OMode, OMode.SAT, OMode.SAT], strict=True)]


def numbers(width: int, *, signed: bool = True, frac_bits: int = 5) -> Tensor:
    """All numbers of a type, one sample of two channels after the other."""
    low = -(1 << width - 1) if signed else 0
    return torch.arange(low, low + (1 << width)).reshape(-1, 2) * 2.0**-frac_bits


def quantized(form: nn.Module | Form, x: Tensor, recipe: Recipe) -> nn.Module:
    model = nn.Sequential(form) if isinstance(form, nn.Module) else Calls(lambda _, value: form(value))
    return qfx.quantize(model, x, recipe).eval()


def recipe_for(width: int, *, signed: bool = True, frac_bits: int = 5, output: Spec | None = None) -> Recipe:
    return Recipe(input=Spec(width, signed=signed, frac_bits=frac_bits), output=output or Spec(width))


def compare(made: dict[str, tuple[nn.Module, Tensor]], folder: Path, *, simulated: bool = True) -> None:
    """Every executor on every number."""
    graphs = {name: qfx.to_graph(q) for name, (q, _) in made.items()}
    expected: dict[str, RawArray] = {}
    for name, (q, x) in made.items():
        graph = graphs[name]
        expected[name] = run_raw(graph, x.numpy(), check_ranges=True)
        with torch.no_grad():
            assert_bit_exact(raw_of(q(x).numpy(), graph, "torch"), expected[name], names=("torch", f"interpreter, {name}"))
        path = folder / f"{graph.name}.onnx"
        qfx.export_onnx(q, path)
        assert qfx.load_graph(path).nodes == graph.nodes
        assert_bit_exact(onnx_runtime(path, graph)(x.numpy()), expected[name], names=("ONNX Runtime", f"interpreter, {name}"))
    for fast in (False, True) if simulated else ():
        place = folder / f"fast_{fast}"
        place.mkdir()
        bundle = build_bundle([(optimize(graph), Schedule()) for graph in graphs.values()], place, fast=fast)
        for number, (name, (_, x)) in enumerate(made.items()):
            found = bundle.run_from_raw(number, quantize_input(graphs[name], x.numpy()))
            assert_bit_exact(found, expected[name], names=("emulator" if fast else "C simulation", f"interpreter, {name}"))


@pytest.mark.usefixtures("gxx")
def test_every_number_of_8_bits_in_every_executor(tmp_path: Path) -> None:
    made = {}
    for number, (name, form) in enumerate(FORMS.items()):
        signed = number % 3 != 2
        x, output = numbers(8, signed=signed), MODES[number % len(MODES)]
        made[name] = quantized(form, x, recipe_for(8, signed=signed, output=output)), x
    compare(made, tmp_path)


@pytest.mark.usefixtures("gxx")
def test_every_number_of_16_bits_by_lines(tmp_path: Path) -> None:
    made = {}
    for number, name in enumerate(("sigmoid", "silu", "exp", "log", "reciprocal", "gelu by tanh", "sqrt", "hardshrink")):
        signed = number % 2 == 0
        x = numbers(16, signed=signed, frac_bits=12)
        q = quantized(FORMS[name], x, recipe_for(16, signed=signed, frac_bits=12, output=Spec(16 if number % 3 else 12)))
        made[name] = q, x
        (node,) = [node for node in qfx.to_graph(q).nodes if isinstance(node.op, LookupLinear)]
        assert node.op.values.raw.size <= 1 << 12
    compare(made, tmp_path)


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


@pytest.mark.parametrize("width", [8, 16])
@pytest.mark.parametrize("name", ["sigmoid", "gelu", "exp", "cube", "hardshrink", "sqrt"])
def test_the_gradient_is_the_functions_at_the_cast_input(name: str, width: int) -> None:
    form = FORMS[name]
    torch.manual_seed(1)
    x = (torch.rand(400, 2) * 1.8 + 0.1).requires_grad_(True)
    recipe = Recipe(input=Spec(width, frac_bits=width - 3, signed=True), output=Spec(24, frac_bits=18))
    q = quantized(form, x.detach(), recipe)
    weight = torch.randn(400, 2)
    (q(x) * weight).sum().backward()
    come = cast(x.detach(), FixedType(width, 3, True, QMode.RND, OMode.SAT)).double().requires_grad_(True)
    (form(come) * weight).sum().backward()
    assert x.grad is not None
    assert come.grad is not None
    torch.testing.assert_close(x.grad, come.grad.float(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("width", [6, 14])
def test_binary_points_get_their_gradients(width: int) -> None:
    """That of the output: -ln2 * (q - v) in range and -ln2 * q beyond, v what the table gives; that of the input goes through the slope."""
    x = torch.tensor([[0.3, 1.7], [-0.9, 3.0]])
    q = quantized(torch.exp, x, Recipe(input=Spec(width, frac_bits=width - 3, signed=True), output=Spec(6, frac_bits=2, signed=False)))
    points = dict(q.named_parameters())
    y = q(x)
    y.sum().backward()
    come = cast(x, FixedType(width, 3, True, QMode.RND, OMode.SAT)).double()
    slope = torch.exp(come)
    inside = slope < 16
    (layer,) = [layer for layer in q.modules() if isinstance(layer, Tabled)]
    with torch.no_grad():
        value = layer.values(QTensor(come, Interval(-(1 << width - 1), (1 << width - 1) - 1, width - 3))).value
    assert bool((value - slope).abs().max() <= error_bound(layer) * 4 + 1e-12)  # what saturates need not be near
    expected = -math.log(2) * torch.where(inside, y.detach() - value, y.detach()).sum()
    (output,) = [points[name] for name in points if "output" in name]
    (source,) = [points[name] for name in points if name.startswith("input")]
    layers = {name: layer for name, layer in q.named_modules() if isinstance(layer, Quantizer)}
    scales = {("output" in name): layer.frac_grad_scale for name, layer in layers.items()}
    assert output.grad is not None
    assert source.grad is not None
    torch.testing.assert_close(output.grad.double(), expected * scales[True], rtol=1e-5, atol=1e-7)
    through = (torch.where(inside, slope, 0.0) * -math.log(2) * (come - x)).sum()
    torch.testing.assert_close(source.grad.double(), through * scales[False], rtol=1e-5, atol=1e-7)


def test_training_moves_the_table_with_the_binary_points() -> None:
    torch.manual_seed(0)
    x = torch.randn(32, 3)
    q = qfx.quantize(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), x, Recipe(activation=Spec(8), output=Spec(8)))
    before = qfx.to_graph(q)
    with torch.no_grad():
        for quantizer in (cast for name, cast in qfx.quantizers(q) if name.endswith(".output")):
            quantizer.frac_bits -= 1
    after = qfx.to_graph(q)  # no forward between
    assert before.nodes != after.nodes
    with torch.no_grad():
        assert_bit_exact(raw_of(q(x).numpy(), after, "torch"), run_raw(after, x.numpy()))
    copied = copy.deepcopy(q)
    assert qfx.to_graph(copied).nodes == after.nodes
    held = pickle.dumps(copied)
    assert len(held) < 30_000  # without entries
    assert qfx.to_graph(pickle.loads(held)).nodes == after.nodes


def test_a_table_that_was_made_while_nothing_was_recorded_serves_training() -> None:
    q = quantized(torch.tanh, numbers(8), recipe_for(8))
    (layer,) = [layer for layer in q.modules() if isinstance(layer, Tabled)]
    layer._known = None
    with torch.inference_mode():
        q(numbers(8))
    x = numbers(8).requires_grad_(True)
    q(x).sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0
    double = qfx.quantize(nn.Sequential(nn.Linear(2, 2), nn.SiLU()).double(), numbers(8).double()).eval()
    check_exact(double, dtype=torch.float64)


# --- lines ----------------------------------------------------------------------------------------------------------------------------


def test_the_error_of_lines_is_exact_and_as_wanted() -> None:
    x = numbers(16, frac_bits=12)
    for form, most in ((torch.sigmoid, None), (torch.tanh, 1e-3), (torch.exp, 0.01)):
        q = quantized(form, x, recipe_for(16, frac_bits=12))
        (layer,) = [layer for layer in q.modules() if isinstance(layer, Tabled)]
        layer.max_error = most
        layer._known = None
        with torch.no_grad():
            q(x)
        (node,) = [node for node in qfx.to_graph(q).nodes if isinstance(node.op, LookupLinear)]
        op, to = node.op, layer.output.types()[0]  # type: ignore[union-attr]
        limits = math.ldexp(to.min_raw, -to.frac_bits), math.ldexp(to.max_raw, -to.frac_bits)
        y = np.ldexp(op.at(np.arange(1 << 16)).astype(float), -op.slopes.grid)
        f = form(x.double().reshape(-1)).numpy()
        distance = np.abs(np.clip(y, *limits) - np.clip(f, *limits)).max()
        assert distance <= error_bound(layer) <= distance * (1 + 1e-9)
        limit = most or math.ldexp(0.5, -to.frac_bits)
        assert error_bound(layer) <= limit
        # The fewest: no line comes nearer to three points at even distances than a quarter of their second difference.
        half = 1 << op.shift
        first, middle, last = (f[at : at + (1 << 16) - 2 * half + 1 : 2 * half] for at in (0, half, 2 * half - 1))
        assert (np.abs(first - 2 * middle + last)[(last < limits[1]) & (first > limits[0])] / 4).max() > 0.7 * limit


def test_what_a_number_gives_does_not_depend_on_which_others_can_come() -> None:
    for form in (torch.sin, torch.sigmoid, F.gelu, torch.exp):
        whole = evaluate(form, Interval(-5000, 4000, 9), "f")
        for low, high in ((-5000, -4999), (-1025, 7), (-3, 1021), (999, 4000)):
            part = evaluate(form, Interval(low, high, 9), "f")
            here = slice(low + 5000, high + 5001)
            assert part.values.tolist() == whole.values[here].tolist()
            assert part.slopes.tolist() == whole.slopes[here].tolist()


def test_a_bound_out_of_reach_is_refused_and_named() -> None:
    values = np.sin(np.arange(1 << 16) * 3.0)
    with pytest.raises(ExactnessError, match="4096 lines leave"):
        lines(values, FixedType(16, 2), 1e-3, "wild")
    assert lines(values, FixedType(16, 2), None, "wild").values.size == 4096


def test_an_input_of_too_many_numbers_is_refused_by_name() -> None:
    with pytest.raises(ExactnessError, match="at most 20 bits") as caught:
        quantized(nn.Sigmoid(), torch.randn(8, 2), recipe_for(24, frac_bits=20))
    assert caught.value.where == "0"
    x = torch.randn(16, 2, 3) * torch.tensor([1.0, 2.0**-20])[:, None]
    with pytest.raises(ExactnessError, match="at most 20 bits"):
        quantized(nn.Sigmoid(), x, Recipe(input=Spec(8, granularity="channel")))


def test_channels_with_binary_points_of_their_own_are_read_on_one_grid() -> None:
    x = torch.randn(64, 3, 2) * torch.tensor([1.0, 0.25, 4.0])[:, None]
    q = quantized(nn.SiLU(), x, Recipe(input=Spec(6, granularity="channel"), output=Spec(8, granularity="channel")))
    graph = check_exact(q)
    (node,) = [node for node in graph.nodes if isinstance(node.op, Lookup)]
    assert graph.infos["input"].interval.hull.frac_bits == node.op.frac_bits


# --- values that are not finite -------------------------------------------------------------------------------------------------------


def test_where_a_function_has_no_value_the_nearest_number_with_one_counts() -> None:
    x = numbers(6, frac_bits=2)
    recipe = Recipe(input=Spec(6, frac_bits=2, signed=True), output=Spec(16, frac_bits=8, signed=True))
    with torch.no_grad():
        for form, at, as_at in ((torch.reciprocal, 0.0, 0.25), (torch.log, -3.0, 0.25), (torch.sqrt, -1.0, 0.0), (torch.rsqrt, 0.0, 0.25)):
            q = quantized(form, x[1:], recipe)
            given, same = (q(torch.full((1, 2), value)) for value in (at, as_at))
            assert torch.equal(given, same)
            check_exact(q)
    with pytest.raises(DataError, match="no finite value"):
        evaluate(torch.log, Interval(-8, -1, 0), "log")


# --- functions of the user ------------------------------------------------------------------------------------------------------------


def test_what_is_no_function_of_one_number_is_refused() -> None:
    for wrong in (lambda x: torch.softmax(x, -1), lambda x: x - x.mean(), lambda x: x[..., :1], torch.sum, lambda x: "no", lambda x, y: x):
        with pytest.raises(DataError):
            qfx.lookup(wrong)
    with pytest.raises(DataError, match="max_error"):
        qfx.lookup(torch.exp, max_error=0.0)
    layer = qfx.lookup(lambda x: x * torch.sigmoid(1.7 * x), name="quick_gelu")
    assert repr(layer) == "Lookup(quick_gelu)"
    assert torch.equal(layer(torch.ones(2)), torch.ones(2) * torch.sigmoid(torch.tensor(1.7)))


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


def test_the_float_reference_computes_the_function_itself() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 2)).eval()
    x = torch.randn(32, 3)
    q = qfx.quantize(model, x, Recipe(activation=Spec(4)))
    with torch.no_grad():
        torch.testing.assert_close(float_reference(q)(x), model(x))


def test_calibration_is_not_held_back_by_the_type_that_an_output_had() -> None:
    for width in (8, 16):
        recipe = Recipe(input=Spec(width, frac_bits=width - 4, signed=True), output=Spec(width))
        q = quantized(torch.exp, torch.full((8, 2), -3.0), recipe)
        calibrate(q, torch.rand(256, 2) * 5)
        fresh = quantized(torch.exp, torch.rand(256, 2) * 5, recipe)
        assert [cast.types() for _, cast in qfx.quantizers(q)] == [cast.types() for _, cast in qfx.quantizers(fresh)]
        check_exact(q)


def test_distributions_go_through_the_function() -> None:
    mean, std = torch.tensor([0.0, 1.0, -2.0, 4.0]), torch.tensor([1.0, 0.5, 1.2, 0.1])
    generator = torch.Generator().manual_seed(0)
    samples = mean + std * torch.randn(200_000, 4, generator=generator, dtype=torch.float64)
    for function in (torch.sigmoid, F.silu, torch.exp):
        layer = QLookup(function, "f")
        got_mean, got_variance = layer.distribution([Clipped.normal(mean, std)]).moments()
        y = function(samples)
        assert torch.allclose(got_mean, y.mean(0), rtol=0.03, atol=0.02)
        assert torch.allclose(got_variance.sqrt(), y.std(0), rtol=0.1, atol=0.01)
        assert not layer.scales_channels(4)


def test_without_a_forward_there_is_no_table() -> None:
    with pytest.raises(QfxError, match="run the model once"):
        error_bound(QLookup(torch.exp, "exp"))
