"""The numbers of an axis by rank, and where they stand: functions that give one tensor each, as rules want them. Between equal numbers the one that
comes first on the axis goes before, as ``torch.argmax`` and ONNX's TopK have it; ``torch.topk`` leaves that open."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary


def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True) -> Tensor:
    """The ``k`` greatest (or least) numbers along ``dim``, in that order."""
    if has_torch_function_unary(input):
        found: Tensor = handle_torch_function(topk, (input,), input, k, dim, largest)
        return found
    return _ranked(input, dim, largest)[0].narrow(dim, 0, k)


def argtopk(input: Tensor, k: int, dim: int = -1, largest: bool = True) -> Tensor:
    """Where the numbers of ``topk`` stand."""
    if has_torch_function_unary(input):
        found: Tensor = handle_torch_function(argtopk, (input,), input, k, dim, largest)
        return found
    return _ranked(input, dim, largest)[1].narrow(dim, 0, k)


def _ranked(input: Tensor, dim: int, largest: bool) -> tuple[Tensor, Tensor]:
    return torch.sort(input, dim=dim, descending=largest, stable=True)
