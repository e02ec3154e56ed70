"""The notebooks: run in an empty folder, and stored with what they show.

``python -m support.notebooks [NAME...]`` (``make notebooks``) runs and stores them. What is stored tells of no machine: no paths, no times, pictures
of few colours; what is real (``REAL``) is stored with real data alone. Cells that train print other last digits on other processors, so that a
comparison masks numbers (``words_of``); a cell with the tag ``exact`` is compared as it stands, one with ``varies`` not at all.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).resolve().parent.parent.parent / "notebooks"
CELL_SECONDS = 540
"""When a cell is given up, on a machine that others use too."""
REAL = {"2_ptq": ("models/resnet20-12fca82f.th", "cifar10/test_x.npy.xz", "cifar10/test_y.npy", "cifar10/train_x_0.npy.xz")}
"""The files of QFX_DATA that a notebook shows; without them it shows something else."""
DATA = Path(os.environ.get("QFX_DATA") or FOLDER.parent.parent / "shared" / "data")
MOST_SECONDS = 200
"""Of a processor, for a whole notebook with the programs that it starts: three minutes on two cores, of which it has one most of the time."""
MOST_PICTURE = 40_000
"""The bytes that a stored picture has at most."""

_COLOURS = 48
_STYLE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
_MACHINE = re.compile(r"(?:/tmp|/home|/root|/usr|/work|/var)/|0x[0-9a-f]{8,}|\b\d+(?:\.\d+)? ?(?:s|ms|seconds)\b")


def paths() -> list[Path]:
    """The notebooks, in order."""
    return sorted(FOLDER.glob("*.ipynb"))


def missing(path: Path) -> str:
    """Which real files a notebook lacks here; empty: none."""
    lacks = [name for name in REAL.get(path.stem, ()) if not (DATA / name).is_file()]
    return f"{DATA} has no {', '.join(lacks)}: set QFX_DATA" if lacks else ""


def execute(notebook: nbformat.NotebookNode, folder: Path, data: Path = DATA) -> float:
    """Runs all cells from a fresh kernel in ``folder``, with ``data`` as QFX_DATA; an error of a cell is raised. The ``qfx`` command is the one
    beside this Python. Returns the seconds of a processor that the kernel took, and what it started and waited for."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {"PATH": path, "MPLCONFIGDIR": str(folder / "matplotlib"), "COLUMNS": "110", "OMP_NUM_THREADS": "1", "QFX_DATA": str(data)}
    client = NotebookClient(notebook, timeout=CELL_SECONDS, kernel_name="python3", record_timing=False, resources={"metadata": {"path": str(folder)}})
    before = _of_children()
    client.execute(env={**os.environ, **own})
    seconds = _of_children() - before
    for cell in code(notebook):
        cell.outputs = [_plain(output) for output in _joined(cell.outputs)]
    return seconds


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The cells that run."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def digest(notebook: nbformat.NotebookNode) -> str:
    """Of the sources of the cells that run: outputs are those of other sources if it differs from the one that is stored."""
    return hashlib.sha256("\0".join(cell.source for cell in code(notebook)).encode()).hexdigest()[:16]


def shown(cell: nbformat.NotebookNode) -> str:
    """The text that a cell's outputs have, tables as their plain form."""
    return "".join(output.get("text", output.get("data", {}).get("text/plain", "")) for output in cell.outputs)


def pictures(cell: nbformat.NotebookNode) -> list[bytes]:
    """The PNG files of its outputs."""
    return [base64.b64decode(output.data["image/png"]) for output in cell.outputs if "image/png" in output.get("data", {})]


def words_of(text: str) -> str:
    """Text without its numbers, blanks and rules of tables."""
    return " ".join(_NUMBER.sub("#", re.sub(r"[─━│┃┏┓┗┛┡┩└┘├┤┬┴┼╇╈━]+|\|", " ", text)).split())


def differences(stored: nbformat.NotebookNode, found: nbformat.NotebookNode) -> Iterator[str]:
    """What the stored outputs say otherwise than those of a run."""
    for number, (old, new) in enumerate(zip(code(stored), code(found), strict=True), 1):
        tags = old.metadata.get("tags", [])
        if len(pictures(old)) != len(pictures(new)):
            yield f"cell {number}: {len(pictures(old))} pictures stored, {len(pictures(new))} made"
        if "varies" in tags:
            continue
        was, is_ = (text if "exact" in tags else words_of(text) for text in (shown(old), shown(new)))
        if was != is_:
            yield f"cell {number}: stored\n{was}\nand found\n{is_}"


def machine_words(notebook: nbformat.NotebookNode) -> list[str]:
    """What the outputs tell of the machine that they were made on."""
    return [match.group(0) for cell in code(notebook) for match in _MACHINE.finditer(shown(cell))]


def store(path: Path) -> None:
    """Runs a notebook and writes it with its outputs."""
    if lacks := missing(path):
        raise SystemExit(f"{path.name}: {lacks}")
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        execute(notebook, Path(folder))
    told = machine_words(notebook)
    if told:
        raise SystemExit(f"{path.name}: outputs tell of this machine: {', '.join(told)}")
    for number, cell in enumerate(code(notebook), 1):
        cell.execution_count = number
        cell.metadata.pop("execution", None)
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "qfx": digest(notebook),
        }
    )
    nbformat.write(notebook, path)


def _joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Streams that came in pieces as one."""
    result: list[nbformat.NotebookNode] = []
    for output in outputs:
        last = result[-1] if result else None
        if output.output_type == "stream" and last is not None and last.output_type == "stream" and last.name == output.name:
            last.text += output.text
        else:
            result.append(output)
    return result


def _plain(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without counts, bold letters and names of figures; pictures with few colours."""
    data = output.get("data", {})
    if output.output_type == "stream":
        output.text = "".join(f"{line.rstrip()}\n" for line in _STYLE.sub("", output.text).splitlines())
    if "image/png" in data:
        picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
        file = io.BytesIO()
        picture.save(file, "PNG", optimize=True)
        output.data = {"image/png": base64.b64encode(file.getvalue()).decode()}
        output.metadata = {}
    if output.output_type == "execute_result":
        output = nbformat.v4.new_output("display_data", data=output.data, metadata=output.metadata)
    return output


def main() -> None:
    names = sys.argv[1:]
    for path in paths():
        if not names or path.stem in names or path.stem[0] in names:
            print(path.stem, flush=True)
            store(path)


if __name__ == "__main__":
    main()
