"""Legal foldings of any graph, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import gcd

import numpy as np

from qfx.errors import ProjectError
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import BUFFER_STORAGE, Folding, Schedule
from qfx.ir.graph import Graph
from qfx.operators import (
    Add,
    Concat,
    Conv,
    Embedding,
    Linear,
    MatMul,
    MaxPool,
    Mul,
    Pad,
    Scan,
    Slice,
    Stretch,
    Sub,
    SumPool,
    Take,
    Upsample,
)


def divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def useful(number: int) -> list[int]:
    """The numbers a word with which a row of so many takes as few words as with no fewer."""
    return [n for n in range(1, number + 1) if n == 1 or -(-number // n) < -(-number // (n - 1))]


def random_schedule(graph: Graph, rng: np.random.Generator) -> Schedule:
    """Any legal folding of every node, its memories anywhere, and any number of channels per word at the ports."""

    def pick(choices: list[int]) -> int:
        return int(rng.choice(choices))

    def together(kernel: Sequence[int]) -> int:
        """The taps of a window that come in a word: one or all."""
        return pick([1, int(np.prod(kernel))])

    foldings: dict[str, Folding] = {}
    for node in graph.nodes:
        op, channels = node.op, graph.infos[node.name].shape[0]
        if isinstance(op, Conv):
            outputs, per_group, *kernel = op.weight.shape
            if op.groups > 1 and per_group == 1 and outputs == op.groups:
                taps = together(kernel)
                foldings[node.name] = Folding(pick(divisors(outputs)), pick(useful(taps)), taps=taps)
            else:
                taps = together(kernel)
                row = int(np.prod(kernel)) * per_group
                simd = [n for n in useful(row) if taps > 1 or row % n or per_group % n == 0 or n % per_group == 0]
                foldings[node.name] = Folding(pick(useful(outputs // op.groups)), pick(simd), taps=taps)
        elif isinstance(op, Linear):
            foldings[node.name] = Folding(pick(useful(channels)), pick(useful(op.weight.shape[1])))
        elif isinstance(op, Scan):
            foldings[node.name] = Folding(*(pick(divisors(number)) for number in op.parallel(graph, node)))
        elif isinstance(op, MatMul):
            terms, columns = graph.infos[node.inputs[1]].shape[-2:]
            foldings[node.name] = Folding(pick(divisors(columns)), pick(divisors(terms)), str(rng.choice(["auto", "dsp", "lut"])))
        elif isinstance(op, Concat):
            common = int(np.gcd.reduce([graph.infos[name].shape[0] for name in node.inputs]))
            foldings[node.name] = Folding(pick(divisors(common)))
        elif isinstance(op, Pad):
            foldings[node.name] = Folding(pick(divisors(gcd(graph.infos[node.inputs[0]].shape[0], *op.pads[0]))))
        elif isinstance(op, Slice):
            whole = gcd(graph.infos[node.inputs[0]].shape[0], op.starts[0], op.stops[0]) if op.steps[0] == 1 else 1
            foldings[node.name] = Folding(pick(divisors(whole)))
        elif isinstance(op, Take | Embedding):
            foldings[node.name] = Folding(pick(divisors(op.parallel(graph, node)[0])))
        elif isinstance(op, MaxPool | SumPool):
            foldings[node.name] = Folding(pick(divisors(channels)), taps=together(op.kernel))
        elif isinstance(op, Add | Sub | Mul | Upsample | Stretch):
            foldings[node.name] = Folding(pick(divisors(channels)))
    for node in graph.nodes:
        if isinstance(node.op, Conv | Linear):
            foldings[node.name] = replace(foldings[node.name], weights=str(rng.choice(["auto", "lut", "bram"])))
        if isinstance(node.op, Conv | MaxPool | SumPool):
            foldings[node.name] = replace(foldings[node.name], buffer=str(rng.choice(BUFFER_STORAGE)))
    frames = [graph.infos[name] for name in (graph.input.name, graph.output)]  # words of a pixel, or of several
    ports = [pick(divisors(pick([info.shape[0], info.size]))) for info in frames]
    ports = [min(parallel, 64) if info.size % min(parallel, 64) == 0 else 1 for parallel, info in zip(ports, frames, strict=True)]
    for node in graph.nodes:
        info = graph.infos[node.name]
        if isinstance(node.op, Conv) and rng.integers(2):
            pixels = info.size // info.shape[0]
            foldings[node.name] = replace(foldings[node.name], pixels=pick([n for n in divisors(pixels) if n <= 4]))
        whole = isinstance(node.op, MaxPool | SumPool) and foldings[node.name].taps > 1 and foldings[node.name].pe == info.shape[0]
        if whole and rng.integers(2):
            foldings[node.name] = replace(foldings[node.name], pixels=2)
        if isinstance(node.op, Concat | Pad | Slice | Upsample) and rng.integers(3) == 0:
            foldings[node.name] = Folding(info.shape[0], pixels=pick([n for n in divisors(info.size // info.shape[0]) if 1 < n <= 8] or [1]))
    made = Schedule.of(foldings, input_parallel=ports[0], output_parallel=ports[1])
    while True:
        try:
            lower(graph, made)
        except ProjectError as error:
            if error.what.startswith(("taps=", "pixels=")):  # no unit of whole windows makes those, or constants differ from pixel to pixel
                kept = {name: folding if name != error.where else Folding(folding.pe, buffer=folding.buffer) for name, folding in made.foldings}
                made = Schedule.of(kept, input_parallel=ports[0], output_parallel=ports[1])
                continue
            if not error.what.startswith("a word of"):
                raise
            return Schedule()  # so many numbers of so many bits side by side that no tool takes the word
        return made
