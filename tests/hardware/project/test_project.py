"""Project folders: complete or absent, reproducible, never over foreign files; and a test bench that fails when it should."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hardware_models import chain, classifier, conv, per_channel, residual

from qfx.errors import DataError, ProjectError
from qfx.hardware.board import board
from qfx.hardware.design.schedule import Schedule
from qfx.hardware.emit.emit import emit
from qfx.hardware.project import project as project_module
from qfx.hardware.project.project import MANIFEST, read_project, write_project
from qfx.ir.graph import Graph, Node


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def make(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", "csim", *arguments], cwd=project, capture_output=True, text=True, check=False)


def test_two_emissions_are_equal(tmp_path: Path) -> None:
    first = emit(residual(), Schedule(), board("zcu102"), clock_ns=5.0, top="net")
    assert first == emit(residual(), Schedule(), board("zcu102"), clock_ns=5.0, top="net")
    assert list(first) == sorted(first)
    write_project(residual(), tmp_path / "a", board="zcu102")
    write_project(residual(), tmp_path / "b", board="zcu102")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_nothing_in_a_project_names_this_machine(tmp_path: Path) -> None:
    write_project(classifier(), tmp_path / "p", board="kv260")
    for path, data in tree(tmp_path / "p").items():
        assert str(Path.home()).encode() not in data or str(Path.home()) == "/", path
        assert str(tmp_path).encode() not in data, path


def test_the_manifest(tmp_path: Path) -> None:
    written = write_project(per_channel(), tmp_path / "p", board="ultra96v2", clock_ns=3.3, top="Net", extra_files={"model.onnx": b"onnx"})
    assert written == read_project(tmp_path / "p")
    assert (written.board, written.clock_ns, written.top, written.model) == ("ultra96v2", 3.3, "Net", "per_channel")
    assert (written.input_shape, written.output_shape) == ((4, 3, 4), (48,))
    assert written.input_cast == per_channel().input.op.cast
    assert written.output_type == per_channel().infos["slopes"].type
    files = tree(tmp_path / "p")
    assert set(files) == {*written.files, MANIFEST}
    assert files["model.onnx"] == b"onnx"
    assert all(hashlib.sha256(files[path]).hexdigest() == digest for path, digest in written.files.items())


def test_file_names_never_derive_from_wild_names(tmp_path: Path) -> None:
    graph = classifier()
    wild = Graph("Class", (graph.nodes[0], Node("a:b/C.d-int", graph.nodes[1].op, ("x",))), "a:b/C.d-int")
    written = write_project(wild, tmp_path / "p", board="zcu102")
    assert written.top == "n_class"
    assert "src/weights/a_b_c_d_int_matvec.h" in written.files


@pytest.mark.usefixtures("gxx")
def test_make_csim_passes_and_a_planted_bit_fails(tmp_path: Path) -> None:
    write_project(classifier(), tmp_path / "p", board="ultra96v2")
    passed = make(
        tmp_path / "p",
        "CXXFLAGS=-std=c++11 -O1 -DNDEBUG -Wall -Wextra -Werror -Wno-unknown-pragmas -Wno-unused-label -Wno-uninitialized -Wno-maybe-uninitialized",
    )
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert "classifier: 8 samples, 0 of 80 numbers differ" in passed.stdout
    golden = tmp_path / "p" / "tb" / "golden_output.txt"
    lines = golden.read_text().splitlines()
    numbers = lines[3].split()
    was = int(numbers[7])
    numbers[7] = str(was + 1)
    golden.write_text("\n".join([*lines[:3], " ".join(numbers), *lines[4:]]) + "\n")
    failed = make(tmp_path / "p")
    assert failed.returncode != 0
    assert f"first mismatch: sample 3, index 7: expected {was + 1}, got {was}" in failed.stdout
    assert "1 of 80 numbers differ" in failed.stdout
    for text in ("", "1 2 3\n", golden.read_text() + "x\n"):  # cut short, or no numbers at all
        golden.write_text(text)
        assert make(tmp_path / "p").returncode != 0


@pytest.mark.usefixtures("gxx")
def test_the_test_bench_runs_text_files(tmp_path: Path) -> None:
    project = tmp_path / "p"
    write_project(classifier(), project, board="ultra96v2")
    assert make(project).returncode == 0
    golden = project / "tb" / "golden_input.txt"
    run = [str(project / "build" / "tb"), str(golden), str(tmp_path / "out.txt")]
    assert subprocess.run(run, check=False).returncode == 0
    assert (tmp_path / "out.txt").read_text() == (project / "tb" / "golden_output.txt").read_text()
    assert subprocess.run([*run[:1], str(tmp_path / "missing.txt"), run[2]], capture_output=True, check=False).returncode == 2
    golden.write_text("1 2 3\n")
    assert subprocess.run(run, capture_output=True, check=False).returncode == 2


def test_golden_inputs(tmp_path: Path) -> None:
    x = np.zeros((2, 3, 6, 5), dtype=np.float32)
    write_project(classifier(), tmp_path / "p", board="zcu102", golden_inputs=x)
    assert (tmp_path / "p" / "tb" / "golden_input.txt").read_text() == " ".join(["0"] * 90) + "\n" + " ".join(["0"] * 90) + "\n"
    with pytest.raises(ProjectError, match="no golden inputs"):
        write_project(classifier(), tmp_path / "q", board="zcu102", golden_inputs=x[:0])
    with pytest.raises(DataError):
        write_project(classifier(), tmp_path / "q", board="zcu102", golden_inputs=x[:, :2])
    assert sorted(os.listdir(tmp_path)) == ["p"]


def test_a_full_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(ProjectError, match=r"not empty|not a qfx project"):
            write_project(classifier(), tmp_path, board="zcu102", force=force)
    assert tree(tmp_path) == {"notes.txt": b"mine"}
    with pytest.raises(ProjectError, match="not a folder"):
        write_project(classifier(), tmp_path / "notes.txt", board="zcu102", force=True)


def test_force_replaces_a_project_and_keeps_what_is_not_ours(tmp_path: Path) -> None:
    project = tmp_path / "p"
    project.mkdir()  # an empty folder is fine
    write_project(residual(), project, board="zcu102")
    with pytest.raises(ProjectError, match="not empty"):
        write_project(classifier(), project, board="zcu102")
    (project / "src" / "notes.txt").write_text("mine")
    (project / "residual_hls").mkdir()
    (project / "residual_hls" / "report.rpt").write_text("of the vendor's tool")
    (project / "build").mkdir()
    (project / "build" / "tb").write_text("stale")
    written = write_project(classifier(), project, board="zcu102", force=True)
    files = tree(project)
    assert set(files) == {*written.files, MANIFEST, "src/notes.txt", "residual_hls/report.rpt"}
    assert files["src/notes.txt"] == b"mine"
    assert sorted(os.listdir(tmp_path)) == ["p"]


def test_a_foreign_file_in_the_way_is_refused(tmp_path: Path) -> None:
    write_project(residual(), tmp_path / "p", board="zcu102")
    (tmp_path / "p" / "src" / "classifier.cpp").write_text("mine")
    before = tree(tmp_path / "p")
    with pytest.raises(ProjectError, match=r"src/classifier.cpp is not a file that qfx wrote"):
        write_project(classifier(), tmp_path / "p", board="zcu102", force=True)
    assert tree(tmp_path / "p") == before
    assert sorted(os.listdir(tmp_path)) == ["p"]


def test_a_failure_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_project(residual(), tmp_path / "p", board="zcu102")
    before = tree(tmp_path / "p")
    rename = os.rename

    def full_disk(source: Path, target: Path) -> None:
        if Path(source).name == "fresh":
            raise OSError("no space left")
        rename(source, target)

    monkeypatch.setattr(project_module.os, "rename", full_disk)
    for name in ("p", "q"):
        with pytest.raises(ProjectError, match="no space left"):
            write_project(classifier(), tmp_path / name, board="zcu102", force=True)
    assert tree(tmp_path / "p") == before
    assert sorted(os.listdir(tmp_path)) == ["p"]


@pytest.mark.parametrize("path", ["../out", "/tmp/out", "src/residual.cpp", MANIFEST])
def test_extra_files_stay_inside_and_replace_nothing(tmp_path: Path, path: str) -> None:
    with pytest.raises(ProjectError, match="cannot be added"):
        write_project(residual(), tmp_path / "p", board="zcu102", extra_files={path: b""})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"board": "zcu1"}, "no board is called"),
        ({"board": "zcu102", "clock_ns": 0.0}, "clock period"),
        ({"board": "zcu102", "top": "int"}, "cannot name"),
    ],
)
def test_bad_options_write_nothing(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        write_project(residual(), tmp_path / "p", **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 99}', '{"format": 1, "input": 3}'])
def test_a_broken_manifest_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(ProjectError, match=MANIFEST):
        read_project(tmp_path)
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ProjectError, match=r"cannot be read|format is"):
        read_project(tmp_path)


def test_synthesized_sources_use_nothing_that_cannot_be_synthesized(tmp_path: Path) -> None:
    written = write_project(chain("net", (4, 5, 5), conv(0, 4, 4, 3, 3)), tmp_path / "p", board="zcu102")
    sources = {path: text.decode() for path, text in tree(tmp_path / "p").items() if path.startswith(("src/", "include/"))}
    for path, text in sources.items():
        code = re.sub(r"//.*", "", text)
        assert not re.search(r"\b(float|double|new|delete|malloc|virtual|std::|throw|cout|printf)\b", code), path
        loops = re.findall(r"^[ ]*(?:for|while) \(.*$", code, re.M)
        labelled = re.findall(r"^[ ]*\w+:\n[ ]*(?:for|while) \(", code, re.M)
        assert len(loops) == len(labelled), f"{path}: a loop has no label"
    script = (tmp_path / "p" / "script.tcl").read_text()
    assert "ap_types" not in script
    assert json.loads((tmp_path / "p" / MANIFEST).read_text())["part"] == board(written.board).part
