"""A network of neurons as truth tables; as multiplexers in Verilog; as the LUTs that Yosys makes of these. Each form can be run on data.

Numbers are integers here: an activation of b bits is 0 to 2**b - 1, a score of b bits 0 to 2**b - 1, too: its two's complement, read without a sign.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.lookup_neurons.network import LookupNet, Neurons

Ints = NDArray[np.int64]
CHUNK = 4096
"""Entries of tables that are worked out at a time."""


@dataclass(frozen=True, eq=False)
class Layer:
    """``table``: (neurons, 2**(reads * bits)) words of ``width`` bits. The address has the number ``places[:, 0]`` in its lowest ``bits`` bits."""

    places: Ints
    bits: int
    width: int
    table: Ints

    @property
    def address_bits(self) -> int:
        return int(self.places.shape[1]) * self.bits

    def run(self, x: Ints) -> Ints:
        """(N, inputs) to (N, neurons)."""
        address = (x[:, self.places] << (self.bits * np.arange(self.places.shape[1]))).sum(2)
        found: Ints = self.table[np.arange(len(self.table)), address]
        return found


Layers = Sequence[Layer]


def tables(model: LookupNet) -> list[Layer]:
    """Every entry of every neuron that is read, worked out by the neuron itself."""
    found = [_layer(layer, bits, width) for layer, bits, width in zip(model.neurons, model.shape.bits, model.shape.widths, strict=True)]
    for number in range(len(found) - 1, 0, -1):
        read, places = np.unique(found[number].places, return_inverse=True)
        before = found[number - 1]
        found[number] = replace(found[number], places=places.reshape(found[number].places.shape))
        found[number - 1] = replace(before, places=before.places[read], table=before.table[read])
    return found


def _layer(layer: Neurons, bits: int, width: int) -> Layer:
    assert layer.places is not None
    assert not layer.training
    count = 1 << (layer.reads * bits)
    found = []
    with torch.no_grad():
        for start in range(0, count, CHUNK):
            address = torch.arange(start, min(start + CHUNK, count))
            raw = (address[:, None] >> (bits * torch.arange(layer.reads))) & ((1 << bits) - 1)
            x = (raw.float() * 2.0**-bits)[:, None, :].expand(-1, len(layer.places), -1)
            found.append(words(layer.cast(layer.normalized(layer.neuron(x))).value, layer.cast.spec.frac_bits or 0, width))
    return Layer(layer.places.numpy(), bits, width, np.concatenate(found).T.copy())


def words(values: Tensor, frac_bits: int, width: int) -> Ints:
    """The words of fixed-point numbers: two's complement, read without a sign."""
    return (values.double() * 2.0**frac_bits).long().numpy() & ((1 << width) - 1)


def inputs_of(model: LookupNet, x: Tensor) -> Ints:
    with torch.no_grad():
        return words(model.inputs(x), model.shape.bits[0], model.shape.bits[0])


def results_of(model: LookupNet, x: Tensor) -> Ints:
    """What the network itself gives, as words."""
    with torch.no_grad():
        return words(model(x), model.shape.results - 4, model.shape.results)


def run(layers: Layers, x: Ints) -> Ints:
    for layer in layers:
        x = layer.run(x)
    return x


def most_luts(layers: Layers) -> int:
    """The 6-input LUTs that each output bit of n bits takes at most, as LogicNets counts them: (2**(n-4) - (-1)**n) / 3 from 6 bits on."""
    return sum(layer.table.shape[0] * layer.width * bound(layer.address_bits) for layer in layers)


def bound(n: int) -> int:
    return 1 if n <= 6 else ((1 << (n - 4)) - (-1) ** n) // 3


# ---- multiplexers ----


@dataclass(frozen=True, eq=False)
class Muxes:
    """A decision diagram: node 0 is false, 1 true, node k + 2 is ``high`` if bit ``variable`` of the address is one, else ``low``.

    ``roots``: a node for each bit of the result, the lowest first.
    """

    variable: Ints
    low: Ints
    high: Ints
    roots: Ints

    def __len__(self) -> int:
        return len(self.variable)


def muxes(table: Ints, width: int, order: Sequence[int]) -> Muxes:
    """The diagram of a table, whose variables are asked in that order from the root on; equal parts exist once."""
    n = len(order)
    bits = (table >> np.arange(width)[:, None]) & 1
    axes = [1 + n - 1 - variable for variable in order]
    ids = bits.reshape((width,) + (2,) * n).transpose([0, *axes]).reshape(-1)
    variables, lows, highs, count = [], [], [], 2
    for variable in reversed(order):
        low, high = ids[0::2], ids[1::2]
        keys, inverse = np.unique(low * (count + 1) + high, return_inverse=True)
        key_low, key_high = keys // (count + 1), keys % (count + 1)
        new = key_low != key_high
        names = np.where(new, count + np.cumsum(new) - 1, key_low)
        variables.append(np.full(int(new.sum()), variable))
        lows.append(key_low[new])
        highs.append(key_high[new])
        count += int(new.sum())
        ids = names[inverse]
    return Muxes(np.concatenate(variables), np.concatenate(lows), np.concatenate(highs), ids)


def small_muxes(table: Ints, width: int, n: int) -> Muxes:
    """A small diagram: from the variables by how often they matter, neighbours change places while that helps."""
    cube = table.reshape((2,) * n)
    matters = [int((np.take(cube, 0, n - 1 - v) != np.take(cube, 1, n - 1 - v)).sum()) for v in range(n)]
    order = sorted(range(n), key=lambda v: -matters[v])
    best = muxes(table, width, order)
    gained = n > 2
    while gained:
        gained = False
        for place in range(n - 1):
            other = order.copy()
            other[place], other[place + 1] = other[place + 1], other[place]
            found = muxes(table, width, other)
            if len(found) < len(best):
                best, order, gained = found, other, True
    return best


def verilog(layers: Layers, inputs: int) -> str:
    """The module ``top``: port x has the network's inputs, the first in the lowest bits, y its results."""
    first, last = layers[0], layers[-1]
    lines = [f"module top(input [{inputs * first.bits - 1}:0] x, output [{len(last.table) * last.width - 1}:0] y);"]
    names = [f"x[{place}]" for place in range(inputs * first.bits)]
    for number, layer in enumerate(layers):
        following: list[str] = []
        for neuron, (places, table) in enumerate(zip(layer.places, layer.table, strict=True)):
            address = [names[place * layer.bits + bit] for place in places for bit in range(layer.bits)]
            following += _neuron(lines, f"n{number}_{neuron}_", address, small_muxes(table, layer.width, layer.address_bits))
        names = following
    lines += [f"assign y[{place}] = {name};" for place, name in enumerate(names)]
    return "\n".join([*lines, "endmodule", ""])


def _neuron(lines: list[str], prefix: str, address: Sequence[str], made: Muxes) -> list[str]:
    names = ["1'b0", "1'b1"]
    for place, (variable, low, high) in enumerate(zip(made.variable.tolist(), made.low.tolist(), made.high.tolist(), strict=True)):
        lines.append(f"wire {prefix}{place} = {address[variable]} ? {names[high]} : {names[low]};")
        names.append(f"{prefix}{place}")
    return [names[root] for root in made.roots.tolist()]


# ---- Yosys' netlist ----

Module = Mapping[str, Any]
"""In Yosys' JSON."""


def run_netlist(module: Module, x: Ints, layers: Layers) -> Ints:
    """What a module of ``$lut`` cells gives for the network's inputs."""
    first, last = layers[0], layers[-1]
    known: dict[int | str, NDArray[np.bool_]] = {"0": np.zeros(len(x), bool), "1": np.ones(len(x), bool)}
    for place, bit in enumerate(module["ports"]["x"]["bits"]):
        known[bit] = (x[:, place // first.bits] >> (place % first.bits)) & 1 > 0
    for cell in _in_order(module, known):
        address = sum((known[bit].astype(np.int64) << place for place, bit in enumerate(cell["connections"]["A"])), np.zeros(len(x), np.int64))
        entries = np.array([letter == "1" for letter in reversed(cell["parameters"]["LUT"])])
        known[cell["connections"]["Y"][0]] = entries[address]
    result = np.zeros((len(x), len(last.table)), np.int64)
    for place, bit in enumerate(module["ports"]["y"]["bits"]):
        result[:, place // last.width] |= known[bit].astype(np.int64) << (place % last.width)
    return result


def _in_order(module: Module, sources: Mapping[int | str, object]) -> Iterator[Mapping[str, Any]]:
    """The cells, each behind those that it reads."""
    drivers = {cell["connections"]["Y"][0]: cell for cell in module["cells"].values()}
    assert all(cell["type"] == "$lut" for cell in drivers.values())
    done = set(sources)
    for bit in drivers:
        waiting = [bit]
        while waiting:
            last = waiting[-1]
            missing = [] if last in done else [read for read in drivers[last]["connections"]["A"] if read not in done]
            if missing:
                waiting += missing
                continue
            waiting.pop()
            if last not in done:
                done.add(last)
                yield drivers[last]
