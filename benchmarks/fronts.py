"""``python -m benchmarks.fronts``: accuracy against cost of perceptrons with learned word lengths, qfx beside HGQ2 (where it is installed).

Both train from random weights on the same data, in batches of the same size, for the same number of epochs, in six runs at most, in one process. One
run gives a part of a front: a model is kept after each epoch while its cost is driven down, in HGQ2 by a factor (``beta``) that grows along a
logarithmic ramp, which is its own advice, in qfx by a budget that falls along one. qfx's runs each go fast to a part of the costs, and then slowly
through it; of HGQ2's runs half do so, too. Points are chosen by samples taken out of the training data, and judged by the test set, with the integer
interpreter. Cost: bit operations as HGQ2 counts them (words without their sign), and LUTs of the fully unrolled design, of both by one estimator.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
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
    """Vectors, their classes, and the perceptron: ``sizes`` from input to output."""

    name: str
    sizes: tuple[int, ...]
    data: Callable[[], Judged]
    epochs: int
    batch: int
    levels: tuple[tuple[float, float, float], ...]
    """Of each of qfx's runs: after which part of the epochs the budget has come to so many bit operations (signs counted), and where it ends."""
    seeds: int = 1
    """Of each of qfx's runs."""
    beta: tuple[float, float] = (1e-6, 5e-3)
    """Where HGQ2's factor begins, and where it ends at most."""


@dataclass(frozen=True, eq=False)
class Judged(Data):
    """Data with a part taken out of that for training, by which points of a front are chosen."""

    chosen_x: Tensor
    chosen_y: Tensor


@dataclass(frozen=True)
class Found:
    """A network after ``epoch`` epochs. ``chosen``: its accuracy on what points are chosen by; ``accuracy``: on what they are judged by."""

    epoch: int
    operations: float
    chosen: float
    accuracy: float
    luts: int = 0
    adders: int = 0
    latency: int = 0


def judged(data: Data, chosen: int) -> Judged:
    """So many samples of the training data, drawn once, to choose points by."""
    order = torch.randperm(len(data.train_x), generator=torch.Generator().manual_seed(0))
    kept, taken = order[chosen:].sort().values, order[:chosen]
    return Judged(data.train_x[kept], data.train_y[kept], data.test_x, data.test_y, data.train_x[taken], data.train_y[taken])


def _normalized(data: Judged) -> Judged:
    mean, std = data.train_x.mean(0), data.train_x.std(0) + 1e-6
    return replace(data, **{name: (getattr(data, name) - mean) / std for name in ("train_x", "test_x", "chosen_x")})


def spoken_features(bands: int = 32, chosen: int = 300) -> Judged:
    """Of each recording the means and the deviations over time of ``bands`` bands (neighbours averaged), normalized."""

    def of(x: Tensor) -> Tensor:
        x = x.unflatten(2, (bands, -1)).mean(3)  # type: ignore[no-untyped-call, unused-ignore]
        return torch.cat([x.mean(1), x.std(1)], 1)

    data = spoken_digits()
    return _normalized(judged(replace(data, train_x=of(data.train_x), test_x=of(data.test_x)), chosen))


def five_classes(chosen: int = 300) -> Judged:
    """16 features of spoken digits; classes are 0 and 1, 2 and 3, and so on."""
    data = spoken_features(8, chosen)
    return replace(data, **{name: getattr(data, name) // 2 for name in ("train_y", "test_y", "chosen_y")})


def small_clothes(count: int = 40_000, chosen: int = 10_000) -> Judged:
    """Fashion-MNIST, averaged over 2 x 2 pixels, of 0..1, flat."""

    def of(x: Tensor) -> Tensor:
        return (F.avg_pool2d(x, 2).flatten(1) + 1) / 2

    data = clothes()
    count += chosen
    return judged(replace(data, train_x=of(data.train_x[:count]), train_y=data.train_y[:count], test_x=of(data.test_x)), chosen)


TASKS = {
    "digits": Task(
        "spoken digits, 64-64-32-10", (64, 64, 32, 10), spoken_features, 60, 128, ((0.35, 120e3, 25e3), (0.4, 30e3, 8e3), (0.45, 10e3, 1.2e3)), 2
    ),
    "clothes": Task(
        "Fashion-MNIST, 196-32-16-10",
        (196, 32, 16, 10),
        small_clothes,
        15,
        128,
        ((0.35, 100e3, 22e3), (0.4, 26e3, 6e3), (0.45, 7e3, 300), (0.5, 1.5e3, 250)),
    ),
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
    """How qfx trains: rates of Adam, what the rate falls to along a cosine, whether the budget begins at the upper level."""

    rate: float = 5e-3
    point_rate: float = 2e-2
    last: float = 0.1
    at_once: bool = False
    recipe: Recipe = RECIPE


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


def train(
    model: nn.Module, task: Task, data: Judged, settings: Settings, level: tuple[float, float, float], seen: Callable[[int, nn.Module], None]
) -> None:
    """Train for the task's epochs while the budget falls; ``seen`` gets the model after each epoch."""
    optimizer = torch.optim.Adam(qfx.parameter_groups(model, lr=settings.rate, binary_point_lr=settings.point_rate))
    steps = task.epochs * (len(data.train_x) // task.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: settings.last + (1 - settings.last) * (1 + math.cos(math.pi * min(step / steps, 1))) / 2
    )
    first = float(qfx.cost(model).bit_operations.detach())
    turn, upper, lower = level[0], min(level[1], first), level[2]
    first = upper if settings.at_once else first
    budget = qfx.Budget(ebops=first)
    step = 0
    for epoch in range(task.epochs):
        model.train()
        for places in torch.split(torch.randperm(len(data.train_x)), task.batch):
            if len(places) < task.batch:
                continue
            part = step / steps
            budget.limit(ebops=first * (upper / first) ** (part / turn) if part < turn else upper * (lower / upper) ** ((part - turn) / (1 - turn)))
            loss = F.cross_entropy(model(data.train_x[places]), data.train_y[places]) + budget.loss(model)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
            optimizer.step()
            schedule.step()
            step += 1
        seen(epoch + 1, model.eval())


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return 100 * float((model(x).argmax(1) == y).float().mean())


def qfx_front(task: Task, data: Judged, settings: Settings, level: tuple[float, float, float], seed: int = 0, most: int = 9) -> list[Found]:
    """The front of one run."""
    torch.manual_seed(seed)
    model = qfx.quantize(mlp(task.sizes), data.train_x[:256], settings.recipe)
    states: dict[int, dict[str, Tensor]] = {}
    found: list[Found] = []

    def seen(epoch: int, trained: nn.Module) -> None:
        found.append(Found(epoch, operations(trained), accuracy(trained, data.chosen_x, data.chosen_y), 0.0))
        states[epoch] = {name: value.clone() for name, value in trained.state_dict().items()}
        if epoch % 10 == 0:
            print(f"qfx: epoch {epoch} of {task.epochs}, {found[-1].operations:.0f} operations, {found[-1].chosen:.1f} %", file=sys.stderr)

    train(model, task, data, settings, level, seen)
    result = []
    for point in thinned(front(found), most):
        model.load_state_dict(states[point.epoch])
        result.append(built(point, graph_of(model), data))
    return result


# ---- both ----


def operations_of(point: Found) -> float:
    return point.operations


def luts_of(point: Found) -> float:
    return float(point.luts)


COSTS: dict[str, Callable[[Found], float]] = {"bit operations": operations_of, "LUTs": luts_of}


def front(found: Sequence[Found], cost: Callable[[Found], float] = operations_of) -> list[Found]:
    """Those that nothing cheaper is as good as, by what points are chosen by, from the cheapest on."""
    result: list[Found] = []
    for point in sorted(found, key=lambda one: (cost(one), -one.chosen)):
        if not result or point.chosen > result[-1].chosen:
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


def best_at(points: Sequence[Found], most: float, cost: Callable[[Found], float]) -> float:
    """The accuracy of the best, by what points are chosen by, that costs no more; NaN where there is none."""
    return max(((point.chosen, point.accuracy) for point in points if cost(point) <= most), default=(0.0, math.nan))[1]


def table(name: str, points: Sequence[Found]) -> list[str]:
    """A row for each point."""
    return [
        f"| {name} | {p.operations:,.0f} | {p.luts:,} | {p.chosen:.2f} | {p.accuracy:.2f} | {p.adders:,} | {p.latency} | {p.epoch} |" for p in points
    ]


def compare(ours: Sequence[Found], theirs: Sequence[Found]) -> list[str]:
    """At the cost of each point of HGQ2's fronts, by operations and by LUTs, its accuracy and what qfx's is more."""
    lines = ["| by | cost | HGQ2, % | qfx, points more |", "|---|---|---|---|"]
    for what, cost in COSTS.items():
        for point in front(theirs, cost):
            gain = best_at(ours, cost(point), cost) - point.accuracy
            lines.append(f"| {what} | {cost(point):,.0f} | {point.accuracy:.2f} | {'none as cheap' if math.isnan(gain) else f'{gain:+.2f}'} |")
    return lines


@dataclass(frozen=True)
class Run:
    """What one run found, in how many samples a rebuilt graph differs from the network, and the seconds that it took."""

    points: list[Found]
    seconds: float
    differing: int = 0


def kept(path: Path, made_of: str, make: Callable[[], tuple[list[Found], int]], reuse: bool) -> Run:
    """A run, kept in a file; with ``reuse`` what the file has, if it was made of the same."""
    if reuse and path.is_file():
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["of"] == made_of:
            return Run([Found(**point) for point in told["points"]], told["seconds"], told["differing"])
    began = time.perf_counter()
    points, differing = make()
    found = Run(points, time.perf_counter() - began, differing)
    path.write_text(json.dumps({"of": made_of, **asdict(found)}), encoding="utf-8")
    return found


def run(name: str, task: Task, out: Path, reuse: bool) -> dict[str, list[Found]]:
    """Train both, print and keep the tables and the plots."""
    data = task.data()
    makers: dict[str, list[tuple[str, Callable[[], tuple[list[Found], int]]]]] = {"qfx": []}
    for seed, level in itertools.product(range(task.seeds), task.levels):
        of: tuple[object, ...] = (task.sizes, task.epochs, task.batch, task.data.__name__, data.train_x.shape, Settings(), level, seed)
        makers["qfx"].append((repr(of), lambda level=level, seed=seed: (qfx_front(task, data, Settings(), level, seed), 0)))  # type: ignore[misc]
    if importlib.util.find_spec("hgq"):
        from benchmarks.fronts_hgq import HGQ_SETTINGS, hgq_front

        of = (task.sizes, task.epochs, task.batch, task.beta, task.data.__name__, data.train_x.shape)
        for theirs in HGQ_SETTINGS:
            makers.setdefault("HGQ2", []).append((repr((of, theirs, 0)), lambda theirs=theirs: hgq_front(task, data, theirs)))  # type: ignore[misc]
    out.mkdir(parents=True, exist_ok=True)
    runs = {
        who: [kept(out / f"{name}-{who}-{place}.json", made_of, make, reuse) for place, (made_of, make) in enumerate(all_)]
        for who, all_ in makers.items()
    }
    points = {who: [point for one in all_ for point in one.points] for who, all_ in runs.items()}
    lines = [
        f"{task.name}: {task.epochs} epochs of {len(data.train_x)} in batches of {task.batch}; chosen by {len(data.chosen_x)}, judged by "
        f"{len(data.test_x)}; "
        + "; ".join(f"{who}: {len(all_)} runs, {sum(one.seconds for one in all_):.0f} s" for who, all_ in runs.items())
        + f"; results in which a rebuilt graph differs from HGQ2: {sum(one.differing for one in runs.get('HGQ2', []))}",
        "",
        "| | bit operations | LUTs | chosen by, % | accuracy, % | adders | latency, cycles | epoch |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for who, found in points.items():
        lines += table(who, front(found))
    lines += ["", *compare(points["qfx"], points["HGQ2"])] if "HGQ2" in points else []
    (out / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines), flush=True)
    if importlib.util.find_spec("matplotlib"):
        for what, cost in COSTS.items():
            drawn = {who: [(cost(point), point.accuracy) for point in front(found, cost)] for who, found in points.items()}
            plot_fronts(drawn, out / f"{name}-{what.split()[-1].lower()}.png", cost=f"{task.name}: {what}", score="accuracy, %", force=True)
    return points


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fronts", description=__doc__.split("\n")[0])
    parser.add_argument("--task", action="append", choices=TASKS, help="may be repeated; default: all")
    parser.add_argument("--epochs", type=int, default=0, help="default: each task's own")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("build/fronts"), help="where runs, plots and tables go")
    parser.add_argument("--reuse", action="store_true", help="take the runs that are kept in --out, where their settings are the same")
    options = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"{DATA} is not there: set QFX_DATA to the folder with the real data")
    torch.set_num_threads(options.threads)
    print(machine(), flush=True)
    for name in options.task or TASKS:
        task = TASKS[name]
        run(name, replace(task, epochs=options.epochs or task.epochs), options.out, options.reuse)


if __name__ == "__main__":
    main()
