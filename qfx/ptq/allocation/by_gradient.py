"""Sensitivity from gradients: forward and backward through the whole network with all casts watched at once, for any number of word lengths."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, fx

from qfx.nn.quantizer import Quantizer
from qfx.ptq.activations import ActivationCache
from qfx.ptq.allocation.sites import Site
from qfx.ptq.allocation.table import Measure, Measured
from qfx.ptq.allocation.variation import Variation, watched


def measure_gradients(
    reference: fx.GraphModule,
    batches: list[Tensor],
    sites: list[Site],
    widths: tuple[int, ...],
    measure: Measure,
    tell: Callable[[int, int], None],
    *,
    probes: int,
    seed: int,
) -> dict[str, Measured]:
    """By the quantizer's name: the loss that ``GRADIENT_MEASURES[measure]`` predicts, from ``probes`` random directions a batch."""
    steps = 2 * len(sites)
    numbers: dict[str, int] = {}
    estimates: dict[str, Estimate] = {}
    with torch.no_grad(), ActivationCache((reference,), batches) as cache:
        for number, site in enumerate(sites):
            tell(number, steps)
            variation = Variation.at(site, batches, cache)
            numbers[site.name] = variation.numbers
            estimates[site.name] = GRADIENT_MEASURES[measure](site.role == "weight", variation.casts(widths))
    generator = torch.Generator().manual_seed(seed)
    for index, part in enumerate(batches):
        tell(len(sites) + len(sites) * index // len(batches), steps)
        with watched(reference, sites) as variables:
            result = reference(part)
        tensors = list(variables.values())
        for probe in range(probes):
            direction = _direction(result.detach(), generator)
            grads = torch.autograd.grad(result, tensors, direction, retain_graph=probe + 1 < probes, allow_unused=True)
            for name, tensor, grad in zip(variables, tensors, grads, strict=True):
                if grad is not None:
                    with torch.no_grad():
                        estimates[name].add(tensor.detach(), grad)
    tell(steps, steps)
    count = sum(len(part) for part in batches) * probes
    return {name: Measured(numbers[name], estimate.losses(count)) for name, estimate in estimates.items()}


def _direction(result: Tensor, generator: torch.Generator) -> Tensor:
    """A random z for which the mean of z z^T is the curvature of the distillation loss by the result: that of the divergence, diag(p) - p p^T over
    axis 1, plus twice that of the relative squared error."""
    first, second = (torch.randn(result.shape, generator=generator, dtype=result.dtype) for _ in range(2))
    share = torch.softmax(result, 1)
    root = share.sqrt()
    divergence = root * first - share * (root * first).sum(1, keepdim=True)
    variance = (result - result.mean()).square().mean().clamp(min=1e-12)
    per_sample = result[0].numel()
    return divergence + second * torch.sqrt(2 / (variance * per_sample))


class Estimate(ABC):
    """What the gradients of one quantizer add up to. Those of several samples may be added before they are squared: their directions are
    independent with mean 0, so that products of two samples cancel in the mean."""

    constant: bool
    casts: list[Quantizer]
    totals: list[float]

    def __init__(self, constant: bool, casts: list[Quantizer]) -> None:
        """``constant``: whether it casts weights, the same for all samples; ``casts``: it at every word length."""
        self.constant, self.casts = constant, casts
        self.totals = [0.0] * len(casts)

    @abstractmethod
    def add(self, x: Tensor, grad: Tensor) -> None:
        """Take what is cast for a batch, and the gradient by it in one direction, into account."""

    @abstractmethod
    def losses(self, count: int) -> tuple[float, ...]:
        """For every word length; ``count``: samples times directions."""

    def errors(self, x: Tensor) -> Iterator[Tensor]:
        """What rounding ``x`` changes, for every word length."""
        return (cast(x).value.to(x.dtype) - x for cast in self.casts)


class Fisher(Estimate):
    """Half the squared rounding errors, weighed by the diagonal of the curvature."""

    def add(self, x: Tensor, grad: Tensor) -> None:
        for index, error in enumerate(self.errors(x)):
            self.totals[index] += _power(grad * error)

    def losses(self, count: int) -> tuple[float, ...]:
        return tuple(0.5 * total / count for total in self.totals)


class Taylor(Fisher):
    """Half the squared first-order change: as ``Fisher``, but errors of one sample add up, or cancel, before they are squared."""

    def add(self, x: Tensor, grad: Tensor) -> None:
        for index, error in enumerate(self.errors(x)):
            product = grad * error
            self.totals[index] += _power(product.sum() if self.constant else product.flatten(1).sum(1))


class Hessian(Estimate):
    """Half the squared rounding errors, in ``totals``, times the mean of the curvature's diagonal."""

    trace: float
    added: int
    totals: list[float]

    def __init__(self, constant: bool, casts: list[Quantizer]) -> None:
        super().__init__(constant, casts)
        self.trace, self.added = 0.0, 0

    def add(self, x: Tensor, grad: Tensor) -> None:
        samples = 1 if self.constant else len(x)
        self.trace += _power(grad) / (x.numel() if self.constant else x[0].numel())
        self.totals = [kept + _power(error) / samples for kept, error in zip(self.totals, self.errors(x), strict=True)]
        self.added += 1

    def losses(self, count: int) -> tuple[float, ...]:
        return tuple(0.5 * self.trace / count * total / max(self.added, 1) for total in self.totals)


GRADIENT_MEASURES: Mapping[Measure, type[Estimate]] = MappingProxyType({"fisher": Fisher, "hessian": Hessian, "taylor": Taylor})


def _power(x: Tensor) -> float:
    return float(x.square().sum(dtype=torch.float64))
