"""A softmax, log-softmax or sigmoid at the end, left out on request: by default it stays, and every report tells of one that does not."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from nn_models import Calls
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import qfx
from qfx.capture.from_onnx import from_onnx
from qfx.capture.from_pt2 import from_pt2
from qfx.cli import main
from qfx.ir.from_onnx import load_graph
from qfx.ir.text import listing
from qfx.nn.model import left_out_of

X = torch.randn(6, 8)
DROP = qfx.Recipe(tail="drop")


def ending(end: object) -> nn.Module:
    if isinstance(end, nn.Module):
        return nn.Sequential(nn.Linear(8, 4), end).eval()
    return Calls(lambda m, x: end(m.a(x)), a=nn.Linear(8, 4)).eval()  # type: ignore[operator]


TAILS: dict[str, tuple[object, str]] = {
    "Softmax": (nn.Softmax(1), "softmax at '1'"),
    "LogSoftmax": (nn.LogSoftmax(-1), "log_softmax at '1'"),
    "Sigmoid": (nn.Sigmoid(), "sigmoid at '1'"),
    "F.softmax": (lambda x: F.softmax(x, 1), "softmax at 'softmax'"),
    "method": (lambda x: x.softmax(-1), "softmax at 'softmax'"),
    "log_softmax": (lambda x: torch.log_softmax(x, 1), "log_softmax at 'log_softmax'"),
    "sigmoid": (torch.sigmoid, "sigmoid at 'sigmoid'"),
}


def same(q: nn.Module, other: nn.Module) -> bool:
    with torch.no_grad():
        return torch.equal(q.eval()(X), other.eval()(X))


@pytest.mark.parametrize("name", TAILS)
def test_a_tail_is_left_out_on_request_alone(name: str) -> None:
    model = ending(TAILS[name][0])
    bare = qfx.quantize(nn.Sequential(copy.deepcopy(next(iter(model.children())))).eval(), X)
    dropped = qfx.quantize(model, X, DROP)
    assert same(dropped, bare)
    assert left_out_of(dropped) == (TAILS[name][1],)
    kept = qfx.quantize(model, X)
    assert not same(kept, bare)
    assert left_out_of(kept) == ()


def twice(m: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    y = m.a(x).softmax(1)
    return y, y * 2


@pytest.mark.parametrize(
    "forward",
    [lambda m, x: m.a(x).softmax(1).sum(1, keepdim=True), lambda m, x: F.relu(m.a(x)), lambda m, x: m.a(x) * torch.sigmoid(m.a(x)), twice],
)
def test_what_is_not_the_last_operation_stays(forward: object) -> None:
    model = Calls(forward, a=nn.Linear(8, 4)).eval()  # type: ignore[arg-type]
    dropped, kept = qfx.quantize(model, X, DROP).eval(), qfx.quantize(model, X).eval()
    assert left_out_of(dropped) == ()
    with torch.no_grad():
        for a, b in zip(dropped(X), kept(X), strict=True):
            assert torch.equal(a, b)


def test_each_of_several_outputs_has_a_tail_of_its_own() -> None:
    model = Calls(lambda m, x: {"which": m.a(x).softmax(1), "how": m.b(x)}, a=nn.Linear(8, 4), b=nn.Linear(8, 3)).eval()
    q = qfx.quantize(model, X, DROP).eval()
    assert left_out_of(q) == ("softmax at 'softmax'",)
    with torch.no_grad():
        found = q(X)
    ran = qfx.run(qfx.to_graph(q), X.numpy())
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(ran, found.values(), strict=True))


def test_every_report_tells(tmp_path: Path) -> None:
    model = ending(nn.Softmax(1))
    found = qfx.check(model, X, DROP)
    assert [(row.path, row.operation) for row in found.rows if row.left_out] == [("1", "softmax")]
    assert 'left out (tail = "drop")' in str(found)
    assert not any(row.left_out for row in qfx.check(model, X).rows)
    q = qfx.quantize(model, X, DROP).eval()
    qfx.export_onnx(q, tmp_path / "model.onnx")
    graph = load_graph(tmp_path / "model.onnx")
    assert graph.metadata["left_out"] == "softmax at '1'"
    assert "without softmax at '1', which is left out" in listing(graph)
    told = CliRunner().invoke(main, ["inspect", str(tmp_path / "model.onnx"), "--json"])
    assert json.loads(told.output)["left_out"] == ["softmax at '1'"]
    for other in (copy.deepcopy(q), pickle.loads(pickle.dumps(q))):
        assert left_out_of(other) == ("softmax at '1'",)


def written(path: Path, end: str, layer: nn.Linear) -> None:
    """A float ONNX file: the layer, and an operator."""
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["a"], transB=1), helper.make_node(end, ["a"], ["y"], axis=1)]
    constants = [numpy_helper.from_array(value.detach().numpy(), name) for name, value in (("w", layer.weight), ("b", layer.bias))]
    given, result = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ("n", size)) for name, size in (("x", 8), ("y", 4)))
    graph = helper.make_graph(nodes, "test", [given], [result], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_the_ptq_command_tells(tmp_path: Path) -> None:
    written(tmp_path / "float.onnx", "LogSoftmax", nn.Linear(8, 4))
    np.save(tmp_path / "x.npy", X.numpy())
    DROP.save(tmp_path / "recipe.toml")
    given = ["--model", str(tmp_path / "float.onnx"), "--calib", str(tmp_path / "x.npy"), "--recipe", str(tmp_path / "recipe.toml")]
    told = CliRunner().invoke(main, ["ptq", *given, "--passes", "calibrate", "-o", str(tmp_path / "out.onnx")])
    assert told.exit_code == 0, told.output
    assert "left out, as the recipe says: log_softmax at" in told.output
    assert "log_softmax at" in (tmp_path / "out.html").read_text(encoding="utf-8")
    assert "log_softmax at" in load_graph(tmp_path / "out.onnx").metadata["left_out"]


def test_through_files(tmp_path: Path) -> None:
    model = ending(nn.Softmax(1))
    expected = qfx.quantize(model, X, DROP).eval()
    written(tmp_path / "model.onnx", "Softmax", next(iter(model.children())))
    batch = torch.export.Dim("batch", min=2, max=64)
    torch.export.save(torch.export.export(model, (X,), dynamic_shapes=({0: batch},), strict=False), tmp_path / "model.pt2")
    for source in (from_onnx(tmp_path / "model.onnx", X), from_pt2(tmp_path / "model.pt2", X)):
        q = qfx.quantize(source, X, DROP).eval()
        assert len(left_out_of(q)) == 1
        assert same(q, expected)


def test_another_word_is_refused() -> None:
    with pytest.raises(qfx.RecipeError, match="tail is 'cut'"):
        qfx.Recipe(tail="cut")  # type: ignore[arg-type]
    assert qfx.Recipe.from_toml('tail = "drop"') == DROP
    assert qfx.Recipe.from_toml(DROP.to_toml()) == DROP
