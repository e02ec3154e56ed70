"""Float ONNX files as sources of models: each operator against ONNX Runtime, real exports, and what is refused."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import qfx
from qfx.capture.from_onnx import from_onnx
from qfx.capture.onnx_operators import HANDLERS
from qfx.capture.onnx_operators import OPERATORS as KNOWN
from qfx.errors import DataError, ModelFileError, UnsupportedError

DATA = Path(os.environ.get("QFX_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")

Nodes = Sequence[tuple[str, Sequence[str], Sequence[str], dict[str, object]]]


def write(path: Path, nodes: Nodes, shape: Sequence[int | str], constants: dict[str, object] | None = None, opset: int = 17) -> Path:
    """A model from x to y."""
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(kind, list(inputs), list(outputs), **attributes) for kind, inputs, outputs, attributes in nodes],
            "test",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=8,
    )
    onnx.save(model, path)
    return path


def run(path: Path, x: Tensor) -> Tensor:
    (result,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})
    return torch.from_numpy(result)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


W, B4 = normal(4, 3, 3, 3), normal(4)
IMAGE = ("n", 3, 8, 8)

OPERATORS: dict[str, tuple[Nodes, Sequence[int | str], dict[str, object], int]] = {
    "Conv SAME_UPPER": ([("Conv", "xwb", "y", {"auto_pad": "SAME_UPPER", "strides": [2, 2]})], IMAGE, {"w": W, "b": B4}, 17),
    "Conv SAME_LOWER": ([("Conv", "xw", "y", {"auto_pad": "SAME_LOWER", "strides": [2, 2]})], IMAGE, {"w": W}, 17),
    "Conv groups": (
        [("Conv", "xw", "y", {"group": 3, "dilations": [2, 1], "pads": [2, 1, 1, 0]})],
        IMAGE,
        {"w": normal(6, 1, 3, 3)},
        17,
    ),
    "Conv 1d": ([("Conv", "xwb", "y", {"pads": [1, 2]})], ("n", 3, 9), {"w": normal(4, 3, 3), "b": B4}, 17),
    "ConvTranspose": (
        [("ConvTranspose", "xwb", "y", {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]})],
        IMAGE,
        {"w": normal(3, 4, 3, 3), "b": B4},
        17,
    ),
    "Gemm": ([("Gemm", "xwb", "y", {"alpha": 0.5, "beta": 2.0})], ("n", 6), {"w": normal(6, 4), "b": B4}, 17),
    "MatMul, Add": ([("MatMul", "xw", "t", {}), ("Add", "bt", "y", {})], ("n", 6), {"w": normal(6, 4), "b": B4}, 17),
    "BatchNormalization": (
        [("BatchNormalization", ["x", "s", "o", "m", "v"], "y", {"epsilon": 1e-3})],
        IMAGE,
        {"s": normal(3), "o": normal(3, 1)[:, 0], "m": normal(3), "v": np.abs(normal(3)) + 0.5},
        17,
    ),
    "Conv, constants": (
        [("Conv", "xw", "t", {}), ("Mul", "tc", "u", {}), ("Add", "ub", "v", {}), ("Sub", "kv", "z", {}), ("Div", "zc", "y", {})],
        IMAGE,
        {"w": W, "c": np.abs(normal(1, 4, 1, 1)) + 0.5, "b": B4.reshape(4, 1, 1), "k": np.float32(1.5)},
        17,
    ),
    "constants at the input": (
        [("Div", "xk", "t", {}), ("Sub", "tm", "u", {}), ("Conv", "uw", "y", {})],
        IMAGE,
        {"k": np.float32(4), "m": normal(3, 1, 1), "w": W},
        17,
    ),
    "Clip 11": ([("Clip", "xlh", "y", {})], IMAGE, {"l": np.float32(0), "h": np.float32(6)}, 17),
    "Clip 6": ([("Clip", "x", "y", {"min": 0.0, "max": 6.0})], IMAGE, {}, 6),
    "Clip below": ([("Clip", "xl", "y", {})], IMAGE, {"l": np.float32(0)}, 17),
    "LeakyRelu": ([("LeakyRelu", "x", "y", {"alpha": 0.125})], IMAGE, {}, 17),
    "Pow, Abs": ([("Pow", "xt", "a", {}), ("Relu", "a", "b", {}), ("Abs", "x", "c", {}), ("Sub", "bc", "y", {})], IMAGE, {"t": np.float32(2)}, 17),
    "MaxPool": ([("MaxPool", "x", "y", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]})], IMAGE, {}, 17),
    "AveragePool": ([("AveragePool", "x", "y", {"kernel_shape": [2, 2], "strides": [2, 2]})], IMAGE, {}, 17),
    "AveragePool padded": (
        [("AveragePool", "x", "y", {"kernel_shape": [3, 3], "pads": [0, 1, 1, 0], "count_include_pad": 1})],
        IMAGE,
        {},
        17,
    ),
    "AveragePool 1d": ([("AveragePool", "x", "y", {"kernel_shape": [3], "strides": [3]})], ("n", 3, 9), {}, 17),
    "GlobalAveragePool": ([("GlobalAveragePool", "x", "t", {}), ("Flatten", "t", "y", {})], IMAGE, {}, 17),
    "GlobalMaxPool": ([("GlobalMaxPool", "x", "y", {})], ("n", 3, 9), {}, 17),
    "ReduceMean 13": ([("ReduceMean", "x", "y", {"axes": [2, 3], "keepdims": 0})], IMAGE, {}, 13),
    "ReduceMean 18": ([("ReduceMean", "xa", "y", {})], IMAGE, {"a": np.array([-1, -2])}, 18),
    "two branches": (
        [("Relu", "x", "a", {}), ("Conv", "xw", "b", {"pads": [1, 1, 1, 1]}), ("Add", "ab", "c", {}), ("Sub", "ca", "d", {}), ("Mul", "da", "y", {})],
        IMAGE,
        {"w": normal(3, 3, 3, 3)},
        17,
    ),
    "Split, Concat": (
        [("Split", "xs", "ab", {"axis": 1}), ("Concat", ["b", "a", "x"], "y", {"axis": 1})],
        IMAGE,
        {"s": np.array([1, 2])},
        17,
    ),
    "Slice": ([("Slice", ["x", "b", "e", "a", "s"], "y", {})], IMAGE, {"b": [0, -7], "e": [8, 2**62], "a": [2, 3], "s": [2, 3]}, 17),
    "Slice 9": ([("Slice", "x", "y", {"starts": [1], "ends": [3], "axes": [1]})], IMAGE, {}, 9),
    "Pad": ([("Pad", "xp", "y", {})], IMAGE, {"p": [0, 1, 0, 2, 0, 3, 1, 0]}, 17),
    "Pad 2": ([("Pad", "x", "y", {"pads": [0, 0, 1, 2, 0, 0, 0, 1]})], IMAGE, {}, 2),
    "Transpose": ([("Transpose", "x", "y", {"perm": [0, 1, 3, 2]})], IMAGE, {}, 17),
    "Squeeze, Unsqueeze": (
        [("GlobalAveragePool", "x", "t", {}), ("Squeeze", "ta", "u", {}), ("Unsqueeze", "ub", "y", {})],
        IMAGE,
        {"a": [2, 3], "b": [2]},
        17,
    ),
    "Resize": (
        [("Resize", ["x", "", "s"], "y", {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"})],
        IMAGE,
        {"s": np.array([1, 1, 3, 3], dtype=np.float32)},
        17,
    ),
    "Upsample": ([("Upsample", "xs", "y", {"mode": "nearest"})], IMAGE, {"s": np.array([1, 1, 2, 2], dtype=np.float32)}, 9),
    "Reshape by Shape": (
        [
            ("Shape", "x", "s", {}),
            ("Gather", "si", "n", {}),
            ("Unsqueeze", "na", "m", {}),
            ("Concat", "mr", "t", {"axis": 0}),
            ("Reshape", "xt", "y", {}),
        ],
        IMAGE,
        {"i": np.array(0), "a": [0], "r": [-1]},
        17,
    ),
    "Reshape with 0": ([("Reshape", "xt", "y", {})], IMAGE, {"t": [0, 3, 64]}, 17),
    "Identity, Dropout, Cast": (
        [("Identity", "x", "a", {}), ("Dropout", "a", "b", {}), ("Cast", "b", "c", {"to": 1}), ("Relu", "c", "y", {})],
        IMAGE,
        {},
        17,
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operator(name: str, tmp_path: Path) -> None:
    nodes, shape, constants, opset = OPERATORS[name]
    path = write(tmp_path / "model.onnx", nodes, shape, constants, opset)
    x = torch.randn(3, *shape[1:], generator=torch.Generator().manual_seed(0)) * 5
    model = from_onnx(path, x)
    for count in (3, 1):  # any batch, whatever was seen at import
        torch.testing.assert_close(model(x[:count]).detach(), run(path, x[:count]), rtol=1e-4, atol=1e-4)
    qmodel = qfx.quantize(model, x, qfx.Recipe.uniform(12, input=qfx.Spec(16), output=qfx.Spec(24)))
    error = (qmodel.eval()(x) - model(x)).abs().max() / model(x).abs().max()
    assert error < 0.02


REFUSED: dict[str, tuple[Nodes, dict[str, object], str]] = {
    "operator": ([("Det", "x", "y", {})], {}, r"Det has no fixed-point form(.|\n)*docs/ptq.md"),
    "cubic resize": ([("Resize", ["x", "", "s"], "y", {"mode": "cubic"})], {"s": np.array([1, 1, 2, 2], dtype=np.float32)}, "mode 'cubic'"),
    "weights from data": ([("Conv", "xx", "y", {})], {}, "depends on data"),
    "places": ([("MaxPool", "x", ["y", "i"], {"kernel_shape": [2, 2]})], {}, "the places of the maxima"),
    "constant output": ([("Identity", "c", "y", {}), ("Relu", "x", "z", {})], {"c": np.float32(1)}, "does not depend on the input"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    nodes, constants, complaint = REFUSED[name]
    path = write(tmp_path / "model.onnx", nodes, IMAGE, constants)
    with pytest.raises(UnsupportedError, match=complaint) as refusal:
        from_onnx(path, torch.randn(2, 3, 8, 8))
    assert refusal.value.remedy
    assert refusal.value.where


def test_all_blockers_at_once(tmp_path: Path) -> None:
    """What torch has not is listed together with what quantize would refuse beside it."""
    nodes: Nodes = [
        ("Hardmax", "x", "a", {}),
        ("Conv", "aw", "b", {}),
        ("Shrink", "b", "c", {}),
        ("CumSum", "ck", "d", {}),
        ("Relu", "d", "y", {}),
    ]
    path = write(tmp_path / "model.onnx", nodes, IMAGE, {"w": normal(4, 3, 3, 3), "k": np.array(1)})
    with pytest.raises(UnsupportedError, match="3 obstacles on the way") as caught:
        from_onnx(path, torch.randn(2, 3, 8, 8))
    found = [re.sub(r"the operator | ha(s|ve) no.*| with .*", "", blocker.what) for blocker in caught.value.blockers]
    assert found == ["Hardmax", "Shrink", "cumsum"]


@pytest.mark.parametrize("nodes", [[("Reshape", "xt", "y", {})]])
def test_what_quantize_refuses_is_told_with_its_place(nodes: Nodes, tmp_path: Path) -> None:
    path = write(tmp_path / "model.onnx", nodes, IMAGE, {"t": [-1, 64]})
    x = torch.randn(2, 3, 8, 8)
    with pytest.raises(UnsupportedError, match=r"reshape.*for a batch of 2") as refusal:
        qfx.quantize(from_onnx(path, x), x)
    assert refusal.value.remedy


def test_a_module_that_gives_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted error, an operator that becomes another one: the comparison with ONNX Runtime finds it."""
    path = write(tmp_path / "model.onnx", [("Relu", "x", "y", {})], IMAGE)
    monkeypatch.setitem(HANDLERS, "Relu", HANDLERS["Sigmoid"])
    with pytest.raises(UnsupportedError, match="the module made of it gives up to"):
        from_onnx(path, torch.randn(2, 3, 8, 8))


def test_a_fixed_batch_does_not_bind_the_module(tmp_path: Path) -> None:
    path = write(tmp_path / "model.onnx", [("Reshape", "xt", "y", {})], (1, 3, 8, 8), {"t": [1, 192]})
    x = torch.randn(5, 3, 8, 8)
    assert torch.equal(from_onnx(path, x)(x), x.flatten(1))


@pytest.mark.parametrize(
    ("shape", "remedy"), [((2, 8, 8, 3), r"x\.transpose\(0, 3, 1, 2\)"), ((2, 3, 9, 8), "the model's layout"), ((2, 192), "the model's layout")]
)
def test_wrong_shapes(shape: tuple[int, ...], remedy: str, tmp_path: Path) -> None:
    path = write(tmp_path / "model.onnx", [("Relu", "x", "y", {})], IMAGE)
    with pytest.raises(DataError, match=r"the model takes 3 x 8 x 8(.|\n)*" + remedy):
        from_onnx(path, torch.zeros(shape))


def test_files_that_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(ModelFileError, match="is not an ONNX model"):
        from_onnx(tmp_path / "model.onnx", torch.zeros(1, 1))
    with pytest.raises(ModelFileError, match="cannot be read"):
        from_onnx(tmp_path / "nowhere.onnx", torch.zeros(1, 1))


def test_a_quantized_model_is_refused(tmp_path: Path) -> None:
    qfx.export_onnx(qfx.quantize(nn.Sequential(nn.Linear(2, 2)), torch.randn(4, 2)), tmp_path / "q.onnx")
    with pytest.raises(ModelFileError, match="quantized already"):
        from_onnx(tmp_path / "q.onnx", torch.zeros(1, 2))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv2(torch.relu(self.bn(self.conv1(x)))) + x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2)
        self.blocks = nn.Sequential(Block(), Block())
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(nn.functional.relu6(self.stem(x))).mean((2, 3))
        return self.fc(x.view(x.size(0), -1))


def test_an_export_of_torch(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(4, 3, 9, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        torch.onnx.export(model, (x,), tmp_path / "net.onnx", dynamo=True, dynamic_shapes=({0: torch.export.Dim("n")},), verbose=False)
    found = from_onnx(tmp_path / "net.onnx", x)
    torch.testing.assert_close(found(x), model(x), rtol=1e-4, atol=1e-5)
    names = {name for name, module in found.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    assert names == {"stem", "blocks.0.conv1", "blocks.0.conv2", "blocks.1.conv1", "blocks.1.conv2", "fc"}


def test_a_published_model(tmp_path: Path) -> None:
    path = DATA / "models" / "mnist-8.onnx"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    x = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 255
    model = from_onnx(path, x)
    assert [name for name, module in model.named_children() if isinstance(module, nn.Conv2d | nn.Linear)] == [
        "Convolution28",
        "Convolution110",
        "Times212",
    ]
    qmodel = qfx.quantize(model, x, qfx.Recipe.uniform(8, input=qfx.Spec(9)))
    assert qfx.run(qfx.to_graph(qmodel), x.numpy()).shape == (6, 10)


def test_the_documentation_lists_the_operators() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "ptq.md").read_text(encoding="utf-8")
    listed = page.split("### ONNX and torch.export files")[1].split("## Passes")[0]
    assert [name for name in KNOWN if f"`{name}`" not in listed] == []
