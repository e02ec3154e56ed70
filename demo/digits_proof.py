"""From a trained fixed-point network to files on disk, and the proof that every executor of them returns the same raw integers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import qfx
from qfx.hardware.project import csim
from qfx.hardware.project.project import MANIFEST, write_project
from qfx.verify import Comparison, Executor, RawArray, raw_of, verify

BOARDS = ("ultra96v2", "zcu102")
GOLDEN = 8
"""Images in the test bench that each project carries."""


@dataclass(frozen=True, slots=True)
class Paths:
    """Where the demo puts what belongs to one word length."""

    out: Path
    bits: int

    @property
    def model(self) -> Path:
        return self.out / f"digits_{self.bits}bit.onnx"

    def project(self, board: str) -> Path:
        return self.out / f"digits_{self.bits}bit_{board}"


def check_out(out: Path, bit_widths: tuple[int, ...]) -> None:
    """Raise ProjectError, before any work is done, if the folder holds something under a project's name that the demo did not write."""
    if out.exists() and not out.is_dir():
        raise qfx.ProjectError("is not a folder", where=str(out), remedy="give --out a folder")
    for project in (Paths(out, bits).project(board) for bits in bit_widths for board in BOARDS):
        if project.exists() and not (project / MANIFEST).is_file() and not (project.is_dir() and not any(project.iterdir())):
            raise qfx.ProjectError("exists and is not a qfx project", where=str(project), remedy="move it away, or give --out another folder")


def write(qmodel: nn.Module, paths: Paths, images: torch.Tensor) -> None:
    """Export the ONNX file and write one HLS project per board from it; what an earlier run of the demo left is replaced."""
    paths.out.mkdir(parents=True, exist_ok=True)
    qfx.export_onnx(qmodel, paths.model)
    graph = qfx.load_graph(paths.model)
    for board in BOARDS:
        write_project(
            graph,
            paths.project(board),
            board=board,
            force=True,
            golden_inputs=images[:GOLDEN].numpy(),
            extra_files={"model.onnx": paths.model.read_bytes()},
        )


def prove(qmodel: nn.Module, paths: Paths, images: torch.Tensor, on_step: Callable[[], None]) -> list[Comparison]:
    """Run PyTorch, ONNX Runtime and the C++ of each project on the images; compare each with the integer interpreter, raw by raw.

    ``on_step`` is called after every project's C simulation.
    """
    x = images.numpy()
    graph = qfx.load_graph(paths.model)
    qmodel.eval()
    with torch.no_grad():
        by_torch = raw_of(qmodel(images).numpy(), graph, "PyTorch")

    def simulate(board: str) -> RawArray:
        result: RawArray = csim.run_raw(paths.project(board), x)
        on_step()
        return result

    with ThreadPoolExecutor(len(BOARDS)) as pool:  # the work is done by g++ and the simulations, processes of their own
        by_cpp = dict(zip(BOARDS, pool.map(simulate, BOARDS), strict=True))
    cpp = {f"C++ {board}": _already(raw) for board, raw in by_cpp.items()}
    onnx, pytorch, *others = verify(paths.model, x, {"PyTorch": _already(by_torch), **cpp})
    return [pytorch, onnx, *others]


def _already(raw: RawArray) -> Executor:
    """An executor that has run on the data that it will be given."""
    return lambda _: raw
