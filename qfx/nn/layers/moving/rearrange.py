"""Numbers between channels and pixels: ``PixelShuffle`` and its inverse, ``unfold``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from qfx.nn.call import Call, Family, Layers
from qfx.nn.layers.moving.take import QTake
from qfx.nn.layers.pad import QPad
from qfx.nn.layers.permute import QPermute
from qfx.nn.layers.reshape import QReshape


def _image(call: Call) -> tuple[int, int, int]:
    if len(call.in_shape) != 3:
        raise call.refuse(f"{call.name} on a value of shape {call.in_shape}", "give it (batch, channels, height, width)")
    channels, height, width = call.in_shape
    return channels, height, width


def _pixel_shuffle(call: Call) -> Layers:
    (channels, height, width), r = _image(call), call.get("upscale_factor")
    return [QReshape((channels // r**2, r, r, height, width)), QPermute((0, 3, 1, 4, 2)), QReshape(call.out_shape)]


def _pixel_unshuffle(call: Call) -> Layers:
    (channels, height, width), r = _image(call), call.get("downscale_factor")
    return [QReshape((channels, height // r, r, width // r, r)), QPermute((0, 2, 4, 1, 3)), QReshape(call.out_shape)]


def _unfold(call: Call) -> Layers:
    """The pixels of all windows side by side: where they lie is torch's own answer for the pixels' numbers."""
    channels, height, width = _image(call)
    kernel, dilation, padding, stride = (call.sizes(name, default, 2) for name, default in _WINDOW)
    (top, left), layers = padding, []
    height, width = height + 2 * top, width + 2 * left
    if any(padding):
        layers.append(QPad(((0, 0), (top, top), (left, left))))
    numbers = torch.arange(height * width, dtype=torch.float64).reshape(1, 1, height, width)
    order = F.unfold(numbers, kernel, dilation, 0, stride).reshape(-1).long().tolist()
    return [*layers, QReshape((channels, height * width)), QTake(1, tuple(order)), QReshape(call.out_shape)]


_WINDOW = (("kernel_size", None), ("dilation", 1), ("padding", 0), ("stride", 1))

FAMILY = Family(
    layers=(QReshape, QPermute, QTake, QPad),
    modules={nn.PixelShuffle: _pixel_shuffle, nn.PixelUnshuffle: _pixel_unshuffle, nn.Unfold: _unfold},
    functions={
        torch.pixel_shuffle: ("input upscale_factor", _pixel_shuffle),
        torch.pixel_unshuffle: ("input downscale_factor", _pixel_unshuffle),
        F.unfold: ("input kernel_size dilation padding stride", _unfold),
    },
)
