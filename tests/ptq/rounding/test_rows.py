"""Layers as matrices: the product of the rows and the matrix is the layer's result, for every kind of layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import qfx
from qfx import Recipe, Spec
from qfx.nn.layers import Weighted
from qfx.ptq.float_reference import float_reference
from qfx.ptq.rounding.rows import from_matrix, input_rows, output_rows, some_rows, to_matrix

LAYERS = {
    "linear": (nn.Linear(7, 5), (7,)),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2), (4, 11)),
    "conv1d in groups": (nn.Conv1d(4, 6, 3, groups=2, padding="same"), (4, 7)),
    "conv2d": (nn.Conv2d(3, 5, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (3, 8, 7)),
    "conv2d same": (nn.Conv2d(3, 5, (4, 3), padding="same"), (3, 6, 7)),
    "depthwise": (nn.Conv2d(6, 12, 3, padding=1, groups=6, bias=False), (6, 5, 5)),
    "transposed 1d": (nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1), (4, 5)),
    "transposed 2d": (nn.ConvTranspose2d(4, 6, (3, 4), stride=(2, 3), padding=(1, 2), output_padding=(1, 0), dilation=(2, 1), groups=2), (4, 5, 4)),
    "transposed that crops": (nn.ConvTranspose2d(2, 3, 2, stride=2, padding=2, bias=False), (2, 5, 5)),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_product_of_matrices_is_the_layer(kind: str, dtype: torch.dtype) -> None:
    model, shape = LAYERS[kind]
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-4, 5, (3, *shape), generator=generator).to(dtype)
    for parameter in model.parameters():
        parameter.data = torch.randint(-4, 5, parameter.shape, generator=generator).to(dtype)
    reference = float_reference(qfx.quantize(model, x, Recipe(weight=Spec(16), activation=Spec(16))))
    layer = next(part for part in reference.modules() if isinstance(part, Weighted))
    rows, matrix = input_rows(layer, x), to_matrix(layer, layer.cast_weight())
    with torch.no_grad():
        y = model(x)
    bias = torch.zeros(()) if layer.bias is None else layer.bias.reshape(matrix.shape[0], 1, -1)
    assert rows.dtype == dtype
    assert torch.equal(rows @ matrix.transpose(1, 2) + bias, output_rows(layer, y))
    assert torch.equal(from_matrix(layer, matrix), layer.cast_weight())


def test_wrong_order_of_taps_would_show() -> None:
    model = nn.ConvTranspose1d(1, 1, 3, bias=False)
    x = torch.arange(1.0, 5.0).reshape(1, 1, 4)
    layer = next(part for part in float_reference(qfx.quantize(model, x)).modules() if isinstance(part, Weighted))
    rows = input_rows(layer, x)
    assert rows[0, 1].tolist() == [2.0, 1.0, 0.0]  # the result's second pixel meets the first input by the second tap


def test_some_rows_are_distinct_and_rising() -> None:
    picked = some_rows(100, 30, torch.Generator().manual_seed(0)).tolist()
    assert len(set(picked)) == 30
    assert picked == sorted(picked)
    assert picked == some_rows(100, 30, torch.Generator().manual_seed(0)).tolist()
    assert some_rows(5, 30, torch.Generator()).tolist() == [0, 1, 2, 3, 4]
