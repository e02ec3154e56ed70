"""Fake-quantized models of PyTorch's tools and of Brevitas, with any scales, as graphs of their stored integers."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import qfx
from qfx import operators as ops
from qfx.cli import main
from qfx.exchange.affine import Affine, AffineCast, Float
from qfx.exchange.integers.network import error_of_sums
from qfx.exchange.integers.rounding import doubtful, function
from qfx.exchange.integers.values import Sums
from qfx.integers.keys import DIFFERING_KEY, QUANTIZATION_KEY
from qfx.ir.graph import LEFT_OUT_KEY, Graph
from qfx.ir.interpret import run_raws
from qfx.ir.values import Const

pytest.importorskip("torchao", reason="torchao is in the extra 'dev'", exc_type=ImportError)
nets = pytest.importorskip("torch_ao_nets")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the tools, about themselves


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X = numbers(8, 1, 8, 8)


def told(graph: Graph, place: int) -> tuple[np.float32, int]:
    """Scale and zero point of the first or the last line of the metadata."""
    scale, zero = graph.metadata[QUANTIZATION_KEY].splitlines()[place].partition(": scale ")[2].split(", zero point ")
    return np.float32(scale), int(zero)


def differing(graph: Graph, source: nn.Module, count: int = 32) -> tuple[int, int]:
    """How many stored integers differ from the source's on random inputs, and by how much at most."""
    scale, zero = told(graph, 0)
    node = graph.inputs[0]
    kind = node.op.cast.element  # type: ignore[attr-defined]
    shape = graph.infos[node.name].shape
    raws = np.random.default_rng(1).integers(kind.min_raw, kind.max_raw + 1, (count, *shape))
    raws[: count // 2] = np.clip(np.rint(np.random.default_rng(2).normal(0, 30, (count // 2, *shape))) + zero, kind.min_raw, kind.max_raw)
    x = torch.from_numpy((raws - zero).astype(np.float32) * scale)
    with torch.no_grad():
        theirs = torch.cat([source(x[at : at + 8]) for at in range(0, count, 8)])
    theirs = theirs.value if hasattr(theirs, "value") else theirs
    (ours,) = run_raws(graph, raws.astype(np.float32), check_ranges=True)
    scale, zero = told(graph, -1)
    wanted = np.rint(theirs.numpy().astype(np.float64) / np.float64(scale)) + zero
    return int((ours != wanted).sum()), int(np.abs(ours - wanted).max())


@pytest.fixture(scope="module", params=[torch.per_tensor_symmetric, torch.per_tensor_affine], ids=["symmetric", "zero points"])
def converted(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(1)
    return nets.converted(nets.prepared(nets.Net(), X, nets.Everywhere(po2=False, scheme=request.param)))  # type: ignore[no-any-return]


def test_pt2e_with_any_scales(converted: nn.Module) -> None:
    with pytest.raises(qfx.ExactnessError, match=r"relu.output: float32 may decide \d+ of \d+ sums"):
        qfx.integers_of(converted, X)
    graph = qfx.integers_of(converted, X, nearest=True)
    assert "relu.output: up to " in graph.metadata[DIFFERING_KEY]
    wrong, most = differing(graph, converted)
    assert wrong <= 2  # of 320; where float32 decided
    assert most <= 1


def test_one_wrong_bit_of_a_multiplier_is_noticed(converted: nn.Module) -> None:
    graph = qfx.integers_of(converted, X, nearest=True)
    found = 0
    for place, node in enumerate(graph.nodes):
        if isinstance(node.op, ops.Affine) and node.op.scale is not None:
            changed = np.maximum(node.op.scale.raw + node.op.scale.raw // 32, node.op.scale.raw + 1)
            op = replace(node.op, scale=Const(changed, node.op.scale.frac_bits))
            nodes = (*graph.nodes[:place], replace(node, op=op), *graph.nodes[place + 1 :])
            found += differing(Graph(graph.name, nodes, graph.outputs, graph.metadata), converted)[0] > 2
    assert found >= 2


def test_powers_of_two_with_zero_points_are_exact() -> None:
    torch.manual_seed(2)
    net = nets.rounded(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)))
    source = nets.converted(nets.prepared(net, X, nets.Everywhere(scheme=torch.per_tensor_affine)))
    graph = qfx.integers_of(source, X)
    assert DIFFERING_KEY not in graph.metadata
    assert differing(graph, source) == (0, 0)
    assert told(graph, -1)[1] != 0


class Many(nn.Module):
    """Averages, functions of one number, a concatenation, moves, and a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.stub = nets.eager.QuantStub()
        self.cast = nn.ModuleList([nets.eager.QuantStub() for _ in range(6)])
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cast[0](nn.functional.relu6(self.conv(self.stub(x))))
        a = self.cast[1](nn.functional.avg_pool2d(x, 3))
        b = self.cast[2](torch.sigmoid(nn.functional.max_pool2d(x, 3)))
        c = self.cast[3](torch.cat([a, b * 2 - 1], 1))
        d = self.cast[4](nn.functional.hardswish(c).permute(0, 2, 3, 1))
        return torch.softmax(self.cast[5](d.mean((1, 2))), 1)


def test_operations_of_all_kinds() -> None:
    torch.manual_seed(3)
    net = Many().train()
    net.qconfig = nets.trained(po2=False, bits=8)
    net = nets.eager.prepare_qat(net)
    for _ in range(3):
        net(X)
    source = net.eval().apply(nets.eager.disable_observer)
    graph = qfx.integers_of(source, X, nearest=True)
    assert "softmax" in graph.metadata[LEFT_OUT_KEY]

    class Before(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            source_softmax, torch.softmax = torch.softmax, lambda value, _dim: value
            try:
                return source(x)  # type: ignore[no-any-return]
            finally:
                torch.softmax = source_softmax

    wrong, most = differing(graph, Before())
    assert wrong <= 2
    assert most <= 1


def test_brevitas_with_float_scales() -> None:
    qnn = pytest.importorskip("brevitas.nn", exc_type=ImportError)
    from brevitas import quant  # type: ignore[import-untyped, unused-ignore]

    torch.manual_seed(4)
    weight: dict[str, Any] = {"bias_quant": quant.Int32Bias, "weight_quant": quant.Int8WeightPerChannelFloat}
    net = nn.Sequential(
        qnn.QuantIdentity(act_quant=quant.ShiftedUint8ActPerTensorFloat, return_quant_tensor=True),
        qnn.QuantConv2d(1, 8, 3, bias=True, **weight),
        nn.BatchNorm2d(8),
        qnn.QuantReLU(act_quant=quant.Uint8ActPerTensorFloat, bit_width=4, return_quant_tensor=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        qnn.QuantLinear(72, 10, bias=True, output_quant=quant.Int8ActPerTensorFloat, **weight),
    ).train()
    with torch.no_grad():
        for _ in range(4):
            net(X)
    graph = qfx.integers_of(net.eval(), X, nearest=True)
    assert "up to" in graph.metadata[DIFFERING_KEY]
    wrong, most = differing(graph, net)
    assert wrong <= 2
    assert most <= 1


def test_a_last_layer_in_float_gives_its_sums() -> None:
    torch.manual_seed(5)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))

    class Inputs(nets.Everywhere):  # type: ignore[misc, name-defined]
        def annotate(self, model: Any) -> Any:
            super().annotate(model)
            for node in model.graph.nodes:
                if "quantization_annotation" in node.meta:
                    node.meta["quantization_annotation"].output_qspec = None
            return model

    source = nets.converted(nets.prepared(net, X, Inputs(po2=False)))
    graph = qfx.integers_of(source, X)
    scale, zero = told(graph, 0)
    raws = np.random.default_rng(0).integers(-128, 128, (8, 64))
    line = graph.metadata[QUANTIZATION_KEY].splitlines()[-1]
    factors, offsets = (np.array([float(part) for part in text.split()]) for text in line.partition("sums, times ")[2].split(", plus "))
    (sums,) = run_raws(graph, raws.reshape(8, *graph.infos[graph.inputs[0].name].shape).astype(np.float32))
    with torch.no_grad():
        theirs = source(torch.from_numpy(((raws - zero) * scale).astype(np.float32)).reshape(8, 1, 8, 8)).numpy()
    assert np.allclose(sums * factors + offsets, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("float_", Float)
@pytest.mark.parametrize("zero", [0, 3])
@pytest.mark.parametrize("scale", [0.75, 0.1, 2.0**-2])
def test_what_exact_arithmetic_gives_and_what_float32_may(float_: Float, zero: int, scale: float) -> None:
    """All sums of a product of three: float32, whatever its order, differs at no more sums than are counted, and by one."""
    affine = Affine((float(np.float32(scale)),), (zero,), -16, 15, None, float_)
    cast = AffineCast(affine, "y")
    kernel, step, steps, bias = np.array([[5, -3, 7]]), float(np.float32(0.11)), (float(np.float32(0.013)),), [0.05]
    factor = Fraction(step) * Fraction(steps[0])
    error = error_of_sums(kernel, (-8, 7), [float(factor)], bias, False)
    low, high = -8 * 12 - 7 * 3, 7 * 12 + 8 * 3
    sums = Sums(lambda name, _: name, ((low, high),), (factor,), (Fraction(bias[0]),), error)
    counted = doubtful(affine, sums)
    grid = np.stack(np.meshgrid(*[np.arange(-8, 8)] * 3), -1).reshape(-1, 3)
    totals = grid @ kernel[0]
    exact = np.clip(function(affine, factor, Fraction(bias[0])).call(totals), affine.low - zero, affine.high - zero)
    x, weight = torch.from_numpy(grid).float() * step, torch.from_numpy(kernel[0]).float() * steps[0]
    wrong = set[int]()
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [3, 0, 2, 1], [2, 3, 0, 1]):
        parts = [*(x * weight).T, torch.full((len(x),), bias[0])]
        total = parts[order[0]].clone()
        for place in order[1:]:
            total = total + parts[place]
        theirs = cast.integers(total).numpy() - zero
        assert np.abs(theirs - exact).max() <= 1
        wrong |= set(totals[theirs != exact].tolist())
    assert len(wrong) <= counted


def test_ties_are_counted_where_float32_is_not_exact() -> None:
    affine = Affine((1.0,), (0,), -4, 3)
    sums = Sums(lambda name, _: name, ((-10, 10),), (Fraction(1, 2),), (Fraction(0),), np.array([1e-6]))
    assert doubtful(affine, sums) == 7  # -3.5 ... 2.5
    assert doubtful(affine, replace(sums, error=np.array([0.0]))) == 0
    assert doubtful(affine, replace(sums.limited(Fraction(0), None), error=np.array([1e-6]))) == 3


def test_what_is_refused() -> None:
    torch.manual_seed(6)

    def refused(forward: Any, match: str) -> None:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.stub, self.conv, self.last = nets.eager.QuantStub(), nn.Conv2d(1, 4, 3), nets.eager.QuantStub()

            def forward(self, x: Tensor) -> Tensor:
                return self.last(forward(self, x))  # type: ignore[no-any-return]

        net = Net().train()
        net.qconfig = nets.trained(po2=False, bits=8)
        net = nets.eager.prepare_qat(net)
        net(X)
        with pytest.raises(qfx.QfxError, match=match):
            qfx.integers_of(net.eval(), X, nearest=True)

    refused(lambda net, x: (net.stub(x), net.conv(x))[1], "quantize it first of all")
    refused(lambda net, x: torch.softmax(net.conv(net.stub(x)), 1) * 2, "amax has no integer form")
    refused(lambda net, x: (net.conv(net.stub(x)), torch.cumsum(net.stub(x), 2))[1], "cumsum")


def test_by_the_command(tmp_path: Path, converted: nn.Module) -> None:
    path, target = tmp_path / "net.pt2", tmp_path / "net.onnx"
    torch.export.save(torch.export.export(converted, (X,)), path)
    run = CliRunner().invoke(main, ["import", str(path), "-o", str(target), "--integers"])
    assert run.exit_code != 0
    assert "float32 may decide" in run.output
    assert not target.exists()
    run = CliRunner().invoke(main, ["import", str(path), "-o", str(target)])
    assert run.exit_code != 0
    assert "no power" in run.output
    run = CliRunner().invoke(main, ["import", str(path), "-o", str(target), "--integers", "--nearest"])
    assert run.exit_code == 0, run.output
    assert "not the same integers" in run.output
    assert qfx.load_graph(target).nodes == qfx.integers_of(converted, X, nearest=True).nodes
