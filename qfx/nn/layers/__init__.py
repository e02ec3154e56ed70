"""The fixed-point layers, one file a family: what each computes, which torch operations become it, and what the rest of qfx asks of it. The
table that joins the families is ``qfx/nn/rules.py``."""

from qfx.nn.layers.arithmetic import QAdd, QMul, QSub
from qfx.nn.layers.avg_pool import QAvgPool
from qfx.nn.layers.batch_norm import FoldedNorm, Norm, QBatchNorm, QFoldedBatchNorm
from qfx.nn.layers.concat import QConcat
from qfx.nn.layers.conv import QConv, conv_pads
from qfx.nn.layers.conv_transpose import QConvTranspose
from qfx.nn.layers.dropout import QDropout
from qfx.nn.layers.input import QInput
from qfx.nn.layers.linear import QLinear
from qfx.nn.layers.max_pool import QMaxPool
from qfx.nn.layers.pad import QPad
from qfx.nn.layers.permute import QPermute
from qfx.nn.layers.relu import QLeakyReLU, QReLU, QReLU6
from qfx.nn.layers.reshape import QReshape
from qfx.nn.layers.slice import QSlice
from qfx.nn.layers.upsample import QUpsample
from qfx.nn.layers.weighted import Weighted

__all__ = [
    "FoldedNorm",
    "Norm",
    "QAdd",
    "QAvgPool",
    "QBatchNorm",
    "QConcat",
    "QConv",
    "QConvTranspose",
    "QDropout",
    "QFoldedBatchNorm",
    "QInput",
    "QLeakyReLU",
    "QLinear",
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
    "Weighted",
    "conv_pads",
]
