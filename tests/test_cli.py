"""The command line, used as a user would: a real model, a real project, real C simulation, and every kind of bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import qfx
from qfx.cli import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small convolutional model, exported."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 3)
    )
    qmodel = qfx.quantize(network, torch.randn(32, 1, 4, 4), qfx.Recipe.uniform(6))
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    qfx.export_onnx(qmodel, path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs as .npz and .npy side by side."""
    folder = tmp_path_factory.mktemp("data")
    x = np.random.default_rng(0).normal(size=(20, 1, 4, 4)).astype(np.float32)
    np.savez(folder / "test.npz", x=x, y=np.zeros(20, dtype=np.int64))
    np.save(folder / "x.npy", x)
    return folder / "test.npz"


@pytest.fixture(scope="module")
def project(model: Path, gxx: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("projects") / "net"
    assert qfx_command("hls", model, "--board", "ultra96v2", "-o", out).exit_code == 0
    return out


def qfx_command(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refusal(*arguments: object) -> str:
    """What the command says when it refuses: exit code 2, a complaint, a remedy, no traceback."""
    result = qfx_command(*arguments)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert "error:" in result.stderr, result.stderr
    assert "remedy:" in result.stderr, result.stderr
    assert "Traceback" not in result.output
    return result.stderr


def test_boards() -> None:
    result = qfx_command("boards")
    assert result.exit_code == 0
    for name in ("ultra96v2", "zcu102", "zcu104", "kv260", "pynq_z2"):
        assert name in result.stdout


def test_inspect_names_types_ranges_and_accumulators(model: Path) -> None:
    result = qfx_command("inspect", model)
    assert result.exit_code == 0
    for word in ("input", "0", "ap_fixed<8,", "acc", "MACs per sample", "1.output"[:1]):
        assert word in result.stdout


def test_csim_gives_the_emulators_numbers(model: Path, project: Path, data: Path, tmp_path: Path) -> None:
    x = data.with_name("x.npy")
    result = qfx_command("csim", project, "--input", x, "--output", tmp_path / "y.npy")
    assert result.exit_code == 0, result.output
    expected = qfx.run(qfx.load_graph(model), np.load(x))
    found = np.load(tmp_path / "y.npy")
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)
    assert "exists" in refusal("csim", project, "--input", x, "--output", tmp_path / "y.npy")
    assert qfx_command("csim", project, "--input", x, "--output", tmp_path / "y.npy", "--force").exit_code == 0


def test_verify_passes_and_fails(model: Path, project: Path, data: Path, tmp_path: Path) -> None:
    result = qfx_command("verify", model, project, "--data", data)
    assert result.exit_code == 0, result.output
    # One LSB of one weight, planted in the generated C++.
    broken = tmp_path / "broken"
    assert qfx_command("hls", model, "--board", "zcu102", "-o", broken).exit_code == 0
    weights = sorted((broken / "src" / "weights").glob("*.h"))[-1]
    text = weights.read_text()
    start = text.index("{", text.index("=")) + 1
    number = text[start : text.index(",", start)]
    digits = number.strip(" \n{}").rstrip("uUlL")
    weights.write_text(text[:start] + number.replace(digits, str(int(digits, 0) ^ 1), 1) + text[start + len(number) :])
    result = qfx_command("verify", model, broken, "--data", data)
    assert result.exit_code == 1, result.output
    assert "C simulation differs first at sample" in result.stderr
    assert "expected raw" in result.stderr


def test_the_command_exits_with_the_code(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "qfx.cli", "hls", str(model), "--board", "nonesuch", "-o", str(tmp_path / "p")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "ultra96v2" in done.stderr
    assert not (tmp_path / "p").exists()


def test_the_hardware_side_never_loads_torch(model: Path, tmp_path: Path) -> None:
    code = "import sys; from qfx.cli import main; main(sys.argv[1:], standalone_mode=False); assert 'torch' not in sys.modules"
    for arguments in (["inspect", str(model)], ["hls", str(model), "--board", "zcu102", "-o", str(tmp_path / "p")], ["boards"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_output_folder_that_holds_something_else(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    assert "not empty" in refusal("hls", model, "--board", "zcu102", "-o", out)
    assert "not a qfx project" in refusal("hls", model, "--board", "zcu102", "-o", out, "--force")
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_a_project_is_replaced_only_by_force(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "p"
    assert qfx_command("hls", model, "--board", "zcu102", "-o", out).exit_code == 0
    before = json.loads((out / "qfx_project.json").read_text())
    refusal("hls", model, "--board", "pynq_z2", "-o", out)
    assert json.loads((out / "qfx_project.json").read_text()) == before
    assert qfx_command("hls", model, "--board", "pynq_z2", "-o", out, "--force").exit_code == 0
    assert json.loads((out / "qfx_project.json").read_text())["board"] == "pynq_z2"


@pytest.mark.parametrize("clock_ns", [0, -5, "nan", "inf"])
def test_bad_clock(model: Path, tmp_path: Path, clock_ns: object) -> None:
    refusal("hls", model, "--board", "zcu102", "-o", tmp_path / "p", "--clock-ns", clock_ns)
    assert list(tmp_path.iterdir()) == []


def test_bad_model_files(model: Path, tmp_path: Path) -> None:
    import onnx

    corrupt, foreign, short = tmp_path / "corrupt.onnx", tmp_path / "foreign.onnx", tmp_path / "short.onnx"
    corrupt.write_bytes(b"\x00not onnx at all" * 10)
    short.write_bytes(model.read_bytes()[:-200])
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 3]) for name in "xy"]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", values[:1], values[1:])), foreign)
    for path in (corrupt, foreign, short, tmp_path / "missing.onnx", tmp_path):
        refusal("inspect", path)
        refusal("hls", path, "--board", "zcu102", "-o", tmp_path / "p")
        assert not (tmp_path / "p").exists()


def test_bad_data(model: Path, project: Path, tmp_path: Path) -> None:
    good = np.zeros((3, 1, 4, 4), dtype=np.float32)
    nan, shape, text, pickled = (tmp_path / f"{name}.npy" for name in ("nan", "shape", "text", "pickled"))
    bad = good.copy()
    bad[1, 0, 2, 3] = np.nan
    np.save(nan, bad)
    np.save(shape, np.zeros((3, 4, 4), dtype=np.float32))
    text.write_text("1 2 3")
    np.save(pickled, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    for path in (nan, shape, text, pickled, tmp_path / "missing.npy"):
        refusal("csim", project, "--input", path, "--output", tmp_path / "y.npy")
        refusal("verify", model, project, "--data", path)
        refusal("hls", model, "--board", "zcu102", "-o", tmp_path / "p", "--golden", path)
    assert not (tmp_path / "y.npy").exists()
    assert not (tmp_path / "p").exists()


def test_nothing_proves_nothing(model: Path, project: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", np.zeros((0, 1, 4, 4), dtype=np.float32))
    assert "no samples" in refusal("verify", model, project, "--data", tmp_path / "none.npy")


def test_verify_needs_a_project(model: Path, data: Path, tmp_path: Path) -> None:
    refusal("verify", model, tmp_path, "--data", data)
    refusal("verify", model, tmp_path / "missing", "--data", data)
    refusal("csim", tmp_path, "--input", data.with_name("x.npy"), "--output", tmp_path / "y.npy")


def test_verify_refuses_a_project_of_another_model(project: Path, data: Path, tmp_path: Path) -> None:
    other = qfx.quantize(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 5)), torch.randn(8, 1, 4, 4))
    qfx.export_onnx(other, tmp_path / "other.onnx")
    assert "C simulation" in refusal("verify", tmp_path / "other.onnx", project, "--data", data)
