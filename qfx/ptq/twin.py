"""The float twin of a quantized model: the same graph with every Cast taken out, for comparison node by node."""

from __future__ import annotations

import copy

from torch import Tensor, fx, nn

from qfx.fixed.arith import Interval
from qfx.nn.convert import graph_module
from qfx.nn.functional import QInput
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer


class Through(nn.Module):
    """Stands where a Quantizer stood, and lets everything pass. The interval is the quantizer's: it no longer bounds the numbers, and decides only
    in which dtype they are computed."""

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        self.name = quantizer.name
        self.frac_bits = quantizer.frac_bits
        self._interval = quantizer.interval() if quantizer.is_initialized else Interval(-1, 1, 0)

    def interval(self) -> Interval:
        return self._interval

    def forward(self, x: QTensor | Tensor) -> QTensor:
        return QTensor(x if isinstance(x, Tensor) else x.tensor(), self._interval)

    def with_another(self, x: Tensor, other: Through, y: Tensor) -> tuple[QTensor, QTensor]:
        return self(x), other(y)


def float_twin(qmodel: nn.Module) -> fx.GraphModule:
    """A copy of ``qmodel`` in evaluation mode that computes in float, with the weights that ``qmodel`` has now.

    Its graph has the same nodes with the same names; the results of a node are float32 or float64 numbers that are not cast. Take it before a
    pass changes weights: it is what passes compare with. Raises QfxError if ``qmodel`` did not come from ``qfx.quantize``.
    """
    twin = copy.deepcopy(graph_module(qmodel)).eval()
    for path, module in list(twin.named_modules()):
        if isinstance(module, Quantizer):
            parent, _, name = path.rpartition(".")
            setattr(twin.get_submodule(parent), name, Through(module))
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    assert any(isinstance(module, QInput) for module in twin.modules())
    return twin
