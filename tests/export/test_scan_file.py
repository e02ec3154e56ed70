"""Scan in an ONNX file: ONNX Runtime computes the raws of the graph, and the reader gives the graph back or refuses."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cells import WORD, gru, lstm, recurrent

from qfx import operators as ops
from qfx.errors import ModelFileError, QfxError, UnsupportedError
from qfx.export.onnx_file import to_model
from qfx.fixed.type import FixedType
from qfx.ir.from_onnx import from_model
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import run_raw
from qfx.operators import ArrayType
from qfx.testing import adversarial_inputs, assert_bit_exact, random_graph

LEVELS = (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)


def run(model: onnx.ModelProto, x: np.ndarray, level: ort.GraphOptimizationLevel = LEVELS[1]) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x})
    return y


def check(graph: Graph, x: np.ndarray) -> onnx.ModelProto:
    model = to_model(graph)
    onnx.checker.check_model(model, full_check=True)
    assert from_model(model) == graph
    expected = np.ldexp(run_raw(graph, x).astype(np.float64), -graph.infos[graph.output].type.frac_bits)
    for level in LEVELS:
        y = run(model, x, level)
        assert_bit_exact(y, expected, names=("ONNX Runtime", "interpreter"))
    return model


@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("make", [gru, lstm])
@pytest.mark.parametrize("last", [False, True])
def test_onnx_runtime_computes_the_raws_of_a_cell(make, steps: int, last: bool) -> None:
    graph = recurrent(make(), steps, last=last)
    x = adversarial_inputs(graph, np.random.default_rng(0), 30)
    model = check(graph, x)
    assert [node.op_type for node in model.graph.node].count("Scan") == 1
    assert run(model, x[:0]).shape == (0, *graph.infos[graph.output].shape)
    wrong = run_raw(graph, x)
    wrong[4, ..., -1] += 1
    with pytest.raises(AssertionError, match="differ"):
        assert_bit_exact(np.ldexp(run(model, x).astype(np.float64), graph.infos[graph.output].type.frac_bits), wrong.astype(np.float64))


def test_random_scans() -> None:
    seen = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        graph = random_graph(rng)
        if any(isinstance(node.op, ops.Scan) for node in graph.nodes):
            seen += 1
            check(graph, adversarial_inputs(graph, rng, 6))
    assert seen > 10


def test_states_that_need_double() -> None:
    """A step in float32, a state of 40 bits."""
    wide = ArrayType.of(FixedType(40, 20))
    inputs = (Node("x", ops.Input((2,), ArrayType.of(WORD))), Node("h", ops.Input((2,), wide)))
    nodes = (*inputs, Node("sum", ops.Add(), ("x", "h")), Node("next", ops.Cast(wide), ("sum",)), Node("y", ops.Cast(ArrayType.of(WORD)), ("next",)))
    graph = recurrent(ops.Scan.of("sums", nodes, "y", ("next",)), 9)
    check(graph, adversarial_inputs(graph, np.random.default_rng(1), 10))


def test_two_scans_and_a_scan_in_a_scan() -> None:
    first, second = gru(3, 2), lstm(2, 2)
    inputs = (Node("s", ops.Input((4, 3), ArrayType.of(WORD))), Node("h", ops.Input((4, 2), ArrayType.of(WORD))))
    nodes = (
        *inputs,
        Node("rnn", first, ("s",)),
        Node("word", ops.Cast(ArrayType.of(WORD)), ("rnn",)),
        Node("two", second, ("word",)),
        Node("sum", ops.Sub(), ("h", "two")),
    )
    outer = ops.Scan.of("rows", (*nodes, Node("next", ops.Cast(ArrayType.of(WORD)), ("sum",))), "next", ("next",))
    graph = Graph("g", (Node("x", ops.Input((2, 4, 3), ArrayType.of(WORD))), Node("rnn", outer, ("x",))), "rnn")
    check(graph, adversarial_inputs(graph, np.random.default_rng(2), 10))


def scan_node(model: onnx.ModelProto) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == "Scan")


def body(model: onnx.ModelProto) -> onnx.GraphProto:
    return next(attribute.g for attribute in scan_node(model).attribute if attribute.name == "body")


def other_state(model: onnx.ModelProto) -> None:
    outputs = body(model).output
    outputs[0].name, outputs[1].name = outputs[1].name, outputs[0].name


def one_weight(model: onnx.ModelProto) -> None:
    tensor = next(tensor for tensor in body(model).initializer if tensor.name.endswith("gates#weight.raw"))
    raw = bytearray(tensor.raw_data)
    raw[0] ^= 1
    tensor.raw_data = bytes(raw)


def backwards(model: onnx.ModelProto) -> None:
    scan_node(model).attribute.append(onnx.helper.make_attribute("scan_input_directions", [1]))


def other_start(model: onnx.ModelProto) -> None:
    scan_node(model).input[0] = scan_node(model).input[1]


@pytest.mark.parametrize("change", [other_state, one_weight, backwards, other_start])
def test_a_changed_body_is_refused(change) -> None:
    model = to_model(recurrent(lstm(), 4))
    from_model(model)
    change(model)
    with pytest.raises(QfxError, match=r"qfx wrote it|digest|becomes"):
        from_model(model)


def test_a_name_that_a_body_has_is_refused() -> None:
    scan = gru()
    nodes = (Node("rnn::h", ops.Input((2, 3), ArrayType.of(WORD))), Node("rnn", scan, ("rnn::h",)))
    with pytest.raises(UnsupportedError, match=r"^rnn::h: .*give it a name without ::|nodes inside 'rnn'"):
        to_model(Graph("g", nodes, "rnn"))


def test_a_scan_without_a_body_is_refused() -> None:
    model = to_model(recurrent(gru(), 2))
    node = scan_node(model)
    del node.attribute[:]
    with pytest.raises(ModelFileError, match="lacks the attribute 'body'"):
        from_model(model)
