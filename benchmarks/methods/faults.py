"""Stuck bits, flips and variability: a perceptron on Fashion-MNIST, weights of 4 bits; accuracy before and after training against them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

import qfx
from benchmarks.methods.common import accuracy, clothes_of, train
from qfx import Recipe, Spec
from qfx.faults.definition import Faults
from qfx.faults.graph import faulty
from qfx.faults.training import inject, words
from qfx.ir.interpret import quantize_input, run_from_raw

KINDS: dict[str, tuple[Callable[[float], Faults], tuple[float, ...]]] = {
    "stuck, known": (lambda rate: Faults(rate / 2, rate / 2, seed=5), (0.01, 0.05, 0.1, 0.2)),
    "flips, unknown": (lambda rate: Faults(flips=rate, seed=5), (0.01, 0.05, 0.1)),
    "variability, unknown": (lambda rate: Faults(variability=rate, seed=5), (0.2, 0.4)),
}


def interpreted(q: nn.Module, faults: Faults, x: torch.Tensor, y: torch.Tensor) -> str:
    """Accuracy by the integer interpreter of the graph without faults, made faulty there; and how many of PyTorch's results differ from it."""
    q.eval()
    with torch.no_grad():
        ours = torch.cat([q(part) for part in torch.split(x, 500)])
    inject(q, None)
    graph = faulty(qfx.to_graph(q), faults, words(q))
    inject(q, faults)
    raws = run_from_raw(graph, quantize_input(graph, x.numpy()))
    found = np.ldexp(raws.astype(np.float64), -graph.infos[graph.output].grids)
    return (
        f"interpreter {100 * float((found.argmax(1) == y.numpy()).mean()):.2f}, {int((found != ours.numpy()).sum())} of {found.size} results differ"
    )


def main() -> None:
    data = clothes_of(10_000)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    model = train(net, data, 4, 2e-3)
    recipe = Recipe(weight=Spec(4, granularity="channel"), activation=Spec(6))
    clean = train(qfx.quantize(model, data.train_x[:256], recipe), data, 1, 1e-3)
    print(f"float {accuracy(model, data):.2f} %, 4 bits without faults {accuracy(clean, data):.2f}", flush=True)
    for kind, (make, rates) in KINDS.items():
        for rate in rates:
            q, faults = copy.deepcopy(clean), make(rate)
            inject(q, faults)
            before = accuracy(q, data)
            if kind.endswith("unknown"):  # other faults in each step; judged with ones that it has not seen

                def others(step: int, q: nn.Module = q, faults: Faults = faults) -> None:
                    if step % 4 == 0:
                        inject(q, faults.at(step))

                train(q, data, 2, 1e-3, before=others)
                inject(q, faults)
            else:
                train(q, data, 2, 1e-3)
            print(f"{kind}, {rate}: {before:.2f} %, trained {accuracy(q, data):.2f}; {interpreted(q, faults, data.test_x, data.test_y)}", flush=True)


if __name__ == "__main__":
    main()
