"""Models of other tools are refused by their names, by every command that takes a model."""

from __future__ import annotations

import io
import pickle
import re
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import qfx
from qfx import formats
from qfx.capture.source import load_model
from qfx.cli import main
from qfx.errors import ModelFileError

MODEL, X = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval(), torch.randn(8, 4)


def graph_of(nodes: list[onnx.NodeProto], path: Path, domain: str = "") -> None:
    """A model of one input of four features; constants s (a scale), z (a zero point) and b (bits)."""
    constants = {"s": np.float32(0.1), "z": np.int8(0), "f": np.float32(0), "b": np.float32(4)}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    domains = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=domains), path)


def qonnx(domain: str) -> Callable[[Path], None]:
    return lambda path: graph_of([helper.make_node("Quant", ["x", "s", "f", "b"], ["y"], domain=domain, signed=1, narrow=0)], path, domain)


def qdq(path: Path) -> None:
    graph_of(
        [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]), helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"])],
        path,
    )


def qoperator(path: Path) -> None:
    graph_of([helper.make_node("QLinearMatMul", ["x", "s", "z", "x", "s", "z", "s", "z"], ["y"])], path)


def zipped(*names: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "x")

    return write


def exported(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(MODEL, (X,)), path)


def scripted(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is on its way out
        torch.jit.save(torch.jit.trace(MODEL, X), path)


def saved_model(path: Path) -> None:
    path.mkdir()
    (path / "saved_model.pb").write_bytes(b"\x08\x01")


def safetensors(path: Path) -> None:
    from safetensors.torch import save_file

    save_file(MODEL.state_dict(), path)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "model.tflite": (lambda path: path.write_bytes(struct.pack("<I", 28) + b"TFL3" + bytes(64)), "is a TFLite model"),
    "renamed.onnx": (lambda path: path.write_bytes(struct.pack("<I", 28) + b"TFL3" + bytes(64)), "is a TFLite model"),
    "model.ort": (lambda path: path.write_bytes(struct.pack("<I", 28) + b"ORTM" + bytes(64)), "is an ONNX Runtime model"),
    "model.h5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64)), "is an HDF5 file"),
    "model.keras": (zipped("metadata.json", "config.json", "model.weights.h5"), "is a Keras model"),
    "saved": (saved_model, "is a TensorFlow SavedModel"),
    "scripted.pt": (scripted, "is a TorchScript archive"),
    "weights.pt": (lambda path: torch.save(MODEL.state_dict(), path), r"is a file of torch\.save"),
    "old.pth": (lambda path: torch.save(MODEL.state_dict(), path, _use_new_zipfile_serialization=False), "is a Python pickle"),
    "model.pkl": (lambda path: path.write_bytes(pickle.dumps({})), "is a Python pickle"),
    "weights.safetensors": (safetensors, "is a safetensors file"),
    "x.npy": (lambda path: np.save(path, X.numpy()), "is a numpy array file"),
    "x.npz": (lambda path: np.savez(path, x=X.numpy()), "is a numpy array file"),
    "model.xml": (lambda path: path.write_text('<?xml version="1.0"?>\n<net name="x" version="11">'), "is an OpenVINO model"),
    "qonnx.onnx": (qonnx("qonnx.custom_op.general"), "is a QONNX model"),
    "brevitas.onnx": (qonnx("onnx.brevitas"), "is a QONNX model"),
    "finn.onnx": (qonnx("finn.custom_op.general"), "is a QONNX model"),
    "qdq.onnx": (qdq, r"is a quantized ONNX model \(QuantizeLinear"),
    "qoperator.onnx": (qoperator, r"is a quantized ONNX model \(QLinearConv"),
}


@pytest.mark.parametrize("name", FILES)
def test_every_command_names_them(name: str, tmp_path: Path) -> None:
    write, message = FILES[name]
    path = tmp_path / name
    write(path)
    np.save(tmp_path / "data.npy", X.numpy())
    commands = (
        ("inspect", path),
        ("estimate", path, "--board", "ultra96v2"),
        ("hls", path, "--board", "ultra96v2", "-o", tmp_path / "out"),
        ("verify", path, tmp_path, "--data", tmp_path / "data.npy"),
        ("ptq", "--model", path, "--calib", tmp_path / "data.npy", "-o", tmp_path / "out.onnx"),
    )
    for command in commands:
        result = CliRunner().invoke(main, [str(part) for part in command])
        assert result.exit_code == 2, (command[0], result.output)
        text = " ".join(result.output.split())
        assert path.name in text, (command[0], text)
        assert re.search(message, text), (command[0], text)
        assert "remedy: " in text
    assert not (tmp_path / "out").exists()


def test_an_exported_program_is_for_ptq_alone(tmp_path: Path) -> None:
    exported(tmp_path / "model.pt2")
    with pytest.raises(ModelFileError, match=r"is a program of torch\.export(.|\n)*qfx ptq --model model\.pt2"):
        qfx.load_graph(tmp_path / "model.pt2")
    load_model(str(tmp_path / "model.pt2"), None, X)
    shutil.copy(tmp_path / "model.pt2", tmp_path / "model.zip")
    with pytest.raises(ModelFileError, match=r"let its name end in \.pt2"):
        load_model(str(tmp_path / "model.zip"), None, X)


def test_other_files_in_the_place_of_a_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ModelFileError, match="is not a model that qfx reads"):
        load_model(str(tmp_path / "notes.txt"), None, X)
    scripted(tmp_path / "model.pt2")
    with pytest.raises(ModelFileError, match="is a TorchScript archive"):
        load_model(str(tmp_path / "model.pt2"), None, X)


def test_its_own_files_and_nothing_else_pass(tmp_path: Path) -> None:
    qfx.export_onnx(qfx.quantize(MODEL, X), tmp_path / "model.onnx")
    assert formats.kind_of_file(tmp_path / "model.onnx") is None
    assert formats.kind_of_onnx(onnx.load(tmp_path / "model.onnx")) is None
    assert formats.kind_of_file(tmp_path) is None
    assert formats.kind_of_file(tmp_path / "absent") is None
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    assert formats.kind_of_file(tmp_path / "empty") is None
    assert formats.kind_of_file(tmp_path / "broken.zip") is None
    buffer = io.BytesIO()
    zipfile.ZipFile(buffer, "w").close()
    (tmp_path / "nothing.zip").write_bytes(buffer.getvalue())
    assert formats.kind_of_file(tmp_path / "nothing.zip") is None
