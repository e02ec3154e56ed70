"""Interpolation between pixels and windows of several lengths: what torch computes, with constants that are cast, raw by raw in all executors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from support.bundles import build_bundle
from torch import Tensor, nn

import qfx
from qfx import operators as ops
from qfx.errors import UnsupportedError
from qfx.fixed.arith import Interval
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Schedule
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.nn.layers.avg_pool import QAvgPool, QPartialAvgPool
from qfx.nn.layers.resampling.linear import QInterpolate, QInterpolateFurther
from qfx.nn.qtensor import QTensor
from qfx.testing import assert_bit_exact

Form = Callable[[Tensor], Tensor]


def bilinear(**given: object) -> Form:
    return lambda x: F.interpolate(x, mode="bilinear", **given)  # type: ignore[arg-type]


EXACT: dict[str, Form | nn.Module] = {
    "twice": bilinear(scale_factor=2),
    "twice, by its size": bilinear(size=(12, 12)),
    "four and two times": bilinear(scale_factor=(4, 2)),
    "one axis": bilinear(scale_factor=(1, 2)),
    "half": bilinear(scale_factor=0.5),
    "half and twice": bilinear(scale_factor=(2, 0.5)),
    "corners": bilinear(size=(11, 11), align_corners=True),
    "corners, every second one": bilinear(size=(2, 11), align_corners=True),
    "Upsample": nn.Upsample(scale_factor=2, mode="bilinear"),
}
"""Those whose constants are sums of few powers of two, which are exact."""

ROUNDED: dict[str, Form | nn.Module] = {
    "three times": bilinear(scale_factor=3),
    "any size": bilinear(size=(5, 13)),
    "a broken factor": bilinear(scale_factor=1.7),
    "a broken factor, recomputed": bilinear(scale_factor=1.7, recompute_scale_factor=True),
    "twice with corners": bilinear(scale_factor=2, align_corners=True),
    "smaller with corners": bilinear(size=(4, 3), align_corners=True),
    "UpsamplingBilinear2d": nn.UpsamplingBilinear2d(scale_factor=2),
}

ADAPTIVE: dict[str, nn.Module] = {
    "8 to 3": nn.AdaptiveAvgPool2d(3),
    "to 4 and 5": nn.AdaptiveAvgPool2d((4, 5)),
    "one axis even": nn.AdaptiveAvgPool2d((4, 2)),
    "one axis as it is": nn.AdaptiveAvgPool2d((3, None)),
    "to more": nn.AdaptiveAvgPool2d(13),
    "to more and to less": nn.AdaptiveAvgPool2d((16, 3)),
}
MOVED: dict[str, nn.Module] = {
    "to twice as many": nn.AdaptiveAvgPool2d(16),
    "maxima, 8 to 3": nn.AdaptiveMaxPool2d(3),
    "maxima to more": nn.AdaptiveMaxPool2d((13, 3)),
    "maxima to twice as many": nn.AdaptiveMaxPool2d(16),
}
ON_LINES: dict[str, nn.Module] = {
    "a line": nn.Upsample(scale_factor=2, mode="linear"),
    "a line to a size": nn.Upsample(10, mode="linear", align_corners=True),
    "means of a line, 7 to 3": nn.AdaptiveAvgPool1d(3),
    "means of a line, 7 to 5": nn.AdaptiveAvgPool1d(5),
    "maxima of a line, 7 to 3": nn.AdaptiveMaxPool1d(3),
    "maxima of a line, 7 to 5": nn.AdaptiveMaxPool1d(5),
}
ALL: dict[str, Form | nn.Module] = {**EXACT, **ROUNDED, **ADAPTIVE, **MOVED, **ON_LINES}


class Net(nn.Module):
    """The form behind a convolution, whose result is cast."""

    def __init__(self, form: Form | nn.Module, conv: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = conv or nn.Conv2d(2, 4, 1)
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        return self.form(self.conv(x))


def quantized(form: Form | nn.Module, x: Tensor, recipe: qfx.Recipe | None = None) -> nn.Module:
    conv = nn.Conv1d(x.shape[1], 4, 1) if x.dim() == 3 else nn.Conv2d(x.shape[1], 4, 1)
    return qfx.quantize(Net(form, conv).eval(), x, recipe or qfx.Recipe()).eval()


def read_and_given(q: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """What the layers behind the convolution read, and what they give before the last cast."""
    casts = [module for name, module in q.named_modules() if name.endswith("output_cast")]
    seen: dict[nn.Module, QTensor] = {}
    handles = [casts[0].register_forward_hook(lambda module, _inputs, output: seen.update({module: output}))]
    if len(casts) > 1:
        handles.append(casts[-1].register_forward_pre_hook(lambda module, inputs: seen.update({module: inputs[0]})))
    with torch.no_grad():
        q(x)
    for handle in handles:
        handle.remove()
    return seen[casts[0]].tensor().double(), seen[casts[-1]].tensor().double()


@pytest.fixture(scope="module")
def made() -> dict[str, tuple[nn.Module, Tensor]]:
    """A quantized network of every form, and an input."""
    torch.manual_seed(0)
    small, map_, line = torch.randn(3, 2, 6, 6), torch.randn(3, 2, 8, 8), torch.randn(3, 2, 7)
    inputs = {**dict.fromkeys([*EXACT, *ROUNDED], small), **dict.fromkeys([*ADAPTIVE, *MOVED], map_), **dict.fromkeys(ON_LINES, line)}
    return {name: (quantized(form, inputs[name]), inputs[name]) for name, form in ALL.items()}


@pytest.mark.parametrize("name", EXACT)
def test_constants_of_few_bits_give_torchs_own_numbers(name: str, made: dict[str, tuple[nn.Module, Tensor]]) -> None:
    q, x = made[name]
    read, given = read_and_given(q, x)
    assert torch.equal(given, ALL[name](read))
    for layer in q.modules():
        if isinstance(layer, QInterpolate):
            assert layer.constant.exact
            assert int(np.abs(layer.constant.const("").raw).max()) < 16


@pytest.mark.parametrize("name", ROUNDED)
def test_other_constants_are_torchs_weights_cast(name: str, made: dict[str, tuple[nn.Module, Tensor]]) -> None:
    q, x = made[name]
    read, given = read_and_given(q, x)
    expected = read
    for axis in (1, 2):
        unit = torch.eye(6, dtype=torch.float64)[:, None].unsqueeze(-1 if axis == 1 else -2)
        wanted = ALL[name](unit.expand(-1, -1, *((-1, 6) if axis == 1 else (6, -1))))
        weights = wanted[:, 0].select(3 - axis, 0)
        layer = next(layer for layer in q.modules() if isinstance(layer, QInterpolate) and layer.axis == axis)
        expected = torch.einsum("nchw,hk->nckw" if axis == 1 else "nchw,wk->nchk", expected, layer.constant.cast(weights).value.double())
    assert torch.equal(given, expected)


@pytest.mark.parametrize("name", ["means of a line, 7 to 3", "means of a line, 7 to 5"])
def test_means_are_exact_sums_times_the_reciprocal_of_their_windows(name: str, made: dict[str, tuple[nn.Module, Tensor]]) -> None:
    q, x = made[name]
    read, given = read_and_given(q, x)
    reciprocals = divided_by(q).expand(1, given.shape[-1])[0]
    count, size = given.shape[-1], read.shape[-1]
    for i in range(count):
        window = read[..., i * size // count : -(-(i + 1) * size // count)]
        assert torch.equal(given[..., i], window.sum(-1) * reciprocals[i])


@pytest.mark.parametrize("name", ADAPTIVE)
def test_means_of_maps_are_too(name: str, made: dict[str, tuple[nn.Module, Tensor]]) -> None:
    q, x = made[name]
    read, given = read_and_given(q, x)
    rows, columns = ([(i * 8 // n, -(-(i + 1) * 8 // n)) for i in range(n)] for n in given.shape[2:])
    reciprocals = divided_by(q).expand(1, *given.shape[2:])[0]
    for i, (top, bottom) in enumerate(rows):
        for j, (left, right) in enumerate(columns):
            window = read[:, :, top:bottom, left:right]
            assert torch.equal(given[:, :, i, j], window.sum((2, 3)) * reciprocals[i, j])
            assert abs(float(reciprocals[i, j]) * window[0, 0].numel() - 1) < 2**-10


def divided_by(q: nn.Module) -> Tensor:
    (pool,) = (layer for layer in q.modules() if isinstance(layer, QAvgPool | QPartialAvgPool))
    return (pool.reciprocals() if isinstance(pool, QPartialAvgPool) else pool.reciprocal()).value.double()


@pytest.mark.parametrize("name", [*MOVED, "maxima of a line, 7 to 3", "maxima of a line, 7 to 5"])
def test_what_only_moves_is_torchs(name: str, made: dict[str, tuple[nn.Module, Tensor]]) -> None:
    q, x = made[name]
    read, _ = read_and_given(q, x)
    with torch.no_grad():
        assert torch.equal(q(x).double(), ALL[name](read))


def test_windows_that_lie_as_those_of_pooling_take_no_numbers(made: dict[str, tuple[nn.Module, Tensor]]) -> None:
    for name in ("means of a line, 7 to 3", "maxima of a line, 7 to 3"):
        assert not any(isinstance(node.op, ops.Take | ops.Pad) for node in qfx.to_graph(made[name][0]).nodes)


@pytest.mark.parametrize("name", ALL)
def test_the_graph_and_the_file_give_the_same_numbers(name: str, made: dict[str, tuple[nn.Module, Tensor]], tmp_path: Path) -> None:
    q, x = made[name]
    graph = qfx.to_graph(q)
    raw = run_from_raw(graph, quantize_input(graph, x.numpy()))
    with torch.no_grad():
        found = q(x).double().numpy()
    assert np.array_equal(found, np.ldexp(raw.astype(np.float64), -graph.infos[graph.output].grids))
    path = tmp_path / "net.onnx"
    qfx.export_onnx(q, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (ran,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert np.array_equal(np.asarray(ran, dtype=np.float64), found)


@pytest.mark.usefixtures("gxx")
def test_the_hardware_gives_the_same_numbers(made: dict[str, tuple[nn.Module, Tensor]], tmp_path: Path, fast: bool) -> None:
    graphs = {name: qfx.to_graph(q) for name, (q, _) in made.items()}
    bundle = build_bundle([(graph, Schedule()) for graph in graphs.values()], tmp_path, fast=fast)
    for number, (name, graph) in enumerate(graphs.items()):
        raw = quantize_input(graph, made[name][1].numpy())
        assert_bit_exact(bundle.run_from_raw(number, raw), run_from_raw(graph, raw), names=(f"C simulation of {name}", "interpreter"))


def test_the_hardware_holds_each_constant_once() -> None:
    """Two words of the chain a number, as many constants as an axis has places: whatever the channels and the other axis."""
    q = quantized(bilinear(scale_factor=2, align_corners=True), torch.randn(2, 2, 6, 6))
    processes = lower(qfx.to_graph(q), Schedule()).processes
    tables = [table for process in processes for table in getattr(getattr(process, "epilogue", None), "tables", ()) if "constant" not in table.name]
    assert sorted((table.index, len(table.values)) for table in tables if len(table.values) > 4) == [("pixel", 24), ("pixel", 24)]
    assert {process.name.split("_")[-1]: process.cycles for process in processes if process.name.endswith("take")} == {"take": 2 * 12 * 12 * 4}


def test_no_cast_stands_between_the_axes_where_the_sum_is_short_enough(made: dict[str, tuple[nn.Module, Tensor]]) -> None:
    kinds = [type(node.op) for node in qfx.to_graph(made["any size"][0]).nodes]
    assert kinds[-7:] == [ops.Take, ops.Affine, ops.SumPool, ops.Take, ops.Affine, ops.SumPool, ops.Cast]
    assert not any(layer.traits.reads_uncast for layer in made["a line"][0].modules() if isinstance(layer, QInterpolate))
    wide = quantized(ROUNDED["any size"], made["any size"][1], qfx.Recipe(activation=qfx.Spec(16), constant=qfx.Spec(16)))
    assert sum(isinstance(node.op, ops.Cast) for node in qfx.to_graph(wide).nodes) == 3


def test_the_gradient_is_the_transposed_map() -> None:
    q = quantized(EXACT["twice"], torch.randn(2, 2, 6, 6))
    x = torch.randn(1, 4, 6, 6, dtype=torch.float64)
    layers = [layer for layer in q.modules() if isinstance(layer, QInterpolate)]
    layers.sort(key=lambda layer: isinstance(layer, QInterpolateFurther))
    grads = []
    for compute in (lambda v: layers[1](layers[0](QTensor(v, Interval(-(1 << 13), 1 << 13, 10)))).tensor(), EXACT["twice"]):
        value = (x * 1024).round().div(1024).requires_grad_()
        compute(value).square().sum().backward()
        grads.append(value.grad)
    assert torch.equal(*grads)


@pytest.mark.parametrize(
    ("form", "what"),
    [
        (lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), "mode='bicubic'"),
        (lambda x: F.interpolate(x, scale_factor=2, mode="area"), "mode='area'"),
        (lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True), "antialias"),
        (lambda x: F.interpolate(x.unsqueeze(2), scale_factor=2, mode="trilinear"), "mode='trilinear'"),
    ],
)
def test_other_modes_are_refused_by_name(form: Form, what: str) -> None:
    with pytest.raises(UnsupportedError, match=what):
        quantized(form, torch.randn(3, 2, 6, 6))
