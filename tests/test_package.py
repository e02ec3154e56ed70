"""The wheel: holds everything that works at run time and nothing else, and works alone in an environment that never saw this checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import qfx
from qfx.hardware.assets import vendor_version

ROOT = Path(__file__).resolve().parent.parent

_EXPORT = """
import torch, qfx
from torch import nn

assert "site-packages" in qfx.__file__, qfx.__file__
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).eval()
qfx.export_onnx(qfx.quantize(model, torch.rand(16, 1, 4, 4)), "tiny.onnx")
"""


_NOTEBOOK = """
import importlib.util, sys
from pathlib import Path
import nbformat

spec = importlib.util.spec_from_file_location("notebooks", sys.argv[1])
notebooks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(notebooks)
notebook = nbformat.read(sys.argv[2], as_version=4)
where = "import qfx, sys; assert qfx.__file__.startswith(sys.prefix) and 'site-packages' in qfx.__file__, qfx.__file__; print(qfx.__file__)"
notebook.cells.append(nbformat.v4.new_code_cell(where))
seconds = notebooks.execute(notebook, Path.cwd())
assert seconds < notebooks.MOST_SECONDS, seconds
print(notebooks.shown(notebook.cells[-1]), f"{seconds:.0f} s")
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that must succeed, run without anything of this process's Python settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without network from a copy of the sources, so that nothing left over in the checkout gets in."""
    source = tmp_path_factory.mktemp("source")
    junk = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("qfx", "hls", "tests"):
        shutil.copytree(ROOT / folder, source / folder, ignore=junk)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source, cwd=source)
    (built,) = out.glob("*.whl")
    return built


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def test_the_wheel_holds_the_sources_and_the_library_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == {f"qfx/{name}" for name in files_of(ROOT / "qfx")} | {f"qfx/_hls/{name}" for name in files_of(ROOT / "hls")}


def test_the_version_is_the_same_in_both_places() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"] == qfx.__version__


def test_the_wheel_carries_licence_and_version(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        lines = archive.read(metadata).decode().splitlines()
        assert any(name.endswith("/licenses/LICENSE") for name in archive.namelist())
    assert f"Version: {qfx.__version__}" in lines
    assert "License-Expression: Apache-2.0" in lines


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment that has the wheel, and borrows only the dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    environment = folder / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    # A path file adds the folder alone, not the path files in it: the editable installation of this checkout stays out.
    (site / "dependencies.pth").write_text("\n".join(sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})) + "\n", encoding="utf-8")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet", wheel, cwd=folder)
    return environment


def test_the_wheel_works_alone(installed: Path, tmp_path: Path, gxx: str) -> None:
    """From an empty folder."""
    command, python, work = installed / "bin" / "qfx", installed / "bin" / "python", tmp_path

    assert run(command, "--version", cwd=work).strip() == f"qfx, version {qfx.__version__}\nvendor headers: {vendor_version()}"
    boards = run(command, "boards", cwd=work)
    assert all(path.stem in boards for path in (ROOT / "hls" / "boards").glob("*.toml"))
    run(python, "-W", "error", "-c", _EXPORT, cwd=work)
    run(command, "report", "tiny.onnx", "-o", "report.html", cwd=work)
    run(command, "new", "start", cwd=work)
    run(command, "hls", "tiny.onnx", "--board", "zcu102", "-o", "project", cwd=work)
    assert "0 of" in run("make", "-C", "project", "csim", cwd=work)


@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs_from_the_wheel(notebook: Path, request: pytest.FixtureRequest, tmp_path: Path, thorough: bool, gxx: str) -> None:
    """From an empty folder, too, within the time that a notebook may take; the checkout gives only what runs it, and the notebook itself."""
    if not thorough:
        pytest.skip("takes minutes: runs with --thorough")
    installed: Path = request.getfixturevalue("installed")
    code = (installed / "bin" / "python", "-c", _NOTEBOOK, ROOT / "tests" / "support" / "notebooks.py")
    assert str(installed) in run(*code, notebook, cwd=tmp_path)


def test_constraints_pin_every_requirement() -> None:
    """Each direct requirement has one exact version, and no line names a folder or a server."""
    lines = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if line.count("==") != 1 or "/" in line or "@" in line] == []
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    names = {requirement.split(">")[0].lower() for requirement in wanted}
    assert names - pinned == set()
