"""``Sparse``: the Cast of weights of which n of m are kept.

``Spec.sparsity`` = "n:m": along the inputs of an output (axis 1 of the weight, outputs on axis 0; each position of a kernel by itself) every m
neighbours hold at most n that are not 0. Which are kept is chosen once, when the weights are first seen: those of greatest magnitude, of equals the
first. The choice stays, in training too: what is left out is 0 and gets no gradient, and its float number stays as it was. It is a buffer, ``mask``,
so that checkpoints have it. Sources: Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021, arXiv 2104.08378 (2:4 along the inputs, by
magnitude, trained on with the mask as it is); Yu et al., "Boost Vision Transformer with GPU-Friendly Sparsity and Quantization", CVPR 2023, arXiv
2305.10727 (the same, then quantized, taught by the dense model: ``qfx.Distillation``).

Passes after training see the mask (``Problem.kept``). With GPTQ that is SparseGPT (Frantar and Alistarh, 2023) for a given mask: the weights that
stay make up for those that go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from qfx.errors import ModelFileError, UnsupportedError
from qfx.nn.accumulator import Accumulating
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer
from qfx.recipe import Spec
from qfx.spec import n_of_m

_KEY = "mask"


def choose(weight: Tensor, n: int, m: int) -> Tensor:
    """Which weights (outputs, inputs, ...) are kept, as a mask: of each m neighbours along the inputs the n of greatest magnitude, of equals the
    first.

    >>> choose(torch.tensor([[1.0, -3.0, 2.0, 0.0, 5.0, 5.0, 5.0, 5.0]]), 2, 4).int().tolist()
    [[0, 1, 1, 0, 1, 1, 0, 0]]
    """
    groups = weight.detach().abs().reshape(weight.shape[0], weight.shape[1] // m, m, -1)
    order = torch.argsort(groups, dim=2, descending=True, stable=True)
    rank = torch.argsort(order, dim=2)
    return (rank < n).reshape(weight.shape)


def fits(mask: Tensor, n: int, m: int) -> bool:
    """Whether of each m neighbours along the inputs at most n are kept."""
    return bool((mask.reshape(mask.shape[0], mask.shape[1] // m, m, -1).sum(2) <= n).all())


class Sparse(Quantizer):
    """The Cast of a weight with ``spec.sparsity``: of what ``kept`` leaves, and of 0 elsewhere."""

    n: int
    m: int
    mask: Tensor

    def __init__(self, spec: Spec, **named: Any) -> None:
        super().__init__(spec, **named)
        assert spec.sparsity is not None
        self.n, self.m = n_of_m(spec.sparsity)
        self.register_buffer(_KEY, None)

    @property
    def kept(self) -> Tensor | None:
        return self._buffers[_KEY]

    def _masked(self, x: QTensor | Tensor) -> Tensor:
        value, kept = (x.tensor() if isinstance(x, QTensor) else x), self._buffers[_KEY]
        return value if kept is None or self.off else torch.where(kept, value, torch.zeros((), dtype=value.dtype, device=value.device))

    def forward(self, x: QTensor | Tensor) -> QTensor:
        return super().forward(self._masked(x))

    def with_another(self, x: Tensor, other: Quantizer, y: Tensor) -> tuple[QTensor, QTensor]:
        return super().with_another(self._masked(x), other, y)

    def initialize_from(self, parts: Iterable[QTensor | Tensor], *, most: int | Tensor | None = None) -> None:
        """As a Quantizer, of what is kept; chosen here, the first time. Raises UnsupportedError where m does not divide the inputs."""
        weight = next(iter(parts))
        weight = weight.tensor() if isinstance(weight, QTensor) else weight
        if self._buffers[_KEY] is None:
            inputs = weight.shape[1] if weight.dim() > 1 else 1
            if inputs % self.m:
                raise UnsupportedError(
                    f"sparsity {self.spec.sparsity} takes groups of {self.m} inputs, and each output has {inputs}",
                    where=self.name or "Sparse",
                    remedy=f"leave it dense, Override({self.name!r}, {{'sparsity': '1:1'}}), or use an m that divides {inputs}",
                )
            self.mask = choose(weight, self.n, self.m)
        super().initialize_from((self._masked(weight),), most=most)

    def misfit(self, state_dict: Mapping[str, Any], prefix: str) -> ModelFileError | None:
        """As a Quantizer; and a checkpoint that was quantized without the mask, or with one that keeps more."""
        found = super().misfit(state_dict, prefix)
        kept = state_dict.get(prefix + _KEY)
        if found is not None or (kept is None and f"{prefix}cast_type" not in state_dict):
            return found
        if isinstance(kept, Tensor) and (kept.is_meta or (kept.shape[1] % self.m == 0 and fits(kept, self.n, self.m))):
            return None
        told = "was trained dense" if kept is None else "keeps more weights"
        remedy = "quantize with the recipe of the checkpoint's model; to make a dense model sparse, quantize its float weights (qfx.float_state)"
        return ModelFileError(f"the checkpoint {told}, the model has sparsity {self.spec.sparsity}", where=self.name or prefix, remedy=remedy)


class SparseAccumulating(Sparse, Accumulating):
    """Of weights that also have an accumulator of a chosen width: what is kept stays within it."""


def weight_cast(spec: Spec, **named: Any) -> Quantizer:
    """The Cast of a weight, as its spec says."""
    n, m = n_of_m(getattr(spec, "sparsity", None) or "1:1")
    if n == m:
        return Quantizer(spec, **named) if spec.accumulator is None else Accumulating(spec, **named)
    return Sparse(spec, **named) if spec.accumulator is None else SparseAccumulating(spec, **named)
