"""MultiThreshold of QONNX, as FINN makes it of quantizers and of what stands in front of them: equal to qonnx' executor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from exchange.qonnx_nets import COMMON, GENERAL, Array, assert_equal, executed, f32, quant, saved
from executors import same_in_torch_and_the_file
from onnx import helper

import qfx
from qfx.errors import UnsupportedError
from qfx.exchange.thresholds import Thresholds
from qfx.fixed.arith import Interval

pytestmark = pytest.mark.filterwarnings("ignore")  # of QONNX

PIXELS = qfx.FixedType.parse("ap_ufixed<8,8>")


def counted(source: str, result: str, thresholds: str, **settings: Any) -> onnx.NodeProto:
    told = {"out_dtype": "INT8", **settings}
    return helper.make_node("MultiThreshold", [source, thresholds], [result], name=f"count_{result}", domain=GENERAL, **told)


def node(kind: str, *names: str, **settings: Any) -> onnx.NodeProto:
    return helper.make_node(kind, list(names[:-1]), [names[-1]], name=f"{kind.lower()}_{names[-1]}", **settings)


def even(random: np.random.Generator, channels: int, count: int, spread: float) -> Array:
    """The thresholds of a quantizer behind a BatchNorm, as streamlining leaves them: integers at even distances, rounded up."""
    slope, start = random.uniform(0.3, 1.0, (channels, 1)) * spread / count, random.uniform(-0.6, -0.2, (channels, 1)) * spread
    return np.ceil(start + slope * np.arange(count)).astype(np.float32)


def tfc(folder: Path, seed: int, bits: int, **settings: Any) -> Path:
    """Three layers of integers, each with its thresholds, and a factor and a summand at the end, as of TFC when FINN has streamlined it."""
    random = np.random.default_rng(seed)
    count, signed = 2**bits - 1, {"out_bias": -float(2 ** (bits - 1))} if bits > 1 else {"out_scale": 2.0, "out_bias": -1.0}
    constants: dict[str, Array] = {
        "w1": random.integers(-2, 2, (16, 12)).astype(np.float32),
        "w2": random.choice([-1.0, 1.0], (12, 8)).astype(np.float32),
        "w3": random.integers(-2, 2, (8, 5)).astype(np.float32),
        "t0": np.sort(random.choice(np.arange(1, 255), (1, 3), replace=False)).astype(np.float32),
        "t1": even(random, 12, count, 40),
        "t2": even(random, 8, count, 16),
        "scale": f32(0.25),
    }
    nodes = [
        counted("x", "q", "t0", out_bias=-1.0),
        *(node("MatMul", "q", "w1", "a"), counted("a", "qa", "t1", **signed, **settings)),
        *(node("MatMul", "qa", "w2", "b"), counted("b", "qb", "t2", **signed, **settings)),
        *(node("MatMul", "qb", "w3", "c"), node("Mul", "c", "scale", "y")),
    ]
    return saved(folder, nodes, constants, (16,), out=(5,))


def compared(path: Path, x: Array, **settings: Any) -> qfx.QuantizedModel:
    q = qfx.from_onnx(path, **settings)
    theirs = executed(path, x)
    assert_equal(q, theirs, x)
    assert np.array_equal(qfx.run(qfx.to_graph(q), x), theirs)
    same_in_torch_and_the_file(q.eval(), torch.from_numpy(x), path.parent / "out")
    return q


def test_agreeing_bits_of_zeros_and_ones(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    constants: dict[str, Array] = {
        "t": np.zeros((1, 1), np.float32),
        "w": random.integers(0, 2, (9, 6)).astype(np.float32),
        "t1": even(random, 6, 3, 6) + 4,
    }
    pop = helper.make_node("XnorPopcountMatMul", ["q", "w"], ["a"], name="pop", domain=GENERAL)
    last = counted("a", "y", "t1", out_bias=-1.0)
    path = saved(tmp_path, [quant("x", "z", "step"), counted("z", "q", "t"), pop, last], {**COMMON, **constants}, (9,), out=(6,))
    compared(path, random.normal(0, 1, (100, 9)).astype(np.float32))


def pixels(*shape: int) -> Array:
    return np.random.default_rng(9).integers(0, 256, shape).astype(np.float32)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_streamlined_network_is_that_of_qonnx(bits: int, tmp_path: Path) -> None:
    q = compared(tfc(tmp_path, bits, bits), pixels(64, 16), input_type=PIXELS)
    casts = [name for name, _ in qfx.quantizers(q) if name.startswith(("count_qa", "count_qb"))]
    assert casts == ["count_qa.output", "count_qb.output"]


def one(folder: Path, thresholds: Array, shape: tuple[int, ...] = (4,), **settings: Any) -> Path:
    return saved(
        folder, [quant("x", "q", "step"), counted("q", "y", "t", **settings)], {**COMMON, "t": thresholds.astype(np.float32)}, shape, out=shape
    )


UNEVEN = np.array(
    [[-1.9, -0.5, -0.25, 0.0, 1.3, 1.5, 1.51], [-2.0, -1.0, -0.5, -0.25, -0.1, 0.0, 0.75], [0.0] * 7, [-9.0, -8.0, 0.0, 0.3, 0.6, 7.0, np.inf]]
)


@pytest.mark.parametrize("count", range(1, 8))
def test_thresholds_wherever_they_lie(count: int, tmp_path: Path) -> None:
    """Between the numbers of the grid and on them, twice at one place, beyond all numbers."""
    compared(one(tmp_path, UNEVEN[:, :count], out_scale=0.5, out_bias=-0.25), np.linspace(-3, 3, 400, dtype=np.float32).reshape(100, 4))


@pytest.mark.parametrize("layout", ["", "NCHW", "NHWC"])
def test_channels_lie_where_the_file_says(layout: str, tmp_path: Path) -> None:
    shape = (3, 5, 4) if layout == "NHWC" else (4, 3, 5)
    settings = {"data_layout": layout} if layout else {}
    x = np.random.default_rng(3).normal(0, 1, (8, *shape)).astype(np.float32)
    compared(one(tmp_path, UNEVEN[:, :3], shape, **settings), x)


def test_one_row_for_all_channels_and_a_batch_norm_in_float_in_front(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    norm = {name: random.uniform(0.5, 1.5, 4).astype(np.float32) for name in ("g", "b", "m", "v")}
    nodes = [quant("x", "q", "step"), node("BatchNormalization", "q", "g", "b", "m", "v", "n"), counted("n", "y", "t", out_bias=-2.0)]
    path = saved(tmp_path, nodes, {**COMMON, **norm, "t": np.array([[-1.5, -0.5, 0.5]], np.float32)}, out=(4,))
    compared(path, np.linspace(-3, 3, 400, dtype=np.float32).reshape(100, 4))


def test_float_arithmetic_on_the_way_through_other_axes(tmp_path: Path) -> None:
    """As FINN has it before it streamlines: pixels divided by 255 and brought into one axis, and a BatchNorm with an axis more around it."""
    random = np.random.default_rng(6)
    constants: dict[str, Array] = {name: random.uniform(0.5, 1.5, 6).astype(np.float32) for name in ("g", "b", "m", "v")}
    constants |= {"bytes": f32(255.0), "two": f32(2.0), "one": f32(1.0), "long": np.array([-1, 16]), "last": np.array([2])}
    constants |= {"t": np.zeros((1, 1), np.float32), "t1": np.zeros((1, 1), np.float32), "w": random.choice([-1.0, 1.0], (16, 6)).astype(np.float32)}
    nodes = [
        *(node("Div", "x", "bytes", "a"), node("Reshape", "a", "long", "b_"), node("Mul", "b_", "two", "c"), node("Sub", "c", "one", "d")),
        *(counted("d", "q", "t", out_scale=2.0, out_bias=-1.0), node("MatMul", "q", "w", "e"), node("Unsqueeze", "e", "last", "f")),
        *(node("BatchNormalization", "f", "g", "b", "m", "v", "h"), node("Squeeze", "h", "last", "i"), counted("i", "y", "t1")),
    ]
    compared(saved(tmp_path, nodes, constants, (1, 4, 4), out=(6,)), pixels(64, 1, 4, 4), input_type=PIXELS)


def test_a_step_beside_is_noticed(tmp_path: Path) -> None:
    path = tfc(tmp_path, 2, 2)
    q = qfx.from_onnx(path, input_type=PIXELS)
    model = onnx.load(path)
    (held,) = [tensor for tensor in model.graph.initializer if tensor.name == "t1"]
    moved = onnx.numpy_helper.to_array(held) + 1
    held.CopyFrom(onnx.numpy_helper.from_array(moved, "t1"))
    onnx.save(model, path)
    x = pixels(64, 16)
    with torch.no_grad():
        assert not np.array_equal(q(torch.from_numpy(x)).numpy(), executed(path, x))


def test_one_cast_counts_what_lies_at_even_distances() -> None:
    module = Thresholds(even(np.random.default_rng(0), 6, 255, 3000), "t")
    module.read(Interval(-4000, 4000, 0), 6)
    ((grid, lines),) = module.casts
    assert grid.width == 8
    raws = np.arange(-4000, 4001)
    theirs = module(torch.from_numpy(raws).float()[:, None].expand(-1, 6)).numpy()
    assert np.array_equal(np.stack([np.clip(own(raws), 0, 255) for own in lines], 1), theirs)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="input: is read by count_q before it is quantized"):
        qfx.from_onnx(tfc(tmp_path, 1, 2))
    scattered = np.sort(np.random.default_rng(1).choice(np.arange(-999, 999), (1, 63), replace=False)) * 2.0**-9
    nodes = [quant("x", "q", "tiny", "eleven"), counted("q", "y", "t")]
    path = saved(tmp_path, nodes, {**COMMON, "tiny": f32(2**-9), "eleven": f32(11), "t": scattered.astype(np.float32)})
    with pytest.raises(UnsupportedError, match=r"has 63 thresholds at uneven distances, of which 15 casts give \d+(.|\n)*Quant in place"):
        qfx.from_onnx(path)
    with pytest.raises(UnsupportedError, match="thresholds for 3 channels, of which it reads 4"):
        qfx.from_onnx(one(tmp_path, UNEVEN[:3, :2]))
    with pytest.raises(UnsupportedError, match=r"thresholds of shape \(4,\)"):
        qfx.from_onnx(one(tmp_path, UNEVEN[:, 0]))
    with pytest.raises(UnsupportedError, match="or that are no numbers"):
        qfx.from_onnx(one(tmp_path, UNEVEN[:, :2] * np.nan))
    with pytest.raises(UnsupportedError, match="data_layout 'NHWC' of 2 axes"):
        qfx.from_onnx(one(tmp_path, UNEVEN[:, :2], data_layout="NHWC"))
