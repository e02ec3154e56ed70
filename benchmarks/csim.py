"""Images per second and core of both builds of C simulation, beside those of before, and how many multiply-adds a second that is."""

from __future__ import annotations

import argparse
import resource
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import qfx
from benchmarks.models import Layers, ResNet, mlp
from benchmarks.timing import machine
from qfx.hardware.design.schedule import Folding, Schedule
from qfx.hardware.project import csim
from qfx.hardware.project.execute import execute
from qfx.hardware.project.project import write_project
from qfx.ir.graph import Graph
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.ir.passes.pipeline import optimize
from qfx.operators import Conv, Linear, macs
from qfx.testing import assert_bit_exact

BEFORE: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {"MLP 16-64-32-32-5": (23_200, 37_500, 2_000_000), "ResNet-20, 3 x 32 x 32": (2.6, 4.8, 108)}
)
"""What the three builds did on this page's processor while each process went word by word, and the vendor's operators copied each number."""


@dataclass(frozen=True, slots=True)
class Speed:
    """``per_second`` images per second of processor time, ``compiling`` seconds of it in g++; ``macs`` multiply-adds an image."""

    build: str
    images: int
    per_second: float
    compiling: float
    macs: int


def speeds(model: nn.Module, x: torch.Tensor, simulated: int, folder: Path, bits: int = 8) -> list[Speed]:
    """The vendor's build at one number at a time and at PE = SIMD = 4 (where that divides) on ``simulated`` images, the emulator on all of them.

    Raises AssertionError if one differs from the interpreter in a raw integer.
    """
    graph = optimize(qfx.to_graph(qfx.quantize(model.eval(), x[: min(len(x), 64)], qfx.Recipe.uniform(bits))))
    x_raw = quantize_input(graph, x.numpy())
    single, parallel = folder / "single", folder / "parallel"
    for project, schedule in ((single, Schedule()), (parallel, folded(graph, 4))):
        write_project(graph, project, board="zcu102", schedule=schedule)
    return [
        _speed("vendor's headers, one at a time", graph, single, False, x_raw[:simulated]),
        _speed("vendor's headers, PE = SIMD = 4", graph, parallel, False, x_raw[:simulated]),
        _speed("fast emulator", graph, single, True, x_raw),
    ]


def small_cnn() -> nn.Sequential:
    """Two convolutions of 3 x 3, each with a pool, and a linear layer, for images of 28 x 28."""
    first = (nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(*first, nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 7 * 7, 10))


def folded(graph: Graph, lanes: int) -> Schedule:
    """Every convolution and linear layer folded to ``lanes`` outputs and inputs where they divide."""
    foldings = {}
    for node in graph.nodes:
        if isinstance(node.op, Conv | Linear) and getattr(node.op, "groups", 1) == 1:
            outputs, inputs = node.op.weight.shape[:2]
            foldings[node.name] = Folding(lanes if outputs % lanes == 0 else 1, lanes if inputs % lanes == 0 else 1)
    return Schedule.of(foldings)


def _speed(name: str, graph: Graph, project: Path, fast: bool, x_raw: npt.NDArray[np.int64]) -> Speed:
    began = _children()
    command, shape = (str(csim.build(project, fast=fast)),), graph.infos[graph.output].shape
    built = _children()
    execute(command, x_raw[:1], shape)  # the executable comes from the disk
    warm = _children()
    found = execute(command, x_raw, shape)
    seconds = _children() - warm
    assert_bit_exact(found, run_from_raw(graph, x_raw), names=(name, "interpreter"))
    work = sum(macs(node.op, graph.infos[node.name]) for node in graph.nodes)
    return Speed(name, len(x_raw), len(x_raw) / max(seconds, 1e-9), built - began, work)


def _children() -> float:
    """Processor time of the processes that this one has waited for: what the load of the machine disturbs least."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(arguments: Sequence[str] | None = None) -> None:
    """Both networks of the training benchmark and a small convolutional one, as tables."""
    argparse.ArgumentParser(prog="python -m benchmarks.csim", description=__doc__).parse_args(arguments)
    torch.manual_seed(0)
    console = Console(width=120)
    console.print(machine(), highlight=False)
    for title, model, x, simulated in (
        ("MLP 16-64-32-32-5", mlp(Layers()), torch.randn(65536, 16), 4096),
        ("CNN 8-16-10, 28 x 28", small_cnn(), torch.randn(4000, 1, 28, 28), 64),
        ("ResNet-20, 3 x 32 x 32", ResNet(Layers()), torch.randn(200, 3, 32, 32), 4),
    ):
        with tempfile.TemporaryDirectory() as folder:
            found = speeds(model, x, simulated, Path(folder))
        table = Table(title=f"{title}, 8 bits, one core, raw integers equal", title_justify="left")
        for heading in ("build", "images", "images/s", "before", "million MAC/s", "ratio", "compiling (s)"):
            table.add_column(heading, justify="left" if heading == "build" else "right")
        for speed, before in zip(found, BEFORE.get(title, (None,) * len(found)), strict=True):
            rate = speed.per_second * speed.macs / 1e6
            ratio = speed.per_second / found[0].per_second
            earlier = "-" if before is None else f"{before:,.1f}"
            numbers = (f"{speed.images:,}", f"{speed.per_second:,.1f}", earlier, f"{rate:,.0f}", f"{ratio:.1f}", f"{speed.compiling:.1f}")
            table.add_row(speed.build, *numbers)
        console.print(table)


if __name__ == "__main__":
    main()
