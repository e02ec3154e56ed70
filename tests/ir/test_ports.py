"""Models with several inputs and outputs: graph, interpreter, file, ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from qfx.errors import DataError, ModelFileError
from qfx.export.onnx_file import save, to_model
from qfx.fixed.type import FixedType
from qfx.ir import interpret
from qfx.ir.from_onnx import from_model, load_graph
from qfx.ir.graph import OUTPUTS_KEY, Graph, Node
from qfx.ir.passes.pipeline import optimize
from qfx.ir.text import as_data, listing
from qfx.ir.values import ArrayType
from qfx.operators import Add, Cast, Input, Mul, Relu
from qfx.testing import adversarial_feeds, assert_bit_exact
from qfx.verify import verify

U8 = ArrayType.of(FixedType(8, 8, signed=False))
S6 = ArrayType.of(FixedType(6, 3))


def two() -> Graph:
    """Two inputs; the sum, which is read inside too, its ReLU, and the second input at once."""
    nodes = (
        Node("left", Input((3, 4), S6)),
        Node("right", Input((3, 4), U8)),
        Node("sum", Add(), ("left", "right")),
        Node("relu", Relu(), ("sum",)),
        Node("product", Mul(), ("relu", "left")),
    )
    return Graph("two", nodes, ("sum", "product", "right"))


def data(graph: Graph, n: int = 5) -> dict[str, np.ndarray]:
    return dict(adversarial_feeds(graph, np.random.default_rng(0), n))


def test_results_come_in_order_or_by_name() -> None:
    graph = two()
    x = {"left": np.full((2, 3, 4), -1.5, np.float32), "right": np.full((2, 3, 4), 2, np.uint8)}
    total, product, right = interpret.run(graph, x)
    assert (total == 0.5).all()
    assert (product == -0.75).all()
    assert (right == 2).all()
    in_order = interpret.run(graph, (x["left"], x["right"]))
    by_name = interpret.run(graph, x, named=True)
    assert list(by_name) == ["sum", "product", "right"]
    for a, b, c in zip(in_order, (total, product, right), by_name.values(), strict=True):
        assert_bit_exact(a, b)
        assert_bit_exact(a, c)
    raws = interpret.run_from_raws(graph, interpret.quantize_inputs(graph, x))
    for a, b in zip(raws, interpret.run_raws(graph, x, check_ranges=True), strict=True):
        assert_bit_exact(a, b)


def test_a_file_holds_all_of_them_and_onnx_runtime_agrees(tmp_path: Path) -> None:
    graph = Graph("two", two().nodes, two().outputs, {OUTPUTS_KEY: "total\nboxes\nsame"})
    save(graph, tmp_path / "two.onnx")
    assert load_graph(tmp_path / "two.onnx") == graph
    model = onnx.load(tmp_path / "two.onnx")
    assert [given.name for given in model.graph.input] == ["left#float", "right#float"]
    assert [given.name for given in model.graph.output] == list(graph.outputs)
    (row,) = verify(tmp_path / "two.onnx", data(graph))
    assert (row.values, row.differing_bits) == (5 * 36, 0)
    assert "output 1 (boxes)" in listing(graph) or "is output 1 (boxes)" in listing(graph)
    assert as_data(graph)["outputs"] == {"total": "sum", "boxes": "product", "same": "right"}


def test_an_error_in_the_second_output_is_found(tmp_path: Path) -> None:
    graph = two()
    save(graph, tmp_path / "two.onnx")

    def planted(x: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        raws = interpret.run_raws(graph, x)
        raws[1][3, 2, 1] ^= 1
        return raws

    _, row = verify(tmp_path / "two.onnx", data(graph), {"planted": planted})
    assert row.differing_values == row.differing_bits == 1
    assert row.first is not None
    assert (row.first.output, row.first.sample, row.first.index) == ("product", 3, (2, 1))
    assert str(row.first).startswith("sample 3, output product [2, 1]: expected raw")


@pytest.mark.parametrize(
    ("outputs", "metadata", "message"),
    [
        ((), {}, "has no output"),
        (("sum", "sum"), {}, "'sum' is an output twice"),
        (("sum", "none"), {}, "the output 'none' is not a node"),
        (("sum", "relu"), {OUTPUTS_KEY: "one"}, "names its outputs 'one', and has 2"),
        (("sum", "relu"), {OUTPUTS_KEY: "one\none"}, "names its outputs"),
    ],
)
def test_wrong_outputs_are_refused(outputs: tuple[str, ...], metadata: dict[str, str], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        Graph("two", two().nodes, outputs, metadata)


def test_there_is_no_single_input_or_output() -> None:
    graph = two()
    with pytest.raises(ModelFileError, match="has 2 inputs"):
        _ = graph.input
    with pytest.raises(ModelFileError, match="has 3 outputs"):
        _ = graph.output
    assert [node.name for node in graph.inputs] == ["left", "right"]


def test_wrong_data_are_refused() -> None:
    graph, x = two(), data(two())
    with pytest.raises(DataError, match="batches of different sizes: left has 5, right has 4"):
        interpret.run(graph, {**x, "right": x["right"][1:]})
    with pytest.raises(DataError, match="expected the inputs left, right, got left"):
        interpret.run(graph, {"left": x["left"]})
    with pytest.raises(DataError, match=r"expected 2 inputs \(left, right\), got 1"):
        interpret.run(graph, x["left"])
    with pytest.raises(DataError, match="beyond 2\\*\\*53"):
        interpret.run(graph, (x["left"], np.full((5, 3, 4), (1 << 53) + 1)))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.int64])
def test_integers_enter_exactly(dtype: type[np.integer]) -> None:
    graph = two()
    right = np.arange(60).reshape(5, 3, 4).astype(dtype)
    left = np.zeros((5, 3, 4), np.float32)
    for a, b in zip(interpret.run_raws(graph, (left, right)), interpret.run_raws(graph, (left, right.astype(np.float32))), strict=True):
        assert_bit_exact(a, b)


def test_passes_keep_two_outputs_two() -> None:
    nodes = (Node("x", Input((3,), U8)), Node("relu", Relu(), ("x",)), Node("again", Relu(), ("relu",)), Node("cast", Cast(U8), ("again",)))
    graph = optimize(Graph("g", nodes, ("x", "relu", "cast")))
    assert graph.outputs[0] == "x"
    assert len(set(graph.outputs)) == 3
    x = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for raw in interpret.run_raws(graph, x):
        assert_bit_exact(raw, x.astype(np.int64))


def test_a_changed_order_of_outputs_is_found() -> None:
    model = to_model(two())
    first = model.graph.output[0].name
    model.graph.output[0].name = model.graph.output[1].name
    model.graph.output[1].name = first
    with pytest.raises(ModelFileError):
        from_model(model)
