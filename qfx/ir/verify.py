"""What must hold of a graph beyond what its construction checks, and of a pass beyond what its tests show."""

from __future__ import annotations

from qfx.errors import ModelFileError
from qfx.fixed.arith import Channels, Interval
from qfx.ir.graph import Graph
from qfx.ir.values import RAW_MAX, RAW_MIN


def living(graph: Graph) -> frozenset[str]:
    """The names of the inputs and of every node that an output depends on."""
    needed = {*graph.outputs, *(node.name for node in graph.inputs)}
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(node.inputs)
    return frozenset(needed)


def verify(graph: Graph, *, where: str = "verify") -> None:
    """Raises ModelFileError, naming ``where`` and the node, unless the graph is sound: types and ranges are those that its operators infer, every
    range lies in its type and in int64 on the type's grid, no node is dead. (Names, order and arity are checked when a Graph is built.)
    """
    for node in graph.nodes:
        if (body := node.op.inner()) is not None:
            verify(body, where=f"{where}: {node.name}")
        info = graph.infos[node.name]
        inferred = node.op.infer(node.name, tuple(graph.infos[source] for source in node.inputs))
        if inferred != info:
            raise _defect(where, f"{node.name}: holds {info} where {inferred} is inferred")
        hull, held = info.interval.hull, Interval.of(info.type)
        on_grid = hull.frac_bits == info.type.frac_bits or (isinstance(info.interval, Channels) and hull.frac_bits < info.type.frac_bits)
        if not on_grid or (fine := hull.at(info.type.frac_bits)).lo < held.lo or fine.hi > held.hi:
            raise _defect(where, f"{node.name}: {hull} is not held by {info.type}")
        if any(interval.lo < RAW_MIN or interval.hi > RAW_MAX for interval in info.stored.spread(info.shape[0])):
            raise _defect(where, f"{node.name}: {info.stored} leaves int64")
    dead = [node.name for node in graph.nodes if node.name not in living(graph)]
    if dead:
        raise _defect(where, f"{dead[0]}: nothing reads it, and it is not the output")


def verify_rewrite(before: Graph, after: Graph, *, where: str) -> None:
    """Raises ModelFileError, naming ``where``, unless the input nodes, the outputs' shapes and types, and the metadata are what they were."""
    if before.inputs != after.inputs:
        changed = next((pair for pair in zip(before.inputs, after.inputs, strict=False) if pair[0] != pair[1]), (before.inputs, after.inputs))
        raise _defect(where, f"changed the input from {changed[0]} to {changed[1]}")
    if len(before.outputs) != len(after.outputs):
        raise _defect(where, f"changed the outputs from {before.outputs} to {after.outputs}")
    for old, new in ((before.infos[a], after.infos[b]) for a, b in zip(before.outputs, after.outputs, strict=True)):
        if (old.shape, old.type, old.per_channel) != (new.shape, new.type, new.per_channel):
            raise _defect(where, f"changed the output from {old.shape} of {old.type} to {new.shape} of {new.type}")
    if (before.name, before.metadata) != (after.name, after.metadata):
        raise _defect(where, "changed the name or the metadata")


def _defect(where: str, what: str) -> ModelFileError:
    return ModelFileError(what, where=where, remedy="this is a defect in qfx; please report it with the model")
