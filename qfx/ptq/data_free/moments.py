"""What values a quantized model's nodes take, per channel, told from BatchNorm statistics alone: normal distributions carried through the graph."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer
from qfx.nn.layers import QFoldedBatchNorm
from qfx.ptq.floating.fold import Statistics

__all__ = ["Clipped", "distributions"]


def distributions(qmodel: fx.GraphModule, statistics: Mapping[str, Statistics], inputs: Clipped) -> dict[str, Clipped]:
    """What every node of the quantized model's graph that gives a tensor gives, by the node's name; rounding is left out.

    ``statistics``: of the results of layers, by path, as ``folded_statistics`` has them; those of BatchNorms in the model itself are known anyway. A
    layer without any computes its own from what it reads (``FixedLayer.distribution``): channels count as independent and neighbouring pixels as
    equal or independent, whichever spreads more; sums and products are of independent numbers, unless a value meets itself; pooling and padding
    leave a distribution as it is.
    """
    found: dict[str, Clipped] = {}
    read: dict[fx.Node, Clipped] = {}
    norms: dict[fx.Node, QFoldedBatchNorm] = {}
    for node in qmodel.graph.nodes:
        layer = qmodel.get_submodule(str(node.target)) if node.op == "call_module" else None
        if node.op == "placeholder":
            read[node] = inputs
        elif isinstance(layer, QFoldedBatchNorm):
            norms[node] = layer
        elif isinstance(layer, FixedLayer):
            arguments = [source for source in node.args if isinstance(source, fx.Node)]
            sources = [read[source] for source in arguments if source in read]
            norm = next((norms[source] for source in arguments if source in norms), None)
            known = statistics.get(str(node.target))
            if norm is not None:
                read[node] = norm.distribution(sources)
            else:
                read[node] = layer.distribution(sources) if known is None else Clipped.normal(known.mean, known.std)
            found[node.name] = read[node]
    return found
