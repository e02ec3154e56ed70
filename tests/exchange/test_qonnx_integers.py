"""QONNX files of any scales as graphs of their stored integers, which are those of qonnx' executor."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

import qfx
from qfx import operators as ops
from qfx.cli import main
from qfx.errors import UnsupportedError
from qfx.exchange.onnx_files import integers_of_qonnx
from qfx.ir.graph import Graph
from qfx.ir.interpret import run_raws

DOMAIN = "qonnx.custom_op.general"
SCALE, SECOND = np.float32(0.37), np.float32(0.043)


def file(path: Path, rounding: str = "ROUND") -> None:
    """Two linear layers, weights with a scale for each output, 4 bits, 3 bits without a sign behind a ReLU."""
    rng = np.random.default_rng(0)
    held: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = {
        "s1": np.asarray(SCALE), "s2": np.float32([0.11, 0.07, 0.13, 0.05, 0.09]), "s3": np.float32(1.31), "s4": np.asarray(SECOND),
        "zero": np.float32(0), "four": np.float32(4), "three": np.float32(3),
        "w1": rng.normal(size=(6, 5)).astype(np.float32) * np.float32(0.3), "w2": rng.normal(size=(5, 3)).astype(np.float32) * np.float32(0.1),
    }  # fmt: skip

    def quant(x: str, scale: str, bits: str, y: str, signed: int = 1, narrow: int = 0) -> onnx.NodeProto:
        return helper.make_node("Quant", [x, scale, "zero", bits], [y], domain=DOMAIN, signed=signed, narrow=narrow, rounding_mode=rounding)

    nodes = [
        quant("x", "s1", "four", "a"),
        quant("w1", "s2", "four", "v1", narrow=1),
        helper.make_node("MatMul", ["a", "v1"], ["m"]),
        helper.make_node("Relu", ["m"], ["r"]),
        quant("r", "s3", "three", "b", signed=0),
        quant("w2", "s4", "four", "v2"),
        helper.make_node("MatMul", ["b", "v2"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size]) for name, size in (("x", 6), ("y", 3)))
    graph = helper.make_graph(nodes, "net", [x], [y], [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)


def differing(graph: Graph, path: Path) -> int:
    from qonnx.core.modelwrapper import ModelWrapper  # type: ignore[import-untyped, unused-ignore]
    from qonnx.core.onnx_exec import execute_onnx  # type: ignore[import-untyped, unused-ignore]
    from qonnx.transformation.infer_shapes import InferShapes  # type: ignore[import-untyped, unused-ignore]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ModelWrapper(str(path)).transform(InferShapes())
        x = np.random.default_rng(1).integers(-8, 8, (40, 1, 6))
        found = [execute_onnx(model, {"x": (one * SCALE).astype(np.float32)})["y"] for one in x]
    step = np.float64(np.float32(1.31)) * np.float64(SECOND)
    want = np.round(np.concatenate(found) / step).astype(np.int64)
    return int((run_raws(graph, x[:, 0].astype(np.float32))[0] != want).sum())


def test_any_scales_give_the_integers_of_qonnx(tmp_path: Path) -> None:
    file(tmp_path / "net.onnx")
    asked = ["import", str(tmp_path / "net.onnx"), "--integers", "--nearest", "-o", str(tmp_path / "qfx.onnx")]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0, done.output
    graph = qfx.load_graph(tmp_path / "qfx.onnx")
    assert "input x: scale 0.37" in graph.metadata["quantized"]
    assert differing(graph, tmp_path / "net.onnx") == 0
    place, node = next((i, one) for i, one in enumerate(graph.nodes) if isinstance(one.op, ops.Linear))
    assert isinstance(node.op, ops.Linear)
    raw = node.op.weight.raw.copy()
    raw[0, 0] += 1
    wrong = replace(node, op=replace(node.op, weight=ops.Const(raw, node.op.weight.frac_bits)))
    assert differing(graph.with_nodes((*graph.nodes[:place], wrong, *graph.nodes[place + 1 :])), tmp_path / "net.onnx") > 0


def test_what_no_integers_are_is_refused_by_name(tmp_path: Path) -> None:
    file(tmp_path / "net.onnx", "FLOOR")
    with pytest.raises(UnsupportedError, match="rounding by FLOOR"):
        integers_of_qonnx(tmp_path / "net.onnx", nearest=True)
