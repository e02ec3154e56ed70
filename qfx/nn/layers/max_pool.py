"""Max pooling, also adaptive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from qfx import operators as ops
from qfx.nn.call import Call, Family, Layers, Part, pool_window
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits
from qfx.nn.layers.moving.take import QTake
from qfx.nn.layers.resampling.windows import adaptive_windows, laid_out
from qfx.nn.layers.upsample import QUpsample, repeated
from qfx.nn.qtensor import QTensor


class QMaxPool(FixedLayer):
    """Greatest value of each window; padding never wins."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    beyond: tuple[int, ...]

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=True, reads_uncast=False)

    def __init__(
        self, kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...], dilation: tuple[int, ...], beyond: tuple[int, ...] = ()
    ) -> None:
        """``beyond``: by how many places the last windows stick out at the end (``ceil_mode``)."""
        super().__init__()
        self.kernel, self.stride, self.padding, self.dilation = kernel, stride, padding, dilation
        self.beyond = beyond or (0,) * len(kernel)

    def forward(self, x: QTensor) -> QTensor:
        pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(self.kernel) - 1]
        return QTensor(pool(x.tensor(), self.kernel, self.stride, self.padding, self.dilation, any(self.beyond)), x.interval)

    def operators(self) -> Steps:
        return [
            (
                "",
                ops.MaxPool(self.kernel, self.stride, tuple((p, p + more) for p, more in zip(self.padding, self.beyond, strict=True)), self.dilation),
            )
        ]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        return sources[0]

    def scales_channels(self, channels: int) -> bool:
        return True


def _max_pool(call: Call) -> Layers:
    if call.get("return_indices", False):
        raise call.refuse("max pooling that returns indices", "leave return_indices off")
    if not call.get("ceil_mode", False):
        return [QMaxPool(*pool_window(call))]
    rank = call.spatial_rank()
    kernel = call.sizes("kernel_size", None, rank)
    stride = call.sizes("stride", kernel, rank) or kernel
    padding, dilation = call.sizes("padding", 0, rank), call.sizes("dilation", 1, rank)
    axes = zip(call.in_shape[1:], call.out_shape[1:], kernel, stride, padding, dilation, strict=True)
    beyond = tuple(max((out - 1) * s + d * (k - 1) + 1 - size - 2 * p, 0) for size, out, k, s, p, d in axes)
    return [QMaxPool(kernel, stride, padding, dilation, beyond)]


def _adaptive_max_pool(call: Call) -> Layers:
    if call.get("return_indices", False):
        raise call.refuse("max pooling that returns indices", "leave return_indices off")
    windows = adaptive_windows(call)
    if all(axis.kernel == 1 for axis in windows) and call.out_shape != call.in_shape:  # to more than there were: pixels repeated
        return repeated(call.in_shape[1:], [axis.order(None) for axis in windows])
    parts, kernel, stride = laid_out(windows, zeros=False)
    pool = QMaxPool(kernel, stride, (0,) * len(kernel), (1,) * len(kernel))
    return [*parts, Part(pool, (parts[-1] if parts else 0,))]


_ARGUMENTS = "input kernel_size stride padding dilation ceil_mode return_indices"
_ADAPTIVE = "input output_size return_indices"

FAMILY = Family(
    layers=(QMaxPool, QTake, QUpsample),
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
        F.adaptive_max_pool3d: (_ADAPTIVE, _adaptive_max_pool),
    },
)
