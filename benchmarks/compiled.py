"""``python -m benchmarks.compiled``: a training step under torch.compile, beside float32 and qfx without it: ratios, and seconds to compile."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
from rich.console import Console
from torch import Tensor, nn

import qfx
from benchmarks.models import Layers, ResNet, mlp
from benchmarks.timing import alternate, machine
from benchmarks.train_step import LEARNING_RATE, Build, Step, _step, table


def contestants(build: Build, x: Tensor, labels: Tensor) -> tuple[dict[str, Step], dict[str, float]]:
    """The steps, float32 first, and the seconds that the first compiled step of each took beyond a second one."""
    torch.manual_seed(0)
    model = build(Layers())
    steps, seconds = {"float32": _step(model, [{"params": model.parameters()}], x, labels)}, {}
    steps["qfx, 8 bits"] = _of(qfx.quantize(model, x, qfx.Recipe.uniform(8)), None, x, labels)
    other = build(Layers())
    compiled = {
        "float32, compiled": _step(torch.compile(other), [{"params": other.parameters()}], x, labels),  # type: ignore[arg-type]
        "qfx, 8 bits, compiled": _of(qfx.quantize(model, x, qfx.Recipe.uniform(8)), "inductor", x, labels),
    }
    for name, step in compiled.items():
        times = []
        for _ in range(2):
            began = time.perf_counter()
            step()
            times.append(time.perf_counter() - began)
        seconds[name] = times[0] - times[1]
    return steps | compiled, seconds


def _of(qmodel: nn.Module, backend: str | None, x: Tensor, labels: Tensor) -> Step:
    call: nn.Module = qmodel if backend is None else torch.compile(qmodel, backend=backend, fullgraph=True)  # type: ignore[assignment]
    return _step(call, qfx.parameter_groups(qmodel, lr=LEARNING_RATE), x, labels)


def main(arguments: Sequence[str] | None = None) -> None:
    """Both networks, as tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compiled", description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    parser.add_argument("--batch", type=int, default=128, help="images in a step of ResNet-20 (default: 128)")
    parser.add_argument("--turns", type=int, default=9, help="turns of the contestants (default: 9)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    console = Console()
    console.print(machine(), highlight=False)
    networks: tuple[tuple[str, Build, Tensor, int, int], ...] = (
        ("MLP 16-64-32-32-5", mlp, torch.randn(1024, 16), 5, 40),
        ("ResNet-20", ResNet, torch.randn(options.batch, 3, 32, 32), 10, 1),
    )
    for name, build, x, classes, calls in networks:
        steps, seconds = contestants(build, x, torch.randint(classes, (len(x),)))
        console.print(table(f"{name}, batch {len(x)}, {options.threads} threads", alternate(steps, turns=options.turns, calls=calls)))
        console.print("compiled in " + ", ".join(f"{taken:.1f} s ({which})" for which, taken in seconds.items()), highlight=False)


if __name__ == "__main__":
    main()
