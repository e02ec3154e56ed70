"""Files read back are the graphs that were written; everything else is refused in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from qfx import operators as ops
from qfx.errors import ModelFileError, QfxError, UnsupportedError
from qfx.export import opset
from qfx.export.onnx_file import to_model
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.ir.from_onnx import from_model, load_graph
from qfx.ir.graph import Graph, Node
from qfx.ir.values import ArrayType, Const
from qfx.testing import adversarial_inputs, random_graph
from qfx.verify import verify


def sample() -> Graph:
    """Every kind of part that a file has: casts, constants, helpers, initializers of shapes, metadata."""
    conv = ops.Conv(Const(np.array([[[3, -2]], [[1, 300]]]), 4), Const(np.array([5, 6]), 2), (1,), ((1, 0),), (1,), 1)
    wide = Const(np.array([[1 << 20, 3, 1, 2, 3, 4, 5, 6]]), 8)
    nodes = (
        Node("x", ops.Input((1, 4), ArrayType.of(FixedType(8, 4, q=QMode.RND, o=OMode.SAT)))),
        Node("block.1/conv", conv, ("x",)),
        Node("cast:0", ops.Cast(ArrayType(FixedType(6, 4), (4, 3), (2, 1))), ("block.1/conv",)),
        Node("leaky", ops.LeakyRelu(-2), ("cast:0",)),
        Node("twice", ops.Add(), ("leaky", "leaky")),
        Node("flat", ops.Reshape((8,)), ("twice",)),
        Node("fc", ops.Linear(wide, Const(np.array([1]), 0)), ("flat",)),
    )
    return Graph("net", nodes, "fc", {"recipe": '[default]\nweight = "ap_fixed<8,1>"\n', "date": ""})


@given(st.integers(0, 2**32 - 1))
def test_what_was_written_is_read(seed: int) -> None:
    graph = random_graph(np.random.default_rng(seed))
    again = from_model(to_model(graph))
    assert again == graph
    assert again.infos == graph.infos


def test_names_constants_and_metadata_come_back(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(to_model(sample(), producer_version="0.0.1").SerializeToString())
    again = load_graph(path)
    assert again == sample()
    assert list(again.metadata.items()) == list(sample().metadata.items())
    assert [node.name for node in again.nodes] == ["x", "block.1/conv", "cast:0", "leaky", "twice", "flat", "fc"]


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"none\.onnx: cannot be read: No such file"):
        load_graph(tmp_path / "none.onnx")
    with pytest.raises(ModelFileError, match="cannot be read: Is a directory"):
        load_graph(tmp_path)
    for content in (b"\xff" * 100, b"PK\x03\x04 a zip", to_model(sample()).SerializeToString()[:-7]):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(ModelFileError, match=r"bad\.onnx"):
            load_graph(tmp_path / "bad.onnx")
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(ModelFileError, match=r"empty\.onnx: not written by qfx"):
        load_graph(tmp_path / "empty.onnx")


def test_a_foreign_model_is_refused() -> None:
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "theirs", info[:1], info[1:])
    with pytest.raises(
        ModelFileError, match=r"theirs: not written by qfx \(its producer is 'pytorch'\)\n  remedy: export the model with qfx.export_onnx"
    ):
        from_model(helper.make_model(graph, producer_name="pytorch"))


def initializer(model: onnx.ModelProto, name: str) -> TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(proto for proto in model.graph.node if proto.name == name)


def attribute(model: onnx.ModelProto, owner: str, name: str) -> onnx.AttributeProto:
    return next(entry for entry in node(model, owner).attribute if entry.name == name)


def replace_tensor(model: onnx.ModelProto, name: str, array: np.ndarray) -> None:
    initializer(model, name).CopyFrom(numpy_helper.from_array(array, name))


def drop_initializer(model: onnx.ModelProto) -> None:
    model.graph.initializer.remove(initializer(model, "fc#weight.raw"))


def newer(model: onnx.ModelProto) -> None:
    model.opset_import[1].version = opset.VERSION + 1


def external(model: onnx.ModelProto) -> None:
    tensor = initializer(model, "fc#weight.raw")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def unsupported(model: onnx.ModelProto) -> None:
    node(model, "twice").op_type = "Div"


def unknown_function(model: onnx.ModelProto) -> None:
    node(model, "cast:0").op_type = "Cast_SOMEHOW"


def conditional(model: onnx.ModelProto) -> None:
    node(model, "leaky").op_type = "If"


def two_inputs(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 1]))


def two_outputs(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["N", 8]))


def dynamic(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "L"


def fixed_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def body(model: onnx.ModelProto) -> None:
    next(f for f in model.functions if f.name == "Cast_RND_SAT").node[3].op_type = "Ceil"


def extra_function(model: onnx.ModelProto) -> None:
    model.functions.add(name="Relu", domain="")


def missing_function(model: onnx.ModelProto) -> None:
    model.functions.pop()


def scale(model: onnx.ModelProto) -> None:
    replace_tensor(model, "x#scale", np.array(32.0))


def lsb(model: onnx.ModelProto) -> None:
    replace_tensor(model, "fc#weight.lsb", np.array(2.0**-7))


def cast_type(model: onnx.ModelProto) -> None:
    attribute(model, "x", "type").s = b"ap_fixed<8,3,AP_RND,AP_SAT>"


def cast_bounds(model: onnx.ModelProto) -> None:
    replace_tensor(model, "x#max", np.array(126.0))


def bad_type(model: onnx.ModelProto) -> None:
    attribute(model, "x", "type").s = b"float"


def mode(model: onnx.ModelProto) -> None:
    node(model, "x").op_type = "Cast_TRN_SAT"


def no_attribute(model: onnx.ModelProto) -> None:
    del node(model, "block.1/conv").attribute[:]


def alpha(model: onnx.ModelProto) -> None:
    attribute(model, "leaky", "alpha").f = 0.3


def name_leaves(model: onnx.ModelProto) -> None:
    node(model, "fc").output[0] = model.graph.output[0].name = node(model, "fc").name = "../fc"


def graph_name_leaves(model: onnx.ModelProto) -> None:
    model.graph.name = "/tmp/net"


def float_weights(model: onnx.ModelProto) -> None:
    replace_tensor(model, "fc#weight.raw", np.ones((1, 8), np.float32))


def short_data(model: onnx.ModelProto) -> None:
    initializer(model, "fc#weight.raw").raw_data = b"\x01"


def shape_of_weights(model: onnx.ModelProto) -> None:
    replace_tensor(model, "fc#weight.raw", np.ones((1, 7), np.int32))


def order(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))


def weight_bit(model: onnx.ModelProto) -> None:
    """Consistent in itself: only the digest tells."""
    tensor = initializer(model, "fc#weight.raw")
    tensor.raw_data = bytes([tensor.raw_data[0], tensor.raw_data[1] ^ 1, *tensor.raw_data[2:]])


def bias_bit(model: onnx.ModelProto) -> None:
    replace_tensor(model, "fc#bias.raw", numpy_helper.to_array(initializer(model, "fc#bias.raw")) ^ 2)


def stride_of_nothing(model: onnx.ModelProto) -> None:
    attribute(model, "block.1/conv", "pads").ints[:] = [0, 1]


def renamed(model: onnx.ModelProto) -> None:
    model.graph.name = "other"


def no_digest(model: onnx.ModelProto) -> None:
    model.metadata_props.remove(next(entry for entry in model.metadata_props if entry.key == "qfx.sha256"))


def other_digest(model: onnx.ModelProto) -> None:
    next(entry for entry in model.metadata_props if entry.key == "qfx.sha256").value = "0" * 64


CHANGED = "was changed or damaged since it was written"
CHANGES: dict[Callable[[onnx.ModelProto], None], str] = {
    drop_initializer: r"fc#weight: reads 'fc#weight\.raw', which the file does not hold",
    newer: r"has version 4 of ai\.qfx, this qfx reads version 3(?s:.)*remedy: update qfx",
    external: r"'fc#weight\.raw' lies in another file",
    two_inputs: "net: the input 'z' is not as qfx wrote it",
    two_outputs: "net: the value 'flat' is not as qfx wrote it",
    dynamic: "x#float: only the batch may have no fixed size",
    fixed_batch: "the input 'x#float' is not as qfx wrote it",
    body: "the function 'Cast_RND_SAT' is not as qfx wrote it",
    extra_function: "the function 'Relu' is not as qfx wrote it",
    missing_function: "the function '.*' is missing",
    scale: "the initializer 'x#scale' is not as qfx wrote it",
    lsb: "the initializer 'fc#weight.lsb' is not as qfx wrote it",
    cast_type: "the element's is 3|is 4, the element's",
    cast_bounds: "the initializer 'x#max' is not as qfx wrote it",
    bad_type: "x: cannot read the type 'float'",
    mode: "is not as qfx wrote it",
    no_attribute: r"block\.1/conv: Conv lacks the attribute 'pads'",
    alpha: "the node 'leaky' is not as qfx wrote it",
    name_leaves: r"'\.\./fc' is not a name",
    graph_name_leaves: "'/tmp/net' is not a name",
    float_weights: "the raws of a constant are float32",
    short_data: "net: is damaged",
    shape_of_weights: r"fc: the weight is \(1, 7\)",
    weight_bit: CHANGED,
    bias_bit: CHANGED,
    stride_of_nothing: CHANGED,
    renamed: CHANGED,
    other_digest: CHANGED,
    no_digest: "lacks the digest of its constants",
    order: "the first node must be the input cast|reads",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_file_is_refused(change: Callable[[onnx.ModelProto], None]) -> None:
    model = to_model(sample())
    change(model)
    with pytest.raises(ModelFileError, match=CHANGES[change]):
        from_model(model)


@pytest.mark.parametrize("bit", range(64))
def test_one_flipped_bit_of_a_weight_is_refused(bit: int) -> None:
    model = to_model(sample())
    tensor = initializer(model, "block.1/conv#weight.raw")
    data = bytearray(tensor.raw_data)
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    tensor.raw_data = bytes(data)
    with pytest.raises(ModelFileError):
        from_model(model)


def test_a_file_of_version_1_has_no_digest_and_is_read() -> None:
    graph = Graph("net", sample().nodes, "fc", {**sample().metadata, "qfx.sha256": "the user's own"})
    old = to_model(graph, producer_version="0.1.0", opset_version=1)
    assert [entry.key for entry in old.metadata_props] == ["qfx.version", "qfx.opset", "recipe", "date", "qfx.sha256"]
    assert from_model(old) == graph
    again = to_model(from_model(to_model(sample(), opset_version=1)))
    assert again == to_model(sample())
    scale(old)
    with pytest.raises(ModelFileError, match="the initializer 'x#scale' is not as qfx wrote it"):
        from_model(old)


OLD = sorted(path for folder in ("version1", "version2") for path in (Path(__file__).parent / folder).glob("*.onnx"))


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_files_of_older_versions_are_read(path: Path) -> None:
    graph = load_graph(path)
    x = adversarial_inputs(graph, np.random.default_rng(0), 16)
    assert [comparison.differing_values for comparison in verify(path, x)] == [0]
    assert load_graph(path) == from_model(to_model(graph))
    damaged = onnx.load(path)
    next(proto for proto in damaged.graph.node if proto.op_type.startswith("Cast_")).op_type = "Cast_TRN_ZERO_SAT_SYM"
    with pytest.raises(QfxError):
        from_model(damaged)


@pytest.mark.parametrize("change", [unsupported, unknown_function, conditional], ids=lambda change: change.__name__)
def test_other_operators_are_refused_by_name(change: Callable[[onnx.ModelProto], None]) -> None:
    model = to_model(sample())
    change(model)
    with pytest.raises((UnsupportedError, ModelFileError), match=r"twice: the operator ai\.onnx\.Div|cast:0|leaky: the operator ai\.onnx\.If"):
        from_model(model)


def test_the_file_is_named_in_errors(tmp_path: Path) -> None:
    model = to_model(sample())
    unsupported(model)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedError, match=r"net\.onnx: twice: the operator"):
        load_graph(tmp_path / "net.onnx")


FILE = to_model(sample(), producer_version="0").SerializeToString(deterministic=True)


@given(st.lists(st.tuples(st.integers(0, len(FILE) - 1), st.integers(0, 255)), min_size=1, max_size=3))
@settings(max_examples=400)
def test_damage_is_refused_or_gives_a_graph_that_writes_the_same_file(tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, int]]) -> None:
    """Whatever bytes change: no crash, and what is accepted is exactly what the file computes."""
    content = bytearray(FILE)
    for index, byte in edits:
        content[index] = byte
    path = tmp_path_factory.mktemp("damage") / "net.onnx"
    path.write_bytes(content)
    try:
        graph = load_graph(path)
    except QfxError:
        return
    model = onnx.ModelProto.FromString(bytes(content))
    assert to_model(graph, producer_version=model.producer_version).SerializeToString(deterministic=True) == model.SerializeToString(
        deterministic=True
    )
