"""Small networks from torch leave through the command, and other tools run what it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import qfx
from qfx.cli import main
from qfx.ir.interpret import quantize_inputs, run_raws
from qfx.leaving import convert as leaving
from qfx.leaving.check import peer


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.depthwise = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.BatchNorm2d(4), nn.ReLU6())
        self.head = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        made: Tensor = self.head(torch.relu(x + self.depthwise(x)))
        return made


def networks() -> dict[str, tuple[nn.Module, tuple[int, ...], qfx.Recipe]]:
    signal = nn.Sequential(nn.Conv1d(2, 4, 3, stride=2), nn.LeakyReLU(0.125), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(8, 3))
    by_channel = qfx.Recipe(weight=qfx.Spec(4, granularity="channel"), activation=qfx.Spec(6), batch_norm="fold")
    even = qfx.Recipe(weight=qfx.Spec(8), activation=qfx.Spec(8, q=qfx.QMode.RND_CONV))
    return {
        "mlp": (nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), (6,), even),
        "residual": (Residual(), (2, 4, 4), qfx.Recipe.uniform(5)),
        "signal": (signal, (2, 10), qfx.Recipe.uniform(7)),
        "by_channel": (Residual(), (2, 4, 4), by_channel),
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    found = {}
    for name, (model, shape, recipe) in networks().items():
        data = torch.randn(32, *shape)
        model.train()(data)
        found[name] = folder / f"{name}.onnx"
        qfx.export_onnx(qfx.quantize(model.eval(), data, recipe).eval(), found[name])
    return found


@pytest.mark.parametrize("form", leaving.FORMS)
def test_networks_leave_and_are_run(files: dict[str, Path], form: str, tmp_path: Path) -> None:
    for name, path in files.items():
        target = tmp_path / f"{name}.onnx"
        done = CliRunner().invoke(main, ["convert", str(path), "--to", form, "-o", str(target), "--check", "24", "--json"])
        assert done.exit_code == 0, done.output
        told = json.loads(done.stdout)
        assert told["equal"]
        assert {row["differing_values"] for row in told["executors"]} == {0}
        assert all(row["values"] == 24 * 3 for row in told["executors"])
        onnx.checker.check_model(str(target)) if form != "qonnx" else peer("qonnx.core.modelwrapper", "qonnx").ModelWrapper(str(target))


def test_qdq_has_the_integers(files: dict[str, Path]) -> None:
    """Weights are integers on grids that are powers of two; every cast is a quantizer."""
    graph = qfx.load_graph(files["by_channel"])
    made = leaving.convert(graph, "qdq")
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    for node in made.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert (np.frexp(held[node.input[1]])[0] == 0.5).all()
    kinds = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    assert (
        kinds["stem.0.weight.raw" if "stem.0.weight.raw" in kinds else next(n for n in kinds if n.endswith("#weight.raw"))] == onnx.TensorProto.INT4
    )
    casts = [node for node in graph.nodes if hasattr(node.op, "cast")]
    assert sum(node.op_type == "QuantizeLinear" for node in made.graph.node) == len(casts)


def test_the_batch_is_any_or_fixed(files: dict[str, Path]) -> None:
    graph = qfx.load_graph(files["mlp"])
    for form, batch, expected in (("qdq", None, ""), ("qonnx", None, 1), ("qonnx", 5, 5), ("integer", 3, 3)):
        size = leaving.convert(graph, form, batch=batch).graph.input[0].type.tensor_type.shape.dim[0]
        assert (size.dim_value or "") == expected


def test_integers_go_in_and_come_out(files: dict[str, Path], tmp_path: Path) -> None:
    """Without qfx at hand: raws of the least type that holds them."""
    import onnxruntime  # type: ignore[import-untyped, unused-ignore]

    graph = qfx.load_graph(files["residual"])
    model = leaving.convert(graph, "integer")
    kinds = {entry.type.tensor_type.elem_type for entry in (*model.graph.input, *model.graph.output, *model.graph.value_info)}
    assert not kinds & {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE}
    x = np.random.default_rng(0).normal(size=(7, 2, 4, 4)).astype(np.float32)
    (name, raw), *_ = quantize_inputs(graph, x).items()
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    kind = onnx.helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    (found,) = session.run(None, {f"{name}#raw": raw.astype(kind)})
    assert (found == run_raws(graph, x)[0]).all()


def test_the_command_refuses_and_leaves_nothing(files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out.onnx"
    target.write_bytes(b"mine")
    asked = ["convert", str(files["mlp"]), "--to", "qdq", "-o", str(target)]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 2
    assert "exists" in done.output
    assert target.read_bytes() == b"mine"
    one = CliRunner().invoke(main, [*asked, "--force"])
    assert one.exit_code == 0, one.output
    first = target.read_bytes()
    assert CliRunner().invoke(main, [*asked, "--force", "--check", "0"]).exit_code == 0
    assert target.read_bytes() == first

    def wrong(graph: qfx.Graph, to: str, *, batch: int | None = None) -> onnx.ModelProto:
        model = leaving.FORMS[to].write(graph, batch=batch, producer_version="0")
        weight = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("weight.raw"))
        array = onnx.numpy_helper.to_array(weight).copy()
        array.flat[0] ^= 1
        weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
        return model

    monkeypatch.setattr(leaving, "convert", wrong)
    other = tmp_path / "other.onnx"
    done = CliRunner().invoke(main, [*asked[:-1], str(other)])
    assert done.exit_code == 1, done.output
    assert not other.exists()


def test_a_tool_that_is_missing_is_told(files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "qonnx.core.modelwrapper", None)
    done = CliRunner().invoke(main, ["convert", str(files["mlp"]), "--to", "qonnx", "-o", str(tmp_path / "out.onnx")])
    assert done.exit_code == 2
    assert "pip install qonnx" in done.output
    assert not (tmp_path / "out.onnx").exists()


def test_data_is_checked_too(files: dict[str, Path], tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32))
    asked = [
        "convert",
        str(files["mlp"]),
        "--to",
        "qdq",
        "-o",
        str(tmp_path / "out.onnx"),
        "--check",
        "3",
        "--data",
        str(tmp_path / "x.npy"),
        "--json",
    ]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["samples"] == 8
