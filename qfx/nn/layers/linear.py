"""The linear layer."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qfx import operators as ops
from qfx.errors import DataError
from qfx.nn.call import Call, Family, Layers
from qfx.nn.fixed_layer import Steps
from qfx.nn.layers.batch_norm import FoldedNorm
from qfx.nn.layers.permute import QPermute
from qfx.nn.layers.products import whole
from qfx.nn.layers.products.contraction import last_axis_first
from qfx.nn.layers.products.weights import Weights, weights_of
from qfx.nn.layers.reshape import QReshape
from qfx.nn.layers.weighted import Weighted
from qfx.nn.qtensor import QTensor
from qfx.operators import Const
from qfx.recipe import Recipe


class QLinear(Weighted):
    """``torch.nn.Linear`` for values of shape (batch, in_features), exact before its result is cast.

    With ``positions`` it is for (batch, in_features, positions), and works on each position alone: features are the channels, as everywhere.
    """

    positions: bool
    out_features: int
    in_features: int

    positions = False
    _whole: whole.Whole | None = None
    _followed: whole.Followed | None = None

    def __init__(self, source: nn.Linear | Weights, recipe: Recipe, name: str, *, positions: bool = False) -> None:
        super().__init__(source, recipe, name)
        self.out_features, self.in_features = self.cast_weight().shape
        self.positions = positions

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key not in ("_whole", "_followed")}

    def forward(self, x: QTensor, norm: FoldedNorm | None = None) -> QTensor:
        if norm is not None or type(self) is not QLinear or not torch.is_grad_enabled():
            return super().forward(x, norm)
        if self._whole is not None and (found := whole.forward(self, self._whole, x)) is not None:
            return found
        result = super().forward(x)
        self._whole = whole.learned(self, x, result)
        return result

    def _operator(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if x.dim() != 2 + self.positions:
            remedy = "give each call a module of its own" if self.positions or x.dim() == 3 else "flatten to (batch, features) before a linear layer"
            raise DataError(f"got a tensor of {x.dim()} axes", where=self.name, remedy=remedy)
        if self.positions:
            return F.linear(x.transpose(1, 2), weight, bias).transpose(1, 2)
        return F.linear(x, weight, bias)

    @property
    def rank(self) -> int:
        return 1 + self.positions

    def lowered(self, weight: Const, bias: Const | None) -> Steps:
        if self.positions:
            return [("", ops.Conv(Const(weight.raw[..., None], weight.frac_bits), bias, (1,), ((0, 0),), (1,), 1))]
        return [("", ops.Linear(weight, bias))]

    def input_rows(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).reshape(1, -1, x.shape[1]) if self.positions else x.unsqueeze(0)


def _linear(call: Call) -> Layers:
    assert isinstance(call.module, nn.Linear)
    return linear(call, call.module)


def _functional(call: Call) -> Layers:
    return linear(call, weights_of(call, call.arguments.get("weight"), call.arguments.get("bias")))


def linear(call: Call, source: nn.Linear | Weights) -> Layers:
    """The linear layer on the last axis of the call's input."""
    shape: tuple[int, ...] = call.traced.shapes[call.arguments["input"]] if call.module is None else call.in_shape
    if len(shape) == 1:
        return [QLinear(source, call.recipe, call.path)]
    return last_axis_first(shape, call.out_shape, QLinear(source, call.recipe, call.path, positions=True))


FAMILY = Family(
    layers=(QLinear, QPermute, QReshape),
    modules={nn.Linear: _linear},
    functions={F.linear: ("input weight bias", _functional)},
    takes_constants=True,
    multiplies=True,
)
