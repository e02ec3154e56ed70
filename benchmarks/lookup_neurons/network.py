"""Perceptrons of neurons with few inputs of few bits, after LogicNets (Umuroglu et al., 2020) and PolyLUT (Andronic and Constantinides, 2023).

A neuron is any function of the bits that it reads, so what is inside it costs nothing: weights, BatchNorm and the polynomial are float32. Each number
is worked out alone, by the same operations in the same order for any batch, so that a truth table of it holds its results and not nearly its results.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.task_data import Data
from qfx import Spec
from qfx.nn.quantizer import Quantizer

EPSILON = 1e-5
SPREAD = {1: 0.3, 2: 0.33, 3: 0.25}
"""Of an activation in 0..1, by its bits: the standard deviation that it begins with."""


@dataclass(frozen=True)
class Shape:
    """A network: ``sizes`` from input to output; for each layer how many numbers a neuron reads, and of how many bits these are.

    ``results``: the bits of a score. ``degree``: of the polynomial in a neuron. ``learned``: whether training chooses what a neuron reads, or chance.
    """

    sizes: tuple[int, ...]
    reads: tuple[int, ...]
    bits: tuple[int, ...]
    results: int = 6
    degree: int = 1
    learned: bool = True

    def __post_init__(self) -> None:
        assert len(self.reads) == len(self.bits) == len(self.sizes) - 1

    @property
    def widths(self) -> tuple[int, ...]:
        """The bits of what each layer gives."""
        return (*self.bits[1:], self.results)


def cast(bits: int, *, signed: bool) -> Quantizer:
    """Activations are of 0..1, scores of -8..8. BatchNorm in front of it moves the range, so that the binary point need not be learned."""
    made = Quantizer(Spec(width=bits, frac_bits=bits - 4 if signed else bits, learn=False), signed=signed)
    made.initialize(torch.zeros(1, 1))
    return made


class Neurons(nn.Module):
    """A layer: each of ``size`` neurons is a polynomial of ``reads`` of the inputs, BatchNorm and a cast. While ``places`` is None those inputs are
    read that ``kept`` tells, and the polynomial is linear."""

    places: Tensor | None
    pairs: Tensor
    kept: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, inputs: int, size: int, reads: int, given: int, *, degree: int, last: bool) -> None:
        super().__init__()
        self.reads, self.degree = min(reads, inputs), degree
        self.weight = nn.Parameter(torch.randn(size, inputs) / math.sqrt(inputs))
        products = list(itertools.combinations_with_replacement(range(self.reads), 2)) if degree == 2 else []
        self.products = nn.Parameter(torch.zeros(size, len(products)))
        self.gamma = nn.Parameter(torch.full((size,), 1.5 if last else SPREAD.get(given, 0.2)))
        self.beta = nn.Parameter(torch.full((size,), 0.0 if last else 0.5))
        self.register_buffer("pairs", torch.tensor(products, dtype=torch.int64).reshape(-1, 2))
        self.register_buffer("kept", torch.ones(size, inputs))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))
        self.register_buffer("places", None)
        self.cast = cast(given, signed=last)
        self.moves = True

    def keep(self, count: int) -> None:
        """Let each neuron read no more than the ``count`` inputs of the greatest weights; with ``reads`` of them, for good."""
        count = max(count, self.reads)
        strength = self.weight.detach().abs() * self.kept
        best = torch.topk(strength, count, dim=1).indices
        self.kept = torch.zeros_like(self.kept).scatter_(1, best, 1.0)
        if count == self.reads:
            self.settle(torch.sort(best, dim=1).values)

    def settle(self, places: Tensor) -> None:
        """From here on the inputs ``places`` (size, reads) are read."""
        self.places = places
        self.weight = nn.Parameter(torch.gather(self.weight.detach(), 1, places))

    def neuron(self, x: Tensor) -> Tensor:
        """What the neurons make of their inputs (N, size, reads), one operation after the other: (N, size)."""
        found = x[..., 0] * self.weight[:, 0]
        for place in range(1, self.reads):
            found = found + x[..., place] * self.weight[:, place]
        for number, (a, b) in enumerate(self.pairs.tolist()):
            found = found + x[..., a] * x[..., b] * self.products[:, number]
        return found

    def normalized(self, sums: Tensor) -> Tensor:
        mean, variance = self.mean, self.variance
        if self.training and self.moves:
            mean, variance = sums.mean(0), sums.var(0, unbiased=False)
            with torch.no_grad():
                self.mean.lerp_(mean, 0.1)
                self.variance.lerp_(variance, 0.1)
        return (sums - mean) * (self.gamma / torch.sqrt(variance + EPSILON)) + self.beta

    def forward(self, x: Tensor) -> Tensor:
        sums = x @ (self.weight * self.kept).T if self.places is None else self.neuron(x[:, self.places])
        return torch.as_tensor(self.cast(self.normalized(sums)).value)


class LookupNet(nn.Module):
    """Inputs are scaled and moved, each for itself, and cast; the layers follow. The result are scores."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.scale = nn.Parameter(torch.full((shape.sizes[0],), SPREAD.get(shape.bits[0], 0.2)))
        self.shift = nn.Parameter(torch.full((shape.sizes[0],), 0.5))
        self.cast = cast(shape.bits[0], signed=False)
        last = len(shape.reads) - 1
        self.layers = nn.ModuleList(
            Neurons(inputs, size, shape.reads[number], shape.widths[number], degree=shape.degree, last=number == last)
            for number, (inputs, size) in enumerate(itertools.pairwise(shape.sizes))
        )
        if not shape.learned:
            for layer in self.neurons:
                size, inputs = layer.weight.shape
                layer.settle(spread_out(size, inputs, layer.reads))

    @property
    def neurons(self) -> list[Neurons]:
        return [layer for layer in self.layers if isinstance(layer, Neurons)]

    def inputs(self, x: Tensor) -> Tensor:
        """The numbers that the hardware gets: those of a sensor or a converter that is set so."""
        return torch.as_tensor(self.cast(x * self.scale + self.shift).value)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inputs(x)
        for layer in self.neurons:
            x = layer(x)
        return x


def spread_out(size: int, inputs: int, reads: int) -> Tensor:
    """By chance, but each input is read as often as the others, or once more."""
    reads = min(reads, inputs)
    drawn: list[list[int]] = []
    pool: list[int] = []
    for _ in range(size):
        chosen: list[int] = []
        while len(chosen) < reads:
            if not set(pool) - set(chosen):
                pool += torch.randperm(inputs).tolist()
            place = next(place for place in pool if place not in chosen)
            pool.remove(place)
            chosen.append(place)
        drawn.append(sorted(chosen))
    return torch.tensor(drawn)


def train(shape: Shape, data: Data, epochs: int, batch: int, *, rate: float = 1e-2, seed: int = 0) -> LookupNet:
    """Learned connections come about in the first 40 % of the epochs: after each one fewer are kept, by their weights."""
    torch.manual_seed(seed)
    model = LookupNet(shape)
    steps = epochs * (len(data.train_x) // batch)
    search = max(int(0.4 * epochs), 1) if shape.learned else 0
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    step = 0
    for epoch in range(epochs):
        model.train()
        if 0 < epoch <= search:
            for layer in model.neurons:
                if layer.places is None:
                    inputs = layer.weight.shape[1]
                    layer.keep(round(inputs * (layer.reads / inputs) ** (epoch / search)))
            optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        for layer in model.neurons:
            layer.moves = epoch < 0.9 * epochs
        for places in torch.split(torch.randperm(len(data.train_x)), batch):
            if len(places) < batch:
                continue
            for group in optimizer.param_groups:
                group["lr"] = rate * (0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)
            loss = F.cross_entropy(model(data.train_x[places]), data.train_y[places])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
            optimizer.step()
            step += 1
    return model.eval()


def accuracy(scores: Tensor, labels: Tensor) -> float:
    return 100 * float((scores.argmax(1) == labels).float().mean())


def uniform(sizes: Sequence[int], reads: int, bits: int, *, first: int = 0, results: int = 6, degree: int = 1, learned: bool = True) -> Shape:
    """The same fan-in and bits everywhere; ``first``: the bits of the network's inputs."""
    layers = len(sizes) - 1
    return Shape(tuple(sizes), (reads,) * layers, (first or bits,) + (bits,) * (layers - 1), results, degree, learned)
