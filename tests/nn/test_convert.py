"""quantize(): every entry of the rule tables keeps the numbers; what it cannot express is refused; nothing is changed on the way."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from nn_models import DATA, WIDE, Calls, check_exact, check_same_numbers, integers, small_network, trained
from torch import Tensor, nn

import qfx
from qfx import ExactnessError, Override, Recipe, RecipeError, Spec
from qfx import operators as ops
from qfx.nn import rules
from qfx.nn.layers import conv, conv_transpose, linear, tables
from qfx.nn.layers.products import bilinear, einsum
from qfx.nn.model import recipe_of

IMAGE, SIGNAL, VECTOR = integers(4, 3, 7, 5), integers(4, 4, 9), integers(4, 6)
EVEN = IMAGE[:, :, :4, :4]


# Averages of 4 or 16 integers are exact in binary; each entry says which part of the tables it exercises.
class OwnConstant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.offset


SAME: dict[str, tuple[nn.Module, Tensor]] = {
    "Linear": (nn.Sequential(nn.Linear(6, 3)), VECTOR),
    "Linear alone": (nn.Linear(6, 3, bias=False), VECTOR),
    "Conv2d": (nn.Sequential(nn.Conv2d(3, 4, 3)), IMAGE),
    "Conv2d alone": (nn.Conv2d(3, 4, 3), IMAGE),
    "Conv2d stride": (nn.Sequential(nn.Conv2d(3, 4, (3, 2), stride=(3, 2), padding=(0, 1))), IMAGE),
    "Conv2d dilation": (nn.Sequential(nn.Conv2d(3, 4, 3, dilation=2, padding=2, bias=False)), IMAGE),
    "Conv2d valid": (nn.Sequential(nn.Conv2d(3, 4, 3, padding="valid", padding_mode="reflect")), IMAGE),
    "Conv2d same": (nn.Sequential(nn.Conv2d(3, 4, (3, 5), padding="same", dilation=(2, 1))), IMAGE),
    "Conv2d same even": (nn.Sequential(nn.Conv2d(3, 4, (2, 4), padding="same")), IMAGE),
    "Conv2d depthwise": (nn.Sequential(nn.Conv2d(3, 6, 3, groups=3)), IMAGE),
    "Conv1d": (nn.Sequential(nn.Conv1d(4, 6, 3, stride=2, groups=2, padding=1)), SIGNAL),
    "Conv1d same even": (nn.Sequential(nn.Conv1d(4, 6, 4, padding="same")), SIGNAL),
    "ConvTranspose2d": (nn.Sequential(nn.ConvTranspose2d(3, 4, (3, 2), stride=(2, 3), padding=(1, 0), output_padding=(1, 0))), IMAGE),
    "ConvTranspose2d alone": (nn.ConvTranspose2d(3, 4, 3, bias=False), IMAGE),
    "ConvTranspose1d": (nn.Sequential(nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2, dilation=2)), SIGNAL),
    "Upsample": (nn.Sequential(nn.Upsample(scale_factor=(2, 3)), nn.Conv2d(3, 2, 3)), IMAGE),
    "Upsample by 1": (nn.Sequential(nn.Upsample(scale_factor=1, mode="nearest-exact"), nn.Conv2d(3, 2, 3)), IMAGE),
    "Upsample to a size": (nn.Sequential(nn.Upsample(27), nn.ReLU()), SIGNAL),
    "UpsamplingNearest2d": (nn.Sequential(nn.UpsamplingNearest2d(size=(7, 15))), IMAGE),
    "ReLU": (nn.Sequential(nn.ReLU()), IMAGE),
    "ReLU inplace": (nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True)), IMAGE),
    "ReLU6": (nn.Sequential(nn.Linear(6, 4), nn.ReLU6()), VECTOR),
    "Hardtanh": (nn.Sequential(nn.Linear(6, 4), nn.Hardtanh(0, 6)), VECTOR),
    "LeakyReLU": (nn.Sequential(nn.Linear(6, 4), nn.LeakyReLU(0.25)), VECTOR),
    "LeakyReLU 1": (nn.Sequential(nn.LeakyReLU(1.0)), VECTOR),
    "MaxPool2d": (nn.Sequential(nn.MaxPool2d((2, 3), (1, 2), (1, 1))), IMAGE),
    "MaxPool2d dilation": (nn.Sequential(nn.MaxPool2d(2, 1, 0, 2)), IMAGE),
    "MaxPool2d ceil that divides": (nn.Sequential(nn.MaxPool2d(2, ceil_mode=True)), EVEN),
    "MaxPool1d": (nn.Sequential(nn.MaxPool1d(3, 2, 1)), SIGNAL),
    "AvgPool2d": (nn.Sequential(nn.AvgPool2d(2, 2, 1)), IMAGE),
    "AvgPool2d divisor": (nn.Sequential(nn.AvgPool2d((2, 3), divisor_override=8)), IMAGE),
    "AvgPool1d": (nn.Sequential(nn.AvgPool1d(4, 2, 2)), SIGNAL),
    "AdaptiveAvgPool2d": (nn.Sequential(nn.AdaptiveAvgPool2d((2, None))), EVEN),
    "AdaptiveAvgPool1d": (nn.Sequential(nn.AdaptiveAvgPool1d(1)), SIGNAL[:, :, :8]),
    "AdaptiveMaxPool2d": (nn.Sequential(nn.AdaptiveMaxPool2d(1)), IMAGE),
    "AdaptiveMaxPool1d": (nn.Sequential(nn.AdaptiveMaxPool1d(3)), SIGNAL),
    "Flatten": (nn.Sequential(nn.Flatten(), nn.Linear(105, 2)), IMAGE),
    "Flatten start_dim": (nn.Sequential(nn.Flatten(start_dim=2)), IMAGE),
    "Unflatten": (nn.Sequential(nn.Unflatten(1, (2, 3))), VECTOR),
    "Identity": (nn.Sequential(nn.Identity(), nn.Linear(6, 2)), VECTOR),
    "nothing at all": (nn.Identity(), VECTOR),
    "Dropout": (nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5), nn.ReLU()), VECTOR),
    "Dropout1d": (nn.Sequential(nn.Dropout1d()), SIGNAL),
    "Dropout2d": (nn.Sequential(nn.Dropout2d()), IMAGE),
    "ZeroPad1d": (nn.Sequential(nn.ZeroPad1d((1, 2))), SIGNAL),
    "ZeroPad2d": (nn.Sequential(nn.ZeroPad2d((1, 2, 0, 1)), nn.Conv2d(3, 2, 3)), IMAGE),
    "ConstantPad1d": (nn.Sequential(nn.ConstantPad1d(2, 0.0)), SIGNAL),
    "ConstantPad2d": (nn.Sequential(nn.ConstantPad2d(1, 0.0)), IMAGE),
    "LeakyReLU of another slope": (nn.Sequential(nn.LeakyReLU(0.75)), VECTOR),
    "LeakyReLU 0": (nn.Sequential(nn.LeakyReLU(0.0)), VECTOR),
    "LeakyReLU 2": (nn.Sequential(nn.LeakyReLU(2.0)), VECTOR),
    "Hardtanh of other bounds": (nn.Sequential(nn.Hardtanh(-2, 3)), VECTOR),
    "Hardtanh of fractions": (nn.Sequential(nn.Hardtanh(-0.75, 0.5)), VECTOR),
    "PReLU": (nn.Sequential(nn.PReLU(3)), IMAGE),
    "PReLU of one slope": (nn.Sequential(nn.PReLU()), IMAGE),
    "RReLU": (nn.Sequential(nn.RReLU(0.25, 0.5)), VECTOR),
    "Threshold": (nn.Sequential(nn.Threshold(1.5, -3.0)), VECTOR),
    "AvgPool2d, windows that stick out": (nn.Sequential(nn.AvgPool2d(2, ceil_mode=True)), IMAGE),
    "AvgPool2d, padding not counted": (nn.Sequential(nn.AvgPool2d(2, padding=1, count_include_pad=False)), IMAGE),
    "own parameter": (OwnConstant(), IMAGE),
    "ChannelShuffle": (nn.Sequential(nn.ChannelShuffle(3)), IMAGE),
    "PixelShuffle": (nn.Sequential(nn.PixelShuffle(2)), SIGNAL[..., None]),
    "PixelUnshuffle": (nn.Sequential(nn.PixelUnshuffle(2)), EVEN),
    "Unfold": (nn.Sequential(nn.Unfold(2)), IMAGE),
    "CircularPad1d": (nn.Sequential(nn.CircularPad1d(1)), SIGNAL),
    "CircularPad2d": (nn.Sequential(nn.CircularPad2d(1)), IMAGE),
    "ReflectionPad1d": (nn.Sequential(nn.ReflectionPad1d(1)), SIGNAL),
    "ReflectionPad2d": (nn.Sequential(nn.ReflectionPad2d(1)), IMAGE),
    "ReplicationPad1d": (nn.Sequential(nn.ReplicationPad1d(1)), SIGNAL),
    "ReplicationPad2d": (nn.Sequential(nn.ReplicationPad2d(1)), IMAGE),
    "same ReLU twice": (Calls(lambda m, x: m.r(m.b(m.r(m.a(x)))), a=nn.Linear(6, 6), b=nn.Linear(6, 6), r=nn.ReLU()), VECTOR),
    "same Linear twice": (Calls(lambda m, x: m.a(F.relu(m.a(x))), a=nn.Linear(6, 6)), VECTOR),
    "y + y": (Calls(lambda m, x: (lambda y: y + y)(m.a(x)), a=nn.Linear(6, 6)), VECTOR),
    "y - y": (Calls(lambda m, x: (lambda y: y - y)(m.a(x)), a=nn.Linear(6, 6)), VECTOR),
    "|y| of a layer": (Calls(lambda m, x: m.a(x).abs(), a=nn.Linear(6, 6)), VECTOR),
    "y**2 of a layer, read again": (Calls(lambda m, x: (lambda y: y**2 + y)(m.a(x)), a=nn.Linear(6, 6)), VECTOR),
    "|y| and y": (Calls(lambda m, x: (lambda y: abs(y) - y)(m.a(x)), a=nn.Linear(6, 6)), VECTOR),
    "y * y": (Calls(lambda m, x: (lambda y: y * y)(x)), VECTOR),
    "a - b": (Calls(lambda m, x: m.a(x) - x, a=nn.Linear(6, 6)), VECTOR),
    "x - a": (Calls(lambda m, x: x - m.a(x), a=nn.Linear(6, 6)), VECTOR),
    "relu + a": (Calls(lambda m, x: F.relu(m.a(x)) + m.a(x), a=nn.Linear(6, 6)), VECTOR),
    "in place, value not read again": (Calls(lambda m, x: m.a(x).relu_().add_(x), a=nn.Linear(6, 6)), VECTOR),
    "clone, then in place": (Calls(lambda m, x: (lambda y: y.clone().relu_() + y)(m.a(x)), a=nn.Linear(6, 6)), VECTOR),
}

FUNCTIONS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "F.relu": lambda m, x: F.relu(x),
    "torch.relu": lambda m, x: torch.relu(x),
    "torch.relu_": lambda m, x: torch.relu_(x),
    "F.relu6": lambda m, x: F.relu6(x),
    "F.hardtanh": lambda m, x: F.hardtanh(x, min_val=0, max_val=6),
    "F.leaky_relu": lambda m, x: F.leaky_relu(x, 0.5),
    "F.max_pool2d": lambda m, x: F.max_pool2d(x, kernel_size=(2, 3), padding=(1, 0)),
    "torch.max_pool2d": lambda m, x: torch.max_pool2d(x, 3, 2, 1),
    "F.max_pool1d": lambda m, x: F.max_pool1d(x.flatten(2), 3, 2, 1, 1),
    "torch.max_pool1d": lambda m, x: torch.max_pool1d(x.flatten(2), 3),
    "F.avg_pool2d": lambda m, x: F.avg_pool2d(x, 2, None, 0, False, True, 4),
    "F.avg_pool1d": lambda m, x: F.avg_pool1d(x.flatten(2), 4, 2, 2),
    "F.adaptive_avg_pool2d": lambda m, x: F.adaptive_avg_pool2d(x[:, :, :4, :4], 1),
    "F.adaptive_avg_pool1d": lambda m, x: F.adaptive_avg_pool1d(x.flatten(2)[:, :, :16], 4),
    "F.adaptive_max_pool2d": lambda m, x: F.adaptive_max_pool2d(x, (7, 1)),
    "F.adaptive_max_pool1d": lambda m, x: F.adaptive_max_pool1d(x.flatten(2), 5),
    "F.interpolate": lambda m, x: F.interpolate(x, scale_factor=2.0, mode="nearest-exact"),
    "F.interpolate to another's size": lambda m, x: F.interpolate(x[:, :, :1, ::5], size=x.shape[2:]) + x,
    "torch.mean": lambda m, x: torch.mean(x[:, :, :4, :4], (-1, -2), True),
    "+": lambda m, x: x + F.relu(x),
    "+=": lambda m, x: operator.iadd(F.relu(x), x),
    "torch.add": lambda m, x: torch.add(input=x, other=x, alpha=1),
    "-": lambda m, x: F.relu(x) - x,
    "torch.sub": lambda m, x: torch.sub(x, F.relu(x)),
    "*": lambda m, x: x * F.relu(x),
    "torch.mul": lambda m, x: torch.mul(x, x),
    "torch.multiply": lambda m, x: torch.multiply(x, x),
    "**": lambda m, x: x**2,
    "abs": lambda m, x: abs(x),
    "torch.pow": lambda m, x: torch.pow(input=x, exponent=2.0),
    "x + 1": lambda m, x: x + 1,
    "1 - x": lambda m, x: 1 - x,
    "torch.subtract": lambda m, x: torch.subtract(x, 3, alpha=2),
    "torch.rsub": lambda m, x: torch.rsub(x, 5),
    "alpha": lambda m, x: torch.add(x, F.relu(x), alpha=3),
    "broadcast": lambda m, x: x * x.amax((2, 3), keepdim=True),
    "broadcast channels": lambda m, x: x[:, :1] - x,
    "truediv": lambda m, x: x / 4,
    "itruediv": lambda m, x: operator.itruediv(F.relu(x), 8),
    "torch.div": lambda m, x: torch.div(x, 2.0),
    "torch.divide": lambda m, x: torch.divide(x, 2),
    "torch.true_divide": lambda m, x: torch.true_divide(x, 0.5),
    "torch.addcmul": lambda m, x: torch.addcmul(x, x, F.relu(x), value=2),
    "torch.addcdiv": lambda m, x: torch.addcdiv(x, F.relu(x), torch.full((1,), 4.0), value=2),
    "torch.lerp": lambda m, x: torch.lerp(x, F.relu(x), 0.5),
    "torch.maximum": lambda m, x: torch.maximum(x, x[:, :, ::2].amax(2, keepdim=True)),
    "torch.maximum with a number": lambda m, x: torch.maximum(x, torch.tensor(-1.0)),
    "torch.minimum": lambda m, x: torch.minimum(x, x[:, :1]),
    "torch.fmax": lambda m, x: torch.fmax(x, F.relu(x)),
    "torch.fmin": lambda m, x: torch.fmin(x, F.relu(x)),
    "torch.clamp": lambda m, x: torch.clamp(x, -1, 2),
    "torch.clamp of one bound": lambda m, x: torch.clamp(x, max=1.5),
    "torch.clamp_": lambda m, x: torch.clamp_(F.relu(x), 1),
    "torch.clip": lambda m, x: torch.clip(x, -0.5),
    "torch.clamp_min": lambda m, x: torch.clamp_min(x, -2),
    "torch.clamp_max": lambda m, x: torch.clamp_max(x, 2),
    "F.prelu": lambda m, x: F.prelu(x, torch.tensor([0.5, 2.0, -1.0])),
    "F.rrelu": lambda m, x: F.rrelu(x, 0.5, 1.0),
    "F.threshold": lambda m, x: F.threshold(x, 1.0, 0.0),
    "neg": lambda m, x: -x,
    "torch.neg": lambda m, x: torch.neg(x),
    "torch.negative": lambda m, x: torch.negative(x),
    "torch.sign": lambda m, x: torch.sign(x),
    "torch.sgn": lambda m, x: torch.sgn(x),
    "torch.where": lambda m, x: torch.where(x > 1, x, -x),
    "torch.gt": lambda m, x: torch.gt(x, 1) * x,
    "torch.ge": lambda m, x: torch.ge(x, F.relu(x)) * x,
    "torch.lt": lambda m, x: torch.lt(x, 0.5) * x,
    "torch.le": lambda m, x: torch.le(x, 1) * x,
    "torch.greater": lambda m, x: torch.greater(x, 1) * x,
    "torch.greater_equal": lambda m, x: torch.greater_equal(x, 1) * x,
    "torch.less": lambda m, x: torch.less(x, 1) * x,
    "torch.less_equal": lambda m, x: torch.less_equal(x, 1) * x,
    "torch.sum": lambda m, x: torch.sum(x, 1),
    "torch.mean over four channels": lambda m, x: torch.mean(torch.cat([x, x[:, :1]], 1), 1, keepdim=True),
    "torch.amax": lambda m, x: torch.amax(x, (1, 3)),
    "torch.amin": lambda m, x: torch.amin(x, 2, keepdim=True),
    "torch.max": lambda m, x: torch.max(x, F.relu(-x)),
    "torch.min": lambda m, x: torch.min(x, F.relu(-x)),
    "torch.square": lambda m, x: torch.square(x),
    "torch.abs": lambda m, x: torch.abs(x),
    "torch.absolute": lambda m, x: torch.absolute(x),
    "torch.cat": lambda m, x: torch.cat((x, F.relu(x), x), dim=-3),
    "torch.cat of one": lambda m, x: torch.cat([x], 1),
    "torch.concat": lambda m, x: torch.concat([x, x], 1),
    "torch.concatenate": lambda m, x: torch.concatenate([x, x], axis=1),
    "torch.flatten": lambda m, x: torch.flatten(x, 1),
    "torch.flatten in part": lambda m, x: torch.flatten(x, start_dim=1, end_dim=2),
    "torch.reshape": lambda m, x: torch.reshape(x, (x.shape[0], -1)),
    "torch.squeeze": lambda m, x: torch.squeeze(x[:, :, :1], 2),
    "torch.unsqueeze": lambda m, x: torch.unsqueeze(x.flatten(1), 1),
    "torch.permute": lambda m, x: torch.permute(x, (0, 3, 2, 1)),
    "torch.transpose": lambda m, x: torch.transpose(x, dim0=2, dim1=3),
    "F.pad": lambda m, x: F.pad(x, (1, 2, 0, 1)),
    "F.pad of channels": lambda m, x: F.pad(x, pad=(0, 0, 0, 0, 1, 2), mode="constant", value=0),
    "F.dropout": lambda m, x: F.dropout(x, 0.5, training=m.training),
    "F.dropout1d": lambda m, x: F.dropout1d(x.flatten(2), 0.5, m.training),
    "F.dropout2d": lambda m, x: F.dropout2d(x, training=m.training),
    "torch.flip": lambda m, x: torch.flip(x, (2,)),
    "x.flip": lambda m, x: x.flip((2,)),
    "torch.fliplr": lambda m, x: torch.fliplr(x),
    "x.fliplr": lambda m, x: x.fliplr(),
    "torch.index_select": lambda m, x: torch.index_select(x, 1, torch.tensor([2, 0])),
    "x.index_select": lambda m, x: x.index_select(1, torch.tensor([2, 0])),
    "torch.moveaxis": lambda m, x: torch.moveaxis(x, 1, 3),
    "x.moveaxis": lambda m, x: x.moveaxis(1, 3),
    "torch.movedim": lambda m, x: torch.movedim(x, 1, 3),
    "x.movedim": lambda m, x: x.movedim(1, 3),
    "torch.narrow": lambda m, x: torch.narrow(x, 2, 1, 3),
    "x.narrow": lambda m, x: x.narrow(2, 1, 3),
    "torch.repeat_interleave": lambda m, x: torch.repeat_interleave(x, 2, 1),
    "x.repeat_interleave": lambda m, x: x.repeat_interleave(2, 1),
    "torch.roll": lambda m, x: torch.roll(x, 1, 2),
    "x.roll": lambda m, x: x.roll(1, 2),
    "torch.select": lambda m, x: torch.select(x, 1, 2),
    "x.select": lambda m, x: x.select(1, 2),
    "torch.swapaxes": lambda m, x: torch.swapaxes(x, 1, 2),
    "x.swapaxes": lambda m, x: x.swapaxes(1, 2),
    "torch.swapdims": lambda m, x: torch.swapdims(x, 1, 2),
    "x.swapdims": lambda m, x: x.swapdims(1, 2),
    "x.detach": lambda m, x: x.detach(),
    "x.float": lambda m, x: x.float(),
    "x.double": lambda m, x: x.double(),
    "x.cpu": lambda m, x: x.cpu(),
    "x.to": lambda m, x: x.to(torch.float32),
    "x.type": lambda m, x: x.type(torch.float32),
    "x.type_as": lambda m, x: x.type_as(x),
    "x.bool": lambda m, x: x * (x > 1).bool(),
    "x.expand": lambda m, x: x[:, :1].expand(-1, 3, -1, -1),
    "x.broadcast_to": lambda m, x: x[:, :1].broadcast_to((-1, 3, -1, -1)),
    "torch.broadcast_to": lambda m, x: torch.broadcast_to(x[:, :1], (-1, 3, -1, -1)),
    "x.repeat": lambda m, x: x.repeat(1, 2, 1, 1),
    "x.tile": lambda m, x: x.tile(1, 2, 1, 1),
    "torch.tile": lambda m, x: torch.tile(x, (1, 2, 1, 1)),
    "torch.stack": lambda m, x: torch.stack((x, x), 1),
    "torch.channel_shuffle": lambda m, x: torch.channel_shuffle(x, 3),
    "torch.pixel_shuffle": lambda m, x: torch.pixel_shuffle(x.repeat(1, 4, 1, 1), 2),
    "torch.pixel_unshuffle": lambda m, x: torch.pixel_unshuffle(x[:, :, :4, :4], 2),
    "F.unfold": lambda m, x: F.unfold(x, 2),
    "x.relu": lambda m, x: x.relu(),
    "x.relu_": lambda m, x: x.relu_(),
    "x.add": lambda m, x: x.add(x, alpha=1),
    "x.add_": lambda m, x: x.relu().add_(x),
    "x.sub": lambda m, x: x.sub(x.relu()),
    "x.sub_": lambda m, x: x.relu().sub_(x),
    "x.mul": lambda m, x: x.mul(x),
    "x.mul_": lambda m, x: x.relu().mul_(x),
    "x.subtract": lambda m, x: x.subtract(2),
    "x.subtract_": lambda m, x: x.relu().subtract_(2),
    "x.multiply": lambda m, x: x.multiply(3),
    "x.multiply_": lambda m, x: x.relu().multiply_(3),
    "x.div": lambda m, x: x.div(2),
    "x.div_": lambda m, x: x.relu().div_(2),
    "x.divide": lambda m, x: x.divide(2),
    "x.divide_": lambda m, x: x.relu().divide_(2),
    "x.true_divide": lambda m, x: x.true_divide(2),
    "x.true_divide_": lambda m, x: x.relu().true_divide_(2),
    "x.addcmul": lambda m, x: x.addcmul(x, x, value=-1),
    "x.addcmul_": lambda m, x: x.relu().addcmul_(x, x),
    "x.addcdiv": lambda m, x: x.addcdiv(x, torch.full((5,), 2.0)),
    "x.addcdiv_": lambda m, x: x.relu().addcdiv_(x, torch.full((5,), 2.0)),
    "x.lerp": lambda m, x: x.lerp(x.relu(), 0.25),
    "x.lerp_": lambda m, x: x.relu().lerp_(x, 0.25),
    "x.maximum": lambda m, x: x.maximum(-x),
    "x.fmax": lambda m, x: x.fmax(-x),
    "x.minimum": lambda m, x: x.minimum(-x),
    "x.fmin": lambda m, x: x.fmin(-x),
    "x.clamp": lambda m, x: x.clamp(-1, 1),
    "x.clamp_": lambda m, x: x.relu().clamp_(1, 2),
    "x.clip": lambda m, x: x.clip(max=1),
    "x.clip_": lambda m, x: x.relu().clip_(max=1),
    "x.clamp_min": lambda m, x: x.clamp_min(1),
    "x.clamp_min_": lambda m, x: x.relu().clamp_min_(1),
    "x.clamp_max": lambda m, x: x.clamp_max(1),
    "x.clamp_max_": lambda m, x: x.relu().clamp_max_(1),
    "x.neg": lambda m, x: x.neg(),
    "x.neg_": lambda m, x: x.relu().neg_(),
    "x.negative": lambda m, x: x.negative(),
    "x.negative_": lambda m, x: x.relu().negative_(),
    "x.sign": lambda m, x: x.sign(),
    "x.sign_": lambda m, x: (x + 1).sign_(),
    "x.sgn": lambda m, x: x.sgn(),
    "x.gt": lambda m, x: x.gt(1) * x,
    "x.ge": lambda m, x: x.ge(1) * x,
    "x.lt": lambda m, x: x.lt(1) * x,
    "x.le": lambda m, x: x.le(1) * x,
    "x.greater": lambda m, x: x.greater(1) * x,
    "x.greater_equal": lambda m, x: x.greater_equal(1) * x,
    "x.less": lambda m, x: x.less(1) * x,
    "x.less_equal": lambda m, x: x.less_equal(1) * x,
    "x.where": lambda m, x: x.where(x > 0, 2),
    "x.prelu": lambda m, x: x.prelu(torch.tensor([0.5])),
    "x.sum": lambda m, x: x.sum((1, -1), keepdim=True),
    "x.amax": lambda m, x: x.amax(-1),
    "x.amin": lambda m, x: x.amin((2, 3)),
    "x.max": lambda m, x: x.max(-x),
    "x.min": lambda m, x: x.min(other=-x),
    "x.square": lambda m, x: x.square(),
    "x.square_": lambda m, x: x.relu().square_(),
    "x.pow": lambda m, x: x.pow(2),
    "x.pow_": lambda m, x: x.relu().pow_(2),
    "x.abs": lambda m, x: x.abs(),
    "x.abs_": lambda m, x: (x - x.relu()).abs_(),
    "x.absolute": lambda m, x: x.absolute(),
    "x.mean": lambda m, x: x[:, :, :4, :4].mean((2, 3)),
    "x.mean axis": lambda m, x: x[:, :, :4, :4].mean(axis=[2, 3], keepdim=True),
    "x.mean 1d": lambda m, x: x[:, :, :4, 0].mean(2),
    "x.flatten": lambda m, x: x.flatten(-2),
    "x.unflatten": lambda m, x: x.flatten(1).unflatten(1, (15, 7)),
    "x.view": lambda m, x: x.view(x.size(0), -1),
    "x.view by shape": lambda m, x: x.view(x.shape[0], 3, -1),
    "x.view of fixed size": lambda m, x: x.view(-1, 105),
    "x.reshape": lambda m, x: x.reshape(-1, 5, 21),
    "x.squeeze": lambda m, x: x[:, :, :1].squeeze(),
    "x.unsqueeze": lambda m, x: x.flatten(2).unsqueeze(-1),
    "x.permute": lambda m, x: x.permute(0, 2, 3, 1),
    "x.permute dims": lambda m, x: x.permute(dims=(0, -1, 1, 2)),
    "x.transpose": lambda m, x: x.transpose(1, -1),
    "x.contiguous": lambda m, x: x.transpose(1, 2).contiguous(),
    "x.clone": lambda m, x: x.clone(),
    "x[:, 1]": lambda m, x: x[:, 1],
    "x[:, -1]": lambda m, x: x[:, -1],
    "x[..., 1]": lambda m, x: x[..., 1],
    "x[:, ..., ::2]": lambda m, x: x[:, ..., ::2],
    "x[:, :-1, -3:, 1:-1]": lambda m, x: x[:, :-1, -3:, 1:-1],
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's own remark on the float model
@pytest.mark.parametrize("name", SAME)
def test_modules_keep_the_numbers(name: str) -> None:
    model, x = SAME[name]
    check_same_numbers(copy.deepcopy(model), x)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_and_methods_keep_the_numbers(name: str) -> None:
    check_same_numbers(Calls(FUNCTIONS[name]), IMAGE)


def test_every_entry_of_the_tables_was_tried() -> None:
    tried: set[object] = set()
    for model, _ in SAME.values():
        tried |= {type(module) for module in model.modules()}
    norms = {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm}  # these round: test_layers.py, test_tables.py
    volumes = {module for module in rules.MODULES if module.__name__.endswith("3d")}  # test_volumes.py
    assert set(rules.MODULES) - tried - set(tables.FAMILY.modules) - volumes == norms - volumes
    calls = {name.removeprefix("x.") for name in FUNCTIONS if name.startswith("x.")}
    untried = {"cuda", "half", "bfloat16", "int", "long"}  # a device; conversions that round, which test_refusals.py tries
    assert set(rules.METHODS) - set(tables.FAMILY.methods) - set(einsum.FAMILY.methods) - calls == untried
    names = {name.rpartition(".")[2].split(" ")[0] for name in FUNCTIONS} | {"add", "iadd", "sub", "mul", "getitem"}
    products = {
        function for family in (bilinear, einsum, linear, conv, conv_transpose) for function in family.FAMILY.functions
    }  # test_sums_of_products.py
    volumes = {function for function in rules.FUNCTIONS if function.__name__.endswith("3d")}
    exact = set(rules.FUNCTIONS) - set(tables.FAMILY.functions) - products - volumes
    assert {function.__name__.strip("_") for function in exact} - {"isub", "imul"} <= {name.strip("_") for name in names}


class PreActivation(nn.Module):
    """A residual block with its norms first, and a shortcut on another scale."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, padding=1)
        self.shortcut = nn.Conv2d(3, 3, 1)
        self.shortcut.weight.data *= factor

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(out))))
        out += self.shortcut(x)
        return torch.cat([out, x], 1)


@pytest.mark.parametrize("factor", [1.0, 2.0**12, 2.0**-12, 2.0**20, 2.0**-30])
@pytest.mark.parametrize("style", ["keep", "fold"])
def test_residual_blocks_of_any_scale_are_exact(factor: float, style: str) -> None:
    torch.manual_seed(0)
    model = trained(PreActivation(factor), DATA)
    q = qfx.quantize(model, DATA, Recipe(**{name: getattr(WIDE, name) for name in ("weight", "activation")}, batch_norm=style))
    check_exact(q)


@pytest.mark.parametrize("granularity", ["tensor", "channel", "element"])
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_all_granularities_are_exact(granularity: str, bits: int) -> None:
    spec = Spec(bits, granularity=granularity)
    roles = dict.fromkeys(("input", "weight", "bias", "scale", "shift", "activation", "output"), spec)
    check_exact(qfx.quantize(small_network(), DATA, Recipe(**roles)))
    signal = nn.Sequential(nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4), nn.ReLU6(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(12, 3))
    check_exact(qfx.quantize(signal, SIGNAL, Recipe(**roles)))
    joined = Calls(lambda m, x: torch.cat([m.bn(m.conv(x)), x], 1).permute(0, 2, 3, 1), conv=nn.Conv2d(3, 4, 1), bn=nn.BatchNorm2d(4))
    check_exact(qfx.quantize(joined, DATA, Recipe(**roles)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_models_of_other_dtypes_are_exact(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).to(dtype)
    q = qfx.quantize(model, DATA.to(dtype))
    check_exact(q, dtype=torch.float64 if dtype is torch.float64 else torch.float32)
    assert {p.dtype for p in q.parameters()} == ({torch.float64} if dtype is torch.float64 else {dtype, torch.float32})


def test_float64_accumulators_are_exact_where_float32_is_not() -> None:
    """16-bit weights and activations: the sums need more than 24 bits, and float32 arithmetic would lose some."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4))
    graph = check_exact(qfx.quantize(model, DATA, WIDE), samples=30)
    widths = [ops.accumulator(node.op, graph.infos[node.inputs[0]]).width for node in graph.nodes if isinstance(node.op, ops.Conv | ops.Linear)]
    assert max(widths) > 30


def test_batch_size_and_memory_layout_change_nothing() -> None:
    q = qfx.quantize(small_network(), DATA).eval()
    with torch.no_grad():
        together = q(DATA)
        assert torch.equal(together, torch.cat([q(sample[None]) for sample in DATA]))
        assert torch.equal(together, q(DATA.to(memory_format=torch.channels_last)))
        assert torch.equal(together, q(DATA.repeat_interleave(2, 3)[..., ::2]))
        assert torch.equal(together, q(DATA.transpose(2, 3).contiguous().transpose(2, 3)))
        assert q(DATA[:0]).shape == (0, 3)
        with torch.inference_mode():
            assert torch.equal(together, q(DATA))
    assert torch.equal(together, q(DATA).detach())
    check_exact(qfx.quantize(small_network(), DATA[:1]))


def test_the_original_stays_as_it_is() -> None:
    model = small_network()
    model.train()
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    example, rng = DATA.clone(), torch.get_rng_state()
    q = qfx.quantize(model, example)
    assert q.training
    assert model.training
    assert not model[1].training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(example, DATA)
    assert torch.equal(rng, torch.get_rng_state())
    assert not {id(p) for p in model.parameters()} & {id(p) for p in q.parameters()}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_quantizing_moves_no_statistics_and_drops_nothing() -> None:
    """The network is built in evaluation mode: running statistics stay, and calibration sees what inference will see."""
    model = trained(small_network(), DATA)
    model.train()
    q = qfx.quantize(model, DATA)
    for name in ("1.running_mean", "1.running_var", "1.num_batches_tracked"):
        assert torch.equal(model.state_dict()[name], q.state_dict()[name]), name
    points = {name: p.detach().clone() for name, p in q.named_parameters() if name.endswith("frac_bits")}
    qfx.calibrate(q, DATA)
    assert q.training
    assert all(torch.equal(points[name], dict(q.named_parameters())[name]) for name in points)


def test_names_are_kept_and_float_checkpoints_load() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
            self.blocks = nn.ModuleList([nn.ModuleDict({"conv": nn.Conv2d(4, 4, 1)}), nn.ModuleDict({"conv": nn.Conv2d(4, 4, 1)})])
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for block in self.blocks:
                x = F.relu(block["conv"](x)) + x
            return self.head(x.mean((2, 3)))

    torch.manual_seed(0)
    model, other = Net(), Net()
    for style in ("keep", "fold"):
        q = qfx.quantize(model, DATA, Recipe(batch_norm=style))
        assert set(model.state_dict()) <= set(q.state_dict())
        q.load_state_dict(other.state_dict(), strict=True)
        assert all(torch.equal(q.state_dict()[name], tensor) for name, tensor in other.state_dict().items())
        check_exact(q)
        names = [name for name, _ in qfx.quantizers(q)]
        assert len(names) == len(set(names))
        assert "blocks.1.conv.weight" in names


def test_a_checkpoint_with_some_binary_points_must_have_all() -> None:
    q = qfx.quantize(small_network(), DATA)
    state = q.state_dict()
    del state["2.output_cast.frac_bits"]
    with pytest.raises(RuntimeError, match=r"2\.output_cast\.frac_bits"):
        q.load_state_dict(state)


def test_deep_copies_and_pickles_are_quantized_models(tmp_path: object) -> None:
    recipe = Recipe.uniform(5)
    q = qfx.quantize(small_network(), DATA, recipe).eval()
    torch.save(q, f"{tmp_path}/model.pt")
    for copied in (copy.deepcopy(q), torch.load(f"{tmp_path}/model.pt", weights_only=False)):
        assert torch.equal(copied(DATA), q(DATA))
        assert recipe_of(copied) == recipe
        check_exact(copied)
        with torch.no_grad():
            copied.get_submodule("6").bias += 1
        assert not torch.equal(copied(DATA), q(DATA))


class Plain(nn.Conv2d):
    def __init__(self) -> None:
        super().__init__(3, 4, 3)

    def extra_repr(self) -> str:
        return "mine"


class Standardized(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight - weight.mean(), bias)


class Block(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(Plain(), nn.ReLU())


def test_subclasses_of_layers_and_containers() -> None:
    check_same_numbers(nn.Sequential(Block(), nn.Sequential(nn.Sequential(nn.MaxPool2d(2)))), IMAGE)
    check_same_numbers(Block(), IMAGE)
    check_same_shape = qfx.quantize(nn.Sequential(Standardized(3, 4, 3)), DATA)(DATA)
    assert check_same_shape.shape == Standardized(3, 4, 3)(DATA).shape


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"'0\.wieght' matches nothing\n.*'0\.weight'"):
        qfx.quantize(small_network(), DATA, Recipe(overrides=(Override("0.wieght", {"width": 4}),)))
    with pytest.raises(RecipeError, match=r"'1\.scale' matches nothing"):  # folded away
        qfx.quantize(small_network(), DATA, Recipe(batch_norm="fold", overrides=(Override("1.scale", {"width": 4}),)))


def test_overrides_reach_quantizers_and_layers() -> None:
    recipe = Recipe(
        overrides=(Override("0", {"width": 5}), Override("*.weight", {"frac_bits": 3, "learn": False}), Override("2.output", {"width": 3}))
    )
    found = dict(qfx.quantizers(qfx.quantize(small_network(), DATA, recipe)))
    assert {name for name, q in found.items() if q.word_length == 5} == {"0.weight", "0.bias"}
    assert found["2.output"].word_length == 3
    for name, q in found.items():
        assert (q.frac_bits.item() == 3 and not q.frac_bits.requires_grad) == name.endswith(".weight"), name


def test_too_wide_names_the_layer() -> None:
    roles = dict.fromkeys(("input", "weight", "bias", "scale", "shift", "activation", "output"), Spec(32))
    with pytest.raises(ExactnessError, match=r"^0: .*53"):
        qfx.quantize(small_network(), DATA, Recipe(**roles))


def test_inexact_arithmetic_is_refused_where_it_is_switched_on() -> None:
    q = qfx.quantize(small_network(), DATA).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ExactnessError, match=r"^0: autocast is on"):
        q(DATA)
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(ExactnessError, match=r"^0: float32 products may be rounded"):
            q(DATA)
    finally:
        torch.set_float32_matmul_precision("highest")
    check_exact(q)


def test_quantizing_in_inference_mode_gives_a_trainable_model() -> None:
    with torch.inference_mode():
        q = qfx.quantize(small_network(), DATA)
    q(DATA).sum().backward()
    assert all(p.grad is not None for p in q.parameters() if p.requires_grad)


def test_wrap_sign_magnitude_makes_an_activation_signed() -> None:
    q = qfx.quantize(small_network(), DATA, Recipe(activation=Spec(8, o="AP_WRAP_SM")))
    assert all(point.signed for name, point in qfx.quantizers(q) if name.endswith("output"))
    check_exact(q)


def test_a_channel_that_training_switched_off_is_no_obstacle() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    with torch.no_grad():
        model[0].weight[0] = 0
        model[0].bias[0] = 0
        model[0].weight[1] *= 1e-30
        model[2].weight[1] *= 1e-38
    roles = dict.fromkeys(("weight", "activation"), Spec(8, granularity="channel"))
    check_exact(qfx.quantize(model, DATA, Recipe(**roles)))


def test_the_output_keeps_its_role_through_what_only_moves_values() -> None:
    """A network that ends in pooling and flatten returns the recipe's output type, not its activation type."""
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout())
    qmodel = qfx.quantize(model, torch.randn(4, 1, 6, 6), qfx.Recipe(activation=qfx.Spec(5), output=qfx.Spec(13)))
    widths = {name: quantizer.spec.width for name, quantizer in qfx.quantizers(qmodel)}
    assert (widths["1.output"], widths["2.output"]) == (5, 13)


def test_a_frozen_batch_norm_stays_frozen() -> None:
    model = nn.Sequential(nn.Conv1d(1, 3, 3), nn.BatchNorm1d(3), nn.ReLU()).train()
    model[1].eval()
    qmodel = qfx.quantize(model, torch.randn(4, 1, 6))
    assert qmodel.training
    assert not qmodel.get_submodule("1").training
