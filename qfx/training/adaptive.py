"""``AdaptivePrecision``: word lengths of weights switched while they are trained, by what is lost (AdaPT)."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qfx.errors import QfxError
from qfx.nn.layers import Weighted
from qfx.recipe import LONGEST_WORD


@dataclass(frozen=True, slots=True)
class Switch:
    """A weight's word before and after, in bits, and why: the divergence that the shortest lossless word has, and the diversity of gradients."""

    name: str
    before: int
    after: int
    divergence: float
    diversity: float


class AdaptivePrecision:
    """Word lengths that go down as far as no information is lost, and up where gradients begin to disagree less than they must; for a plain loop.

    ``watch()`` behind each ``loss.backward()``, ``switch()`` every few dozen steps, or at the end of an epoch. Weights whose quantizers match
    ``pattern`` must have ``learn_width`` in the recipe (and ``learn = False``, unless the task is to train them as well): then a word length is a
    matter of numbers, and what is exported is a fixed-point model whose types are those of the last switch.

    *Down*: the shortest word, and its binary point, whose numbers have the weights' histogram of ``resolution`` bins (of 16 weights at least): a
    Kullback-Leibler divergence of at most ``loss`` from that of the weights in float. *Up*: with g_1, ..., g_n the gradients since the last switch,
    the diversity is ds = sum |g_i|^2 / |sum g_i|^2; where 0 < log ds is small, steps agree and a short word does; as it grows they cancel, and so the
    word gets ceil(1 / (ds - 1)) bits more, ``most_up`` at most, and ``most_up`` where ds <= 1.

    Source: Kummer et al., "Adaptive Precision Training (AdaPT): A dynamic quantized training approach for DNNs", SDM 2023, arXiv 2107.13490: down by
    KL divergence, up by gradient diversity. Only its abstract was at hand: the number of bits upwards is a rule of ours, and it is weights alone
    that switch.
    Raises QfxError where no weight matches or one has a word of fixed length.
    """

    resolution: int
    loss: float
    most_up: int

    def __init__(self, qmodel: nn.Module, *, resolution: int = 64, loss: float = 1e-2, most_up: int = 4, pattern: str = "*.weight") -> None:
        found = (layer for layer in qmodel.modules() if isinstance(layer, Weighted))
        self._layers = [layer for layer in found if fnmatch.fnmatchcase(layer.weight_cast.name, pattern)]
        if not self._layers:
            raise QfxError(
                f"the pattern {pattern!r} matches no weight", where="AdaptivePrecision", remedy="use a quantizer's name, such as '*.weight'"
            )
        for layer in self._layers:
            if not layer.weight_cast.spec.learn_width or layer.weight_cast.spec.granularity != "tensor":
                told = "has a word of fixed length" if not layer.weight_cast.spec.learn_width else "has several binary points"
                remedy = 'quantize with Spec(learn_width=True, learn=False, learn_range=False, granularity="tensor") for weights'
                raise QfxError(told, where=layer.weight_cast.name, remedy=remedy)
        self.resolution, self.loss, self.most_up = resolution, loss, most_up
        self._forget()

    def _forget(self) -> None:
        self._sums: list[Tensor | None] = [None] * len(self._layers)
        self._squares = [0.0] * len(self._layers)

    def watch(self) -> None:
        """Take note of the gradients at hand."""
        for place, layer in enumerate(self._layers):
            if (grad := layer.weight.grad) is not None:
                before = self._sums[place]
                self._sums[place] = grad.detach().clone() if before is None else before.add_(grad.detach())
                self._squares[place] += float(grad.detach().double().square().sum())

    def switch(self) -> tuple[Switch, ...]:
        """Give each weight the word that it needs now; what was watched is forgotten."""
        done = tuple(self._switched())
        self._forget()
        return done

    def _switched(self) -> Iterator[Switch]:
        for layer, total, squares in zip(self._layers, self._sums, self._squares, strict=True):
            cast, weight = layer.weight_cast, layer.cast_weight().detach()
            width, frac_bits, divergence = push_down(weight, self.resolution, self.loss)
            norm = 0.0 if total is None else float(total.double().square().sum())
            diversity = squares / norm if norm else float("inf")
            up = push_up(diversity, self.most_up) if total is not None else 0
            before = cast.word_length
            after = min(width + up, LONGEST_WORD)
            whole = cast.learned_ints
            assert whole is not None
            with torch.no_grad():
                cast.place(torch.full_like(cast.frac_bits, float(frac_bits + up)))
                whole.fill_(float(after - frac_bits - up))
            yield Switch(cast.name, before, after, divergence, diversity)


def push_up(diversity: float, most: int) -> int:
    """By how many bits a word grows.

    >>> push_up(1.0, 4), push_up(1.5, 4), push_up(50.0, 4), push_up(float("inf"), 4)
    (4, 2, 1, 0)
    """
    if diversity == float("inf"):
        return 0
    if diversity <= 1:
        return most
    return min(-int(-1 / (diversity - 1) // 1), most)


def push_down(weight: Tensor, resolution: int, loss: float) -> tuple[int, int, float]:
    """(width, fractional bits, divergence): the shortest signed word, saturating, whose rounding keeps the histogram; 32 bits if none does."""
    top = float(weight.abs().max())
    whole = 1 if not top else max(int(torch.frexp(torch.tensor(top)).exponent), -LONGEST_WORD) + 1  # sign included: holds the greatest
    divergence = float("inf")
    for width in range(2, LONGEST_WORD + 1):
        step = 2.0 ** (whole - width)
        half = 2.0 ** (width - 1)
        rounded = torch.floor(weight.double() / step + 0.5).clamp(-half, half - 1) * step
        divergence = kl_divergence(weight.double(), rounded, min(resolution, max(weight.numel() // 16, 2)))
        if divergence <= loss:
            return width, width - whole, divergence
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
