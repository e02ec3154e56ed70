"""The time of a training step - forward, loss, backward, SGD with momentum - as a ratio to the same network in float32.

Each number of threads has processes of its own, and so has Brevitas with its JIT, which is switched on when it is imported. In every one of them a
float32 network takes turns with the others, and the ratios are to that one. On a GPU each step is waited for.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
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
LEARNED_FROM = 6
"""Bits at the start where every weight, and every channel of activations, learns its own."""
SETTLING = 8
"""The batch of the steps in which Brevitas collects statistics: they are not timed."""

Build = Callable[[Layers], nn.Module]
Step = Callable[[], Tensor]


def contestants(
    build: Build,
    x: Tensor,
    labels: Tensor,
    bits: Sequence[int] = BITS,
    *,
    jit: bool = False,
    collect: int | None = None,
    device: str = "cpu",
    fused: bool = False,
) -> dict[str, Step]:
    """A training step of each: float32 first, then the same with channels last in memory where there are pixels, qfx at each word length (every
    binary point learned; with channels last too), qfx with a learned word length for each weight and each channel of activations, and Brevitas, if it
    is installed, after the steps in which it collects statistics (``collect``: so many instead of its default). ``jit``: only float32 and Brevitas,
    which has its JIT if the environment says BREVITAS_JIT=1. All networks and data are moved to ``device``."""
    torch.manual_seed(0)
    x, labels, model = x.to(device), labels.to(device), build(Layers()).to(device)
    steps = {"float32": _step(model, [{"params": model.parameters()}], x, labels, fused)}
    if not jit:
        if x.dim() == 4:
            last = build(Layers()).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            images = x.contiguous(memory_format=torch.channels_last)
            steps["float32, channels last"] = _step(last, [{"params": last.parameters()}], images, labels, fused)
        for width in bits:
            qmodel = qfx.quantize(model, x, qfx.Recipe.uniform(width))
            steps[f"qfx, {width} bits"] = _step(qmodel, qfx.parameter_groups(qmodel, lr=LEARNING_RATE), x, labels, fused)
            if x.dim() == 4:
                qmodel = qfx.quantize(model, x, qfx.Recipe.uniform(width)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
                steps[f"qfx, {width} bits, channels last"] = _step(qmodel, qfx.parameter_groups(qmodel, lr=LEARNING_RATE), images, labels, fused)
        weight, activation = (qfx.Spec(LEARNED_FROM, granularity=each, learn_width=True) for each in ("element", "channel"))
        qmodel = qfx.quantize(model, x, qfx.Recipe(weight=weight, activation=activation))
        steps["qfx, a width per weight"] = _step(qmodel, qfx.parameter_groups(qmodel, lr=LEARNING_RATE), x, labels, fused)
    if importlib.util.find_spec("brevitas") is not None:
        from benchmarks.brevitas_layers import STEPS, BrevitasLayers, settle

        collect = STEPS if collect is None else collect
        other = build(BrevitasLayers(collect)).to(device)
        settle(other, _step(other, [{"params": other.parameters()}], x[:SETTLING], labels[:SETTLING], fused), collect)
        steps[f"Brevitas, 8 bits{', JIT' if jit else ''}"] = _step(other, [{"params": other.parameters()}], x, labels, fused)
    return steps


def _step(model: nn.Module, groups: list[dict[str, object]], x: Tensor, labels: Tensor, fused: bool = False) -> Step:
    optimizer = torch.optim.SGD(groups, lr=LEARNING_RATE, momentum=0.9, fused=fused or None)
    model.train()

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if x.is_cuda:
            torch.cuda.synchronize()
        return loss.detach()

    return step


def resnet20(
    batch: int = 128, turns: int = 9, *, jit: bool = False, collect: int | None = None, device: str = "cpu", fused: bool = False
) -> dict[str, Timing]:
    """ResNet-20 on CIFAR shapes."""
    x, labels = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))
    return alternate(contestants(ResNet, x, labels, jit=jit, collect=collect, device=device, fused=fused), turns=turns, calls=1, warm_up=3)


def small_mlp(
    batch: int = 1024,
    turns: int = 25,
    calls: int = 40,
    *,
    jit: bool = False,
    collect: int | None = None,
    device: str = "cpu",
    fused: bool = False,
) -> dict[str, Timing]:
    """The 16-64-32-32-5 network."""
    x, labels = torch.randn(batch, 16), torch.randint(5, (batch,))
    return alternate(contestants(mlp, x, labels, jit=jit, collect=collect, device=device, fused=fused), turns=turns, calls=calls)


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
    """Both networks, as tables, for each number of threads."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--threads", default="1,2", help="numbers of torch threads, separated by commas (default: 1,2)")
    parser.add_argument("--batch", type=int, default=128, help="images in a step of ResNet-20 (default: 128)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the networks train (default: cpu)")
    parser.add_argument("--fused", action="store_true", help="torch's fused optimizer for all of them")
    parser.add_argument("--quick", action="store_true", help="tiny batches and one turn: only to see that everything works")
    parser.add_argument("--process", choices=("plain", "jit"), default=None, help=argparse.SUPPRESS)  # one process, as JSON
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here")
    if options.process:
        torch.set_num_threads(int(options.threads))
        print(json.dumps(_measured(options.process == "jit", options.batch, options.quick, options.device, options.fused)))
        return
    console = Console()
    console.print(machine() if options.device == "cpu" else f"{torch.cuda.get_device_name()}; {machine()}", highlight=False)
    has_brevitas = importlib.util.find_spec("brevitas") is not None
    for threads in map(int, options.threads.split(",")):
        found: dict[str, dict[str, Timing]] = {}
        for process in ("plain", "jit") if has_brevitas else ("plain",):
            for title, timings in _in_a_process(process, threads, options).items():
                known = found.setdefault(title, {})
                known.update({name: timing for name, timing in timings.items() if name not in known})
        for title, timings in found.items():
            console.print(table(f"{title}, {threads} thread{'s' * (threads > 1)}", timings))
    console.print("Turns alternate in one process; every ratio is that of two neighbours in time.", style="dim")
    console.print(f"load at the end: {os.getloadavg()[0]:.1f}", style="dim")


def _measured(jit: bool, batch: int, quick: bool, device: str, fused: bool) -> dict[str, dict[str, tuple[tuple[float, ...], tuple[float, ...]]]]:
    batch, small = (4, 8) if quick else (batch, 1024)
    networks = {
        f"ResNet-20, batch {batch}": resnet20(batch, 1, jit=jit, collect=2, device=device, fused=fused)
        if quick
        else resnet20(batch, jit=jit, device=device, fused=fused),
        f"MLP 16-64-32-32-5, batch {small}": small_mlp(small, 1, 1, jit=jit, collect=2, device=device, fused=fused)
        if quick
        else small_mlp(small, jit=jit, device=device, fused=fused),
    }
    return {title: {name: (timing.seconds, timing.ratios) for name, timing in timings.items()} for title, timings in networks.items()}


def _in_a_process(process: str, threads: int, asked: argparse.Namespace) -> dict[str, dict[str, Timing]]:
    options = [
        "--process",
        process,
        "--threads",
        str(threads),
        "--batch",
        str(asked.batch),
        "--device",
        asked.device,
        *["--quick"] * asked.quick,
        *["--fused"] * asked.fused,
    ]
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "BREVITAS_JIT": str(int(process == "jit"))}
    done = subprocess.run([sys.executable, "-m", "benchmarks.train_step", *options], env=env, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{process} on {threads} threads failed:\n{done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    return {title: {name: Timing(tuple(a), tuple(b)) for name, (a, b) in timings.items()} for title, timings in found.items()}


if __name__ == "__main__":
    main()
