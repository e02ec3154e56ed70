"""The float reference of a quantized model: the same graph with every Cast taken out, for comparison node by node."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

from qfx.errors import QfxError
from qfx.fixed.arith import Interval
from qfx.nn.layers import Weighted
from qfx.nn.model import graph_module
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer

_UNIT = Interval(-1, 1, 0)


class PassThrough(nn.Module):
    """Stands where a Quantizer stood, and lets everything pass. Its interval does not bound the numbers; it is small, so that all is computed in the
    dtype that the model's parameters have."""

    name: str
    frac_bits: Tensor

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        self.name = quantizer.name
        self.frac_bits = quantizer.frac_bits

    def interval(self) -> Interval:
        return _UNIT

    def forward(self, x: QTensor | Tensor) -> QTensor:
        return QTensor(x if isinstance(x, Tensor) else x.tensor(), _UNIT)

    def with_another(self, x: Tensor, other: PassThrough, y: Tensor) -> tuple[QTensor, QTensor]:
        return self(x), other(y)


def float_reference(qmodel: nn.Module) -> fx.GraphModule:
    """A copy of ``qmodel`` in evaluation mode that computes in float, with the weights that ``qmodel`` has now.

    Its graph has the same nodes with the same names; the results of a node are float32 or float64 numbers that are not cast. Take it before a
    pass changes weights: it is what passes compare with. Raises QfxError if ``qmodel`` did not come from ``qfx.quantize``.
    """
    reference = copy.deepcopy(graph_module(qmodel)).eval()
    for path, module in list(reference.named_modules()):
        if isinstance(module, Quantizer):
            parent, _, name = path.rpartition(".")
            setattr(reference.get_submodule(parent), name, PassThrough(module))
    for parameter in reference.parameters():
        parameter.requires_grad_(False)
    return reference


def reference_of(qmodel: fx.GraphModule, reference: fx.GraphModule | None, twin: fx.GraphModule | None = None) -> fx.GraphModule:
    """The float reference that a pass was given, as ``reference`` or under its earlier name ``twin``, or one that is taken now if there is none.

    Raises QfxError for two, for one that is not of this model, and where it would be taken too late: with all weights on their grids already, as
    rounding passes leave them, it would teach the rounded model instead of the float one.
    """
    if reference is not None and twin is not None:
        raise QfxError("was given twice", where="reference", remedy="twin is its earlier name: leave it out")
    reference = twin if reference is None else reference
    if reference is None:
        if _is_rounded(qmodel):
            raise QfxError(
                "has rounded weights already: the float model is not to be had from it",
                where="reference",
                remedy="take it before the first pass, reference = float_reference(qmodel), and give it to every pass",
            )
        return float_reference(qmodel)
    if not isinstance(reference, fx.GraphModule) or [node.name for node in reference.graph.nodes] != [node.name for node in qmodel.graph.nodes]:
        raise QfxError("is not of this model", where="reference", remedy="take it from the same quantized model: reference = float_reference(qmodel)")
    return reference


def _is_rounded(qmodel: fx.GraphModule) -> bool:
    """Whether every weight that is not zero lies on its grid; those inside of loops apart, which rounding passes leave as they are."""
    layers = [qmodel.get_submodule(str(node.target)) for node in qmodel.graph.nodes if node.op == "call_module"]
    weights = [(layer.cast_weight().detach(), layer.weight_cast) for layer in layers if isinstance(layer, Weighted)]
    some = [(weight, cast) for weight, cast in weights if bool(weight.any())]
    with torch.no_grad():
        return bool(some) and all(torch.equal(cast(weight).tensor().to(weight.dtype), weight) for weight, cast in some)
