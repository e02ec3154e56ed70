"""Sums of products that are what they say: every switch that lets a float32 product be rounded is found and refused by name."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from qfx.errors import ExactnessError

_ENVIRONMENT = {
    "ONEDNN_DEFAULT_FPMATH_MODE": "STRICT",
    "DNNL_DEFAULT_FPMATH_MODE": "STRICT",
    "MKL_BLAS_COMPUTE_MODE": "STANDARD",
    "NVIDIA_TF32_OVERRIDE": "0",
    "CUBLAS_EMULATE_SINGLE_PRECISION": "0",
    "CUBLAS_EMULATE_DOUBLE_PRECISION": "0",
}
"""What libraries read when they start, and the value that keeps float32 as it is."""

_WHOLE = ("none", "ieee")
"""Values of a ``fp32_precision`` that round nothing: "none" where no wider setting says otherwise."""


def refuse_inexact(x: Tensor, where: str) -> None:
    """Raises ExactnessError, naming the switch and the layer ``where``, if a float32 product on the device of ``x`` may be rounded.

    The first time in a process and on a device, products that need all 24 bits are computed and looked at, which finds what no switch tells of.
    """
    place = x.device
    device = place.type
    if torch.is_autocast_enabled(device):
        raise ExactnessError("autocast is on", where=where, remedy="run fixed-point layers outside torch.autocast")
    for name, read in _switches(device):
        setting = read()
        if setting not in _WHOLE:
            raise ExactnessError(f"float32 products may be rounded: {name} is {setting!r}", where=where, remedy=_remedy(name))
    found = _found(device if place.index is None else str(place))
    if found is not None:
        raise ExactnessError(found[0], where=where, remedy=found[1])


def _remedy(name: str) -> str:
    return 'call torch.set_float32_matmul_precision("highest")' if name.startswith("torch.get") else f'set {name} = "ieee"'


@lru_cache(maxsize=8)
def _switches(device: str) -> tuple[tuple[str, Callable[[], str]], ...]:
    """The name and the reader of each switch that this torch has for a device."""
    found: list[tuple[str, Callable[[], str]]] = [("torch.get_float32_matmul_precision()", _matmul_precision)]
    getter = getattr(torch._C, "_get_fp32_precision_getter", None)  # what torch.backends.*.fp32_precision reads, at a tenth of its time
    if getter is None:  # before torch 2.9
        if device == "cuda":
            found.append(("torch.backends.cuda.matmul.allow_tf32", lambda: "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"))
        return tuple(found)
    parts = {"cuda": (("cuda", "matmul"),)}.get(device, (("mkldnn", "conv"), ("mkldnn", "matmul")))
    return (*found, *((f"torch.backends.{part}.{kind}.fp32_precision", lambda part=part, kind=kind: getter(part, kind)) for part, kind in parts))


def _matmul_precision() -> str:
    try:
        setting = torch.get_float32_matmul_precision()
    except RuntimeError:  # it was set by another of torch's interfaces, each part of which is looked at by itself
        return "none"
    return "none" if setting == "highest" else setting


@lru_cache(maxsize=16)
def _found(device: str) -> tuple[str, str] | None:
    """What rounds products on the device and no switch tells of, and the remedy: asked once in a process."""
    for name, exact in _ENVIRONMENT.items():
        if os.environ.get(name, exact).upper() not in ("", exact):
            return f"float32 products may be rounded: {name}={os.environ[name]}", f"unset {name} before Python starts"
    rounded = _rounded(device)
    return (f"{rounded} in float32 is rounded on {device}", "look for a setting of the library that computes it") if rounded else None


def _rounded(device: str) -> str:
    """Which of some products that need all 24 bits is not exact on the device; none: an empty text. They are as large as layers are, so that the
    algorithms are taken which a library keeps for those, and each operand is wide in turn, so that splitting one into short parts is found too."""
    with torch.no_grad(), sums_of_products(device.partition(":")[0]):
        for wide, narrow in ((20, 1), (10, 10), (1, 20)):
            vectors, matrix = _integers((256, 512), wide, 43), _integers((256, 512), narrow)
            found = F.linear(vectors.to(device), matrix.to(device))
            if not torch.equal(found.cpu().double(), vectors.double() @ matrix.double().T):
                return "a matrix product"
            left, right = vectors.reshape(8, 32, 512), matrix.reshape(8, 32, 512).transpose(1, 2)
            if not torch.equal(torch.matmul(left.to(device), right.to(device)).cpu().double(), left.double() @ right.double()):
                return "a product of many matrices"
            images, weight = _integers((16, 32, 12, 12), wide, 32), _integers((32, 32, 3, 3), narrow)
            exact = F.conv2d(images.double(), weight.double(), padding=1)
            if not torch.equal(F.conv2d(images.to(device), weight.to(device), padding=1).cpu().double(), exact):
                return "a convolution"
    return ""


def _integers(shape: tuple[int, ...], bits: int, one_in: int = 1) -> Tensor:
    """Odd integers below 2**bits, both signs; along axis 1 all but one in ``one_in`` are 0, so that no partial sum needs more than 24 bits."""
    generator = torch.Generator().manual_seed(bits)
    bound = 2 ** (bits - 1)
    values = (2 * torch.randint(-bound, bound, shape, generator=generator) + 1).float()
    kept = torch.randint(0, one_in, (shape[0], 1, *shape[2:]), generator=generator)
    position = torch.arange(shape[1]).reshape(1, -1, *([1] * (len(shape) - 2)))
    return values * (position % one_in == kept)


class _Switch:
    """A process-wide setting that is off while any thread needs it off, and then what it was."""

    def __init__(self, read: Callable[[], bool], write: Callable[[bool], object]) -> None:
        self._read, self._write = read, write
        self._lock = threading.Lock()
        self._users, self._before = 0, False

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._before = self._read()
                if self._before:
                    self._write(False)
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._before:
                self._write(True)


_CUDNN = _Switch(torch._C._get_cudnn_enabled, torch._C._set_cudnn_enabled)
_NNPACK = _Switch(torch._C._get_nnpack_enabled, torch._C._set_nnpack_enabled)


def sums_of_products(device: str) -> AbstractContextManager[None]:
    """In this context a convolution on the device is computed as such: cuDNN may pick TF32, Winograd or FFT, and NNPACK's is a Winograd convolution.
    Both are settings of the process: other threads that need them off share the time."""
    return _CUDNN if device == "cuda" else _NNPACK
