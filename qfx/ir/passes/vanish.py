"""Channels that are always 0, and channels that nothing needs, leave the graph: what is pruned costs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from qfx.ir.channels import Apart, Carried, Mask, Summed
from qfx.ir.graph import Graph, Node
from qfx.ir.passes import rewrite
from qfx.ir.values import LoadableConst, RawArray
from qfx.operators import Operator


def remove_pruned_channels(graph: Graph) -> Graph:
    """A channel whose weights are all 0, and what else is 0 for every input, adds nothing to a convolution or a linear layer that reads it; nor does
    a channel that meets only weights of 0. So neither need be computed, and the weights that they meet are left out with them.

    What is 0 is found channel by channel, through everything that keeps channels apart; what is needed, from the outputs backwards. Channels of
    inputs and outputs stay; so do those that an operator reads that mixes channels otherwise. At least one channel of every value stays.

    Nor is a Take of the channels that are used put behind an input. It is a process of some 100 LUTs that reads a number at a time: by the estimate
    that pays where what it spares is parallel, costs more than it spares in a small folding, and holds up a wide port. The rate decides, which a
    graph does not know; who knows it takes them in the model.
    """
    if any(isinstance(const, LoadableConst) for node in graph.nodes for const in node.op.constants().values()):
        return graph
    carried = _carried(graph)
    needed = _Needed(graph, carried, _known(graph, carried))
    if all(keep.all() for keep in needed.of.values()):
        return graph
    after = graph.with_nodes(tuple(replace(node, op=_narrowed(node, needed.of)) for node in graph.nodes))
    return after if rewrite.keeps_output(graph, after) else graph


def _carried(graph: Graph) -> dict[str, Carried]:
    """How each node carries channels."""
    return {node.name: node.op.carries(tuple(graph.infos[name] for name in node.inputs), graph.infos[node.name]) for node in graph.nodes}


def constant_outputs(graph: Graph) -> tuple[str, ...]:
    """The outputs that are the same numbers whatever the input is, as far as the pass sees."""
    known = _known(graph, _carried(graph))
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


def _known(graph: Graph, carried: Mapping[str, Carried]) -> dict[str, _Known]:
    found: dict[str, _Known] = {}
    for node in graph.nodes:
        info, sources = graph.infos[node.name], [found[name] for name in node.inputs]
        constant, raw = _constant(carried[node.name], info.shape[0], sources), np.zeros((1, *info.shape), dtype=np.int64)
        if constant.any():
            raw = node.op.evaluate(tuple(known.raw for known in sources), tuple(graph.infos[name] for name in node.inputs), info)
            raw = np.where(constant.reshape(-1, *(1,) * (len(info.shape) - 1)), raw, 0)
        found[node.name] = _Known(constant, raw)
    return found


def _constant(carried: Carried, channels: int, sources: list[_Known]) -> Mask:
    """Which channels of the result hold the same numbers whatever the input is."""
    if sources and all(known.constant.all() for known in sources):
        return np.ones(channels, dtype=np.bool_)
    if isinstance(carried, Summed):
        return np.asarray(~(carried.meets & ~sources[0].constant).any(1), dtype=np.bool_)
    if carried is None or not sources:
        return np.zeros(channels, dtype=np.bool_)
    constant: Mask = np.ones(channels, dtype=np.bool_)
    zero: Mask = np.zeros(channels, dtype=np.bool_)
    for origin, known in zip(carried.origins, sources, strict=True):
        constant &= known.constant[origin] | (origin < 0)
        zero |= known.zero[origin] & (origin >= 0)
    if carried.annuls:
        constant |= zero
    if carried.fixed is not None:
        constant |= carried.fixed
    return constant


# ---- what is needed --------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Needed:
    """The channels of each value that are made: those that something needs, and those that come with them. What keeps channels apart gives those that
    it reads, all of them; sums of products give and read any."""

    graph: Graph
    carried: Mapping[str, Carried]
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
        made, carried = self.of[node.name], self.carried[node.name]
        if not made.any():
            made[0] = True
        if isinstance(carried, Apart):
            for source, origin in zip(node.inputs, carried.origins, strict=True):
                self._same(made, self.of[source], origin)
        elif isinstance(carried, Summed) and not carried.whole:
            (source,) = node.inputs
            if node.name not in self.meets:
                self.meets[node.name] = carried.meets & ~self.known[source].zero
            self.of[source] |= self.meets[node.name][made].any(0)
        else:
            made[:] = True
            for source in node.inputs:
                self.of[source][:] = True

    @staticmethod
    def _same(made: Mask, source: Mask, origin: npt.NDArray[np.int64]) -> None:
        """All channels of the result that are made of one of the source, and that one, or none of them."""
        own = origin >= 0
        source[origin[made & own]] = True
        made[own] |= source[origin[own]]


# ---- what is left ----------------------------------------------------------------------------------------------------


def _narrowed(node: Node, made: Mapping[str, Mask]) -> Operator:
    """The operator on the channels that are made."""
    own, read = made[node.name], tuple(made[name] for name in node.inputs)
    return node.op if own.all() and all(mask.all() for mask in read) else node.op.narrowed(own, read)
