"""How accurate a network stays in narrow accumulators: ``python -m benchmarks.accumulators``.

An MLP on Fashion-MNIST, 4-bit inputs and activations, 6-bit weights, every accumulator of the same width: trained within the bound, trained with sums
that wrap or saturate there, and trained with free weights, whose sums then wrap. With ``--epochs 3`` a quarter of an hour on one thread.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from benchmarks.task_data import Data, clothes
from qfx.ir.graph import Graph
from qfx.operators import Conv, Linear
from qfx.recipe import AccumulatorMode

WIDTHS = (24, 16, 14, 12, 10)
BATCH = 256


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))


def recipe(bits: int | None, mode: AccumulatorMode = "bound") -> qfx.Recipe:
    weight = qfx.Spec(6, granularity="channel", accumulator=bits, accumulator_mode=mode)
    return qfx.Recipe(weight=weight, input=qfx.Spec(4), activation=qfx.Spec(4))


def batches(data: Data, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    order = torch.randperm(len(data.train_x), generator=torch.Generator().manual_seed(epoch))
    for rows in order.split(BATCH):  # type: ignore[no-untyped-call, unused-ignore]
        yield data.train_x[rows], data.train_y[rows]


def train(model: nn.Module, data: Data, epochs: int, rate: float) -> None:
    optimizer = torch.optim.Adam(model.parameters() if epochs > 0 and not _is_quantized(model) else qfx.parameter_groups(model, lr=rate), rate)
    steps = epochs * -(-len(data.train_x) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    step = 0
    for epoch in range(epochs):
        for x, y in batches(data, epoch):
            if step == steps // 2 and _is_quantized(model):
                qfx.freeze(model)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call, unused-ignore]
            optimizer.step()
            schedule.step()
            step += 1


def _is_quantized(model: nn.Module) -> bool:
    return type(model).__name__ == "QuantizedModel"


def accuracy(model: nn.Module, data: Data) -> float:
    with torch.no_grad():
        batches = zip(torch.split(data.test_x, 1000), torch.split(data.test_y, 1000), strict=True)
        right = sum([int((model(x).argmax(1) == y).sum()) for x, y in batches])
    return 100.0 * right / len(data.test_x)


def needed(graph: Graph) -> int:
    """The widest accumulator that holds every partial sum of products."""
    layers = [node for node in graph.nodes if isinstance(node.op, Conv | Linear)]
    types = (replace(node.op, bias=None).accumulator(graph.infos[node.inputs[0]]) for node in layers)  # type: ignore[type-var]
    return max(held.width for held in types if held is not None)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8, help="of training in fixed point; in float as many")
    parser.add_argument("--modes", nargs="+", default=["bound", "wrap", "saturate"])
    options = parser.parse_args(arguments)
    data = clothes()
    data = Data((data.train_x + 1) / 2, data.train_y, (data.test_x + 1) / 2, data.test_y)
    torch.manual_seed(0)
    model = network()
    train(model, data, options.epochs, 1e-3)
    print(f"float: {accuracy(model, data):.2f} %", flush=True)
    example = data.train_x[:512]
    free = qfx.quantize(copy.deepcopy(model), example, recipe(None))
    train(free, data, options.epochs, 1e-3)
    print(f"free weights: {accuracy(free, data):.2f} %, {needed(qfx.to_graph(free))} bits", flush=True)
    for bits in WIDTHS:
        told = []
        for mode in options.modes:
            start = time.perf_counter()
            q = qfx.quantize(copy.deepcopy(model), example, recipe(bits, mode))
            before = accuracy(q, data)
            train(q, data, options.epochs, 1e-3)
            seconds = time.perf_counter() - start
            told.append(f"{mode} {accuracy(q, data):.2f} ({before:.2f} untrained, {needed(qfx.to_graph(q))} bits, {seconds:.0f} s)")
        wrapped = qfx.quantize(copy.deepcopy(model), example, recipe(bits, "wrap"))
        state = dict(free.state_dict())
        state.update({name: value for name, value in wrapped.state_dict().items() if name.endswith("accumulator_type")})
        wrapped.load_state_dict(state)
        print(f"{bits} bits: {', '.join(told)}, free weights wrapped {accuracy(wrapped, data):.2f}", flush=True)


if __name__ == "__main__":
    main()
