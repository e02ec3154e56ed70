"""``make test-wheel``: the wheel installed into a fresh environment of every supported Python at hand, and tried there.

Interpreters are ``python3.X`` on PATH, pyenv's, and what ``uv python find`` knows; those that are missing are named. In each environment the wheel is
installed by pip, all of qfx is compiled, and the parts without torch do work: a stored model is inspected, run, estimated, written as a project. With
``--full`` torch is installed too, and a model is quantized, exported and compared.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

VERSIONS = ("3.11", "3.12", "3.13", "3.14")
MODEL = Path(__file__).resolve().parent.parent / "ir" / "version1" / "r1.onnx"
_SECONDS = 1800

WITHOUT_TORCH = """
import sys
import numpy as np
import qfx
graph = qfx.load_graph(sys.argv[1])
x = np.random.default_rng(0).random((2, *graph.infos[graph.input.name].shape))
assert qfx.run(graph, x).shape == (2, *graph.infos[graph.output].shape)
assert "torch" not in sys.modules
print(qfx.__version__)
"""
WITH_TORCH = """
import numpy as np
import torch
import qfx
torch.manual_seed(0)
model, x = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4)).eval(), torch.rand(32, 16)
qmodel = qfx.quantize(model, x, qfx.Recipe.uniform(4)).eval()
qfx.export_onnx(qmodel, "m.onnx")
assert (qfx.run(qfx.load_graph("m.onnx"), x.numpy()) == qmodel(x).detach().numpy()).all()
"""


def interpreter(version: str) -> Path | None:
    """A Python of that version, or None."""
    candidates = [
        shutil.which(f"python{version}"),
        *map(str, sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"), reverse=True)),
    ]
    if shutil.which("uv"):
        candidates += subprocess.run(["uv", "python", "find", version], capture_output=True, text=True, check=False).stdout.split()
    for candidate in filter(None, candidates):
        asked = [candidate, "-c", "import sys, ensurepip; print('%d.%d' % sys.version_info[:2])"]
        if subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() == version:
            return Path(candidate)
    return None


def requirements(wheel: Path) -> tuple[str, list[str]]:
    """What the wheel asks of Python, and what it needs without extras."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    return metadata["Requires-Python"], [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]


def steps(python: Path, wheel: Path, folder: Path, full: bool) -> Iterator[tuple[str, list[str]]]:
    """What is done in an environment, by name."""
    own, qfx = folder / "venv" / "bin" / "python", folder / "venv" / "bin" / "qfx"
    pip = [str(own), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    needed = [line for line in requirements(wheel)[1] if not line.startswith("torch")]
    yield "environment", [str(python), "-m", "venv", str(folder / "venv")]
    yield "install", [*pip, str(wheel)] if full else [*pip, "--no-deps", str(wheel)]
    yield "dependencies", [*pip, *needed]
    yield (
        "compile",
        [str(own), "-W", "error", "-m", "compileall", "-q", "-f", str(folder / "venv" / "lib" / f"python{_version(own)}" / "site-packages" / "qfx")],
    )
    yield "without torch", [str(own), "-W", "error::DeprecationWarning:qfx", "-c", WITHOUT_TORCH, str(MODEL)]
    for command in (
        ["boards"],
        ["inspect", str(MODEL)],
        ["estimate", str(MODEL), "--board", "ultra96v2"],
        ["hls", str(MODEL), "--board", "zcu102", "-o", "project"],
    ):
        yield f"qfx {command[0]}", [str(qfx), *command]
    if full:
        yield "with torch", [str(own), "-c", WITH_TORCH]


def _version(python: Path) -> str:
    asked = [str(python), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() if python.exists() else ""


def tried(python: Path, wheel: Path, full: bool) -> str:
    """Empty, or which step failed and what it said."""
    with tempfile.TemporaryDirectory() as place:
        for name, command in steps(python, wheel, Path(place), full):
            done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=_SECONDS)
            if done.returncode:
                return f"{name}: {(done.stderr or done.stdout).strip()[-600:]}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--full", action="store_true", help="install torch too, and train")
    parser.add_argument("--only", choices=VERSIONS, action="append", help="these versions alone")
    arguments = parser.parse_args()
    wheel = arguments.wheel.resolve()
    print(f"{wheel.name}: Python {requirements(wheel)[0]}{'' if arguments.full else ', without torch (--full installs it)'}")
    failed = 0
    for version in arguments.only or VERSIONS:
        python = interpreter(version)
        told = "skipped: no such interpreter on PATH, of pyenv or of uv" if python is None else tried(python, wheel, arguments.full)
        failed += python is not None and bool(told)
        print(f"Python {version}: {told or 'ok'}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
