"""Where the layers without weights were before ``qfx.nn.layers``: code and pickled models know them by this path."""

from __future__ import annotations

from qfx.nn.layers import (
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
    QUpsample,
)

__all__ = [
    "QAdd",
    "QAvgPool",
    "QConcat",
    "QDropout",
    "QInput",
    "QLeakyReLU",
    "QMaxPool",
    "QMul",
    "QPad",
    "QPermute",
    "QReLU",
    "QReLU6",
    "QReshape",
    "QSlice",
    "QSub",
    "QUpsample",
]
