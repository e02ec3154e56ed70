"""The passes, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable

from qfx.ir.graph import Graph
from qfx.ir.passes import rewrite
from qfx.ir.passes.fold_pad import fold_pad
from qfx.ir.passes.simplify import drop_relu_before_unsigned_cast, merge_reshapes, remove_dead, remove_no_ops
from qfx.ir.passes.vanish import remove_pruned_channels
from qfx.ir.verify import verify, verify_rewrite

Pass = Callable[[Graph], Graph]


def optimize_bodies(graph: Graph) -> Graph:
    """What a node does at each step of a sequence, after the same passes: the inputs stay, and results and next states keep their raws and types."""
    return rewrite.inside(graph, optimize)


PIPELINE: tuple[Pass, ...] = (
    remove_dead,
    optimize_bodies,
    remove_pruned_channels,
    merge_reshapes,
    fold_pad,
    remove_no_ops,
    drop_relu_before_unsigned_cast,
)
"""Every pass is pure and exact: the output keeps its raws and its type, the input node stays as it is. Node names may vanish, the output's too."""


def optimize(graph: Graph, passes: tuple[Pass, ...] = PIPELINE) -> Graph:
    """The graph after the passes, verified after each. Raises ModelFileError naming the pass that broke it."""
    for pass_ in passes:
        after = pass_(graph)
        verify_rewrite(graph, after, where=pass_.__name__)
        verify(after, where=pass_.__name__)
        graph = after
    return graph
