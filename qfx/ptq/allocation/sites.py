"""Where quantizers stand in a network, and what they cast: the weights of a layer, activations, the input."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx, nn

from qfx.nn.layers import QInput
from qfx.nn.quantizer import Quantizer
from qfx.ptq.allocation.table import Role


@dataclass(frozen=True, eq=False)
class Site:
    """A quantizer, the node that calls it or its layer, and the path of what stands for it in the reference."""

    name: str
    role: Role
    quantizer: Quantizer
    node: str
    path: str


def sites_of(qmodel: fx.GraphModule) -> list[Site]:
    """Every quantizer of a weight, of an activation and of the input, once, in the order of the network."""
    nodes = [node for node in qmodel.graph.nodes if node.op == "call_module"]
    layers = {node: qmodel.get_submodule(str(node.target)) for node in nodes}
    computes = {node for node in nodes if not isinstance(layers[node], Quantizer) and _casts(layers[node], "")}
    found: dict[str, Site] = {}
    for node in nodes:
        for path, quantizer in _casts(layers[node], str(node.target)):
            role: Role | None = None
            layer = layers[node]
            if isinstance(layer, QInput):
                role = "input" if layer.rows is None else None  # row numbers have the word length that they need
            elif quantizer.name.endswith(".weight"):
                role = "weight"
            elif isinstance(layer, Quantizer) and _reaches(node, computes):
                role = "activation"
            if role is not None and quantizer.name not in found:
                found[quantizer.name] = Site(quantizer.name, role, quantizer, node.name, path)
    return list(found.values())


def _casts(layer: nn.Module, path: str) -> list[tuple[str, Quantizer]]:
    parts = ((f"{path}.{name}" if name else path, part) for name, part in layer.named_modules())
    return [(name, part) for name, part in parts if isinstance(part, Quantizer) and part.is_initialized]


def _reaches(node: fx.Node, targets: set[fx.Node]) -> bool:
    """Whether something is computed from the node's value, or only moved to the output."""
    open_, seen = list(node.users), set()
    while open_:
        user = open_.pop()
        if user in targets:
            return True
        if user not in seen:
            seen.add(user)
            open_ += list(user.users)
    return False


def present_widths(qmodel: fx.GraphModule) -> set[int]:
    """The word lengths that the weights and activations of a quantized model have now."""
    return {site.quantizer.word_length for site in sites_of(qmodel) if site.role in ("weight", "activation")}
