"""Max pooling, also adaptive."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from qfx import operators as ops
from qfx.nn.call import Call, Family, Layers, adaptive_window, pool_window
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits
from qfx.nn.qtensor import QTensor


class QMaxPool(FixedLayer):
    """Greatest value of each window; padding never wins."""

    traits = Traits(moves_only=False, keeps_grid=True, reads_uncast=False)

    def __init__(self, kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...], dilation: tuple[int, ...]) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding, self.dilation = kernel, stride, padding, dilation

    def forward(self, x: QTensor) -> QTensor:
        pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(self.kernel) - 1]
        return QTensor(pool(x.tensor(), self.kernel, self.stride, self.padding, self.dilation), x.interval)

    def operators(self) -> Steps:
        return [("", ops.MaxPool(self.kernel, self.stride, tuple((p, p) for p in self.padding), self.dilation))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        return sources[0]

    def scales_channels(self, channels: int) -> bool:
        return True


def _max_pool(call: Call) -> Layers:
    if call.get("return_indices", False):
        raise call.refuse("max pooling that returns indices", "leave return_indices off")
    return [QMaxPool(*pool_window(call))]


def _adaptive_max_pool(call: Call) -> Layers:
    if call.get("return_indices", False):
        raise call.refuse("max pooling that returns indices", "leave return_indices off")
    kernel = adaptive_window(call)
    return [QMaxPool(kernel, kernel, (0,) * len(kernel), (1,) * len(kernel))]


_ARGUMENTS = "input kernel_size stride padding dilation ceil_mode return_indices"
_ADAPTIVE = "input output_size return_indices"

FAMILY = Family(
    layers=(QMaxPool,),
    modules={
        nn.MaxPool1d: _max_pool,
        nn.MaxPool2d: _max_pool,
        nn.MaxPool3d: _max_pool,
        nn.AdaptiveMaxPool1d: _adaptive_max_pool,
        nn.AdaptiveMaxPool2d: _adaptive_max_pool,
        nn.AdaptiveMaxPool3d: _adaptive_max_pool,
    },
    functions={
        F.max_pool1d: (_ARGUMENTS, _max_pool),
        F.max_pool2d: (_ARGUMENTS, _max_pool),
        F.max_pool3d: (_ARGUMENTS, _max_pool),
        torch.max_pool1d: (_ARGUMENTS, _max_pool),
        torch.max_pool2d: (_ARGUMENTS, _max_pool),
        F.adaptive_max_pool1d: (_ADAPTIVE, _adaptive_max_pool),
        F.adaptive_max_pool2d: (_ADAPTIVE, _adaptive_max_pool),
    },
)
