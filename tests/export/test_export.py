"""``export_onnx``: one file that onnxruntime executes with the emulator's numbers, and that replaces nothing of others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import qfx
from qfx import ModelFileError, QfxError, Recipe, Spec
from qfx.testing import adversarial_inputs, assert_bit_exact

X = torch.randn(8, 2, 6, 6, generator=torch.Generator().manual_seed(0))


def quantized(recipe: Recipe | None = None) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(16, 3)
    )  # fmt: skip
    return qfx.quantize(model, X, recipe)


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("batch", [1, 5])
def test_plain_onnxruntime_returns_the_emulators_values(tmp_path: Path, granularity: str, batch: int) -> None:
    spec = Spec(6, granularity=granularity)
    q = quantized(Recipe(weight=spec, activation=spec)).eval()
    qfx.export_onnx(q, tmp_path / "net.onnx")
    x = adversarial_inputs(qfx.to_graph(q), np.random.default_rng(1), 20)
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    expected = q(torch.from_numpy(x)).detach().numpy()
    for start in range(0, 20, batch):
        (actual,) = session.run(None, {session.get_inputs()[0].name: x[start : start + batch]})
        assert_bit_exact(actual, expected[start : start + batch])
    graph = qfx.load_graph(tmp_path / "net.onnx")
    assert_bit_exact(qfx.run(graph, x), expected)
    assert_bit_exact(qfx.run(qfx.to_graph(q), x), expected)


def test_metadata_carries_version_and_recipe(tmp_path: Path) -> None:
    recipe = Recipe.uniform(5, batch_norm="fold")
    qfx.export_onnx(quantized(recipe), str(tmp_path / "net.onnx"))
    model = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(model)
    assert (model.producer_name, model.producer_version) == ("qfx", qfx.__version__)
    assert Recipe.from_toml(qfx.load_graph(tmp_path / "net.onnx").metadata["recipe"]) == recipe
    assert qfx.load_graph(tmp_path / "net.onnx").name == "net"


def test_what_others_wrote_stays(tmp_path: Path) -> None:
    q, path = quantized(), tmp_path / "net.onnx"
    for content in (b"precious notes", onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [])).SerializeToString()):
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match="was not written by qfx"):
            qfx.export_onnx(q, path)
        assert path.read_bytes() == content
    qfx.export_onnx(q, path, force=True)
    written = path.read_bytes()
    qfx.export_onnx(q, path)
    assert path.read_bytes() == written
    (tmp_path / "empty.onnx").touch()
    qfx.export_onnx(q, tmp_path / "empty.onnx")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["empty.onnx", "net.onnx"]


def test_nothing_is_left_where_nothing_can_be_written(tmp_path: Path) -> None:
    q = quantized()
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "net.onnx"):
        with pytest.raises(ModelFileError) as caught:
            qfx.export_onnx(q, path)
        assert caught.value.remedy
    with pytest.raises(QfxError, match="is not a quantized model"):
        qfx.export_onnx(nn.Linear(2, 2), tmp_path / "net.onnx")
    with torch.no_grad():
        q.get_submodule("0").weight.fill_(float("nan"))
    with pytest.raises(QfxError, match="NaN"):
        qfx.export_onnx(q, tmp_path / "net.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
