"""The blocks of a network: what lies between two places where a single cast value is alive."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from qfx.nn.quantizer import Quantizer
from qfx.ptq.activations import LayerCall, layer_calls


@dataclass(frozen=True)
class Block:
    """Nodes of the graph between two places where a single cast value is alive: a residual block, or a layer of a plain chain.

    ``source``: the node before the block, whose value it reads; ``nodes``: what runs, the last one gives the block's result; ``calls``: those of
    layers with weights.
    """

    source: fx.Node
    nodes: tuple[fx.Node, ...]
    calls: tuple[LayerCall, ...]

    @property
    def name(self) -> str:
        """The paths of its first and last layer."""
        first, last = self.calls[0].path, self.calls[-1].path
        return first if first == last else f"{first}..{last}"


def find_blocks(qmodel: fx.GraphModule) -> list[Block]:
    """The model's blocks, in order; each has at least one layer with weights. Raises as ``layer_calls`` does."""
    nodes = [node for node in qmodel.graph.nodes if node.op != "output"]
    order = {node: index for index, node in enumerate(nodes)}
    last_use = {node: max((order.get(user, len(nodes)) for user in node.users), default=-1) for node in nodes}
    by_node = {call.node: call for call in layer_calls(qmodel)}
    blocks: list[Block] = []
    start = next(index for index, node in enumerate(nodes) if node.op == "placeholder") + 1  # the layer that casts the input
    inside: list[LayerCall] = []
    alive: set[fx.Node] = set()
    for index, node in enumerate(nodes):
        alive = {other for other in (*alive, node) if last_use[other] > index}
        if node in by_node:
            inside.append(by_node[node])
        last = index == len(nodes) - 1
        cast = node.op == "call_module" and isinstance(qmodel.get_submodule(str(node.target)), Quantizer)
        if inside and (last or (cast and alive == {node})):
            blocks.append(Block(nodes[start], tuple(nodes[start + 1 : index + 1]), tuple(inside)))
            start, inside = index, []
    return blocks
