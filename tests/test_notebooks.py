"""Every notebook runs from a fresh kernel in an empty folder, uses public names only, and is stored without outputs."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import qfx

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
_CELL_SECONDS = 120


def execute(notebook: nbformat.NotebookNode, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")  # the qfx command beside this Python
    monkeypatch.setenv("MPLCONFIGDIR", str(folder / "matplotlib"))
    NotebookClient(notebook, timeout=_CELL_SECONDS, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gxx: str) -> None:
    notebook = nbformat.read(path, as_version=4)
    execute(notebook, tmp_path, monkeypatch)
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert [output.text for output in shown if output.output_type == "stream" and output.name == "stderr"] == []


def test_a_cell_that_raises_or_a_command_that_fails_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for source in ("assert 1 == 2", "%%bash\nqfx inspect missing.onnx"):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
        with pytest.raises(CellExecutionError):
            execute(notebook, tmp_path, monkeypatch)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_stored_clean(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    source = "\n".join(cell.source for cell in code)
    assert set(re.findall(r"\bqfx\.(\w+)", source)) <= set(qfx.__all__)
    assert not re.search(r"^\s*from qfx|^\s*import qfx\.", source, re.MULTILINE)


def test_there_is_one_for_each_use() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["1_train", "2_hls", "3_calibrate", "4_fewer_bits"]
