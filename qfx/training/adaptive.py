"""``AdaptivePrecision``: word lengths of weights switched while they are trained, by what is lost (AdaPT)."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from qfx.errors import QfxError
from qfx.nn.layers import Weighted
from qfx.recipe import LONGEST_WORD

Strategy = Literal["min", "mean", "max"]
"""Of two suggestions upwards: the smaller, the mean rounded up, or the greater."""

_NEXT: dict[Strategy, Strategy] = {"min": "mean", "mean": "max", "max": "max"}


@dataclass(frozen=True, slots=True)
class Switch:
    """A weight's word before and after, in bits, and why: the divergence that the shortest lossless word has, and the diversity of gradients."""

    name: str
    before: int
    after: int
    divergence: float
    diversity: float


class AdaptivePrecision:
    """Word lengths that go down as far as no information is lost, and up by how much gradients disagree; for a plain loop.

    ``watch()`` behind each ``loss.backward()``, ``switch()`` every few dozen steps, or at the end of an epoch. Weights whose quantizers match
    ``pattern`` must have ``learn_width`` in the recipe (and ``learn = False``, unless the task is to train them as well): then a word length is a
    matter of numbers, and what is exported is a fixed-point model whose types are those of the last switch.

    *Down*: the shortest word, and its binary point, whose numbers have the weights' histogram of ``resolution`` bins (of 16 weights at least): a
    Kullback-Leibler divergence of at most ``loss`` from that of the weights in float. *Up*, from there: with u_1, ..., u_n the gradients since the
    last switch, each scaled to length 1, the diversity is ds = n / |sum u_i|, and ``push_up`` says by how many fractional bits the word grows, at
    most by ``most_up``. ``strategy`` chooses between its two suggestions; where ``watch(loss)`` is given the loss of each step, it rises
    with each switch behind which the mean loss has not fallen, from "min" to "mean" to "max", and is "min" again where it has.

    Source: Kummer et al., "Adaptive Precision Training (AdaPT): A dynamic quantized training approach for DNNs", SDM 2023, arXiv 2107.13490: down by
    KL divergence, up by gradient diversity. Its abstract and its authors' program were at hand; the rule upwards, its strategies and the diversity
    are those of that program. Other than there: it takes no loss at all (a divergence of 0, ``loss=0``) of words rounded stochastically, switches
    after a number of steps of its own for each layer and moves the resolution with it, adds 8 bits for sums (here sums are exact), and grows without
    ``most_up``.
    Raises QfxError where no weight matches or one has a word of fixed length, and for numbers below 0 (``resolution``: below 2).
    """

    resolution: int
    loss: float
    most_up: int
    strategy: Strategy

    def __init__(
        self,
        qmodel: nn.Module,
        *,
        resolution: int = 64,
        loss: float = 1e-2,
        most_up: int = 4,
        strategy: Strategy = "min",
        pattern: str = "*.weight",
    ) -> None:
        found = (layer for layer in qmodel.modules() if isinstance(layer, Weighted))
        self._layers = [layer for layer in found if fnmatch.fnmatchcase(layer.weight_cast.name, pattern)]
        if strategy not in _NEXT:
            raise QfxError(f"the strategy is {strategy!r}", where="AdaptivePrecision", remedy=f"use one of {', '.join(_NEXT)}")
        if not self._layers:
            raise QfxError(
                f"the pattern {pattern!r} matches no weight", where="AdaptivePrecision", remedy="use a quantizer's name, such as '*.weight'"
            )
        for name, value, least in (("resolution", resolution, 2), ("loss", loss, 0), ("most_up", most_up, 0)):
            if not isinstance(value, int | float) or not least <= value < float("inf"):
                raise QfxError(f"{name} is {value!r}", where="AdaptivePrecision", remedy=f"use a number of at least {least}")
        for layer in self._layers:
            if not layer.weight_cast.spec.learn_width or layer.weight_cast.spec.granularity != "tensor":
                told = "has a word of fixed length" if not layer.weight_cast.spec.learn_width else "has several binary points"
                remedy = 'quantize with Spec(learn_width=True, learn=False, learn_range=False, granularity="tensor") for weights'
                raise QfxError(told, where=layer.weight_cast.name, remedy=remedy)
        self.resolution, self.loss, self.most_up = resolution, loss, most_up
        self.strategy: Strategy = strategy
        self._last_loss = float("inf")
        self._forget()

    def __repr__(self) -> str:
        words = ", ".join(str(layer.weight_cast.word_length) for layer in self._layers[:8])
        more = ", ..." if len(self._layers) > 8 else ""
        return f"AdaptivePrecision({len(self._layers)} weights of {words}{more} bits, strategy={self.strategy!r})"

    def _forget(self) -> None:
        self._sums: list[Tensor | None] = [None] * len(self._layers)
        self._steps = [0] * len(self._layers)
        self._losses: list[float] = []

    def watch(self, loss: Tensor | float | None = None) -> None:
        """Take note of the gradients at hand, and of the loss that they are of."""
        if loss is not None:
            self._losses.append(loss.item() if isinstance(loss, Tensor) else loss)
        for place, layer in enumerate(self._layers):
            grad = layer.weight.grad
            length = 0.0 if grad is None else float(grad.norm())
            if grad is not None and length:
                before, unit = self._sums[place], grad.detach() / length
                self._sums[place] = unit if before is None else before.add_(unit)
                self._steps[place] += 1

    def switch(self) -> tuple[Switch, ...]:
        """Give each weight the word that it needs now; what was watched is forgotten."""
        if self._losses:
            mean = sum(self._losses) / len(self._losses)
            self.strategy = "min" if mean < self._last_loss else _NEXT[self.strategy]
            self._last_loss = mean
        done = tuple(self._switched())
        self._forget()
        return done

    def _switched(self) -> Iterator[Switch]:
        for layer, total, steps in zip(self._layers, self._sums, self._steps, strict=True):
            cast, weight = layer.weight_cast, layer.cast_weight().detach()
            width, frac_bits, divergence = push_down(weight, self.resolution, self.loss)
            norm = 0.0 if total is None else float(total.norm())
            diversity = steps / norm if norm else float("inf")
            up = min(push_up(diversity, frac_bits, self.strategy), self.most_up) if total is not None else 0
            before = cast.word_length
            after = min(width + up, LONGEST_WORD)
            whole = cast.learned_ints
            assert whole is not None
            with torch.no_grad():
                cast.place(torch.full_like(cast.frac_bits, float(frac_bits + up)))
                whole.fill_(float(after - frac_bits - up))
            yield Switch(cast.name, before, after, divergence, diversity)


def push_up(diversity: float, frac_bits: int, strategy: Strategy = "min") -> int:
    """By how many fractional bits a word of ``frac_bits`` grows. With d = log(diversity) - 1: one bit where d is not above 0, or not finite; else the
    suggestions are ceil(1 / d**2), and what is missing to min(ceil(32 d**2), 32) fractional bits, and the strategy chooses.

    >>> [push_up(2.0, 5), push_up(4.0, 5, "min"), push_up(4.0, 5, "mean"), push_up(4.0, 5, "max"), push_up(float("inf"), 5)]
    [1, 0, 4, 7, 1]
    """
    beyond = math.log(diversity) - 1 if 0 < diversity < float("inf") else 0.0
    if beyond <= 0:
        return 1
    few, many = max(math.ceil(min(1 / beyond**2, LONGEST_WORD)), 1), max(min(math.ceil(32 * beyond**2), 32) - frac_bits, 0)
    return {"min": min(few, many), "mean": math.ceil((few + many) / 2), "max": max(few, many)}[strategy]


def push_down(weight: Tensor, resolution: int, loss: float) -> tuple[int, int, float]:
    """(width, fractional bits, divergence): the shortest signed word, saturating, whose rounding keeps the histogram; 32 bits if none does. Its range
    holds the greatest weight, or is half of that."""
    top = float(weight.abs().max())
    whole = 1 if not top else max(int(torch.frexp(torch.tensor(top)).exponent), -LONGEST_WORD) + 1  # sign included: holds the greatest
    exact, bins = weight.double(), min(resolution, max(weight.numel() // 16, 2))
    divergence = float("inf")
    for width in range(2, LONGEST_WORD + 1):
        half = 2.0 ** (width - 1)
        for frac_bits in (width - whole, width - whole + 1):
            rounded = torch.floor(exact * 2.0**frac_bits + 0.5).clamp(-half, half - 1) * 2.0**-frac_bits
            divergence = kl_divergence(exact, rounded, bins)
            if divergence <= loss:
                return width, frac_bits, divergence
    return LONGEST_WORD, LONGEST_WORD - whole, divergence


def kl_divergence(x: Tensor, y: Tensor, bins: int) -> float:
    """Of the histograms of x and y over x's range, sum p log(p / q) in nats; an empty bin of y counts as half a number.

    >>> kl_divergence(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]), 4)
    0.0
    """
    low, high = float(x.min()), float(x.max())
    if high <= low:
        return 0.0
    p = torch.histc(x, bins, low, high).double()
    q = torch.histc(y.clamp(low, high), bins, low, high).double()
    p, q = p / p.sum(), torch.where(q > 0, q, torch.full_like(q, 0.5)) / q.sum()
    some = p > 0
    return float((p[some] * (p[some] / q[some]).log()).sum())
