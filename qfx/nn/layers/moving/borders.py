"""Padding by the value's own numbers: reflected, replicated, circular."""

from __future__ import annotations

from torch import nn

from qfx.nn.call import Call, Family, Layers
from qfx.nn.layers.moving.take import QTake
from qfx.nn.layers.pad import bordered
from qfx.nn.layers.reshape import QReshape


def _reflect(call: Call) -> Layers:
    return bordered(call, call.get("padding"), "reflect")


def _replicate(call: Call) -> Layers:
    return bordered(call, call.get("padding"), "replicate")


def _circular(call: Call) -> Layers:
    return bordered(call, call.get("padding"), "circular")


FAMILY = Family(
    layers=(QTake, QReshape),
    modules={
        **dict.fromkeys((nn.ReflectionPad1d, nn.ReflectionPad2d), _reflect),
        **dict.fromkeys((nn.ReplicationPad1d, nn.ReplicationPad2d), _replicate),
        **dict.fromkeys((nn.CircularPad1d, nn.CircularPad2d), _circular),
    },
)
