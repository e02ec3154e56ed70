"""The demo's path, shortened: its files appear, its comparisons are real, and it leaves alone what is not its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import qfx

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

DEMO = Path(__file__).parent.parent / "demo"
PLOTS = ("training.png", "binary_points.png", "binary_points_learned.png", "accuracy.png")
BOARDS = ("ultra96v2", "zcu102")


def run_demo(out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(DEMO / "digits.py"), "--quick", "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, gxx: str) -> tuple[Path, subprocess.CompletedProcess[str]]:
    out = tmp_path_factory.mktemp("demo") / "out"
    return out, run_demo(out)


def test_all_executors_agree(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, done = finished
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no bit differs" in done.stdout
    (row,) = json.loads((out / "results.json").read_text(encoding="utf-8"))["fixed"]
    assert row["differing_bits"] == {"PyTorch": 0, "ONNX Runtime": 0, "C++ ultra96v2": 0, "C++ zcu102": 0}


def test_leaves_models_projects_and_plots(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, _ = finished
    for plot in PLOTS:
        assert (out / plot).read_bytes().startswith(b"\x89PNG")
    graph = qfx.load_graph(out / "digits_4bit.onnx")
    test = np.load(out / "test.npz")
    assert qfx.run(graph, test["x"]).shape == (40, 10)
    for board in BOARDS:
        assert (out / f"digits_4bit_{board}" / "qfx_project.json").is_file()


def test_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "digits_4bit_zcu102" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("mine", encoding="utf-8")
    done = run_demo(tmp_path)
    assert done.returncode == 2
    assert "is not a qfx project" in done.stdout.replace("\n", " ")
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()] == [mine.relative_to(tmp_path)]


def test_a_second_run_replaces_the_first_and_counts_a_wrong_bit(finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    """It gives the same model, and exits with 1 when one executor's output is one LSB off in one place, and says where."""
    first, _ = finished
    out = tmp_path / "out"
    shutil.copytree(first, out)
    before = (out / "digits_4bit.onnx").read_bytes()
    note = out / "digits_4bit_zcu102" / "mine.txt"
    note.write_text("kept", encoding="utf-8")
    planted = """
import sys
sys.path.insert(0, sys.argv[1])
import digits, digits_proof
right = digits_proof.csim.run_raw
def off_by_one(project, x):
    raw = right(project, x)
    if project.name.endswith("zcu102"):
        raw[7, 3] ^= 1
    return raw
digits_proof.csim.run_raw = off_by_one
sys.exit(digits.main(["--quick", "--out", sys.argv[2]]))
"""
    done = subprocess.run([sys.executable, "-c", planted, str(DEMO), str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "C++ zcu102: differs first at sample 7, output [3]" in done.stdout
    (row,) = json.loads((out / "results.json").read_text(encoding="utf-8"))["fixed"]
    assert row["differing_bits"] == {"PyTorch": 0, "ONNX Runtime": 0, "C++ ultra96v2": 0, "C++ zcu102": 1}
    assert (out / "digits_4bit.onnx").read_bytes() == before
    assert note.read_text(encoding="utf-8") == "kept"
