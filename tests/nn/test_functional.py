"""Layers without weights, against integer arithmetic written out; dropout as torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qfx import DataError, Recipe, Spec
from qfx.fixed.arith import Interval
from qfx.nn.functional import (
    QAdd,
    QAvgPool,
    QConcat,
    QDropout,
    QInput,
    QLeakyReLU,
    QMaxPool,
    QMul,
    QPad,
    QPermute,
    QReLU,
    QReLU6,
    QReshape,
    QSlice,
    QSub,
)  # fmt: skip
from qfx.nn.qtensor import QTensor


def made(*shape: int, frac_bits: int, seed: int = 0, bound: int = 100) -> tuple[QTensor, Tensor]:
    """A tensor and its raws."""
    raw = torch.randint(-bound, bound + 1, shape, generator=torch.Generator().manual_seed(seed))
    return QTensor((raw.double() * 2.0**-frac_bits).float(), Interval(-bound, bound, frac_bits)), raw


def raws(x: QTensor) -> Tensor:
    """The raws on the grid of the interval, which must bound them."""
    scaled = x.tensor().detach().double() * 2.0**x.interval.hull.frac_bits
    assert torch.equal(scaled, scaled.round())
    assert x.interval.hull.lo <= scaled.min()
    assert scaled.max() <= x.interval.hull.hi
    return scaled.long()


A, A_RAW = made(2, 3, 4, 4, frac_bits=5)
B, B_RAW = made(2, 3, 4, 4, frac_bits=2, seed=1)


def test_arithmetic_aligns_the_binary_points() -> None:
    assert torch.equal(raws(QAdd()(A, B)), A_RAW + (B_RAW << 3))
    assert torch.equal(raws(QAdd()(B, A)), A_RAW + (B_RAW << 3))
    assert torch.equal(raws(QSub()(A, B)), A_RAW - (B_RAW << 3))
    assert torch.equal(raws(QSub()(B, A)), (B_RAW << 3) - A_RAW)
    assert torch.equal(raws(QMul()(A, B)), A_RAW * B_RAW)
    assert QMul()(A, B).interval.frac_bits == 7
    assert torch.equal(raws(QConcat()(A, B)), torch.cat([A_RAW, B_RAW << 3], 1))


def test_wide_products_leave_float32() -> None:
    wide = QTensor(torch.full((1, 1), 1048573.0), Interval(-(1 << 20), 1 << 20, 0))
    assert int(QMul()(wide, wide).tensor()) == 1048573**2


def test_activations() -> None:
    assert torch.equal(raws(QReLU()(A)), A_RAW.clamp(min=0))
    assert torch.equal(raws(QLeakyReLU(-3)(A)), torch.where(A_RAW < 0, A_RAW, A_RAW << 3))
    assert torch.equal(raws(QLeakyReLU(0)(A)), A_RAW)
    assert torch.equal(raws(QReLU6()(B)), B_RAW.clamp(0, 24))
    coarse = QTensor(torch.tensor([[-8.0, 0.0, 8.0, 16.0]]), Interval(-1, 2, -3))  # 6 lies between its grid points
    assert QReLU6()(coarse).tensor().tolist() == [[0.0, 0.0, 6.0, 6.0]]


@pytest.mark.parametrize(("padding", "dilation"), [((0, 0), (1, 1)), ((1, 0), (1, 1)), ((0, 0), (1, 2)), ((1, 1), (1, 1))])
def test_max_pooling_where_padding_never_wins(padding: tuple[int, int], dilation: tuple[int, int]) -> None:
    negative = QTensor(-A.value.abs() - 1, Interval(-200, 0, 5))
    pooled = raws(QMaxPool((2, 2), (2, 1), padding, dilation)(negative))
    assert torch.equal(pooled, F.max_pool2d(negative.value.double() * 32, (2, 2), (2, 1), padding, dilation).long())
    signal, raw = made(2, 3, 9, frac_bits=1)
    assert torch.equal(raws(QMaxPool((3,), (2,), (1,), (1,))(signal)), F.max_pool1d(raw.double(), 3, 2, 1).long())


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [((2, 2), (2, 2), (0, 0)), ((3, 2), (1, 2), (1, 0)), ((4, 4), (4, 4), (0, 0)), ((4, 4), (1, 1), (2, 2))]
)
@pytest.mark.parametrize("divisor", [4, 7])
def test_average_pooling_is_an_exact_sum_times_the_reciprocal(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], divisor: int
) -> None:
    layer = QAvgPool(kernel, stride, padding, divisor, Recipe(reciprocal=Spec(10, learn=False)), "pool")
    layer.initialize(A)
    reciprocal = layer.reciprocal()
    reciprocal_raw = int(reciprocal.value * 2.0**reciprocal.interval.frac_bits)
    assert abs(reciprocal_raw * divisor / 2.0**reciprocal.interval.frac_bits - 1) < 2**-9
    padded = F.pad(A_RAW, (padding[1], padding[1], padding[0], padding[0]))
    windows = padded.unfold(2, kernel[0], stride[0]).unfold(3, kernel[1], stride[1])
    assert torch.equal(raws(layer(A)), windows.sum((-1, -2)) * reciprocal_raw)


def test_average_pooling_of_signals() -> None:
    signal, raw = made(2, 3, 9, frac_bits=1)
    layer = QAvgPool((4,), (2,), (2,), 4, Recipe(), "pool")
    layer.initialize(signal)
    result = layer(signal)
    windows = F.pad(raw, (2, 2)).unfold(2, 4, 2).sum(-1)
    assert torch.equal(result.tensor(), (windows * 0.5 * 0.25).to(result.tensor().dtype))


def test_moves() -> None:
    assert torch.equal(raws(QReshape((48,))(A)), A_RAW.flatten(1))
    assert torch.equal(raws(QPermute((2, 0, 1))(A)), A_RAW.permute(0, 3, 1, 2))
    assert torch.equal(raws(QPad(((1, 0), (0, 2), (3, 0)))(A)), F.pad(A_RAW, (3, 0, 0, 2, 1, 0)))
    assert torch.equal(raws(QSlice((0, 1, 0), (2, 4, 4), (1, 2, 3))(A)), A_RAW[:, 0:2, 1:4:2, 0:4:3])
    positive = QTensor(torch.ones(1, 1), Interval(4, 9, 2))
    assert QPad(((1, 1),))(positive).interval.lo == 0


@pytest.mark.parametrize(("shape", "channels"), [((64, 8), False), ((8, 16, 5), True), ((8, 16, 3, 3), True)])
def test_dropout_in_training_is_torchs_and_gone_at_inference(shape: tuple[int, ...], channels: bool) -> None:
    x, _ = made(*shape, frac_bits=3)
    layer = QDropout(0.4, channels)
    assert layer.eval()(x) is x
    drop = F.dropout1d if channels and len(shape) == 3 else F.dropout2d if channels else F.dropout
    torch.manual_seed(5)
    expected = drop(x.value, 0.4, True)
    torch.manual_seed(5)
    assert torch.equal(layer.train()(x).tensor(), expected)
    assert QDropout(0.0, channels).train()(x) is x


def test_the_input_is_checked_and_cast() -> None:
    layer = QInput((3, 2), Recipe(input=Spec(6, granularity="channel")))
    x = torch.randn(5, 3, 2) * torch.tensor([1.0, 4.0, 16.0]).reshape(3, 1)
    layer.initialize(x)
    assert layer.cast.frac_bits.shape == (1, 3, 1)
    y = layer(x)
    assert torch.equal(raws(y), raws(layer.cast(x)))
    assert torch.equal(layer((x * 4).int()).tensor(), layer((x * 4).int().float()).tensor())
    assert torch.equal(layer(x.double()).tensor(), y.tensor())
    for bad, message in ((x[0], "expected"), (x[:, :2], "expected"), ([x], "list"), (x * float("nan"), "NaN"), (x.to(torch.complex64), "complex")):
        with pytest.raises(DataError, match=message):
            layer(bad)
    huge = torch.full((5, 3, 2), 3e38)  # the sum overflows, the data do not
    assert torch.isfinite(layer(huge).tensor()).all()


def test_every_layer_is_a_module_without_surprises() -> None:
    for layer in (QAdd(), QSub(), QMul(), QReLU(), QReLU6(), QLeakyReLU(-1), QConcat()):
        assert isinstance(layer, nn.Module)
        assert not list(layer.parameters())
