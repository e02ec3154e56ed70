"""``qfx.lookup``: a function of the user's own as a module, which ``quantize`` makes a table of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qfx.errors import DataError
from qfx.nn.layers.tables.entries import Function

_SAMPLES = 64


class Lookup(nn.Module):
    """``function`` of each number of a tensor. Made by ``lookup``."""

    function: Function
    name: str
    max_error: float | None

    one_piece = True
    """For capture, which does not look inside."""

    def __init__(self, function: Function, name: str, max_error: float | None = None) -> None:
        super().__init__()
        self.function, self.name, self.max_error = function, name, max_error

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    def extra_repr(self) -> str:
        return self.name


def lookup(fn: Function, *, name: str = "", max_error: float | None = None) -> nn.Module:
    """The function of one number ``fn`` as a module of a float model: ``qfx.quantize`` makes it a table (see docs/layers.md).

    ``fn`` takes a floating-point tensor of any shape and gives one number for each of its numbers, by torch operators; what it gives where it has no
    finite value is that of the nearest number with one. ``name``: what listings call it. ``max_error``: where the input has so many numbers
    that lines stand in for entries, how far these may be from ``fn`` (default: half a least significant bit of the result).

    Raises DataError for what is no such function.

    >>> layer = lookup(lambda x: x * torch.sigmoid(1.7 * x), name="quick_gelu")
    >>> layer(torch.tensor([0.0, 1.0])).shape
    torch.Size([2])
    """
    label = name or getattr(fn, "__name__", "") or type(fn).__name__
    if max_error is not None and not max_error > 0:
        raise DataError(f"max_error is {max_error}", where=label, remedy="give a number above 0, or leave it out")
    x = torch.linspace(-2.0, 2.0, _SAMPLES, dtype=torch.float64)
    with torch.no_grad():
        try:
            y, turned = fn(x.clone()), fn(x[_SAMPLES // 2 :].flip(0).reshape(4, -1))
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            raise DataError(f"does not take numbers: {error}", where=label, remedy="give a function of one tensor, by torch operators") from error
    remedy = "give a function that makes one number of each, whatever stands beside it"
    for given, shape in ((y, x.shape), (turned, (4, _SAMPLES // 8))):
        if not isinstance(given, Tensor) or given.shape != shape:
            raise DataError("does not keep the shape of its tensor", where=label, remedy=remedy)
    if not torch.allclose(turned.reshape(-1).flip(0).double(), y[_SAMPLES // 2 :].double(), rtol=1e-9, atol=1e-12, equal_nan=True):
        raise DataError("depends on the place of a number, or on others", where=label, remedy=remedy)
    return Lookup(fn, label, max_error)
