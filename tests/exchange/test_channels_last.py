"""QONNX files with the channels last give the numbers of qonnx' executor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exchange.qonnx_nets import COMMON, Array, assert_equal, executed, f32, inputs, quant, saved
from executors import same_in_torch_and_the_file
from onnx import helper, numpy_helper

import qfx
from qfx.errors import UnsupportedError
from qfx.exchange.channels_last import DOMAIN, channels_first

pytestmark = pytest.mark.filterwarnings("ignore")  # of QONNX


def network(*, plain_norm: bool = False) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    """Weights with a scale for each channel, a leaky ReLU whose slope is 13/128, branches, a BatchNorm, pixels repeated, and a sum that ends with the
    channels last. ``plain_norm``: with ONNX' BatchNormalization between transposes, since qonnx does not run its own."""
    node = helper.make_node
    taps = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [1, 1], "dilations": [1, 1], "group": 1}
    point = {"kernel_shape": [1, 1], "pads": [0, 0, 0, 0], "strides": [1, 1], "dilations": [1, 1], "group": 1}
    settings = {"name": "norm", "epsilon": 1e-5, "momentum": 0.9}
    norm = [node("BatchNormalization", ["d", "g", "h", "m", "v"], ["n"], domain=DOMAIN, **settings)]
    if plain_norm:
        norm = [
            node("Transpose", ["d"], ["d1"], perm=[0, 3, 1, 2]),
            node("BatchNormalization", ["d1", "g", "h", "m", "v"], ["n1"], **settings),
            node("Transpose", ["n1"], ["n"], perm=[0, 2, 3, 1]),
        ]
    nodes = [
        quant("x", "xq", "fine", "eight"),
        quant("w", "wq", "steps", narrow=1),
        quant("b", "bq", "tiny", "eight"),
        node("Conv", ["xq", "wq", "bq"], ["c"], name="conv", domain=DOMAIN, **taps),
        node("LeakyRelu", ["c"], ["l"], name="leaky", alpha=0.1015625),
        quant("l", "lq", "step", "bits"),
        node("MaxPool", ["lq"], ["p"], name="pool", domain=DOMAIN, kernel_shape=[2, 2], pads=[0, 0, 0, 0], strides=[2, 2]),
        node("Resize", ["p", "", "twice"], ["up"], name="up", mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        node("Concat", ["up", "lq"], ["both"], name="both", axis=-1),
        quant("u", "uq", "step", narrow=1),
        node("Conv", ["both", "uq"], ["d"], name="second", domain=DOMAIN, **point),
        *norm,
        node("Relu", ["n"], ["r"], name="relu"),
        quant("r", "rq", "step", "bits", signed=0),
        node("Add", ["rq", "lq"], ["s"], name="sum"),
        node("Flatten", ["s"], ["y"], name="flatten"),
    ]
    draw = np.random.default_rng(3)
    constants = {
        **COMMON,
        "w": draw.standard_normal((3, 3, 3, 2)).astype(np.float32),
        "steps": np.asarray([0.25, 0.125, 0.5], dtype=np.float32).reshape(3, 1, 1, 1),
        "b": draw.standard_normal(3).astype(np.float32),
        "tiny": f32(0.015625),
        "twice": f32(1.0, 2.0, 2.0, 1.0),
        "u": draw.standard_normal((3, 1, 1, 6)).astype(np.float32),
        **{name: draw.standard_normal(3).astype(np.float32) for name in "ghm"},
        "v": draw.random(3).astype(np.float32) + 0.5,
    }
    return nodes, constants


_SHAPES = {
    **dict.fromkeys(["c", "l", "lq", "up", "d", "n", "r", "rq", "s"], (1, 4, 6, 3)),
    "xq": (1, 4, 6, 2), "p": (1, 2, 3, 3), "both": (1, 4, 6, 6), "wq": (3, 3, 3, 2), "uq": (3, 1, 1, 6), "bq": (3,),
}  # fmt: skip
INFO = tuple(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in _SHAPES.items())
"""As files have them: qonnx does not find these shapes by itself."""


def file(folder: Path, nodes: list[onnx.NodeProto], constants: dict[str, Array], *more: onnx.ValueInfoProto) -> Path:
    return saved(folder, nodes, constants, (4, 6, 2), version=1, info=(*INFO, *more), out=(72,))


def test_a_network_with_the_channels_last_is_that_of_qonnx(tmp_path: Path) -> None:
    nodes, constants = network()
    plain, _ = network(plain_norm=True)
    x = inputs(12, 4, 6, 2, scale=3)
    q = qfx.from_onnx(file(tmp_path, nodes, constants))
    assert_equal(q, executed(file(tmp_path, plain, constants), x), x)
    assert [name for name, _ in qfx.quantizers(q)][:4] == ["input", "conv.weight", "conv.bias", "leaky_relu.constant"]
    (tmp_path / "out").mkdir()
    same_in_torch_and_the_file(q, torch.from_numpy(x), tmp_path / "out")
    moves = [node.op for node in qfx.to_graph(q).nodes if type(node.op).__name__ == "Transpose"]
    assert len(moves) == 2  # at the input, and before what flattens with the channels last
    constants["b"][1] += 1 / 64  # one least significant bit
    with pytest.raises(AssertionError):
        assert_equal(q, executed(file(tmp_path, plain, constants), x), x)


def same_numbers(folder: Path, nodes: list[onnx.NodeProto], constants: dict[str, Array]) -> bool:
    """Whether they are those of ``network()``."""
    x = torch.from_numpy(inputs(3, 4, 6, 2, scale=3))
    with torch.no_grad():
        found, expected = (qfx.from_onnx(file(folder, *each))(x) for each in ((nodes, constants), network()))
    return torch.equal(found, expected)


def test_constants_may_be_nodes(tmp_path: Path) -> None:
    nodes, constants = network()
    held = [helper.make_node("Constant", [], [name], value=numpy_helper.from_array(constants.pop(name), name)) for name in ("w", "u", "step")]
    held.append(helper.make_node("Constant", [], ["twice"], value_floats=constants.pop("twice").tolist()))
    assert same_numbers(tmp_path, [*held, *nodes], constants)
    wrong = helper.make_node("Constant", [], ["step"], value_float=0.5)
    assert not same_numbers(tmp_path, [*(wrong if node.output[0] == "step" else node for node in held), *nodes], constants)


def test_names_that_a_file_has_stay_its_own(tmp_path: Path) -> None:
    nodes, constants = network()
    constants |= {"twice.first": f32(1.0, 1.0, 1.0, 1.0), "xq.first": f32(0.25)}
    for node in nodes:
        if node.name == "quant_rq":
            node.input[1] = "xq.first"  # its scale, as before
            node.name = "s.last"
    assert same_numbers(tmp_path, nodes, constants)
    model = onnx.load(file(tmp_path, nodes, constants))
    channels_first(model)
    made = [name for node in model.graph.node for name in node.output] + [tensor.name for tensor in model.graph.initializer]
    assert len(made) == len(set(made))
    names = [node.name for node in model.graph.node if node.name]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("kind", ["AveragePool", "Resize"])
def test_what_else_has_the_channels_last_is_refused(kind: str, tmp_path: Path) -> None:
    nodes = [quant("x", "xq", "fine", "eight"), helper.make_node(kind, ["xq"], ["y"], name="odd", domain=DOMAIN)]
    with pytest.raises(UnsupportedError, match=r"odd: the operator .* is of the unknown domain 'qonnx.custom_op.channels_last'"):
        qfx.from_onnx(saved(tmp_path, nodes, COMMON, (4, 6, 2), version=1))


def test_a_shape_that_the_file_tells_wrongly_is_found(tmp_path: Path) -> None:
    nodes, constants = network()
    wrong = helper.make_tensor_value_info("p", onnx.TensorProto.FLOAT, (1, 2, 3, 4))
    with pytest.raises(UnsupportedError, match="has the shape"):
        qfx.from_onnx(file(tmp_path, nodes, constants, wrong))
