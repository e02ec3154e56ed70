"""``python -m benchmarks.lookup_neurons``: neurons of few inputs as truth tables, beside adder graphs of learned word lengths, on the same two tasks.

Accuracy on the test set against 6-input LUTs: the bound for any tables, and what Yosys makes of the netlist (``$YOSYS``, where it is there; the
same script for both). The tables, and the netlist of them, are run on the test set: the scores must be the network's, and a planted error must show.
"""

from __future__ import annotations

import argparse
import copy
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import qfx
from benchmarks import fronts
from benchmarks.lookup_neurons import tables
from benchmarks.lookup_neurons.network import Shape, accuracy, train, uniform
from benchmarks.task_data import DATA, Data
from benchmarks.timing import machine
from benchmarks.unrolled_netlist import lut_sites, mapped, measured
from qfx.errors import QfxError
from qfx.hardware.project.project import prepare
from qfx.hardware.unrolled.unroll import unroll

WIDE, DEEP = (256, 128, 64), (256, 256, 128, 64, 32)


def shapes(task: str) -> list[Shape]:
    """What is tried: of the task's sizes and of larger ones."""
    sizes = TASKS[task].sizes
    wide, deep = ((sizes[0], *hidden, sizes[-1]) for hidden in (WIDE, DEEP))
    return [
        uniform(sizes, 6, 1),
        uniform(sizes, 4, 2),
        uniform(sizes, 4, 2, learned=False),
        uniform(sizes, 4, 2, degree=2),
        uniform(sizes, 3, 3),
        uniform(sizes, 3, 3, first=4),
        uniform(sizes, 2, 4),
        uniform(wide, 4, 2, first=4),
        uniform(deep, 3, 2),
        uniform(deep, 2, 3),
        uniform(deep, 2, 3, learned=False),
        uniform(deep, 2, 3, degree=2),
        uniform(deep, 2, 3, first=4),
        uniform(deep, 2, 4),
        uniform(deep, 2, 4, degree=2),
        uniform(deep, 2, 4, first=5),
        uniform(sizes, 4, 3),
        uniform(wide, 4, 3),
    ]


PERCEPTRONS: Mapping[str, Sequence[tuple[tuple[int, ...], float]]] = {
    "five": (((16, 8, 5), 250.0), ((16, 16, 5), 500.0), ((16, 32, 5), 700.0), ((16, 32, 16, 5), 1000.0), ((16, 64, 32, 32, 5), 2500.0)),
    "digits": (((64, 16, 10), 1000.0), ((64, 32, 10), 2000.0), ((64, 64, 32, 10), 5000.0)),
}
"""Adder graphs: sizes, and the bit operations where the budget ends."""

TASKS = {
    "five": fronts.Task("5 classes, 16-64-32-32-5", (16, 64, 32, 32, 5), lambda: fronts.five_classes(chosen=0), 60, 128, ()),
    "digits": fronts.Task("spoken digits, 64-64-32-10", (64, 64, 32, 10), lambda: fronts.spoken_features(chosen=0), 60, 128, ()),
}
"""All recordings that are not judged by are trained on."""


@dataclass(frozen=True)
class Tried:
    """Neurons as tables. ``luts``: by Yosys; None where it is not there or has too much to do. ``differing``: scores that are not the network's."""

    shape: Shape
    accuracy: float
    most: int
    luts: int | None
    differing: int

    @property
    def cost(self) -> int:
        return self.most if self.luts is None else self.luts


@dataclass(frozen=True)
class Graph:
    """An adder graph: the LUTs of the whole design as estimated, and those that Yosys finds in the sums and casts."""

    sizes: tuple[int, ...]
    accuracy: float
    estimated: int
    luts: int | None

    @property
    def cost(self) -> int:
        return self.estimated if self.luts is None else self.luts


class UnequalError(Exception):
    """A form of a network does not compute what the network does."""


def neurons(shape: Shape, data: Data, epochs: int, batch: int, yosys: str | None, most_muxes: int) -> Tried:
    model = train(shape, data, epochs, batch)
    layers, x, wanted = tables.tables(model), tables.inputs_of(model, data.test_x), tables.results_of(model, data.test_x)
    differing = int((tables.run(layers, x) != wanted).sum())
    if not (tables.run(planted(layers, x), x) != wanted).sum() > differing:
        raise UnequalError("a planted error in a table was not found")
    luts = None
    if yosys and tables.most_luts(layers) < 4 * most_muxes:
        source = tables.verilog(layers, shape.sizes[0])
        if source.count("?") <= most_muxes:
            module = mapped(source, yosys=yosys)
            luts = lut_sites(module)
            differing += int((tables.run_netlist(module, x, layers) != wanted).sum())
            if not (tables.run_netlist(inverted(module), x, layers) != wanted).any():
                raise UnequalError("a planted error in a netlist was not found")
    return Tried(shape, accuracy(model(data.test_x).detach(), data.test_y), tables.most_luts(layers), luts, differing)


def planted(layers: tables.Layers, x: tables.Ints) -> list[tables.Layer]:
    """The tables with one wrong bit: in the last layer, in the entry that the first sample reads."""
    for layer in layers[:-1]:
        x = layer.run(x)
    last = layers[-1]
    address = int((x[0, last.places[0]] << (last.bits * np.arange(last.places.shape[1]))).sum())
    table = last.table.copy()
    table[0, address] ^= 1
    return [*layers[:-1], replace(last, table=table)]


def inverted(module: tables.Module) -> dict[str, Any]:
    """The module with the last LUT in front of a result inverted."""
    wrong = copy.deepcopy(dict(module))
    results = set(wrong["ports"]["y"]["bits"])
    cell = next(cell for cell in wrong["cells"].values() if cell["connections"]["Y"][0] in results)
    cell["parameters"]["LUT"] = cell["parameters"]["LUT"].translate(str.maketrans("01", "10"))
    return wrong


def adder_graphs(task: fronts.Task, data: fronts.Judged, yosys: str | None, most_luts: int) -> list[Graph]:
    """The front of a perceptron with learned word lengths; Yosys maps those that are estimated at no more than ``most_luts``."""
    settings = fronts.Settings(rate=1e-2, last=0.05, at_once=True)
    torch.manual_seed(0)
    model = qfx.quantize(fronts.mlp(task.sizes), data.train_x[:256], settings.recipe)
    kept: dict[int, dict[str, torch.Tensor]] = {}
    found: list[fronts.Found] = []

    def seen(epoch: int, trained: torch.nn.Module) -> None:
        right = fronts.accuracy(trained, data.test_x, data.test_y)
        found.append(fronts.Found(epoch, fronts.operations(trained), right, right))
        kept[epoch] = {name: value.clone() for name, value in trained.state_dict().items()}

    torch.manual_seed(1)
    fronts.train(model, task, data, settings, task.levels[0], seen)
    result = []
    for point in fronts.thinned(fronts.front(found), 9):
        model.load_state_dict(kept[point.epoch])
        graph = fronts.graph_of(model)
        try:
            made = fronts.built(point, graph, data)
        except QfxError as error:
            print(f"{task.name}, epoch {point.epoch}: {error}", file=sys.stderr)
            continue
        luts = measured(unroll(prepare(graph)), yosys=yosys) if yosys and made.luts <= most_luts else None
        result.append(Graph(task.sizes, made.accuracy, made.luts, luts))
        print(graph_row(result[-1]), flush=True)
    return result


def cheapest(graphs: Sequence[Graph], least: float) -> Graph | None:
    """The cheapest that is at least as accurate."""
    return min((graph for graph in graphs if graph.accuracy >= least - 1e-6), key=lambda graph: graph.cost, default=None)


def _sizes(sizes: Sequence[int]) -> str:
    return "-".join(map(str, sizes))


def graph_row(graph: Graph) -> str:
    luts = "" if graph.luts is None else f"{graph.luts:,}"
    return f"| {_sizes(graph.sizes)} | {graph.accuracy:.2f} | {graph.estimated:,} | {luts} |"


def row(tried: Tried, graphs: Sequence[Graph]) -> str:
    shape = tried.shape
    other = cheapest(graphs, tried.accuracy)
    bits = str(shape.bits[1]) if shape.bits[0] == shape.bits[1] else f"{shape.bits[1]}, inputs {shape.bits[0]}"
    told = "none" if other is None else f"{other.cost:,}{' (estimated)' if other.luts is None else ''}, {other.accuracy:.2f} %"
    luts = "" if tried.luts is None else f"{tried.luts:,}"
    chosen = "" if shape.learned else ", by chance"
    return (
        f"| {_sizes(shape.sizes)} | {shape.reads[0]}{chosen} | {bits} | {shape.degree} | {tried.accuracy:.2f} | {tried.most:,} | {luts} | {told} "
        f"| {tried.differing} |"
    )


def run(name: str, epochs: int, yosys: str | None, most_muxes: int, out: Path) -> tuple[list[Tried], list[Graph]]:
    task = TASKS[name]
    data = task.data()
    epochs = epochs or task.epochs
    head = f"{name}: {epochs} epochs of {len(data.train_x)} in batches of {task.batch}, {len(data.test_x)} judged"
    graph_head = ["", "| adder graph | accuracy, % | LUTs estimated | by Yosys |", "|---|---|---|---|"]
    print("\n".join([head, *graph_head]), flush=True)
    graphs = []
    for sizes, floor in PERCEPTRONS[name]:
        graphs += adder_graphs(replace(task, sizes=sizes, levels=((0.1, 20 * floor, floor),), epochs=epochs), data, yosys, most_muxes // 5)
    columns = ["sizes", "a neuron reads", "bits", "degree", "accuracy, %", "LUTs at most", "by Yosys", "adder graph as accurate", "differing"]
    table_head = ["", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    print("\n".join(table_head), flush=True)
    found = []
    for shape in shapes(name):
        found.append(neurons(shape, data, epochs, task.batch, yosys, most_muxes))
        print(row(found[-1], graphs), flush=True)
    lines = [head, *graph_head, *map(graph_row, graphs), *table_head, *(row(tried, graphs) for tried in found)]
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return found, graphs


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lookup_neurons", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--task", action="append", choices=PERCEPTRONS, help="may be repeated; default: both")
    parser.add_argument("--epochs", type=int, default=0, help="default: each task's own")
    parser.add_argument("--most-muxes", type=int, default=30_000, help="what Yosys is asked to map; adder graphs: a fifth of it in LUTs")
    parser.add_argument("--out", type=Path, default=Path("build/lookup_neurons"), help="where the tables go")
    options = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"{DATA} is not there: set QFX_DATA to the folder with the real data")
    yosys = shutil.which(os.environ.get("YOSYS", "yosys"))
    torch.set_num_threads(1)
    print(machine() + ("" if yosys else "; without Yosys: bounds and estimates alone"), flush=True)
    differing = 0
    for name in options.task or PERCEPTRONS:
        found, _ = run(name, options.epochs, yosys, options.most_muxes, options.out)
        differing += sum(tried.differing for tried in found)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
