"""The bilinear form x1 W x2 + b: a layer with weights on the first value, and its product with the second."""

from __future__ import annotations

import torch

from qfx.nn.call import Call, Family, Layers
from qfx.nn.fixed_layer import FixedLayer
from qfx.nn.layers.elementwise.constant import QAddConstant
from qfx.nn.layers.elementwise.held import held
from qfx.nn.layers.linear import QLinear
from qfx.nn.layers.permute import QPermute
from qfx.nn.layers.products.contraction import Operand, Wiring, of_values, with_weights
from qfx.nn.layers.products.matmul import QMatMul
from qfx.nn.layers.products.weights import Form, is_constant, shape_of, weights_of
from qfx.nn.layers.reshape import QReshape


def _bilinear(call: Call) -> Layers:
    x1, x2 = call.arguments["input1"], call.arguments["input2"]
    weight, bias = call.arguments.get("weight"), call.arguments.get("bias")
    if is_constant(call, x1) or is_constant(call, x2) or not is_constant(call, weight):
        raise call.refuse("a bilinear form of constants", "give it two values and the weight of the model; of one value, it is a linear layer")
    shapes = [call.traced.shapes[x] for x in (x1, x2)]
    heads = tuple(f"head{place}" for place in range(len(shapes[0]) - 1))
    wiring = Wiring()

    def make(form: Form, groups: int, positions: bool) -> FixedLayer:
        return QLinear(weights_of(call, weight, form=form), call.recipe, call.path, positions=positions)

    first = Operand(shapes[0], (*heads, "i"), call.values.index(x1))
    outputs, _, seconds = shape_of(call, weight)
    half = with_weights(wiring, first, Operand(shape_of(call, weight), ("o", "i", "j")), (*heads, "o", "j"), make)
    left = Operand((*shapes[0][:-1], outputs, seconds), (*heads, "o", "j"), half)
    result = of_values(wiring, left, Operand(shapes[1], (*heads, "j"), call.values.index(x2)), (*heads, "o"), suffix="_product")
    constant = None if bias is None else held(call, bias)
    if constant is not None:
        shift = constant.within(call, len(call.out_shape))
        wiring.add(QAddConstant(shift, call.recipe, f"{call.path}_shift"), result, suffix="_shift")
    return wiring.parts


FAMILY = Family(
    layers=(QLinear, QMatMul, QPermute, QReshape, QAddConstant),
    functions={torch.bilinear: ("input1 input2 weight bias", _bilinear)},
    takes_constants=True,
)
