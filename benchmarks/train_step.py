"""The time of a training step - forward, loss, backward, SGD with momentum - as a ratio to the same network in float32."""

from __future__ import annotations

import argparse
import gc
import importlib.util
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import qfx
from benchmarks.models import Layers, ResNet, mlp
from benchmarks.timing import Timing, alternate, machine

LEARNING_RATE = 1e-3
BITS = (8, 4)
Build = Callable[[Layers], nn.Module]


def contestants(build: Build, x: Tensor, labels: Tensor, bits: Sequence[int] = BITS) -> dict[str, Callable[[], Tensor]]:
    """A training step of each: float32 first, then qfx at each word length (every binary point learned), then Brevitas if it is installed."""
    torch.manual_seed(0)
    model = build(Layers())
    steps = {"float32": _step(model, [{"params": model.parameters()}], x, labels)}
    for width in bits:
        qmodel = qfx.quantize(model, x, qfx.Recipe.uniform(width))
        steps[f"qfx, {width} bits"] = _step(qmodel, qfx.parameter_groups(qmodel, lr=LEARNING_RATE), x, labels)
    if importlib.util.find_spec("brevitas") is not None:
        from benchmarks.brevitas_layers import BrevitasLayers

        other = build(BrevitasLayers())
        steps["Brevitas, 8 bits"] = _step(other, [{"params": other.parameters()}], x, labels)
    return steps


def _step(model: nn.Module, groups: list[dict[str, object]], x: Tensor, labels: Tensor) -> Callable[[], Tensor]:
    optimizer = torch.optim.SGD(groups, lr=LEARNING_RATE, momentum=0.9)
    model.train()

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    return step


def resnet20(batch: int = 128, turns: int = 9) -> dict[str, Timing]:
    """ResNet-20 on CIFAR shapes."""
    x, labels = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))
    return alternate(contestants(ResNet, x, labels), turns=turns, calls=1)


def small_mlp(batch: int = 1024, turns: int = 25, calls: int = 40) -> dict[str, Timing]:
    """The 16-64-32-32-5 network."""
    x, labels = torch.randn(batch, 16), torch.randint(5, (batch,))
    return alternate(contestants(mlp, x, labels), turns=turns, calls=calls)


def table(title: str, timings: dict[str, Timing]) -> Table:
    """Median time, and median and range of the ratios to float32."""
    result = Table(title=title, title_justify="left")
    for heading in ("training step", "median (ms)", "ratio to float32", "least..greatest"):
        result.add_column(heading, justify="left" if heading == "training step" else "right")
    for name, timing in timings.items():
        spread = f"{min(timing.ratios):.2f}..{max(timing.ratios):.2f}"
        result.add_row(name, f"{timing.median_ms:.2f}", f"{timing.median_ratio:.2f}", spread)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Both networks, as tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default: 2)")
    parser.add_argument("--quick", action="store_true", help="tiny batches and one turn: only to see that everything works")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    console = Console()
    console.print(machine(), highlight=False)
    quick = options.quick
    batch = 4 if quick else 128
    console.print(table(f"ResNet-20, batch {batch}", resnet20(batch, 1) if quick else resnet20(batch)))
    gc.collect()
    batch = 8 if quick else 1024
    console.print(table(f"MLP 16-64-32-32-5, batch {batch}", small_mlp(batch, 1, 1) if quick else small_mlp(batch)))
    console.print("Turns alternate in one process; every ratio is that of two neighbours in time.", style="dim")


if __name__ == "__main__":
    main()
