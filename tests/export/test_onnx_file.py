"""What the file computes under ONNX Runtime is what the graph computes, and the file is a good ONNX citizen."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qfx import operators as ops
from qfx.errors import ExactnessError, ModelFileError, UnsupportedError
from qfx.export import onnx_file
from qfx.export.onnx_file import digest, save, to_model
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.ir.from_onnx import from_model, load_graph
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import run_raw
from qfx.ir.values import ArrayType, Const
from qfx.testing import adversarial_inputs, assert_bit_exact, random_graph

LEVELS = (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)


def run(model: onnx.ModelProto, x: np.ndarray, level: ort.GraphOptimizationLevel = LEVELS[1]) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x})
    return y


def raws(graph: Graph, y: np.ndarray) -> np.ndarray:
    scaled = np.ldexp(y.astype(np.float64), graph.infos[graph.output].type.frac_bits)
    assert np.array_equal(scaled, np.rint(scaled)), "off the grid"
    return scaled.astype(np.int64)


def check(graph: Graph, x: np.ndarray) -> onnx.ModelProto:
    model = to_model(graph)
    expected = run_raw(graph, x)
    for level in LEVELS:
        assert_bit_exact(raws(graph, run(model, x, level)), expected, names=("ONNX Runtime", "interpreter"))
    return model


def graph_of(shape: tuple[int, ...], cast: FixedType, *nodes: ops.Operator, metadata: dict[str, str] | None = None) -> Graph:
    """A chain: x, then n1, n2, ..."""
    names = ["x", *(f"n{i}" for i in range(1, len(nodes) + 1))]
    chain = [Node(name, op, (source,)) for name, op, source in zip(names[1:], nodes, names, strict=False)]
    return Graph("chain", (Node("x", ops.Input(shape, ArrayType.of(cast))), *chain), names[-1], metadata or {})


def kinds(model: onnx.ModelProto) -> list[str]:
    """The operators of the nodes that stand for the graph's own."""
    return [node.op_type for node in model.graph.node if "#" not in node.name]


@given(st.integers(0, 2**32 - 1))
def test_onnx_runtime_computes_the_raws_of_the_graph(seed: int) -> None:
    graph = random_graph(np.random.default_rng(seed))
    check(graph, adversarial_inputs(graph, np.random.default_rng(seed + 1), 12))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_the_checker_and_shape_inference_accept_the_file(seed: int) -> None:
    onnx.checker.check_model(to_model(random_graph(np.random.default_rng(seed))), full_check=True)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_equal_graphs_give_equal_bytes(seed: int) -> None:
    a, b = (to_model(random_graph(np.random.default_rng(seed))).SerializeToString(deterministic=True) for _ in range(2))
    assert a == b


@st.composite
def wide_graphs(draw: st.DrawFn) -> Graph:
    """Convolutions, pools and matrices whose sums float32 would round: up to 45 bits."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x_bits = draw(st.integers(12, 26))
    w_bits = draw(st.integers(2, 40 - x_bits))
    groups, per_group, outputs = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    spatial = draw(st.sampled_from([(7,), (6, 5)]))
    kernel = tuple(draw(st.integers(1, 3)) for _ in spatial)
    stride, dilation = (tuple(draw(st.integers(1, 2)) for _ in spatial) for _ in range(2))
    pads = tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in spatial)
    bound = 1 << (w_bits - 1)
    weight = Const(rng.integers(-bound, bound, (groups * outputs, per_group, *kernel)), draw(st.integers(-3, 30)))
    cast = FixedType(x_bits, draw(st.integers(-4, 30)), draw(st.booleans()), QMode.RND, OMode.SAT)
    grid = cast.frac_bits + weight.frac_bits + draw(st.integers(-4, 2))
    bias = Const(rng.integers(-(1 << 20), 1 << 20, groups * outputs), grid) if draw(st.booleans()) else None
    conv = ops.Conv(weight, bias, stride, pads, tuple(1 if k == 3 else d for k, d in zip(kernel, dilation, strict=True)), groups)
    tail = draw(st.sampled_from([(), (ops.SumPool((1,) * len(spatial), (1,) * len(spatial), ((1, 1),) * len(spatial)),), (ops.Relu(),)]))
    return graph_of((groups * per_group, *spatial), cast, conv, *tail)


@given(wide_graphs(), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_sums_beyond_float32_stay_exact(graph: Graph, seed: int) -> None:
    check(graph, adversarial_inputs(graph, np.random.default_rng(seed), 6))


def big_conv(x_bits: int, w_bits: int) -> Graph:
    rng = np.random.default_rng(3)
    bound = 1 << (w_bits - 1)
    conv = ops.Conv(Const(rng.integers(-bound, bound, (4, 64, 3, 3)), w_bits), None, (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    return graph_of((64, 6, 6), FixedType(x_bits, 4, q=QMode.RND, o=OMode.SAT), conv)


@pytest.mark.parametrize(("x_bits", "w_bits", "kind"), [(6, 6, "Conv"), (8, 10, "Conv_w1_x2"), (16, 16, "Conv_w2_x2"), (20, 20, "Conv_w2_x3")])
def test_a_convolution_is_split_as_far_as_needed(x_bits: int, w_bits: int, kind: str) -> None:
    graph = big_conv(x_bits, w_bits)
    assert kinds(check(graph, adversarial_inputs(graph, np.random.default_rng(5), 4))) == ["Cast_RND_SAT", kind]


def test_sums_beyond_float64_are_refused_by_name() -> None:
    wide = Const(np.array([[1 << 40, 3]]), 0)
    with pytest.raises(ExactnessError, match=r"(?s)^n1: its sums need \d\d bits.*remedy: use shorter words"):
        to_model(graph_of((2,), FixedType(16, 16), ops.Linear(wide, None)))
    with pytest.raises(ExactnessError, match=r"^x: casts to ap_fixed<60,8>"):
        to_model(graph_of((2,), FixedType(60, 8)))
    with pytest.raises(ExactnessError, match=r"^n1: its sums need"):
        to_model(graph_of((1, 4), FixedType(24, 8), ops.Conv(Const(np.full((1, 1, 2), (1 << 35) - 1), 0), None, (1,), ((0, 0),), (1,), 1)))


def test_a_rare_dtype_is_found_by_what_it_must_hold() -> None:
    x = np.linspace(-9, 9, 8, dtype=np.float32).reshape(2, 4)
    narrow, wide = FixedType(24, 8, q=QMode.RND), FixedType(26, 8, q=QMode.RND)
    for graph, dtype in (
        (graph_of((4,), narrow), np.float32),
        (graph_of((4,), wide), np.float64),
        (graph_of((4,), wide, ops.Cast(ArrayType.of(narrow))), np.float32),
        (graph_of((4,), narrow, ops.Cast(ArrayType.of(wide))), np.float64),  # by its grid, though every number would fit
        (graph_of((4,), FixedType(12, 2), ops.Linear(Const(np.full((1, 4), 1 << 10), 0), None)), np.float32),  # 4 * 2**11 * 2**10 = 2**23
        (graph_of((4,), FixedType(12, 2), ops.Linear(Const(np.full((1, 4), (1 << 12) - 1), 0), None)), np.float64),
    ):
        assert run(check(graph, x), x).dtype == dtype


def test_fusing_an_affine_map_into_a_convolution_stays_exact() -> None:
    """ONNX Runtime multiplies weight and scale and adds bias and shift beforehand."""
    rng = np.random.default_rng(0)
    conv = ops.Conv(Const(rng.integers(-8, 8, (3, 2, 3, 3)), 2), Const(rng.integers(-9, 9, 3), 5), (1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    affine = ops.Affine(Const(np.array([31, -17, 5]), 4), Const(np.array([100, -3, 7]), 3))
    graph = graph_of((2, 5, 5), FixedType(6, 3), conv, affine, ops.Relu())
    check(graph, adversarial_inputs(graph, np.random.default_rng(1), 8))


def test_zeros_padded_before_a_max_pool_win_over_negative_numbers() -> None:
    graph = graph_of((1, 4), FixedType(8, 8), ops.Pad(((0, 0), (2, 0))), ops.MaxPool((2,), (2,), ((0, 0),), (1,)))
    assert run(check(graph, np.full((1, 1, 4), -5, np.float32)), np.full((1, 1, 4), -5, np.float32)).tolist() == [[[0, -5, -5]]]


@pytest.mark.parametrize("rank", [2, 3])
def test_transposes_beside_pads(rank: int) -> None:
    """ONNX Runtime moves a Transpose past a Pad; it fails where the Pad leaves axes out."""
    rng = np.random.default_rng(rank)
    shape = (4, 5, 6)[:rank]
    pads = tuple((int(before), int(after)) for before, after in rng.integers(0, 3, size=(rank, 2)))
    for first, last in itertools.product(itertools.permutations(range(rank)), repeat=2):
        graph = graph_of(shape, FixedType(8, 4), ops.Transpose(first), ops.Pad(pads), ops.Transpose(last))
        check(graph, adversarial_inputs(graph, rng, 3))
        pool = ops.MaxPool((2,) * (rank - 1), (1,) * (rank - 1), ((2, 2),) * (rank - 1), (3,) * (rank - 1))
        graph = graph_of(shape, FixedType(8, 4), ops.Transpose(first), pool, ops.Transpose(last))
        check(graph, adversarial_inputs(graph, rng, 3))


def test_a_dilated_pool_may_be_padded_by_its_kernel_size() -> None:
    pool = ops.MaxPool((2, 2), (1, 1), ((2, 1), (0, 2)), (3, 3))
    for width in (8, 30):
        graph = graph_of((2, 5, 5), FixedType(width, 4), pool)
        assert kinds(check(graph, adversarial_inputs(graph, np.random.default_rng(2), 6)))[1] == "PadMaxPool"


def test_wide_leaky_relu_and_clip() -> None:
    clip = ops.Clip(Const(np.array(-3), 1), Const(np.array(25), 2))
    for width in (10, 30):
        graph = graph_of((5,), FixedType(width, 6, q=QMode.RND), ops.LeakyRelu(-3), clip)
        assert kinds(check(graph, adversarial_inputs(graph, np.random.default_rng(2), 20)))[1:] == ["LeakyRelu", "Clip"]


@pytest.mark.parametrize(("factors", "shape"), [((3,), (2, 4)), ((2, 3), (2, 3, 2)), ((1, 4), (1, 1, 5))])
def test_upsampling_and_stretching_in_both_dtypes(factors: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """ONNX Runtime has no Resize of doubles; a MaxPool behind the inserted zeros must see them."""
    window = (2,) * len(factors)
    pool = ops.MaxPool((1,) * len(factors), (1,) * len(factors), ((0, 0),) * len(factors), (1,) * len(factors))
    ones = ops.SumPool(tuple(min(w, f) for w, f in zip(window, factors, strict=True)), (1,) * len(factors), ((1, 1),) * len(factors))
    for width, upsample in ((8, "Resize"), (30, "Upsample")):
        cast = FixedType(width, 4, q=QMode.RND)
        for op, kind, tail in (
            (ops.Upsample(factors), upsample, pool),
            (ops.Stretch(factors), "Stretch", pool),
            (ops.Stretch(factors), "Stretch", ones),
        ):
            graph = graph_of(shape, cast, op, tail)
            model = check(graph, adversarial_inputs(graph, np.random.default_rng(6), 6))
            assert kinds(model)[1] == kind
            assert from_model(model) == graph


def test_a_changed_factor_is_refused() -> None:
    graph = graph_of((2, 4), FixedType(8, 4), ops.Stretch((3,)), ops.Upsample((2,)))
    for edit in (
        lambda model: model.graph.node[1].attribute[3].ints.__setitem__(0, 2),
        lambda model: next(t for t in model.graph.initializer if t.name == "n2#factors").__setattr__("raw_data", np.float32([1, 1, 2.5]).tobytes()),
    ):
        model = to_model(graph)
        edit(model)
        with pytest.raises(ModelFileError, match="is not as qfx wrote it"):
            from_model(model)


def test_any_batch_size_runs() -> None:
    graph = graph_of((2, 3), FixedType(8, 4), ops.Reshape((6,)))
    model = to_model(graph)
    for n in (1, 7):
        assert run(model, np.ones((n, 2, 3), np.float32)).shape == (n, 6)


def test_a_planted_one_lsb_error_in_a_weight_is_seen() -> None:
    graph = graph_of((3,), FixedType(8, 4), ops.Linear(Const(np.array([[3, -1, 2]]), 2), None))
    x = adversarial_inputs(graph, np.random.default_rng(4), 8)
    model = to_model(graph)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "n1#weight.raw")
    weight.raw_data = np.array([[3, -1, 3]], dtype=np.int8).tobytes()
    with pytest.raises(AssertionError, match="numbers differ"):
        assert_bit_exact(raws(graph, run(model, x)), run_raw(graph, x), names=("ONNX Runtime", "interpreter"))


def test_what_netron_shows() -> None:
    conv = ops.Conv(Const(np.array([[[3, -2]], [[1, 300]]]), 4), Const(np.array([5, 6]), 2), (1,), ((1, 0),), (1,), 1)
    graph = graph_of(
        (1, 4), FixedType(8, 4, q=QMode.RND, o=OMode.SAT), conv, ops.Cast(ArrayType(FixedType(6, 4), (4, 3), (2, 1))), metadata={"k": "v"}
    )
    model = to_model(graph, producer_version="1.2.3")
    assert [(node.name, node.op_type, list(node.input), list(node.output)) for node in model.graph.node] == [
        ("x", "Cast_RND_SAT", ["x#float", "x#scale", "x#min", "x#max"], ["x"]),
        ("n1#weight", "FromRaw", ["n1#weight.raw", "n1#weight.lsb"], ["n1#weight"]),
        ("n1#bias", "FromRaw", ["n1#bias.raw", "n1#bias.lsb"], ["n1#bias"]),
        ("n1", "Conv", ["x", "n1#weight", "n1#bias"], ["n1"]),
        ("n2", "Cast_TRN_WRAP", ["n1", "n2#scale", "n2#min", "n2#max", "n2#modulus"], ["n2"]),
    ]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in model.graph.node[4].attribute}
    assert attributes == {"type": b"ap_fixed<6,4>", "int_bits": [4, 3], "shape": [2, 1], "dtype": onnx.TensorProto.FLOAT}
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert (tensors["n1#weight.raw"].dtype, tensors["n1#bias.raw"].dtype) == (np.int16, np.int8)
    assert tensors["n2#scale"].tolist() == [[4.0], [8.0]]
    assert model.graph.node[3].doc_string == str(graph.infos["n1"].type)
    assert [function.name for function in model.functions] == ["Cast_RND_SAT", "Cast_TRN_WRAP", "FromRaw"]
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 21), ("ai.qfx", 3)]
    assert (model.producer_name, model.producer_version, model.ir_version) == ("qfx", "1.2.3", 10)
    assert [(entry.key, entry.value) for entry in model.metadata_props] == [
        ("qfx.version", "1.2.3"),
        ("qfx.opset", "ai.qfx 3"),
        ("qfx.sha256", digest(model)),
        ("k", "v"),
    ]
    assert [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == ["N", 1, 4]


def test_reserved_metadata_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"'qfx\.opset'"):
        to_model(graph_of((1,), FixedType(8, 4), metadata={"qfx.opset": "mine"}))


def test_save_replaces_only_when_told_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    first, second = graph_of((1,), FixedType(8, 4)), graph_of((2,), FixedType(8, 4))
    save(first, path)
    with pytest.raises(ModelFileError, match="the file exists"):
        save(second, path)
    assert load_graph(path) == first
    save(second, path, force=True)
    assert load_graph(path) == second
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    save(graph_of((1,), FixedType(8, 4)), path)
    before = path.read_bytes()
    with pytest.raises(ExactnessError):
        save(graph_of((1,), FixedType(60, 4)), path, force=True)
    assert path.read_bytes() == before
    save(graph_of((1,), FixedType(8, 4)), tmp_path / "nowhere" / "model.onnx")
    assert os.listdir(tmp_path / "nowhere") == ["model.onnx"]
    (tmp_path / "folder").mkdir()
    with pytest.raises(ModelFileError, match="cannot be written"):
        save(graph_of((1,), FixedType(8, 4)), tmp_path / "folder", force=True)
    assert sorted(os.listdir(tmp_path)) == ["folder", "model.onnx", "nowhere"]


def test_a_model_beyond_the_end_of_onnx_files_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a lower end: 2 GiB of weights take minutes. Nothing is written, and the largest layer named."""
    graph = Graph("large", _weighty(), "y")
    size = len(to_model(graph).SerializeToString())
    monkeypatch.setattr(onnx_file, "_MAX_FILE_BYTES", size)
    save(graph, tmp_path / "just.onnx")
    monkeypatch.setattr(onnx_file, "_MAX_FILE_BYTES", size - 1)
    with pytest.raises(UnsupportedError, match=r"large: its constants take"):
        save(graph, tmp_path / "net.onnx")
    monkeypatch.setattr(onnx_file, "_MAX_FILE_BYTES", 3000)
    with pytest.raises(UnsupportedError, match=r"; h alone has 0\.0 MB of them: more than .* at which ONNX files end"):
        save(graph, tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


def _weighty() -> tuple[Node, ...]:
    weights = np.random.default_rng(0).integers(-128, 128, (50, 80))
    cast = ArrayType.of(FixedType(8, 8))
    return Node("x", ops.Input((80,), cast), ()), Node("h", ops.Linear(Const(weights, 0), None), ("x",)), Node("y", ops.Cast(cast), ("h",))
