"""Tensors that say of themselves what Brevitas' QuantTensors say: a forward may ask ``isinstance(x, QuantTensor)`` and read ``x.value``.

Brevitas' layers hand quantized values on as QuantTensors, and models take other ways for them than for tensors. While such a forward is recorded, on
plain layers, a tensor stands for each that counts as one; what is asked of its scale has no answer, for the recorded numbers are an example's."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

_MOVES = (
    *("flatten", "reshape", "view", "view_as", "transpose", "permute", "squeeze", "unsqueeze", "contiguous", "detach", "pad", "interpolate"),
    *("relu", "relu6", "hardtanh", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "pixel_shuffle", "pixel_unshuffle"),
    *(f"{kind}max_pool{axes}d" for kind in ("", "adaptive_") for axes in (1, 2, 3)),
    *("add", "radd", "sub", "mul", "rmul", "cat", "neg"),
)
"""Functions of torch, and methods of tensors, that give a QuantTensor of QuantTensors alone."""

_LAYERS = (
    *("Identity", "Flatten", "ReLU", "ReLU6", "Hardtanh", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "Upsample"),
    *("UpsamplingNearest2d", "PixelShuffle", "PixelUnshuffle", "ZeroPad1d", "ZeroPad2d", "ZeroPad3d", "ConstantPad1d", "ConstantPad2d"),
    *(f"{kind}MaxPool{axes}d" for kind in ("", "Adaptive") for axes in (1, 2, 3)),
)
"""Layers of torch that do."""


def as_quantized(x: Tensor) -> Tensor:
    """``x``, which a forward takes for a QuantTensor."""
    with torch._C.DisableTorchFunction():
        result: Tensor = x.as_subclass(_kind())
        return result


@functools.cache
def _kind() -> Any:
    theirs: Any = importlib.import_module("brevitas.quant_tensor").QuantTensor

    class Quantized(Tensor, theirs):  # type: ignore[misc]
        @property
        def value(self) -> Tensor:
            return self

        @property
        def tensor(self) -> Tensor:
            return self

        @staticmethod
        def behind_layer(layer: nn.Module, result: Any) -> Any:
            """What a layer of torch gives of such tensors, as recordings see it."""
            return _marked(result) if type(layer).__name__ in _LAYERS else result

        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            with torch._C.DisableTorchFunctionSubclass():
                result = func(*args, **kwargs)
            whole = all(isinstance(leaf, cls) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
            return _marked(result) if whole and getattr(func, "__name__", "").strip("_") in _MOVES else result

    return Quantized


def _marked(result: Any) -> Any:
    return tree_map(lambda leaf: as_quantized(leaf) if isinstance(leaf, Tensor) else leaf, result)
