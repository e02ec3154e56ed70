"""Sensitivity from the output: the rest of the network runs behind each cast, at each word length."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, fx

from qfx.ptq.activations import ActivationCache
from qfx.ptq.allocation.sites import Site
from qfx.ptq.allocation.table import Measure, Measured
from qfx.ptq.allocation.variation import Variation

_KEPT_VARIANCE, _SAMPLES_PER_COMPONENT = 0.999, 4


def measure_outputs(
    reference: fx.GraphModule,
    batches: list[Tensor],
    sites: list[Site],
    widths: tuple[int, ...],
    measure: Measure,
    tell: Callable[[int, int], None],
) -> dict[str, Measured]:
    """By the quantizer's name: what ``OUTPUT_MEASURES[measure]`` says of the output with that one cast."""
    loss, found = OUTPUT_MEASURES[measure], {}
    with torch.no_grad():
        expected = torch.cat([reference(part) for part in batches])
        with ActivationCache((reference,), batches) as cache:
            for number, site in enumerate(sites):
                tell(number, len(sites))
                variation = Variation.at(site, batches, cache)
                losses = tuple(loss(expected, variation.output(cast)) for cast in variation.casts(widths))
                found[site.name] = Measured(variation.numbers, losses)
    tell(len(sites), len(sites))
    return found


def relative_noise(expected: Tensor, result: Tensor) -> float:
    """Noise over signal; without a signal infinite, or 0 if there is no noise either."""
    signal = float(expected.double().square().sum())
    noise = float((expected.double() - result.double()).square().sum())
    return noise / signal if signal > 0 else math.inf if noise > 0 else 0.0


def lost_correlation(expected: Tensor, result: Tensor) -> float:
    """What the mean canonical correlation lacks to 1."""
    return max(1.0 - canonical_correlation(expected, result), 0.0)


def canonical_correlation(a: Tensor, b: Tensor) -> float:
    """The mean canonical correlation of two sets of variables, (samples, ...) each: 1 if each is an affine function of the other, 0 at the least.

    Of each set only the principal components are taken that make up 99.9 % of its variance, and at most one for four samples: more would correlate by
    chance (Raghu et al., "SVCCA", 2017). 0 if exactly one set is constant, 1 if both are.
    """
    first, second = _components(a), _components(b)
    if min(first.shape[1], second.shape[1]) == 0:
        return float(first.shape[1] == second.shape[1])
    values = torch.linalg.svdvals(first.T @ second).clamp(0.0, 1.0)
    return float(values.sum() / max(first.shape[1], second.shape[1]))


def _components(x: Tensor) -> Tensor:
    """An orthonormal basis (samples, k) of the principal components."""
    rows = x.flatten(1).double()
    rows = rows - rows.mean(0)
    left, values, _ = torch.linalg.svd(rows, full_matrices=False)
    power = values.square()
    enough = int((power.cumsum(0) < _KEPT_VARIANCE * power.sum()).sum()) + 1
    most = max(rows.shape[0] // _SAMPLES_PER_COMPONENT, 1)
    constant = rows.shape[0] < 2 or float(power.sum()) <= 1e-24 * rows.shape[0]
    basis: Tensor = left[:, : 0 if constant else min(enough, most)]
    return basis


OUTPUT_MEASURES: Mapping[Measure, Callable[[Tensor, Tensor], float]] = MappingProxyType({"sqnr": relative_noise, "correlation": lost_correlation})
"""From the output in float, and the output with one quantizer cast, to a loss."""
