"""Every operator that may stand in a float ONNX file: against ONNX Runtime, and quantized, in raw equality with the interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

import qfx
from qfx.capture.from_onnx import from_onnx
from qfx.capture.onnx_operators import OPERATORS
from qfx.errors import DataError, QfxError

Form = tuple[str, dict[str, object], Sequence[object], Sequence[int]]
"""An operator, its attributes, the constants behind the data (None: left out) and a sample's shape."""

IMAGE, ROW, SEQUENCE = (4, 6, 6), (8,), (5, 8)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def f(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def number(value: float) -> np.ndarray:
    return np.array(value, dtype=np.float32)


def whole(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def unary(*names: str) -> dict[str, Form]:
    return {name: (name, {}, (), IMAGE) for name in names}


def reductions(opset: int) -> dict[str, Form]:
    """With the axes as attribute, or as argument."""
    found: dict[str, Form] = {}
    for kind in ("Mean", "Sum", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp"):
        attribute = opset < 13 or (opset < 18 and kind != "Sum")
        for axes, keep in (((2, 3), 1), ((1,), 0), ((-1,), 1)):
            given: dict[str, object] = {"keepdims": keep} | ({"axes": list(axes)} if attribute else {})
            found[f"Reduce{kind} {axes} {keep}"] = (f"Reduce{kind}", given, () if attribute else (whole(*axes),), IMAGE)
    return found


def recurrent(kind: str, gates: int, direction: str, **more: object) -> Form:
    directions, hidden = 2 if direction == "bidirectional" else 1, 3
    weights = (normal(directions, gates * hidden, 8), normal(directions, gates * hidden, hidden), normal(directions, 2 * gates * hidden))
    return kind, {"hidden_size": hidden, "direction": direction, **more}, weights, SEQUENCE


PYTORCH, ASYMMETRIC = {"coordinate_transformation_mode": "pytorch_half_pixel"}, {"coordinate_transformation_mode": "asymmetric"}
FORMS: dict[str, Form] = {
    **unary("Abs", "Neg", "Sign", "Exp", "Erf", "Relu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu", "Selu", "Celu", "Softplus"),
    **unary("Softsign", "Mish", "Gelu", "PRelu slope", "Identity", "Dropout", "Sin", "Cos", "Atan", "Floor", "Ceil", "Round"),
    **unary("GlobalAveragePool", "GlobalMaxPool", "Flatten", "Softmax", "LogSoftmax", "ArgMax axis"),
    "Gelu tanh": ("Gelu", {"approximate": "tanh"}, (), IMAGE),
    "HardSigmoid torch": ("HardSigmoid", {"alpha": 1 / 6}, (), IMAGE),
    "Elu 0.5": ("Elu", {"alpha": 0.5}, (), IMAGE),
    "PRelu slope": ("PRelu", {}, (normal(4, 1, 1),), IMAGE),
    "PRelu odd": ("PRelu", {}, (normal(6),), IMAGE),
    "LeakyRelu": ("LeakyRelu", {"alpha": 0.3}, (), IMAGE),
    "ThresholdedRelu": ("ThresholdedRelu", {"alpha": 0.5}, (), IMAGE),
    "Clip": ("Clip", {}, (number(-0.5), number(0.75)), IMAGE),
    "Clip above": ("Clip", {}, (None, number(0.75)), IMAGE),
    "Cast": ("Cast", {"to": TensorProto.FLOAT16}, (), IMAGE),
    **{f"{kind} number": (kind, {}, (number(1.5),), IMAGE) for kind in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean")},
    **{f"{kind} channels": (kind, {}, (normal(4, 1, 1),), IMAGE) for kind in ("Add", "Sub", "Mul", "Div", "Max", "Min")},
    **{f"{kind} rows": (kind, {}, (normal(6),), IMAGE) for kind in ("Add", "Sub", "Mul", "Div")},
    **{f"{kind} many": (kind, {}, (normal(4, 1, 1), normal(6)), IMAGE) for kind in ("Sum", "Mean", "Max", "Min")},
    "Add wider": ("Add", {}, (normal(1, 5, 8),), (1, 8)),
    "Pow 2": ("Pow", {}, (number(2),), IMAGE),
    "Pow 3": ("Pow", {}, (number(3),), IMAGE),
    "LayerNormalization": ("LayerNormalization", {}, (normal(8), normal(8, 1)[:, 0]), SEQUENCE),
    "LayerNormalization 2": ("LayerNormalization", {"axis": -2}, (normal(5, 8),), SEQUENCE),
    "InstanceNormalization": ("InstanceNormalization", {}, (normal(4), normal(4) / 2), IMAGE),
    "GroupNormalization": ("GroupNormalization", {"num_groups": 2}, (normal(4), normal(4) / 2), IMAGE),
    "RMSNormalization": ("RMSNormalization", {}, (normal(8),), SEQUENCE),
    "LpNormalization": ("LpNormalization", {"axis": 1}, (), IMAGE),
    "LRN": ("LRN", {"size": 3, "alpha": 0.1}, (), IMAGE),
    "MeanVarianceNormalization": ("MeanVarianceNormalization", {"axes": [2, 3]}, (), IMAGE),
    **reductions(18),
    "ArgMax axis": ("ArgMax", {"axis": 1, "keepdims": 1}, (), ROW),
    "ArgMin": ("ArgMin", {"axis": -1}, (), IMAGE),
    "Softmax axis": ("Softmax", {"axis": 1}, (), IMAGE),
    "CumSum": ("CumSum", {}, (np.array(1),), IMAGE),
    "CumSum reverse": ("CumSum", {"reverse": 1}, (np.array(2),), IMAGE),
    "Concat constant": ("Concat", {"axis": 1}, (normal(2, 2, 6, 6)[[0, 0]],), IMAGE),
    "Slice": ("Slice", {}, (whole(1, -4), whole(3, 2**62), whole(1, 3), whole(1, 2)), IMAGE),
    "Slice back": ("Slice", {}, (whole(-1), whole(-(2**62)), whole(2), whole(-1)), IMAGE),
    "Slice back by 2": ("Slice", {}, (whole(-1), whole(0), whole(2), whole(-2)), IMAGE),
    "Gather one": ("Gather", {"axis": 2}, (np.array(1),), IMAGE),
    "Gather": ("Gather", {"axis": 1}, (whole(2, 0, -1),), IMAGE),
    "Gather 2d": ("Gather", {"axis": 1}, (np.array([[2, 0], [1, 3]]),), (4, 6)),
    "GatherElements": ("GatherElements", {"axis": 1}, (np.array([[[2, 0, -1, 1, 0, 0]]] * 2),), (4, 6)),
    "Expand": ("Expand", {}, (whole(1, 4, 5, 6),), (4, 1, 6)),
    "Tile": ("Tile", {}, (whole(1, 2, 1, 3),), IMAGE),
    "Transpose": ("Transpose", {"perm": [0, 2, 3, 1]}, (), IMAGE),
    "Reshape": ("Reshape", {}, (whole(0, 2, 2, -1),), IMAGE),
    "Unsqueeze": ("Unsqueeze", {}, (whole(1, 4),), (4, 6)),
    "Squeeze": ("Squeeze", {}, (whole(2),), (4, 1, 6)),
    "DepthToSpace": ("DepthToSpace", {"blocksize": 2}, (), (8, 3, 3)),
    "DepthToSpace CRD": ("DepthToSpace", {"blocksize": 2, "mode": "CRD"}, (), (8, 3, 3)),
    "SpaceToDepth": ("SpaceToDepth", {"blocksize": 2}, (), IMAGE),
    "Pad value": ("Pad", {}, (whole(0, 0, 1, 2, 0, 0, 0, 1), number(1.5)), IMAGE),
    "Pad axes": ("Pad", {}, (whole(1, 2), None, whole(3)), IMAGE),
    "Pad crop": ("Pad", {}, (whole(0, 0, -1, 0, 0, 0, 0, -2),), IMAGE),
    "Pad reflect": ("Pad", {"mode": "reflect"}, (whole(0, 0, 1, 2, 0, 0, 0, 1),), IMAGE),
    "Pad edge": ("Pad", {"mode": "edge"}, (whole(0, 0, 1, 2, 0, 0, 0, 1),), IMAGE),
    "Resize by 2": ("Resize", {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, (None, f(1, 1, 2, 2)), IMAGE),
    "Resize to size": (
        "Resize",
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        (None, None, whole(2, 4, 9, 3)),
        IMAGE,
    ),
    "Resize linear": ("Resize", {"mode": "linear"}, (None, f(1, 1, 2, 2)), IMAGE),
    "Resize corners": ("Resize", {"mode": "linear", "coordinate_transformation_mode": "align_corners"}, (None, f(1, 1, 2, 2)), IMAGE),
    "Resize nearest to size": ("Resize", {}, (None, None, whole(2, 4, 9, 3)), IMAGE),
    "Resize nearest ceil": ("Resize", {"nearest_mode": "ceil"}, (None, f(1, 1, 1.5, 0.5)), IMAGE),
    "Resize for nn": ("Resize", {"coordinate_transformation_mode": "tf_half_pixel_for_nn", "nearest_mode": "floor"}, (None, f(1, 1, 1.5, 2)), IMAGE),
    "Resize linear by 1.7": ("Resize", {"mode": "linear"}, (None, f(1, 1, 1.7, 0.6)), IMAGE),
    "Resize linear to size": ("Resize", {"mode": "linear", **PYTORCH}, (None, None, whole(2, 4, 9, 3)), IMAGE),
    "Resize linear asymmetric": ("Resize", {"mode": "linear", **ASYMMETRIC}, (None, f(1, 1, 2, 3)), IMAGE),
    "Resize linear asymmetric to size": ("Resize", {"mode": "linear", **ASYMMETRIC}, (None, None, whole(2, 4, 9, 4)), IMAGE),
    "MatMul": ("MatMul", {}, (normal(8, 3),), SEQUENCE),
    "MatMul stack": ("MatMul", {}, (normal(4, 6, 3),), IMAGE),
    "Gemm": ("Gemm", {"alpha": 0.5, "beta": 2.0, "transB": 1}, (normal(3, 8), normal(3)), ROW),
    "Einsum": ("Einsum", {"equation": "bij, jk -> bik"}, (normal(8, 3),), SEQUENCE),
    "Conv 1": ("Conv", {"auto_pad": "SAME_UPPER", "strides": [2]}, (normal(3, 5, 3), normal(3)), SEQUENCE),
    "Conv 3": ("Conv", {}, (normal(3, 2, 2, 2, 2), normal(3)), (2, 4, 4, 4)),
    "ConvTranspose 1": ("ConvTranspose", {"strides": [2]}, (normal(5, 3, 3), normal(3)), SEQUENCE),
    "ConvTranspose SAME": ("ConvTranspose", {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (normal(4, 3, 3, 3), normal(3)), IMAGE),
    "ConvTranspose SAME_LOWER": ("ConvTranspose", {"auto_pad": "SAME_LOWER", "strides": [2, 2]}, (normal(4, 3, 3, 3), normal(3)), IMAGE),
    "ConvTranspose pads": ("ConvTranspose", {"pads": [0, 1, 1, 0], "strides": [2, 2]}, (normal(4, 3, 3, 3),), IMAGE),
    "ConvTranspose shape": ("ConvTranspose", {"output_shape": [12, 12], "strides": [2, 2]}, (normal(4, 3, 3, 3),), IMAGE),
    "ConvTranspose 3": ("ConvTranspose", {}, (normal(2, 3, 2, 2, 2),), (2, 3, 3, 3)),
    "BatchNormalization 3": ("BatchNormalization", {}, (normal(2), normal(2), normal(2), np.abs(normal(2)) + 1), (2, 3, 3, 3)),
    **{
        f"{kind}{name}": (kind, {"kernel_shape": [3, 3], "strides": [2, 2], **given}, (), IMAGE)
        for kind in ("MaxPool", "AveragePool")
        for name, given in {
            "": {},
            " ceil": {"ceil_mode": 1},
            " pads": {"pads": [1, 1, 1, 1]},
            " SAME_UPPER": {"auto_pad": "SAME_UPPER"},
            " SAME_LOWER": {"auto_pad": "SAME_LOWER"},
            " VALID": {"auto_pad": "VALID"},
            " end": {"pads": [0, 0, 1, 1]},
        }.items()
    },
    "AveragePool counted": ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 0, 1, 1], "count_include_pad": 1}, (), IMAGE),
    "MaxPool 3": ("MaxPool", {"kernel_shape": [2, 2, 2]}, (), (2, 4, 4, 4)),
    "AveragePool 3": ("AveragePool", {"kernel_shape": [2, 2, 2]}, (), (2, 4, 4, 4)),
    "LpPool": ("LpPool", {"kernel_shape": [2, 2], "strides": [2, 2]}, (), IMAGE),
    "Trilu": ("Trilu", {"upper": 0}, (), IMAGE),
}

AFTER: dict[str, Sequence[tuple[str, dict[str, object]]]] = {
    "Cast": [("Cast", {"to": TensorProto.FLOAT}), ("Relu", {})],
    "Identity": [("Relu", {})],
    "Dropout": [("Relu", {})],
}
NEWER = {"RMSNormalization": 23, "Swish": 24}
"""Opsets."""

WHOLE = ("ArgMax axis", "ArgMin")


def write(path: Path, nodes: Sequence[onnx.NodeProto], inputs: Sequence[tuple[str, int, Sequence[object]]], outputs: Sequence[tuple[str, int]],
          constants: dict[str, np.ndarray], opset: int) -> Path:  # fmt: skip
    model = helper.make_model(
        helper.make_graph(
            list(nodes),
            "test",
            [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
            [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=10,
    )
    onnx.save(model, path)
    return path


def one(path: Path, name: str, form: Form, opset: int) -> Path:
    kind, attributes, constants, shape = form
    held = {f"c{place}": value for place, value in enumerate(constants) if value is not None}
    given = ["x", *(f"c{place}" if value is not None else "" for place, value in enumerate(constants))]
    after = AFTER.get(name, [])
    nodes = [helper.make_node(kind, given, [f"y{len(after)}"], **attributes)]
    nodes += [helper.make_node(then, [f"y{len(after) - place}"], [f"y{len(after) - place - 1}"], **more) for place, (then, more) in enumerate(after)]
    fixed = 2 if name in ("Concat constant", "GatherElements") or "to size" in name else "n"
    result = TensorProto.INT64 if name in WHOLE else TensorProto.FLOAT
    return write(path, nodes, [("x", TensorProto.FLOAT, (fixed, *shape))], [("y0", result)], held, opset)  # type: ignore[arg-type]


def example(shape: Sequence[int], count: int = 4) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


def run(path: Path, **x: Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, {name: value.numpy() for name, value in x.items()})
    return found


@pytest.mark.parametrize("name", FORMS)
def test_the_module_is_the_file(name: str, tmp_path: Path) -> None:
    path = one(tmp_path / "model.onnx", name, FORMS[name], NEWER.get(name, 22))
    x = example(FORMS[name][3])
    found = from_onnx(path, x)(x[:2]).detach()
    (expected,) = run(path, x=x[:2])
    tolerance = 1e-2 if name == "Cast" else 1e-4
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_reductions_of_every_opset(opset: int, tmp_path: Path) -> None:
    for name, form in reductions(opset).items():
        path = one(tmp_path / "model.onnx", name, form, opset)
        x = example(form[3])
        torch.testing.assert_close(from_onnx(path, x)(x).detach(), torch.from_numpy(run(path, x=x)[0]), rtol=1e-3, atol=1e-4)


def several(path: Path) -> Path:
    """An image and tokens; a fixed batch of 2."""
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["e"]),
        helper.make_node("ReduceMean", ["e"], ["m"], axes=[1], keepdims=0),
        helper.make_node("Flatten", ["image.1"], ["i"]),
        helper.make_node("Concat", ["m", "i"], ["c"], axis=1),
        helper.make_node("Gemm", ["c", "w"], ["g"]),
        helper.make_node("Relu", ["g"], ["first"]),
        helper.make_node("Reshape", ["g", "shape"], ["second/out"]),
    ]
    constants = {"table": normal(10, 3), "w": normal(3 + 8, 6), "shape": whole(2, 2, 3)}
    inputs = [("image.1", TensorProto.FLOAT, (2, 2, 2, 2)), ("tokens", TensorProto.INT64, (2, 5))]
    return write(path, nodes, inputs, [("first", TensorProto.FLOAT), ("second/out", TensorProto.FLOAT)], constants, 17)  # type: ignore[arg-type]


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    path = several(tmp_path / "model.onnx")
    image, tokens = example((2, 2, 2)), torch.randint(0, 10, (4, 5))
    for given in ((image, tokens), {"image.1": image, "tokens": tokens}, {"image_1": image, "tokens": tokens.double()}):
        model = from_onnx(path, given)
        found = model(image_1=image, tokens=tokens)
        assert list(found) == ["first", "second/out"]
        expected = [
            np.concatenate(parts)
            for parts in zip(*(run(path, **{"image.1": image[i : i + 2], "tokens": tokens[i : i + 2]}) for i in (0, 2)), strict=True)
        ]
        for value, other in zip(found.values(), expected, strict=True):
            torch.testing.assert_close(value.detach(), torch.from_numpy(other), rtol=1e-4, atol=1e-4)
    with pytest.raises(DataError, match=r"takes 2 inputs: image\.1, tokens"):
        from_onnx(path, image)
    with pytest.raises(DataError, match=r"different batch sizes: image\.1 4, tokens 2"):
        from_onnx(path, (image, tokens[:2]))
    with pytest.raises(DataError, match="takes whole numbers"):
        from_onnx(path, (image, tokens + 0.5))


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent(kind: str, gates: int, direction: str, tmp_path: Path) -> None:
    """As torch exports it: time first inside, between transpositions that vanish."""
    _, attributes, weights, shape = recurrent(kind, gates, direction, **({"linear_before_reset": 1} if kind == "GRU" else {}))
    directions = weights[0].shape[0]  # type: ignore[attr-defined]
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node(kind, ["t", "w", "r", "b"], ["s", "h", *(["c"] if kind == "LSTM" else [])], **attributes),
        helper.make_node("Transpose", ["s"], ["u"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["u", "shape"], ["v"]),
        helper.make_node("Transpose", ["v"], ["y"], perm=[1, 0, 2]),
        helper.make_node("Transpose", ["h"], ["z"], perm=[1, 0, 2]),
    ]
    constants = dict(zip("wrb", weights, strict=True)) | {"shape": whole(0, 0, -1)}
    outputs = [("y", TensorProto.FLOAT), ("z", TensorProto.FLOAT)]
    path = write(tmp_path / "model.onnx", nodes, [("x", TensorProto.FLOAT, ("n", *shape))], outputs, constants, 17)  # type: ignore[arg-type]
    x = example(shape)
    model = from_onnx(path, x)
    for found, expected in zip(model(x).values(), run(path, x=x), strict=True):
        torch.testing.assert_close(found.detach(), torch.from_numpy(expected), rtol=1e-4, atol=1e-4)
    assert model(x)["y"].shape == (4, 5, 3 * directions)
    assert [node for node in model.graph.nodes if node.target is torch.permute] == []


def test_queries_keys_and_values_of_one_product(tmp_path: Path) -> None:
    """The batch is on the second axis for a while: cut, squeezed and taken from there as if it were on the first."""
    for steps in (
        [("Split", ["p"], ["a", "b", "c"], {"axis": 0}), ("Squeeze", ["a", "zero"], ["d"], {}), ("Squeeze", ["c", "zero"], ["e"], {})],
        [("Gather", ["p", "first"], ["d"], {"axis": 0}), ("Gather", ["p", "last"], ["e"], {"axis": 0})],
    ):
        nodes = [
            helper.make_node("Reshape", ["x", "shape"], ["r"]),
            helper.make_node("Transpose", ["r"], ["p"], perm=[2, 0, 3, 1, 4]),
            *(helper.make_node(kind, given, results, **attributes) for kind, given, results, attributes in steps),  # type: ignore[arg-type]
            helper.make_node("Sub", ["d", "e"], ["y"]),
        ]
        constants = {"shape": whole(0, 5, 3, 2, 4), "zero": whole(0), "first": np.array(0), "last": np.array(2)}
        path = write(tmp_path / "model.onnx", nodes, [("x", TensorProto.FLOAT, ("n", 5, 24))], [("y", TensorProto.FLOAT)], constants, 17)
        x = example((5, 24), 7)
        assert np.array_equal(from_onnx(path, x)(x).numpy(), run(path, x=x)[0])


def test_a_class_token_of_any_batch(tmp_path: Path) -> None:
    """Expand by Shape is computed ahead; the module expands to the batch that it gets."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], end=1),
        helper.make_node("Concat", ["s", "rest"], ["t"], axis=0),
        helper.make_node("Expand", ["token", "t"], ["e"]),
        helper.make_node("Concat", ["e", "x"], ["y"], axis=1),
    ]
    constants = {"rest": whole(1, 8), "token": normal(1, 1, 8)}
    path = write(tmp_path / "model.onnx", nodes, [("x", TensorProto.FLOAT, ("n", 5, 8))], [("y", TensorProto.FLOAT)], constants, 17)
    x = example((5, 8), 7)
    assert np.array_equal(from_onnx(path, x)(x).detach().numpy(), run(path, x=x)[0])


def test_a_choice_by_comparison(tmp_path: Path) -> None:
    for kind in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"):
        nodes = [helper.make_node(kind, ["x", "zero"], ["m"]), helper.make_node("Where", ["m", "x", "half"], ["y"])]
        constants = {"zero": number(0), "half": number(0.5)}
        path = write(tmp_path / "model.onnx", nodes, [("x", TensorProto.FLOAT, ("n", 8))], [("y", TensorProto.FLOAT)], constants, 17)
        x = example((8,))
        assert np.array_equal(from_onnx(path, x)(x).detach().numpy(), run(path, x=x)[0])


Steps = Sequence[tuple[str, str, str, dict[str, object]]]
CHAINS: dict[str, tuple[Steps, dict[str, np.ndarray]]] = {
    **{kind: ([("Abs", "x", "a", {}), ("Add", "ak", "b", {}), (kind, "b", "y", {})], {"k": number(0.5)}) for kind in ("Sqrt", "Reciprocal", "Log")},
    "ReduceLogSum": ([("Exp", "x", "a", {}), ("ReduceLogSum", "a", "y", {"axes": [1]})], {}),
    "And": ([("Greater", "xk", "a", {}), ("Less", "xl", "b", {}), ("And", "ab", "c", {}), ("Where", "cxk", "y", {})], {"k": f(-1), "l": f(1)}),
    "Or": ([("Greater", "xk", "a", {}), ("Less", "xl", "b", {}), ("Or", "ab", "c", {}), ("Where", "cxk", "y", {})], {"k": f(1), "l": f(-1)}),
    "Not": ([("Greater", "xk", "a", {}), ("Not", "a", "b", {}), ("Where", "bxk", "y", {})], {"k": f(0)}),
    "CastLike": ([("Greater", "xk", "a", {}), ("CastLike", "ax", "b", {}), ("Mul", "bx", "y", {})], {"k": f(0)}),
    "TopK": ([("TopK", "xk", "yi", {})], {"k": whole(3)}),
    "Softmax 11": ([("Softmax", "x", "y", {"axis": 1})], {}),
    "MatMul of values": ([("Transpose", "x", "a", {"perm": [0, 2, 1]}), ("MatMul", "xa", "y", {})], {}),
    "Upsample": ([("Upsample", "xs", "y", {"mode": "nearest"})], {"s": f(1, 1, 2)}),
    "GatherND": (
        [("Transpose", "x", "a", {"perm": [1, 0, 2]}), ("GatherND", "ak", "b", {}), ("Transpose", "b", "y", {"perm": [1, 0, 2]})],
        {"k": np.array([[2], [-4], [2]], dtype=np.int64)},
    ),
    "GatherND along two axes": (
        [("Transpose", "x", "a", {"perm": [1, 2, 0]}), ("GatherND", "ak", "b", {}), ("Transpose", "b", "y", {"perm": [2, 0, 1]})],
        {"k": np.array([[[0, 5], [3, -1], [2, 2]], [[1, 0], [-4, 4], [0, 0]]], dtype=np.int64)},
    ),
    "ScatterND": (
        [
            ("Transpose", "x", "a", {"perm": [1, 0, 2]}),
            ("Gather", "ai", "b", {"axis": 0}),
            ("Relu", "b", "c", {}),
            ("ScatterND", "akc", "d", {}),
            ("Transpose", "d", "y", {"perm": [1, 0, 2]}),
        ],
        {"k": np.array([[1], [-1]], dtype=np.int64), "i": whole(0, 2)},
    ),
    "ScatterElements": (
        [
            ("Gather", "xi", "a", {"axis": 1}),
            ("Relu", "a", "b", {}),
            ("Shape", "b", "s", {}),
            ("Expand", "ks", "e", {}),
            ("ScatterElements", "xeb", "y", {"axis": 1}),
        ],
        {"k": np.array([[[2]]], dtype=np.int64), "i": whole(0)},
    ),
    "Where decided": ([("Mul", "xl", "a", {}), ("Where", "kxa", "y", {})], {"k": np.array(False), "l": f(3)}),
    "Split": ([("Split", "x", "ab", {"axis": 2}), ("Concat", "ba", "y", {"axis": 2})], {}),
}
"""From x to y, by several operators or in an older opset."""

OLDER = {"Softmax 11": 11, "Upsample": 9, "Split": 13}


@pytest.mark.parametrize("name", CHAINS)
def test_chain(name: str, tmp_path: Path) -> None:
    chained(*CHAINS[name], tmp_path, OLDER.get(name, 17))


def chained(steps: Steps, constants: dict[str, np.ndarray], folder: Path, opset: int = 17) -> torch.fx.GraphModule:
    """The module of a file of these operators; it gives what ONNX Runtime does."""
    nodes = [helper.make_node(kind, list(given), list(results), **attributes) for kind, given, results, attributes in steps]
    x = example((4, 6))
    inputs = [("x", TensorProto.FLOAT, ("n", 4, 6))]
    path = write(folder / "model.onnx", nodes, inputs, [("y", TensorProto.FLOAT)], constants, opset)  # type: ignore[arg-type]
    module = from_onnx(path, x)
    torch.testing.assert_close(module(x).detach(), torch.from_numpy(run(path, x=x)[0]), rtol=1e-4, atol=1e-4)
    return module


ALMOST: dict[str, tuple[Steps, dict[str, np.ndarray]]] = {
    "another gate": ([("Neg", "x", "a", {}), ("Sigmoid", "a", "b", {}), ("Mul", "xb", "y", {})], {}),
    "another threshold": ([("Softplus", "x", "a", {}), ("Greater", "xk", "b", {}), ("Where", "bxa", "y", {})], {"k": number(1)}),
    "another summand": ([("Abs", "x", "a", {}), ("Add", "ak", "b", {}), ("Log", "b", "y", {})], {"k": number(2)}),
    "another count": (
        [("ReduceMean", "xi", "a", {"keepdims": 1}), ("Sub", "xa", "b", {}), ("Mul", "bb", "c", {}), ("ReduceMean", "ci", "d", {"keepdims": 0}),
         ("Mul", "dk", "e", {}), ("Div", "el", "y", {})],
        {"k": number(7), "l": number(5), "i": whole(2)},
    ),
    "another axis": (
        [("Pow", "xp", "a", {}), ("ReduceMean", "ai", "b", {"keepdims": 1}), ("Add", "bk", "c", {}), ("Sqrt", "c", "d", {}),
         ("Reciprocal", "d", "e", {}), ("Mul", "xe", "f", {}), ("Mul", "fg", "y", {})],
        {"k": number(1e-5), "p": number(2), "i": whole(1), "g": f(1, 2, 3, 4, 5, 6)},
    ),
    "other scales": (
        [("Mul", "xk", "a", {}), ("Transpose", "x", "b", {"perm": [0, 2, 1]}), ("Mul", "bl", "c", {}), ("MatMul", "ac", "y", {})],
        {"k": number(0.5), "l": number(0.25)},
    ),
}  # fmt: skip
"""Close to what is recognized as a function of its own, and not it."""


@pytest.mark.parametrize("case", ALMOST)
def test_what_is_almost_a_function_is_left_as_it_stands(case: str, tmp_path: Path) -> None:
    module = chained(*ALMOST[case], tmp_path, 18)
    names = {getattr(node.target, "__name__", "") for node in module.graph.nodes}
    assert not names & {"silu", "logsigmoid", "log1p", "var"}
    assert not any(isinstance(layer, torch.nn.RMSNorm) for layer in module.modules())


def test_every_operator_is_tested() -> None:
    elsewhere = {"LSTM", "GRU", "RNN", "Equal", "GreaterOrEqual", "LessOrEqual", "IsNaN", "Swish"}  # Swish: newer than ONNX Runtime
    assert set(OPERATORS) - {form[0] for form in FORMS.values()} - {step[0] for steps, _ in CHAINS.values() for step in steps} == elsewhere


REFUSED_BY_QUANTIZE: tuple[str, ...] = (
    "CumSum",
    "CumSum reverse",
)
"""Forms that have no fixed-point form yet."""


@pytest.mark.parametrize("name", FORMS)
def test_quantized(name: str, tmp_path: Path) -> None:
    x = example(FORMS[name][3])
    model = from_onnx(one(tmp_path / "model.onnx", name, FORMS[name], NEWER.get(name, 22)), x)
    if name in REFUSED_BY_QUANTIZE:
        with pytest.raises(QfxError):
            qfx.quantize(model, x)
        return
    quantized = qfx.quantize(model, x).eval()
    found = quantized(x).detach().numpy()
    assert np.array_equal(qfx.run(qfx.to_graph(quantized), x.numpy()), found)
