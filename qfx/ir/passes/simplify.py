"""Passes that leave out what does nothing. Each docstring states the algebra that makes it exact."""

from __future__ import annotations

from qfx.fixed.type import OMode
from qfx.ir.graph import Graph, Node
from qfx.ir.passes import rewrite
from qfx.ir.values import ArrayType
from qfx.operators import Cast, Relu, Reshape


def remove_dead(graph: Graph) -> Graph:
    """A node that the output does not depend on cannot change it; nor one that no result and no state of a step depends on."""
    return rewrite.drop_dead(rewrite.inside(graph, remove_dead))


def remove_no_ops(graph: Graph) -> Graph:
    """f(x) = x for every x in the range that is inferred, so the readers of f(x) may read x.

    Reshape to the same shape, identity Transpose, Pad by nothing, Slice of everything, Upsample and Stretch by 1, Relu and LeakyRelu of
    what is never negative (LeakyRelu by a slope of 1 too), Clip of what never leaves its bounds, Affine by 1 and 0, Cast of what lies on the grids
    and within the bounds of all its types.
    """
    return rewrite.everywhere(graph, _remove_no_op)


def _remove_no_op(graph: Graph, node: Node) -> Graph | None:
    if len(node.inputs) != 1:
        return None
    x = graph.infos[node.inputs[0]]
    return rewrite.bypass(graph, node.name, node.inputs[0]) if node.op.does_nothing(x) else None


def merge_reshapes(graph: Graph) -> Graph:
    """A Reshape keeps the row-major order, so the second of two in a row may read what the first reads."""
    return rewrite.everywhere(graph, _merge_reshape)


def _merge_reshape(graph: Graph, node: Node) -> Graph | None:
    if not isinstance(node.op, Reshape):
        return None
    first = graph.node(node.inputs[0])
    if not isinstance(first.op, Reshape):
        return None
    return rewrite.swap(graph, {node.name: Node(node.name, node.op, first.inputs)})


def drop_relu_before_unsigned_cast(graph: Graph) -> Graph:
    """For x < 0 a saturating cast to an unsigned type gives 0 = cast(max(x, 0)): rounding never takes a negative number above 0, and what is then
    below 0 saturates to 0 (under AP_SAT_ZERO overflow gives 0 as well); for x >= 0 both sides are equal.

    Made where every reader of the Relu is such a Cast.
    """
    return rewrite.everywhere(graph, _drop_relu)


def _drop_relu(graph: Graph, node: Node) -> Graph | None:
    if not isinstance(node.op, Relu) or node.name in graph.outputs:
        return None
    if not all(isinstance(reader.op, Cast) and _cuts_negatives(reader.op.cast) for reader in graph.consumers(node.name)):
        return None
    return rewrite.bypass(graph, node.name, node.inputs[0])


def _cuts_negatives(cast: ArrayType) -> bool:
    return not cast.element.signed and cast.element.o in (OMode.SAT, OMode.SAT_SYM, OMode.SAT_ZERO)
