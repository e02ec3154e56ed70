"""Convolution, pooling and normalization of frames: what people write as ``(N * T, C, H, W)`` is a picture of one axis more, ``(N, C, T, H, W)``,
which nothing is summed along."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from qfx.capture.batch.layout import Layout
from qfx.capture.batch.operation import NotFollowedError, Operation, Written
from qfx.capture.traced import MADE

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_FUNCTIONS: dict[Any, Any] = {F.conv1d: F.conv2d, F.conv2d: F.conv3d}


class OverFrames(nn.Module):
    """A convolution of one axis more than ``conv`` has, along which every place is convolved alone: (N, C, T, *sizes). The tensors are those of
    ``conv``."""

    def __init__(self, conv: nn.Conv1d | nn.Conv2d) -> None:
        super().__init__()
        self._parameters = conv._parameters
        object.__setattr__(self, "conv", conv)

    def forward(self, x: Tensor) -> Tensor:
        conv: Any = self.__dict__["conv"]
        rank = conv.weight.dim() - 2
        padding = conv.padding if isinstance(conv.padding, str) else (0, *conv.padding)
        result: Tensor = _CONVOLUTIONS[rank + 1](x, conv.weight.unsqueeze(2), conv.bias, (1, *conv.stride), padding, (1, *conv.dilation), conv.groups)
        return result


def convolution(op: Operation) -> Written:
    """A layer, or a function by tensors that the model holds."""
    layout = _frames(op)
    source = op.aligned(op.source, len(op.shape), layout)
    if op.module is None:
        return _function(op, source, layout)
    conv: Any = op.module
    if len(op.shape) > 4 or conv.padding_mode != "zeros" or op.node.meta.get(MADE) or not all(_is_framed(op, user) for user in op.users):
        raise NotFollowedError("is a layer over frames", REMEDY)
    if not isinstance(conv, OverFrames):
        op.framed(OverFrames(conv))
    return Written(layout, op.node.target, (source,))


def _function(op: Operation, source: fx.Node, layout: Layout) -> Written:
    rank = len(op.shape) - 2
    if op.node.target not in _FUNCTIONS or op.get("weight") in op.layouts:
        raise NotFollowedError("is a layer over frames", REMEDY)
    stride, padding, dilation = (op.get(name, default) for name, default in (("stride", 1), ("padding", 0), ("dilation", 1)))
    sizes = [(own, *((value,) * rank if isinstance(value, int) else tuple(value))) for own, value in ((1, stride), (1, dilation))]
    sides = padding if isinstance(padding, str) else (0, *((padding,) * rank if isinstance(padding, int) else tuple(padding)))
    weight = op.put(torch.unsqueeze, (op.get("weight"), 2))
    return Written(layout, _FUNCTIONS[op.node.target], (source, weight, op.get("bias"), sizes[0], sides, sizes[1], op.get("groups", 1)))


def normalization(op: Operation) -> Written:
    """BatchNorm, by the class for one axis more."""
    layout = _frames(op)
    source = op.aligned(op.source, len(op.shape), layout)
    if len(op.shape) > 2 and not isinstance(op.module, nn.SyncBatchNorm):
        larger = {3: nn.BatchNorm2d, 4: nn.BatchNorm3d}.get(len(op.shape))
        norm: Any = op.module
        if larger is None or not all(_is_framed(op, user) for user in op.users):
            raise NotFollowedError("is a layer over frames", REMEDY)
        framed = larger(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        framed._parameters, framed._buffers = norm._parameters, norm._buffers
        op.framed(framed.train(norm.training))
    return Written(layout, op.node.target, (source,))


def channelwise(op: Operation) -> Written:
    """What works on every channel alone: channels of all frames side by side."""
    layout = _frames(op)
    source = op.aligned(op.source, len(op.shape), layout)
    channels, *sizes = op.shape[1:]
    count = layout.before * layout.behind
    beside = op.reshaped(source, (channels * count, *sizes), layout.turned(op.shape))
    found = op.put(None, (beside, *op.node.args[1:]))
    return Written(layout, torch.reshape, (found, (-1, *layout.turned(op.result))))


def _frames(op: Operation) -> Layout:
    """The layout for a value whose batch and frames are its first axis."""
    layout = op.layout
    if layout.axis or len(layout.factors) != 1 or len(op.shape) < 2:
        raise NotFollowedError(f"takes axis 1 for channels, and the batch is on axis {layout.axis}", "move the batch to the front before it")
    return Layout(0, layout.before, layout.behind, inner=True)


def _is_framed(op: Operation, user: fx.Node) -> bool:
    source = user.args[0]
    return isinstance(source, fx.Node) and source in op.shapes and op.shapes[source][0][0] != op.batches[0]


REMEDY = "give a layer frames alone or samples alone, zeros as its border, and two axes behind the channels at most"
