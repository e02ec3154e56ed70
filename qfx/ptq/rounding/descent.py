"""AdaRound's iteration in C++ (``adaround.cpp``): what it does to every weight takes one pass over memory there, and seventeen of torch.

The mathematics are those of ``adaround.Relaxation`` and of torch's Adam. Sums and functions are rounded elsewhere in float32, so that a choice on
the brink may fall to the other side. Where there is no compiler, or the tensors are no float32 ones of the CPU, torch does it.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from qfx.fixed import native_build

_WITHOUT = "AdaRound takes twice as long, and where a choice is on the brink it may come to another one"
BETAS = 0.9, 0.999
EPSILON = 1e-8
"""Of torch's Adam."""


class _Rate(ctypes.Structure):
    """``struct Rate`` of adaround.cpp."""

    _fields_ = tuple((name, ctypes.c_float) for name in ("power", "pull", "beta1", "beta2", "epsilon", "size", "root"))


def fits(*tensors: Tensor) -> bool:
    """Whether C++ can work on them."""
    return all(t.is_cpu and t.dtype is torch.float32 and t.is_contiguous() and type(t) is Tensor for t in tensors) and library() is not None


def behind(before: Tensor, goal: Tensor, negative_slope: float) -> None:
    """``before`` (G, n, O) becomes the gradient of half the squared error behind the activation; ``goal`` may be a part of longer groups."""
    built = library()
    assert built is not None
    groups, rows, outputs = before.shape
    built.qfx_behind(before.data_ptr(), goal.data_ptr(), negative_slope, groups, rows * outputs, goal.stride(0))


class Descent:
    """Adam on ``choice``, in place, step by step. ``moved``: ``base + gain * rectified(choice)``, kept up to date."""

    moved: Tensor

    def __init__(self, choice: Tensor, base: Tensor, gain: Tensor, rate: float, regularizer: float) -> None:
        self.moved, up = torch.empty_like(choice), torch.empty_like(choice)
        changes = choice, up, self.moved, torch.zeros_like(choice), torch.zeros_like(choice)
        self._kept = *changes, base, gain
        self._rate, self._regularizer = rate, regularizer
        self._first, self._last = tuple(t.data_ptr() for t in changes), (base.data_ptr(), gain.data_ptr())
        self._constants = _Rate(beta1=BETAS[0], beta2=BETAS[1], epsilon=EPSILON)
        built = library()
        assert built is not None
        self._library = built
        built.qfx_soften(self.moved.data_ptr(), up.data_ptr(), choice.data_ptr(), base.data_ptr(), gain.data_ptr(), choice.numel())

    def step(self, number: int, by_moved: Tensor, power: float | None) -> None:
        """The step ``number`` (from 1) along the gradient by ``moved``; ``power``: the exponent of the regularizer, None without."""
        constants = self._constants
        constants.power, constants.pull = (2.0, 0.0) if power is None else (power, 2 * power * self._regularizer)
        constants.size, constants.root = self._rate / (1 - BETAS[0] ** number), (1 - BETAS[1] ** number) ** -0.5
        self._library.qfx_descend(*self._first, by_moved.data_ptr(), *self._last, self.moved.numel(), ctypes.byref(constants))


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """adaround.cpp, built; None where that is impossible, which a warning has said."""
    built = native_build.library_of_one_thread(Path(__file__).with_name("adaround.cpp"), _WITHOUT)
    if built is not None:
        p, i, f = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
        for name, arguments in (("soften", (p, p, p, p, p, i)), ("behind", (p, p, f, i, i, i)), ("descend", (p, p, p, p, p, p, p, p, i, p))):
            entry = getattr(built, f"qfx_{name}")
            entry.argtypes, entry.restype = arguments, None
    return built
