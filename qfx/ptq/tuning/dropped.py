"""Casts of activations that are left out by chance while a model is tuned (QDrop)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, fx, nn

from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer


@contextmanager
def dropped(module: fx.GraphModule, share: float, generator: torch.Generator) -> Iterator[None]:
    """In this context each number of an activation passes its cast unrounded with probability ``share`` (0: never), though still within the cast's
    range; drawn anew in every forward by ``generator``. The cast of the result rounds all, as what the model gives is compared.

    It is for looking for weights alone: what the model computes here lies on no grid. Source: Wei et al., "QDrop: Randomly Dropping Quantization for
    Extremely Low-bit Post-Training Quantization", 2022: the weights come to lie where the loss is flat in the direction of the activations' errors.
    """
    results = {node for node in module.graph.nodes if any(user.op == "output" for user in node.users)}
    calls = [node for node in module.graph.nodes if node.op == "call_module" and node not in results]
    parts = dict.fromkeys(module.get_submodule(str(node.target)) for node in calls)  # each once, however often it is called
    casts = [part for part in parts if isinstance(part, Quantizer)] if share else []

    def pass_some(cast: nn.Module, given: tuple[QTensor | Tensor, ...], result: QTensor) -> QTensor:
        exact = given[0].tensor() if isinstance(given[0], QTensor) else given[0]
        value = result.tensor()
        low, high = _range(result)
        loose = torch.minimum(torch.maximum(exact.to(value.dtype), low), high)
        drawn = torch.rand(value.shape, generator=generator, dtype=torch.float32).to(value.device) < share
        return QTensor(torch.where(drawn, loose, value), result.interval)

    with ExitStack() as stack:
        for cast in casts:
            stack.callback(cast.register_forward_hook(pass_some).remove)
        yield


def _range(x: QTensor) -> tuple[Tensor, Tensor]:
    """The least and the greatest number of each channel of a plain tensor, to broadcast along it."""
    channels = x.value.shape[1] if x.value.dim() > 1 else 1
    bounds = x.interval.spread(channels)
    shape = (1, channels, *(1,) * (x.value.dim() - 2)) if x.value.dim() > 1 else (1,)
    low = [math.ldexp(bound.lo, -bound.frac_bits) for bound in bounds]
    high = [math.ldexp(bound.hi, -bound.frac_bits) for bound in bounds]
    return x.value.new_tensor(low).reshape(shape), x.value.new_tensor(high).reshape(shape)
