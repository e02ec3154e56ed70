"""What a product or a cast keeps for its backward pass: nothing that can be made again of what is alive anyway, with the same bits.

Autograd would keep the cast weight beside the float one, and where float32 cannot hold the sums both operands once more as float64: of networks with
large weights more than all that they compute with. Made again they cost next to nothing beside the product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from qfx.fixed.layout import PLAIN

LARGE = 1 << 16
"""Tensors of fewer numbers are kept as they are: for them the hooks would cost more than they give."""


class _Again(NamedTuple):
    """A view of a tensor that is made again."""

    make: Callable[[], Tensor]
    size: Sequence[Any]
    stride: Sequence[Any]
    offset: Any


def keeping(made: Mapping[Tensor, Callable[[], Tensor] | None]) -> AbstractContextManager[Any]:
    """In this context autograd keeps, of each of these tensors, the function that makes its like again: the same numbers, laid out the same. None:
    it keeps the tensor. What it keeps as it is must not be written into before the backward pass, as ever: its own check ends where hooks begin.

    Not where other hooks are at work (activation checkpointing, ``save_on_cpu``): what is saved is theirs then.
    """
    kept = {
        tensor.untyped_storage().data_ptr(): make
        for tensor, make in made.items()
        if make is not None and tensor.numel() >= LARGE and type(tensor) in PLAIN
    }
    if not kept or not torch.is_grad_enabled() or hooked():
        return nullcontext()

    def pack(tensor: Tensor) -> Callable[[], Tensor] | _Again | Tensor:
        make = kept.get(tensor.untyped_storage().data_ptr())
        if make is None:
            return unchanged(lambda: tensor, tensor) or tensor
        return _Again(make, tensor.size(), tensor.stride(), tensor.storage_offset())

    def unpack(saved: Callable[[], Tensor] | _Again | Tensor) -> Tensor:
        if isinstance(saved, _Again):
            return saved.make().as_strided(saved.size, saved.stride, saved.offset)
        return saved if isinstance(saved, Tensor) else saved()

    return saved_tensors_hooks(pack, unpack)


def hooked() -> bool:
    """Whether what autograd saves goes through hooks already, or must not; True also where this torch does not tell."""
    state: Any = torch._C._autograd
    top = getattr(state, "_top_saved_tensors_default_hooks", None)
    return top is None or not state._saved_tensors_hooks_is_enabled() or top(True) is not None


def unchanged(make: Callable[[], Tensor], *sources: Tensor | None) -> Callable[[], Tensor] | None:
    """``make`` without autograd; a RuntimeError, as autograd's own, if one of its sources has been written into since. None where nobody counts that:
    of tensors made in ``torch.inference_mode``."""
    read = [source for source in sources if source is not None]
    if any(source.is_inference() for source in read):
        return None
    versions = [source._version for source in read]

    def again() -> Tensor:
        if [source._version for source in read] != versions:
            raise RuntimeError(
                "a value, a weight or a binary point that a gradient is computed of has been modified by an inplace operation between forward and "
                "backward: write into a copy, or after backward()"
            )
        with torch.no_grad():
            return make()

    return again
