"""What graphs for the tests of code generation are made of."""

from __future__ import annotations

import numpy as np

from qfx.fixed.type import FixedType
from qfx.ir.graph import Graph, Node
from qfx.operators import (
    ArrayType,
    Const,
    Conv,
    Input,
    Operator,
)


def scalar(text: str) -> ArrayType:
    return ArrayType.of(FixedType.parse(text))


def const(seed: int, *shape: int, bits: int = 4, frac_bits: int = 3) -> Const:
    low, high = -(1 << (bits - 1)), 1 << (bits - 1)
    return Const(np.random.default_rng(seed).integers(low, high, shape), frac_bits)


def chain(name: str, shape: tuple[int, ...], *ops: Operator, cast: str = "ap_fixed<6,3,AP_RND,AP_SAT>") -> Graph:
    """Input, then one operator after the other."""
    nodes = [Node("x", Input(shape, scalar(cast)))]
    for i, op in enumerate(ops):
        nodes.append(Node(f"{type(op).__name__.lower()}{i}", op, (nodes[-1].name,)))
    return Graph(name, tuple(nodes), nodes[-1].name)


def conv(
    seed: int, out: int, per_group: int, *kernel: int, stride: int = 1, pads: tuple[int, int] = (0, 0), dilation: int = 1, groups: int = 1
) -> Conv:
    axes = len(kernel)
    return Conv(const(seed, out, per_group, *kernel), const(seed + 1, out, frac_bits=7), (stride,) * axes, (pads,) * axes, (dilation,) * axes, groups)
