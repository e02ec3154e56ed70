"""The notebooks: stored with what they show, which is what they show when they run from a fresh kernel in an empty folder; public names alone."""

from __future__ import annotations

import copy
import io
import re
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from PIL import Image
from support import notebooks

import qfx
from website.api import MODULES

NOTEBOOKS = notebooks.paths()


def stored(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def test_there_is_one_for_each_story() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["1_train", "2_ptq", "3_hardware", "4_fewer_bits", "5_mismatch", "6_coming_from"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_shows_what_is_stored(path: Path, tmp_path: Path, gxx: str) -> None:
    if lacks := notebooks.missing(path):
        pytest.skip(lacks)
    old = stored(path)
    new = copy.deepcopy(old)
    seconds = notebooks.execute(new, tmp_path)
    assert seconds < notebooks.MOST_SECONDS
    assert list(notebooks.differences(old, new)) == [], f"make notebooks, and look at {path.name}"
    errors = [output.text for cell in notebooks.code(new) for output in cell.outputs if output.output_type == "stream" and output.name == "stderr"]
    assert errors == []


@pytest.mark.parametrize("name", notebooks.REAL)
def test_a_notebook_of_real_data_runs_without_it(name: str, tmp_path: Path, thorough: bool, gxx: str) -> None:
    """On what its reader has; it says so first, and has as many tables and plots."""
    if not thorough:
        pytest.skip("takes minutes: runs with --thorough")
    old = stored(notebooks.FOLDER / f"{name}.ipynb")
    new = copy.deepcopy(old)
    assert notebooks.execute(new, tmp_path, tmp_path / "nowhere") < notebooks.MOST_SECONDS
    found = [notebooks.shown(cell) for cell in notebooks.code(new)]
    assert "the numbers are not those of the text" in found[1]
    rows = [(words.count("%"), words.count("dB"), len(notebooks.pictures(cell))) for words, cell in zip(found, notebooks.code(new), strict=True)]
    wanted = [(notebooks.shown(cell).count("%"), notebooks.shown(cell).count("dB"), len(notebooks.pictures(cell))) for cell in notebooks.code(old)]
    assert rows == wanted


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_stored_with_its_outputs(path: Path) -> None:
    notebook = stored(path)
    nbformat.validate(notebook)
    assert notebook.metadata["qfx"] == notebooks.digest(notebook), f"the outputs are of other sources: make notebooks, and look at {path.name}"
    code = notebooks.code(notebook)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    pictures = [picture for cell in code for picture in notebooks.pictures(cell)]
    assert pictures
    for picture in pictures:
        assert len(picture) <= notebooks.MOST_PICTURE
        assert Image.open(io.BytesIO(picture)).width <= 1100
    assert notebooks.machine_words(notebook) == []
    assert sum(bool(notebooks.shown(cell).strip()) for cell in code) >= 4
    assert path.stat().st_size < 300_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_uses_public_names(path: Path) -> None:
    source = "\n".join(cell.source for cell in notebooks.code(stored(path)))
    assert set(re.findall(r"\bqfx\.(\w+)", re.sub(r"from qfx\.\w+", "", source))) <= set(qfx.__all__)
    assert {f"qfx.{name}" for name in re.findall(r"from qfx\.(\w+) import", source)} <= set(MODULES)
    assert not re.search(r"^\s*import qfx\.", source, re.MULTILINE)


def test_a_cell_that_raises_or_a_command_that_fails_is_noticed(tmp_path: Path) -> None:
    for source in ("assert 1 == 2", "%%bash --err progress\nqfx inspect missing.onnx"):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
        with pytest.raises(CellExecutionError):
            notebooks.execute(notebook, tmp_path)


def test_what_a_notebook_and_its_programs_take_is_counted(tmp_path: Path) -> None:
    burn = "import time\nwhile time.process_time() < {}: pass"
    program = burn.format(1.5).replace("\n", "\\n")
    source = f"""{burn.format(1.5)}
import resource, subprocess, sys
subprocess.run([sys.executable, "-c", "{program}"], check=True)
print(sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    seconds = notebooks.execute(notebook, tmp_path)
    told = float(notebooks.shown(notebook.cells[0]))
    assert told > 2.9
    assert told <= seconds < told + 5


def made(text: str, *tags: str) -> nbformat.NotebookNode:
    cell = nbformat.v4.new_code_cell("print()", outputs=[nbformat.v4.new_output("stream", name="stdout", text=text)], metadata={"tags": list(tags)})
    return nbformat.v4.new_notebook(cells=[cell])


def test_outputs_that_are_not_those_of_a_run_are_noticed() -> None:
    assert list(notebooks.differences(made("98.2 % right\n"), made("97.6 %  right\n"))) == []
    assert len(list(notebooks.differences(made("98.2 % right\n"), made("98.2 % wrong\n")))) == 1
    assert len(list(notebooks.differences(made("0 of 450 differ\n", "exact"), made("1 of 450 differ\n", "exact")))) == 1
    assert list(notebooks.differences(made("3 layers\n", "varies"), made("other words\n", "varies"))) == []
    pictured = made("98.2 % right\n")
    pictured.cells[0].outputs.append(nbformat.v4.new_output("display_data", data={"image/png": ""}))
    assert len(list(notebooks.differences(pictured, made("98.2 % right\n")))) == 1
    other = made("x")
    other.cells[0].source = "print(1)"
    assert notebooks.digest(made("x")) != notebooks.digest(other)
    assert notebooks.machine_words(made("wrote /tmp/x/model.onnx in 2.5 s\n")) == ["/tmp/", "2.5 s"]
