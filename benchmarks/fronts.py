"""``python -m benchmarks.fronts``: accuracy against cost of perceptrons with learned word lengths, qfx beside HGQ2 (where it is installed).

Both train from random weights on the same data, in batches of the same size, for the same number of epochs, one after the other in one process. One
run gives a whole front: a model is kept after each epoch while its cost is driven down, in HGQ2 by a factor (``beta``) that grows along a logarithmic
ramp, which is its own advice, in qfx by a budget that falls along one. Fronts are of accuracies on the test set, found by the integer interpreter.
Cost: bit operations as HGQ2 counts them (words without their sign), and LUTs of the fully unrolled design, of both by the same estimator.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from benchmarks.task_data import DATA, Data, clothes, spoken_digits
from benchmarks.timing import machine
from qfx import Graph, Recipe, Spec
from qfx.hardware.board import board
from qfx.hardware.project.project import prepare
from qfx.hardware.unrolled.plan import plan
from qfx.nn.layers.linear import QLinear
from qfx.nn.quantizer import Quantizer
from qfx.operators import Cast
from qfx.training.budget.plot import plot_fronts

BOARD = "zcu102"


@dataclass(frozen=True)
class Task:
    """Vectors, their classes, and the perceptron: ``sizes`` from input to output. ``start``: of the epochs, when the cost begins to count."""

    name: str
    sizes: tuple[int, ...]
    data: Callable[[], Data]
    epochs: int
    batch: int
    floor: float
    """Where qfx's budget ends, and about where HGQ2's factor has brought it."""
    beta: tuple[float, float] = (1e-6, 5e-3)


@dataclass(frozen=True)
class Found:
    """A network on a front, after ``epoch`` epochs."""

    epoch: int
    operations: float
    accuracy: float
    luts: int = 0
    adders: int = 0
    latency: int = 0


def _normalized(data: Data) -> Data:
    mean, std = data.train_x.mean(0), data.train_x.std(0) + 1e-6
    return replace(data, train_x=(data.train_x - mean) / std, test_x=(data.test_x - mean) / std)


def spoken_features(bands: int = 32) -> Data:
    """Of each recording the means and the deviations over time of ``bands`` bands (neighbours averaged), normalized."""

    def of(x: Tensor) -> Tensor:
        x = x.unflatten(2, (bands, -1)).mean(3)  # type: ignore[no-untyped-call, unused-ignore]
        return torch.cat([x.mean(1), x.std(1)], 1)

    data = spoken_digits()
    return _normalized(Data(of(data.train_x), data.train_y, of(data.test_x), data.test_y))


def five_classes() -> Data:
    """16 features of spoken digits; classes are 0 and 1, 2 and 3, and so on."""
    data = spoken_features(8)
    return replace(data, train_y=data.train_y // 2, test_y=data.test_y // 2)


def small_clothes(count: int = 12_000, judged: int = 4_000) -> Data:
    """Fashion-MNIST, averaged over 2 x 2 pixels, of 0..1, flat."""

    def of(x: Tensor) -> Tensor:
        return (F.avg_pool2d(x, 2).flatten(1) + 1) / 2

    data = clothes()
    return Data(of(data.train_x[:count]), data.train_y[:count], of(data.test_x[:judged]), data.test_y[:judged])


TASKS = {
    "digits": Task("spoken digits, 64-64-32-10", (64, 64, 32, 10), spoken_features, 60, 128, 5000),
    "five": Task("5 classes, 16-64-32-32-5", (16, 64, 32, 32, 5), five_classes, 60, 128, 2500),
    "clothes": Task("Fashion-MNIST, 196-32-16-10", (196, 32, 16, 10), small_clothes, 15, 128, 3000),
}


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


# ---- qfx ----

WEIGHT = Spec(width=6, granularity="element", learn_width=True, o="AP_WRAP")  # type: ignore[arg-type]
ACTIVATION = Spec(width=7, granularity="element", learn_width=True)

RECIPE = Recipe(input=ACTIVATION, weight=WEIGHT, bias=Spec(width=8), activation=ACTIVATION, output=Spec(width=16))


@dataclass(frozen=True)
class Settings:
    """How qfx trains: rates of Adam, what the rate falls to along a cosine, the part of the epochs after which the budget begins to fall."""

    rate: float = 5e-3
    point_rate: float = 2e-2
    last: float = 0.1
    warm: float = 0.1
    top: float = math.inf
    recipe: Recipe = RECIPE


SETTINGS = (Settings(), Settings(rate=1e-2, last=0.05, top=20.0))


def operations(model: nn.Module) -> float:
    """The bit operations of a perceptron as HGQ2 counts them: words without their sign, and for each output the mean word length of the biases."""
    found, length = 0.0, torch.zeros(())
    for module in qfx_layers(model):
        if isinstance(module, Quantizer):
            length = (module.word_lengths() - float(bool(module.signed))).clamp(min=0).flatten()
        elif isinstance(module, QLinear):
            weight, bias = module.weight_cast, module.bias_cast
            assert module.bias is not None
            found += float((_magnitudes(weight, weight(module.weight).value) * length).sum())
            found += float(_magnitudes(bias, bias(module.bias).value).sum())
    return found


def _magnitudes(cast: Quantizer, values: Tensor) -> Tensor:
    """The bits of the numbers without their signs, at the binary points of the cast."""
    raw = values.detach().abs() * torch.exp2(cast.points())
    return torch.frexp(raw)[1] * (raw > 0)


def qfx_layers(model: nn.Module) -> list[nn.Module]:
    """Quantizers of activations, and layers with weights, from the input on."""
    found: list[nn.Module] = []
    for name, module in model.named_modules():
        if "weight_cast" in name or "bias_cast" in name:
            continue
        if isinstance(module, (Quantizer, QLinear)):
            found.append(module)
    return found


def graph_of(model: nn.Module) -> Graph:
    """What is built: without the cast of the output, which HGQ2's networks do not have."""
    graph = qfx.to_graph(model, "mlp")
    last = graph.nodes[-1]
    return Graph("mlp", graph.nodes[:-1], last.inputs[0]) if isinstance(last.op, Cast) else graph


def train(model: nn.Module, task: Task, data: Data, settings: Settings, seen: Callable[[int, nn.Module], None]) -> None:
    """Train for the task's epochs while the budget falls; ``seen`` gets the model after each epoch."""
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(qfx.parameter_groups(model, lr=settings.rate, binary_point_lr=settings.point_rate))
    steps = task.epochs * (len(data.train_x) // task.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: settings.last + (1 - settings.last) * (1 + math.cos(math.pi * min(step / steps, 1))) / 2
    )
    first = float(qfx.cost(model).bit_operations.detach())
    first = min(first, settings.top * task.floor)
    budget = qfx.Budget(ebops=first)
    step = 0
    for epoch in range(task.epochs):
        model.train()
        for places in torch.split(torch.randperm(len(data.train_x)), task.batch):
            if len(places) < task.batch:
                continue
            part = max(step / steps - settings.warm, 0) / (1 - settings.warm)
            budget.limit(ebops=first * (task.floor / first) ** part)
            loss = F.cross_entropy(model(data.train_x[places]), data.train_y[places]) + budget.loss(model)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
            optimizer.step()
            schedule.step()
            step += 1
        seen(epoch + 1, model.eval())


def accuracy(model: nn.Module, data: Data) -> float:
    with torch.no_grad():
        return 100 * float((model(data.test_x).argmax(1) == data.test_y).float().mean())


def qfx_front(task: Task, data: Data, settings: Settings, most: int = 9) -> list[Found]:
    """The front of one run."""
    torch.manual_seed(0)
    model = qfx.quantize(mlp(task.sizes), data.train_x[:256], settings.recipe)
    kept: dict[int, dict[str, Tensor]] = {}
    found: list[Found] = []

    def seen(epoch: int, trained: nn.Module) -> None:
        found.append(Found(epoch, operations(trained), accuracy(trained, data)))
        kept[epoch] = {name: value.clone() for name, value in trained.state_dict().items()}
        if epoch % 10 == 0:
            print(f"qfx: epoch {epoch} of {task.epochs}, {found[-1].operations:.0f} operations, {found[-1].accuracy:.1f} %", file=sys.stderr)

    train(model, task, data, settings, seen)
    result = []
    for point in thinned(front(found), most):
        model.load_state_dict(kept[point.epoch])
        result.append(built(point, graph_of(model), data))
    return result


# ---- both ----


def front(found: Sequence[Found]) -> list[Found]:
    """Those that nothing cheaper is as good as, from the cheapest on."""
    result: list[Found] = []
    for point in sorted(found, key=lambda one: (one.operations, -one.accuracy)):
        if not result or point.accuracy > result[-1].accuracy:
            result.append(point)
    return result


def thinned(points: Sequence[Found], most: int) -> list[Found]:
    """At most so many of them, evenly over the logarithm of the cost, the best among them."""
    if len(points) <= most:
        return list(points)
    logs = np.log([max(point.operations, 1) for point in points])
    wished = np.linspace(logs[0], logs[-1], most)
    return [points[place] for place in sorted({int(np.abs(logs - wish).argmin()) for wish in wished})]


def built(point: Found, graph: Graph, data: Data) -> Found:
    """The point with the accuracy of the graph by the interpreter, and what its unrolled design takes."""
    results = np.asarray(qfx.run(graph, data.test_x.numpy()))
    right = 100 * float((results.argmax(1) == data.test_y.numpy()).mean())
    whole = board(BOARD)
    made = plan(prepare(graph), whole, clock_ns=whole.clock_ns)
    return replace(point, accuracy=right, luts=made.estimate.total.lut, adders=made.adders, latency=made.latency)


def hull(runs: Sequence[Sequence[Found]]) -> list[Found]:
    """The front of several runs together."""
    return front([point for run in runs for point in run])


def best_at(points: Sequence[Found], most: float, cost: Callable[[Found], float]) -> float:
    """The best accuracy that costs no more; NaN where there is none."""
    return max((point.accuracy for point in points if cost(point) <= most), default=math.nan)


def table(name: str, points: Sequence[Found]) -> list[str]:
    """A row for each point of a front."""
    return [f"| {name} | {p.operations:,.0f} | {p.accuracy:.2f} | {p.luts:,} | {p.adders:,} | {p.latency} | {p.epoch} |" for p in points]


def compare(points: Mapping[str, Sequence[Found]]) -> list[str]:
    """At the cost of each point of HGQ2's fronts, by operations and by LUTs, qfx's accuracy less its own."""
    lines = []
    for what, cost in (("bit operations", lambda point: point.operations), ("LUTs", lambda point: float(point.luts))):
        ahead = [(cost(point), best_at(points["qfx"], cost(point), cost) - point.accuracy) for point in points["HGQ2"]]
        told = ", ".join("none as cheap" if math.isnan(gain) else f"{gain:+.2f}" for _, gain in sorted(ahead))
        lines.append(f"qfx against HGQ2 at the {what} of each of its points, the cheapest first: {told}")
    return lines


def run(name: str, task: Task, out: Path) -> dict[str, list[Found]]:
    """Train both, print and keep the table and the plots."""
    data = task.data()
    points: dict[str, list[Found]] = {}
    seconds: dict[str, float] = {}
    began = time.perf_counter()
    points["qfx"] = hull([qfx_front(task, data, settings) for settings in SETTINGS])
    seconds["qfx"] = time.perf_counter() - began
    lines = [f"{task.name}: {task.epochs} epochs of {len(data.train_x)} in batches of {task.batch}, {len(data.test_x)} judged", ""]
    if importlib.util.find_spec("hgq"):
        from benchmarks.fronts_hgq import HGQ_SETTINGS, hgq_front

        began = time.perf_counter()
        runs = [hgq_front(task, data, settings) for settings in HGQ_SETTINGS]
        points["HGQ2"] = hull([found for found, _ in runs])
        seconds["HGQ2"] = time.perf_counter() - began
        lines[0] += f"; samples in which a rebuilt graph differs from HGQ2: {sum(wrong for _, wrong in runs)}"
    lines[0] += "; " + ", ".join(f"{who} took {taken:.0f} s" for who, taken in seconds.items())
    lines += ["| | bit operations | accuracy, % | LUTs | adders | latency, cycles | epoch |", "|---|---|---|---|---|---|---|"]
    for who, found in points.items():
        lines += table(who, found)
    lines += ["", *compare(points)] if "HGQ2" in points else []
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines), flush=True)
    if importlib.util.find_spec("matplotlib"):
        for what, cost in (("bit operations", lambda point: point.operations), ("LUTs", lambda point: float(point.luts))):
            drawn = {who: [(cost(point), point.accuracy) for point in found] for who, found in points.items()}
            plot_fronts(drawn, out / f"{name}-{what.split()[-1].lower()}.png", cost=f"{task.name}: {what}", score="accuracy, %", force=True)
    return points


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fronts", description=__doc__.split("\n")[0])
    parser.add_argument("--task", action="append", choices=TASKS, help="may be repeated; default: all")
    parser.add_argument("--epochs", type=int, default=0, help="default: each task's own")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("build/fronts"), help="where plots and tables go")
    options = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"{DATA} is not there: set QFX_DATA to the folder with the real data")
    torch.set_num_threads(options.threads)
    print(machine(), flush=True)
    for name in options.task or TASKS:
        task = TASKS[name]
        run(name, replace(task, epochs=options.epochs or task.epochs), options.out)


if __name__ == "__main__":
    main()
