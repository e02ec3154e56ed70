"""The linear layer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from qfx import operators as ops
from qfx.capture.refusals import limits
from qfx.errors import DataError
from qfx.nn.call import Call, Family, Layers
from qfx.nn.fixed_layer import Steps
from qfx.nn.layers.weighted import Weighted
from qfx.operators import Const
from qfx.recipe import Recipe


class QLinear(Weighted):
    """``torch.nn.Linear`` for values of shape (batch, in_features), exact before its result is cast."""

    def __init__(self, source: nn.Linear, recipe: Recipe, name: str) -> None:
        super().__init__(source, recipe, name)
        self.in_features, self.out_features = source.in_features, source.out_features

    def _operator(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if x.dim() != 2:
            raise DataError(f"got a tensor of {x.dim()} axes", where=self.name, remedy="flatten to (batch, features) before a linear layer")
        return F.linear(x, weight, bias)

    def lowered(self, weight: Const, bias: Const | None) -> Steps:
        return [("", ops.Linear(weight, bias))]

    def input_rows(self, x: Tensor) -> Tensor:
        return x.unsqueeze(0)


def _linear(call: Call) -> Layers:
    assert isinstance(call.module, nn.Linear)
    if len(call.in_shape) != 1:
        raise call.refuse(f"Linear on a value of shape {call.in_shape}", limits.linear_elsewhere(call.in_shape, call.module))
    return [QLinear(call.module, call.recipe, call.path)]


FAMILY = Family(layers=(QLinear,), modules={nn.Linear: _linear})
