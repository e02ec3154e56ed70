"""Channels that are always 0, and channels that nothing needs, leave the graph: what is pruned costs nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from qfx import operators as ops
from qfx.ir import rules
from qfx.ir.graph import Graph, Node
from qfx.ir.passes import rewrite
from qfx.ir.values import ArrayType, Const, Info, LoadableConst, RawArray
from qfx.operators import Affine, Cast, Clip, Concat, Conv, Input, Linear, Mul, Operator, PRelu, Reshape

_REDUCTIONS = (ops.ReduceSum, ops.ReduceMax, ops.ReduceMin)
_ALONE = (
    Cast, Clip, Affine, PRelu, ops.Relu, ops.LeakyRelu, ops.MaxPool, ops.SumPool, ops.Upsample, ops.Stretch, ops.Lookup, ops.LookupLinear,
    *_REDUCTIONS,
)  # fmt: skip
"""Operators that make each channel of the same channel alone."""

_TOGETHER = (ops.Add, ops.Sub, Mul, ops.Max, ops.Min)
"""Operators that make each channel of the same channel of two values."""

Mask = npt.NDArray[np.bool_]


def remove_pruned_channels(graph: Graph) -> Graph:
    """A channel whose weights are all 0, and what else is 0 for every input, adds nothing to a convolution or a linear layer that reads it; nor does
    a channel that meets only weights of 0. So neither need be computed, and the weights that they meet are left out with them.

    What is 0 is found channel by channel, through everything that keeps channels apart; what is needed, from the outputs backwards. Channels of
    inputs and outputs stay; so do those that an operator reads that mixes channels otherwise. At least one channel of every value stays.
    """
    if any(isinstance(const, LoadableConst) for node in graph.nodes for const in node.op.constants().values()):
        return graph
    needed = _Needed(graph, _known(graph))
    if all(keep.all() for keep in needed.of.values()):
        return graph
    after = graph.with_nodes(tuple(replace(node, op=_narrowed(graph, node, needed.of)) for node in graph.nodes))
    return after if rewrite.keeps_output(graph, after) else graph


def constant_outputs(graph: Graph) -> tuple[str, ...]:
    """The outputs that are the same numbers whatever the input is, as far as the pass sees."""
    known = _known(graph)
    return tuple(name for name, output in zip(graph.output_names, graph.outputs, strict=True) if known[output].constant.all())


# ---- what is always the same -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Known:
    """Which channels hold the same numbers whatever the input is, and these, as raws (1, *shape) on the grids of the value's Info; others are 0."""

    constant: Mask
    raw: RawArray

    @property
    def zero(self) -> Mask:
        return self.constant & ~_any(self.raw[0])


def _any(values: npt.NDArray[np.generic]) -> Mask:
    """Whether anything of each index of axis 0 is not 0."""
    return np.asarray(values.reshape(len(values), -1).any(1), dtype=np.bool_)


def _known(graph: Graph) -> dict[str, _Known]:
    found: dict[str, _Known] = {}
    for node in graph.nodes:
        info, sources = graph.infos[node.name], [found[name] for name in node.inputs]
        constant, raw = _constant(graph, node, sources), np.zeros((1, *info.shape), dtype=np.int64)
        if constant.any():
            raw = node.op.evaluate(tuple(known.raw for known in sources), tuple(graph.infos[name] for name in node.inputs), info)
            raw = np.where(constant.reshape(-1, *(1,) * (len(info.shape) - 1)), raw, 0)
        found[node.name] = _Known(constant, raw)
    return found


def _constant(graph: Graph, node: Node, sources: list[_Known]) -> Mask:
    """Which channels of the result hold the same numbers whatever the input is."""
    op, info = node.op, graph.infos[node.name]
    if sources and all(known.constant.all() for known in sources):
        return np.ones(info.shape[0], dtype=np.bool_)
    if isinstance(op, Conv | Linear):
        return ~_any(_meets(op, ~sources[0].constant))
    if _apart(graph, node):
        constant = sources[0].constant
        for other in sources[1:]:
            constant = constant & other.constant
        if isinstance(op, Mul):
            constant = constant | sources[0].zero | sources[1].zero
        return constant | _held(op, info) if isinstance(op, Clip) else constant
    if isinstance(op, Concat):
        return np.concatenate([known.constant for known in sources])
    if block := _block(graph, node):
        return np.repeat(sources[0].constant, block)
    return np.zeros(info.shape[0], dtype=np.bool_)


def _held(op: Clip, out: Info) -> Mask:
    """Which channels the bounds hold at numbers of their own, whatever comes."""
    if op.low is None or op.high is None:
        return np.zeros(out.shape[0], dtype=np.bool_)
    low, high = (rules.move(end.raw, out.grids - end.grids) for end in (op.low, op.high))
    return ~_any(np.broadcast_to(low != high, out.shape))


def _meets(op: Conv | Linear, live: Mask) -> Mask:
    """(outputs, inputs): whether an output has a weight for an input channel that is not 0, of those that are alive."""
    used = np.asarray(op.weight.raw.reshape(*op.weight.shape[:2], -1).any(-1), dtype=np.bool_)
    groups = op.groups if isinstance(op, Conv) else 1
    outputs, each = used.shape
    meets = np.zeros((outputs, live.size), dtype=np.bool_)
    for group in range(groups):
        rows, columns = slice(group * outputs // groups, (group + 1) * outputs // groups), slice(group * each, (group + 1) * each)
        meets[rows, columns] = used[rows] & live[columns]
    return meets


def _apart(graph: Graph, node: Node) -> bool:
    """Whether each channel of the result is made of the same channel of what the node reads."""
    channels = graph.infos[node.name].shape[0]
    if any(graph.infos[name].shape[0] != channels for name in node.inputs):
        return False
    if isinstance(node.op, _REDUCTIONS):
        return 0 not in node.op.axes
    return isinstance(node.op, (*_ALONE, *_TOGETHER))


def _block(graph: Graph, node: Node) -> int:
    """Of a Reshape: how many channels of the result each channel of the source becomes, all of them its own; 0 where they mix, and for others."""
    if not isinstance(node.op, Reshape):
        return 0
    source, shape = graph.infos[node.inputs[0]].shape, node.op.shape
    each = math.prod(source[1:])
    rest = math.prod(shape[1:])
    return shape[0] // source[0] if each % rest == 0 and shape[0] % source[0] == 0 else 0


# ---- what is needed --------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Needed:
    """The channels of each value that are made: those that something needs, and those that come with them. What keeps channels apart gives those that
    it reads, all of them; sums of products give and read any."""

    graph: Graph
    known: Mapping[str, _Known]
    of: dict[str, Mask] = field(default_factory=dict)
    meets: dict[str, Mask] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.of = {name: np.zeros(info.shape[0], dtype=np.bool_) for name, info in self.graph.infos.items()}
        for name in (*self.graph.outputs, *(node.name for node in self.graph.inputs)):
            self.of[name][:] = True
        size = -1
        while size < (size := sum(int(made.sum()) for made in self.of.values())):  # they only grow
            for node in reversed(self.graph.nodes):
                self._ask(node)

    def _ask(self, node: Node) -> None:
        made, op = self.of[node.name], node.op
        if not made.any():
            made[0] = True
        block = _block(self.graph, node)
        if isinstance(op, Conv | Linear) and (not isinstance(op, Conv) or op.groups == 1):
            (source,) = node.inputs
            if node.name not in self.meets:
                self.meets[node.name] = _meets(op, ~self.known[source].zero)
            self.of[source] |= self.meets[node.name][made].any(0)
        elif isinstance(op, Conv) and op.weight.shape[1] == 1:  # one channel a group
            self._same(made.reshape(op.groups, -1), self.of[node.inputs[0]])
        elif _apart(self.graph, node):
            for source in node.inputs:
                self._same(made.reshape(-1, 1), self.of[source])
        elif isinstance(op, Concat):
            start = 0
            for source in node.inputs:
                size = self.of[source].size
                self._same(made[start : start + size].reshape(-1, 1), self.of[source])
                start += size
        elif block:
            self._same(made.reshape(-1, block), self.of[node.inputs[0]])
        else:
            made[:] = True
            for source in node.inputs:
                self.of[source][:] = True

    @staticmethod
    def _same(made: Mask, source: Mask) -> None:
        """A row of the result for each channel of the source: all of it or nothing."""
        source |= made.any(1)
        made |= source[:, None]


# ---- what is left ----------------------------------------------------------------------------------------------------


def _narrowed(graph: Graph, node: Node, made: Mapping[str, Mask]) -> Operator:
    """The operator on the channels that are made."""
    op, own = node.op, made[node.name]
    if isinstance(op, Input) or (own.all() and all(made[name].all() for name in node.inputs)):
        return op
    if isinstance(op, Conv | Linear):
        columns = made[node.inputs[0]] if not isinstance(op, Conv) or op.groups == 1 else np.ones(1, dtype=np.bool_)
        rows = _rows(op.weight, own)
        weight = Const(rows.raw[:, columns], rows.frac_bits)
        bias = None if op.bias is None else _rows(op.bias, own)
        if isinstance(op, Linear) or op.groups == 1:
            return replace(op, weight=weight, bias=bias)
        return replace(op, weight=weight, bias=bias, groups=int(made[node.inputs[0]].sum()))
    if isinstance(op, Reshape):
        return Reshape((int(own.sum()), *op.shape[1:]))
    if isinstance(op, Cast):
        return Cast(_cast(op.cast, own))
    if isinstance(op, Affine):
        return Affine(*(None if const is None else _rows(const, own) for const in (op.scale, op.shift)))
    if isinstance(op, Clip):
        return Clip(*(None if const is None else _rows(const, own) for const in (op.low, op.high)))
    return PRelu(_rows(op.slope, own)) if isinstance(op, PRelu) else op


def _rows(const: Const, made: Mask) -> Const:
    """The entries of the channels that are made, of a constant that has an entry for each, or one for all."""
    if not const.shape or (const.shape[0] == 1 and made.size > 1):
        return const
    grids = const.frac_bits if isinstance(const.frac_bits, int) else tuple(np.array(const.frac_bits)[made].tolist())
    return Const(const.raw[made], grids)


def _cast(cast: ArrayType, made: Mask) -> ArrayType:
    if not cast.shape or cast.shape[0] == 1:
        return cast
    int_bits = np.array(cast.int_bits).reshape(cast.shape)[made]
    return ArrayType(cast.with_int_bits(int(int_bits.max())), tuple(int_bits.reshape(-1).tolist()), int_bits.shape)
