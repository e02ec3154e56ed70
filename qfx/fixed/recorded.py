"""The step of autograd of a Cast, and of a linear layer with its casts, in C++: ``recorded.cpp``, built against the torch that runs, when a Cast is
first recorded.

A step in Python costs more than a small layer's numbers do. This one has the same gradients, and calls the same code of ``native.cpp``; where it
cannot be built (no compiler, no headers of Python or torch, a torch whose insides are others) nothing is said: ``step.py`` has the same in Python.
"""

from __future__ import annotations

import ctypes
import sysconfig
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from qfx.fixed import native_build


class Recorded(Protocol):
    """What recorded.cpp gives."""

    def cast(self, entry: int, frac_grad_scale: float, x: Tensor, frac_bits: Tensor, /, *others: Tensor | None) -> Tensor | None:
        """The Cast of an ``Entry`` (by its address), recorded if autograd records; ``others``: none, or int_bits, scale, shift and addend. None where
        a tensor is not an ordinary one, a transform of ``torch.func`` is at work, or a binary point is refused: then Python's way has to be gone."""

    def linear(self, x: Tensor, limit: float, *constants: object) -> Tensor | None:
        """``linear(x, cast(weight), cast(bias))``, or its cast, as one step, recorded if autograd records. ``limit``: what no |bias| * 2**point may
        be beyond. ``constants``: of the weight, of the bias, and of the result if it is cast: the address of its ``Entry`` (an activation before
        it belongs to it), frac_grad_scale, the reach, the binary point, frac_bits, their start, the tensor (None for the result). None where a
        binary point is another, or anything is not of the common case: then all has to be done one by one."""

    def point(self, frac_bits: Tensor, start: Tensor | None, reach: float, /) -> int | None:
        """One float32 binary point, rounded, if it lies within ``reach`` of its start. None: look by torch."""

    def holds(self, numbers: Tensor, points: Tensor, limit: float, /) -> bool | None:
        """Whether no |number| * 2**point of float32 tensors lies beyond ``limit``; ``points``: one for all, or one for each. None: look by torch."""


@lru_cache(maxsize=1)
def recorded() -> Recorded | None:
    """The module, built if it is not in the cache; None where that is impossible."""
    packages = Path(torch.__file__).parent
    include, headers = sysconfig.get_path("include"), packages / "include"
    if not (Path(include) / "Python.h").is_file() or not (headers / "torch" / "csrc" / "autograd" / "function.h").is_file():
        return None
    flags = ("-O1", "-std=c++20", "-fPIC", "-shared", "-fvisibility=hidden", f"-D_GLIBCXX_USE_CXX11_ABI={torch.compiled_with_cxx11_abi():d}")
    places = (f"-I{headers}", f"-I{headers / 'torch' / 'csrc' / 'api' / 'include'}", f"-I{include}", f"-L{packages / 'lib'}")
    links = ("-lc10", "-ltorch_cpu", "-ltorch_python", "-Wl,-z,now")  # loaded whole or not at all
    version = f"-DQFX_TORCH={torch.__version__.replace('+', '_')}"
    library = native_build.extension("recorded.cpp", (*flags, *places, version, *links))
    if library is None:
        return None
    made = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object, ctypes.py_object, ctypes.c_void_p)(("qfx_recorded", library))
    sample: Any = torch.empty(())
    return cast("Recorded | None", made(sample, torch.nn.Parameter(sample.clone()), sample._cdata))
