"""QONNX files as tests write them, and qonnx' executor, which says what their numbers are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
GENERAL = "qonnx.custom_op.general"


def saved(
    folder: Path,
    nodes: list[onnx.NodeProto],
    constants: dict[str, Array],
    shape: tuple[int, ...] = (4,),
    *,
    version: int = 2,
    opset: int = 17,
    info: tuple[onnx.ValueInfoProto, ...] = (),
    out: tuple[int, ...] | None = None,
) -> Path:
    """A file that reads ``x`` and gives ``y``."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", *shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None if out is None else ("N", *out))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        value_info=info,
    )
    domains = {node.domain for node in nodes} - {""}
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, version) for domain in sorted(domains))]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    path = folder / "net.onnx"
    onnx.save(model, path)
    return path


def quant(source: str, result: str, scale: str, bits: str = "bits", zero: str = "zero", domain: str = GENERAL, **attributes: Any) -> onnx.NodeProto:
    settings = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND", **attributes}
    return helper.make_node("Quant", [source, scale, zero, bits], [result], name=f"quant_{result}", domain=domain, **settings)


def f32(*numbers: float) -> Array:
    return np.asarray(numbers[0] if len(numbers) == 1 else numbers, dtype=np.float32)


COMMON = {"zero": f32(0.0), "bits": f32(4.0), "two": f32(2.0), "eight": f32(8.0), "step": f32(0.25), "fine": f32(0.0625)}


def executed(path: Path, x: Array) -> Array:
    """What qonnx gives, sample by sample."""
    pytest.importorskip("qonnx", reason="QONNX is in the extra 'peers'")
    from qonnx.core.modelwrapper import ModelWrapper  # type: ignore[import-not-found, import-untyped, unused-ignore]
    from qonnx.core.onnx_exec import execute_onnx  # type: ignore[import-not-found, import-untyped, unused-ignore]
    from qonnx.transformation.infer_shapes import InferShapes  # type: ignore[import-not-found, import-untyped, unused-ignore]

    proto = onnx.load(path)
    for value in (*proto.graph.input, *proto.graph.output):
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_value = 1
    model = ModelWrapper(proto).transform(InferShapes())
    name = model.graph.output[0].name
    return np.concatenate([execute_onnx(model, {model.graph.input[0].name: x[at : at + 1]})[name] for at in range(len(x))])


def assert_equal(q: torch.nn.Module, expected: Array, x: Array) -> None:
    with torch.no_grad():
        found = q(torch.from_numpy(x)).numpy()
    assert np.array_equal(found.astype(np.float64), expected.astype(np.float64))


def inputs(*shape: int, scale: float = 1.0, seed: int = 1) -> Array:
    draw = np.random.default_rng(seed)
    numbers = draw.standard_normal(shape) * scale
    ties = np.round(numbers * 8) / 8  # on halves of steps
    return np.where(draw.random(shape) < 0.5, numbers, ties).astype(np.float32)
