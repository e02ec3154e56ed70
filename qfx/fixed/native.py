"""Cast in one fused C++ pass each way: ``native.cpp`` and ``native_cast.h``, built for one mode when first used and called through ctypes.

``native_build.py`` builds, keeps and loads. Where it cannot, it warns once, ``available`` is false, and callers use ``eager.py``. To which
of the two a call goes is what ``flat`` and ``fused`` say, before anything is computed.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, cast

import torch
from torch import Tensor

from qfx.fixed import native_build
from qfx.fixed.arith import FLOAT32_BITS
from qfx.fixed.layout import PLAIN, Layout, layout_of, memory_format
from qfx.fixed.plan import FLOAT32_FRAC_BITS, FLOAT64_FRAC_BITS, CastMode, Gradients, Plan, plan_of, refuse_frac_bits
from qfx.fixed.type import OMode, QMode

_PARALLEL_FROM = 65536  # elements; below, waking other threads costs more than it gives

_THREADS_SHIFT = 8  # behind the flags of a Layout
_ONE_THREAD = 1 << _THREADS_SHIFT
_BAD_FRAC_BITS = 1
_Q_CODES = {q: code for code, q in enumerate(QMode)}
_O_CODES = {OMode.SAT: 0, OMode.SAT_SYM: 0, OMode.SAT_ZERO: 1, OMode.WRAP: 2, OMode.WRAP_SM: 3}


class _Constants(ctypes.Structure):
    """``struct Plan`` of native_cast.h."""

    _fields_ = (
        ("min_raw", ctypes.c_double),
        ("max_raw", ctypes.c_double),
        ("negative_slope", ctypes.c_double),
        ("upper", ctypes.c_double),
        ("width", ctypes.c_int32),
        ("n", ctypes.c_int32),
        ("is_signed", ctypes.c_int32),
        ("is_symmetric", ctypes.c_int32),
        ("least_frac_bits", ctypes.c_int32),
        ("greatest_frac_bits", ctypes.c_int32),
    )


class _Entry(ctypes.Structure):
    """``struct Entry`` of recorded.cpp."""

    _fields_ = (
        ("forward", ctypes.c_void_p),
        ("backward", ctypes.c_void_p),
        ("outer", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("inner", ctypes.c_int64),
        ("flags", ctypes.c_int32),
        ("is_channels_last", ctypes.c_int32),
        ("is_wide", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        ("constants", _Constants),
    )


class Build(NamedTuple):
    """What native.cpp is compiled for."""

    q: int
    o: int
    n: int
    x: str
    result: str
    activation: bool
    affine: bool
    addend: bool
    words: bool

    def defines(self) -> tuple[str, ...]:
        modes = f"-DQFX_Q={self.q}", f"-DQFX_O={self.o}", f"-DQFX_N={self.n}", f"-DQFX_X={self.x}", f"-DQFX_R={self.result}"
        before = f"-DQFX_ACTIVATION={self.activation:d}", f"-DQFX_AFFINE={self.affine:d}", f"-DQFX_ADDEND={self.addend:d}"
        return (*modes, *before, f"-DQFX_WORDS={self.words:d}")


class Bound(NamedTuple):
    """The entries for one plan, with its constants (kept alive here) and their address."""

    forward: Callable[..., int]
    backward: Callable[..., int]
    forward_flat: Callable[..., int]
    backward_flat: Callable[..., int]
    constants: _Constants
    address: int
    flat: _Entry
    flat_address: int

    def entry(self, layout: Layout, wide: bool) -> _Entry:
        """What recorded.cpp has to know of a Cast of tensors that lie so."""
        last = layout.format is torch.channels_last
        return _Entry(self.flat.forward, self.flat.backward, layout.outer, layout.channels, layout.inner, layout.flags, last, wide, 0, self.constants)


@lru_cache(maxsize=1)
def available() -> bool:
    """Whether a Cast can be built and run here (it builds one, the first time)."""
    return _entries(Build(0, 0, 0, "float", "float", False, False, False, False)) is not None


class Fused(NamedTuple):
    """One fused pass each way over tensors that lie so. Made by ``fused``, for tensors of the shapes and dtypes that it was shown."""

    bound: Bound
    layout: Layout
    wide: bool
    entry: _Entry
    entry_address: int

    def forward(
        self, x: Tensor, frac_bits: Tensor, int_bits: Tensor | None, scale: Tensor | None, shift: Tensor | None, addend: Tensor | None
    ) -> Tensor:
        """What ``eager.forward`` returns."""
        layout = self.layout
        x = x.contiguous(memory_format=layout.format)
        out = torch.empty_like(x, dtype=torch.float64) if self.wide else torch.empty_like(x)
        if addend is not None:
            addend = addend.contiguous(memory_format=layout.format)
        frac_bits, scale, shift = frac_bits.contiguous(), _as_double(scale), _as_double(shift)
        words = None if int_bits is None else int_bits.contiguous()
        status = self.bound.forward(
            self.bound.address,
            out.data_ptr(),
            x.data_ptr(),
            None if addend is None else addend.data_ptr(),
            frac_bits.data_ptr(),
            None if words is None else words.data_ptr(),
            None if scale is None else scale.data_ptr(),
            None if shift is None else shift.data_ptr(),
            layout.outer,
            layout.channels,
            layout.inner,
            layout.flags | _threads(layout),
        )
        _check(status, frac_bits, out.dtype, int_bits)
        return out

    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        frac_bits: Tensor,
        int_bits: Tensor | None,
        scale: Tensor | None,
        shift: Tensor | None,
        addend: Tensor | None,
        frac_grad_scale: float,
        parameters: bool,
    ) -> Gradients:
        """What ``eager.backward`` returns. Without ``parameters`` the gradients of all but x and the addend are left out (None)."""
        layout = self.layout
        grad, x = grad.contiguous(memory_format=layout.format), x.contiguous(memory_format=layout.format)
        grad_x = torch.empty_like(x)
        grad_addend: Tensor | None = None
        if addend is not None:
            addend = addend.contiguous(memory_format=layout.format)
            grad_addend = torch.empty_like(x)
        frac_bits, scale64, shift64 = frac_bits.contiguous(), _as_double(scale), _as_double(shift)
        grad_frac = torch.empty_like(frac_bits) if parameters else None
        words = None if int_bits is None else int_bits.contiguous()
        grad_words = torch.empty_like(words) if parameters and words is not None else None
        grad_scale = torch.empty_like(scale64) if parameters and scale64 is not None else None
        grad_shift = torch.empty_like(shift64) if parameters and shift64 is not None else None
        status = self.bound.backward(
            self.bound.address,
            grad_x.data_ptr(),
            None if grad_addend is None else grad_addend.data_ptr(),
            grad.data_ptr(),
            x.data_ptr(),
            None if addend is None else addend.data_ptr(),
            frac_bits.data_ptr(),
            None if words is None else words.data_ptr(),
            None if scale64 is None else scale64.data_ptr(),
            None if shift64 is None else shift64.data_ptr(),
            layout.outer,
            layout.channels,
            layout.inner,
            layout.flags | _threads(layout),
            frac_grad_scale,
            None if grad_frac is None else grad_frac.data_ptr(),
            None if grad_words is None else grad_words.data_ptr(),
            None if grad_scale is None else grad_scale.data_ptr(),
            None if grad_shift is None else grad_shift.data_ptr(),
        )
        _check(status, frac_bits, grad.dtype, int_bits)
        if grad_scale is not None and scale is not None:
            grad_scale = grad_scale.to(scale.dtype)
        if grad_shift is not None and shift is not None:
            grad_shift = grad_shift.to(shift.dtype)
        return grad_x, grad_frac, grad_words, grad_scale, grad_shift, grad_addend


def flat(x: Tensor, frac_bits: Tensor, mode: CastMode, width: int, negative_slope: float, upper: float | None) -> Bound | None:
    """The entries for a plain Cast of a float32 tensor with one float32 binary point, if ``forward_flat`` and ``backward_flat`` can do it."""
    if (
        x.dtype is torch.float32
        and frac_bits.dtype is torch.float32
        and not frac_bits.dim()
        and width <= FLOAT32_BITS
        and x.is_cpu
        and frac_bits.is_cpu
        and (x.is_contiguous() or memory_format(x) is torch.channels_last)
        and type(x) in PLAIN
        and type(frac_bits) in PLAIN
        and x.numel()
    ):
        return flat_bound(mode, width, negative_slope, upper)
    return None


def forward_flat(bound: Bound, x: Tensor, frac_bits: Tensor) -> Tensor:
    """Cast ``x``; see ``flat``."""
    out, count = torch.empty_like(x), x.numel()
    threads = _ONE_THREAD if count < _PARALLEL_FROM else torch.get_num_threads() << _THREADS_SHIFT
    status = bound.forward_flat(bound.address, out.data_ptr(), x.data_ptr(), frac_bits.data_ptr(), count, threads)
    if status:
        _check(status, frac_bits, out.dtype)
    return out


def backward_flat(bound: Bound, grad: Tensor, x: Tensor, frac_bits: Tensor, frac_grad_scale: float, parameter: bool) -> tuple[Tensor, Tensor | None]:
    """Gradients by ``x`` and, if ``parameter``, by ``frac_bits``; see ``flat``."""
    grad = grad.contiguous(memory_format=memory_format(x))
    grad_x, count = torch.empty_like(x), x.numel()
    grad_frac = torch.empty_like(frac_bits) if parameter else None
    flags = _ONE_THREAD if count < _PARALLEL_FROM else torch.get_num_threads() << _THREADS_SHIFT
    address = None if grad_frac is None else grad_frac.data_ptr()
    status = bound.backward_flat(
        bound.address, grad_x.data_ptr(), grad.data_ptr(), x.data_ptr(), frac_bits.data_ptr(), count, flags, frac_grad_scale, address
    )
    if status:
        _check(status, frac_bits, grad.dtype)
    return grad_x, grad_frac


def fused(
    plan: Plan, x: Tensor, frac_bits: Tensor, int_bits: Tensor | None, scale: Tensor | None, shift: Tensor | None, addend: Tensor | None
) -> Fused | None:
    """The fused pass for a call, or None if ``eager.py`` has to do it: no compiler, another device, a tensor subclass, an unusual broadcast."""
    layout = layout_of(x, frac_bits, scale, shift)
    if layout is None or (int_bits is not None and not (type(int_bits) in PLAIN and int_bits.is_cpu and int_bits.dtype is frac_bits.dtype)):
        return None
    return _fused(plan, layout, x.dtype, scale is not None or shift is not None, addend is not None, int_bits is not None)


def channel_moments(x: Tensor) -> tuple[Tensor, Tensor] | None:
    """What ``eager.channel_moments`` returns up to the order of its sums, or None if eager has to do it."""
    if not x.is_cpu or type(x) not in PLAIN or x.dtype not in (torch.float32, torch.float64) or not x.numel():
        return None
    entry = _moments_entry("float" if x.dtype is torch.float32 else "double")
    if entry is None:
        return None
    if memory_format(x) is torch.channels_last:
        outer, inner = x.numel() // x.shape[1], 1
    else:
        x = x.contiguous()
        outer, inner = x.shape[0], math.prod(x.shape[2:])
    mean, variance = torch.empty(x.shape[1], dtype=torch.float64), torch.empty(x.shape[1], dtype=torch.float64)
    threads = 1 if x.numel() < _PARALLEL_FROM else torch.get_num_threads()
    entry(x.data_ptr(), outer, x.shape[1], inner, mean.data_ptr(), variance.data_ptr(), threads)
    return mean, variance


def words(
    frac_bits: Tensor, int_bits: Tensor, start: Tensor | None, channels: int, reach: int, most: int, learned: tuple[bool, bool]
) -> tuple[int, tuple[float, ...], tuple[float, ...]] | None:
    """The greatest word length (-1 for NaN), and the most fractional and integer bits of each of ``channels``, which lie one behind the other; writes
    what it puts back into bounds. None if torch operators have to do it. See words.cpp and ``qfx.nn.casts.word_length``."""
    both = (frac_bits, int_bits) if start is None else (frac_bits, int_bits, start)
    if any(not t.is_cpu or t.dtype is not frac_bits.dtype or not t.is_contiguous() or type(t) not in PLAIN for t in both):
        return None
    entry = _words_entry("float" if frac_bits.dtype is torch.float32 else "double") if frac_bits.dtype in (torch.float32, torch.float64) else None
    if entry is None:
        return None
    found = (ctypes.c_double * (2 * channels))()
    at, each = ctypes.addressof(found), frac_bits.numel() // channels
    bits, begun = learned[0] | learned[1] << 1, None if start is None else start.data_ptr()
    width = entry(frac_bits.data_ptr(), int_bits.data_ptr(), begun, channels, each, reach, most, bits, at, at + 8 * channels)
    numbers = found[:]
    return width, tuple(numbers[:channels]), tuple(numbers[channels:])


def _as_double(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.double().contiguous()


def _threads(layout: Layout) -> int:
    if layout.outer * layout.channels * layout.inner < _PARALLEL_FROM:
        return _ONE_THREAD
    return torch.get_num_threads() << _THREADS_SHIFT


def _check(status: int, frac_bits: Tensor, dtype: torch.dtype, int_bits: Tensor | None = None) -> None:
    if status == _BAD_FRAC_BITS:
        refuse_frac_bits(frac_bits, dtype, int_bits)
    if status:
        raise MemoryError("no memory for the table of channels")


# ---- building --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _fused(plan: Plan, layout: Layout, dtype: torch.dtype, affine: bool, addend: bool, words: bool) -> Fused | None:
    wide = plan.width > FLOAT32_BITS
    bound = _bound(plan, dtype, wide, affine, addend, words)
    if bound is None:
        return None
    entry = bound.entry(layout, wide)
    return Fused(bound, layout, wide, entry, ctypes.addressof(entry))


@lru_cache(maxsize=4096)
def flat_bound(mode: CastMode, width: int, negative_slope: float, upper: float | None) -> Bound | None:
    """The entries for a plain Cast of float32 tensors, and for its step; None where they cannot be built."""
    return _bound(plan_of(mode, width, negative_slope, upper), torch.float32, False, False, False, False)


@lru_cache(maxsize=4096)
def _bound(plan: Plan, dtype: torch.dtype, wide: bool, affine: bool, addend: bool, words: bool) -> Bound | None:
    mode = plan.mode
    single = dtype is torch.float32
    activation = plan.negative_slope != 1.0 or plan.upper != math.inf
    exact_in_single = plan.negative_slope in (0.0, 1.0) and float(torch.tensor(plan.upper, dtype=torch.float32)) == plan.upper
    affine = affine or addend or (activation and not exact_in_single)  # the affine variant computes in float64
    result = "float" if single and not wide else "double"
    n = min(mode.n, 2 if mode.o is OMode.WRAP_SM else 1)
    element = "float" if single else "double"
    build = Build(_Q_CODES[mode.q], _O_CODES[mode.o], n, element, result, affine or activation, affine, addend, words)
    entries = _entries(build)
    if entries is None:
        return None
    low, high = FLOAT32_FRAC_BITS if result == "float" else FLOAT64_FRAC_BITS
    kind = plan.width, mode.n, int(mode.signed), int(mode.o is OMode.SAT_SYM)
    constants = _Constants(plan.min_raw, plan.max_raw, plan.negative_slope, plan.upper, *kind, low, high)
    functions = (entries.qfx_forward, entries.qfx_backward, entries.qfx_forward_flat, entries.qfx_backward_flat)
    addresses = (ctypes.cast(function, ctypes.c_void_p).value for function in functions[:2])
    flat_entry = _Entry(*addresses, 0, 0, 0, 0, 0, 0, 0, constants)
    return Bound(*functions, constants, ctypes.addressof(constants), flat_entry, ctypes.addressof(flat_entry))


@lru_cache(maxsize=1024)
def _entries(build: Build) -> ctypes.CDLL | None:
    """The loaded shared object, built if it is not in the cache; None where that is impossible."""
    library = native_build.library("native.cpp", build.defines())
    if library is None:
        return None
    p, i = ctypes.c_void_p, ctypes.c_int64
    library.qfx_forward.argtypes = (p, p, p, p, p, p, p, p, i, i, i, ctypes.c_int)
    library.qfx_backward.argtypes = (p, p, p, p, p, p, p, p, p, p, i, i, i, ctypes.c_int, ctypes.c_double, p, p, p, p)
    library.qfx_forward_flat.argtypes = (p, p, p, p, i, ctypes.c_int)
    library.qfx_backward_flat.argtypes = (p, p, p, p, p, i, ctypes.c_int, ctypes.c_double, p)
    return library


@lru_cache(maxsize=2)
def _words_entry(element: str) -> Callable[..., int] | None:
    library = native_build.library("words.cpp", (f"-DQFX_X={element}",))
    if library is None:
        return None
    p, i, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
    library.qfx_words.argtypes = (p, p, p, i, i, number, number, ctypes.c_int, p, p)
    return cast(Callable[..., int], library.qfx_words)


@lru_cache(maxsize=2)
def _moments_entry(element: str) -> Callable[..., None] | None:
    library = native_build.library("moments.cpp", (f"-DQFX_X={element}",))
    if library is None:
        return None
    p, i = ctypes.c_void_p, ctypes.c_int64
    library.qfx_moments.argtypes = (p, i, i, i, p, p, ctypes.c_int)
    library.qfx_moments.restype = None
    return cast(Callable[..., None], library.qfx_moments)
