"""Images per second of every executor of one exported network: the emulator, ONNX Runtime, the integer interpreter and the C simulation."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import qfx
from benchmarks.models import Layers, ResNet, mlp
from benchmarks.timing import machine
from qfx.hardware.project import csim
from qfx.hardware.project.project import write_project
from qfx.testing import assert_bit_exact
from qfx.verify import onnx_runtime, raw_of

Raws = npt.NDArray[np.int64]
Execute = Callable[[npt.NDArray[np.float32]], Raws]


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast one executor is. ``set_up``: seconds until it can take its first image (compiling, for the C simulation)."""

    executor: str
    images: int
    per_second: float
    set_up: float


def rates(model: nn.Module, x: torch.Tensor, simulated: int, folder: Path, bits: int = 8) -> list[Rate]:
    """Rates over the images ``x``; the C simulation gets the first ``simulated``. Raises AssertionError if two executors differ in a raw integer."""
    qmodel = qfx.quantize(model.eval(), x[: min(len(x), 64)], qfx.Recipe.uniform(bits))
    path = folder / "model.onnx"
    qfx.export_onnx(qmodel, path)
    graph = qfx.load_graph(path)

    def emulate(batch: npt.NDArray[np.float32]) -> Raws:
        with torch.no_grad():
            return raw_of(qmodel(torch.from_numpy(batch)).numpy(), graph, "PyTorch")

    def interpret(batch: npt.NDArray[np.float32]) -> Raws:
        return raw_of(qfx.run(graph, batch), graph, "interpreter")

    def simulator() -> Execute:
        write_project(graph, folder / "project", board="ultra96v2")
        csim.build(folder / "project")
        return lambda batch: csim.run_raw(folder / "project", batch)

    def runtime() -> Execute:
        execute = onnx_runtime(path, graph)
        return lambda batch: np.asarray(execute(batch))

    images = x.numpy()
    found = [
        _rate("PyTorch emulator", lambda: emulate, images),
        _rate("ONNX Runtime", runtime, images),
        _rate("integer interpreter", lambda: interpret, images),
        _rate("C simulation", simulator, images[:simulated]),
    ]
    reference, expected = found[0]
    for rate, raws in found[1:]:
        assert_bit_exact(raws, expected[: len(raws)], names=(rate.executor, reference.executor))
    return [rate for rate, _ in found]


def _rate(name: str, make: Callable[[], Execute], images: npt.NDArray[np.float32]) -> tuple[Rate, Raws]:
    began = time.perf_counter()
    execute = make()
    set_up = time.perf_counter() - began
    execute(images[:1])
    began = time.perf_counter()
    raws = execute(images)
    return Rate(name, len(images), len(images) / (time.perf_counter() - began), set_up), raws


def main(arguments: Sequence[str] | None = None) -> None:
    """Both networks of the training benchmark, as tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.executors", description=__doc__)
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default: 2)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    console = Console()
    console.print(machine(), highlight=False)
    for title, model, x, simulated in (
        ("MLP 16-64-32-32-5", mlp(Layers()), torch.randn(16384, 16), 4096),
        ("ResNet-20, 3 x 32 x 32", ResNet(Layers()), torch.randn(128, 3, 32, 32), 2),
    ):
        with tempfile.TemporaryDirectory() as folder:
            found = rates(model, x, simulated, Path(folder))
        table = Table(title=f"{title}, 8 bits, raw integers equal", title_justify="left")
        for heading in ("executor", "images", "images/s", "set-up (s)"):
            table.add_column(heading, justify="left" if heading == "executor" else "right")
        for rate in found:
            table.add_row(rate.executor, f"{rate.images:,}", f"{rate.per_second:,.1f}", f"{rate.set_up:.1f}")
        console.print(table)


if __name__ == "__main__":
    main()
