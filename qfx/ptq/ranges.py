"""Casts that wrap: ranges that follow the data, and the proof that nothing wraps on it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from qfx.errors import DataError
from qfx.fixed.arith import FLOAT64_BITS
from qfx.fixed.kernel import CastMode, quantize
from qfx.fixed.type import OMode
from qfx.nn.model import graph_module, quantizers
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer
from qfx.ptq.activations import batches, evaluating

Seen = Callable[[Quantizer, QTensor | Tensor], None]


def fix_ranges(qmodel: nn.Module, data: Tensor | Iterable[Tensor]) -> None:
    """Give activations whose casts wrap, and whose word lengths are learned, the least ranges in which nothing of ``data`` wraps; in place.

    Before, they grow with what is seen in training. From here on they stay, whatever is seen, and checkpoints know it; the resolutions may be
    trained on. ``data``: real inputs, one tensor or batches. Each cast is widened before it casts, so that what follows it sees numbers that did not
    wrap. Weights need none of it: their ranges follow the weights, always.

    Raises QfxError if ``qmodel`` did not come from ``qfx.quantize``, DataError for bad data.
    """
    begun = set[int]()

    def widen(cast: Quantizer, x: QTensor | Tensor) -> None:
        if not (cast.spec.learn_width and cast.spec.o is OMode.WRAP and cast.channel_axis):
            return
        if id(cast) in begun:
            cast.widen(x)
        else:
            begun.add(id(cast))
            cast.int_bits = cast.needed(x)
            cast.range_fixed = torch.ones_like(cast.range_fixed)

    _run(qmodel, data, widen)


def prove_no_wrap(qmodel: nn.Module, data: Tensor | Iterable[Tensor]) -> tuple[str, ...]:
    """The names of all casts under AP_WRAP and AP_WRAP_SM, none of which overflowed on any of ``data``: weights, constants and activations.

    Raises DataError, naming the first that did, for numbers that wrap; and as ``fix_ranges`` does.
    """
    proven = dict[str, None]()

    def compare(cast: Quantizer, x: QTensor | Tensor) -> None:
        if cast.spec.o not in (OMode.WRAP, OMode.WRAP_SM):
            return
        numbers = (x.tensor() if isinstance(x, QTensor) else x).detach().double()
        found = cast(numbers).value.double()
        unbounded = quantize(numbers, cast.points().double(), FLOAT64_BITS, CastMode(True, cast.spec.q, OMode.SAT))
        wrapped = found != unbounded
        if bool(wrapped.any()):
            beyond, held = unbounded[wrapped], cast.interval().hull
            low, high = (bound * 2.0**-held.frac_bits for bound in (held.lo, held.hi))
            raise DataError(
                f"{int(wrapped.sum())} of {wrapped.numel()} numbers wrap: they reach from {float(beyond.min()):g} to {float(beyond.max()):g}, "
                f"the cast holds {low:g} to {high:g}",
                where=cast.name,
                remedy="qfx.fix_ranges(qmodel, data) for word lengths that are learned; else a longer word, or AP_SAT",
            )
        proven[cast.name] = None

    _run(qmodel, data, compare)
    return tuple(proven)


def _run(qmodel: nn.Module, data: Tensor | Iterable[Tensor], seen: Seen) -> None:
    module = graph_module(qmodel)
    with torch.inference_mode(False), torch.no_grad(), evaluating(module), _watched([cast for _, cast in quantizers(module)], seen):
        for batch in batches(data):
            module(batch)


@contextlib.contextmanager
def _watched(casts: list[Quantizer], seen: Seen) -> Iterator[None]:
    """``seen`` gets whatever a cast is about to cast."""

    def watch(cast: Quantizer) -> None:
        def forward(x: QTensor | Tensor) -> QTensor:
            with _unwatched(cast):
                seen(cast, x)
                return cast.forward(x)

        def with_another(x: Tensor, other: Quantizer, y: Tensor) -> tuple[QTensor, QTensor]:
            return forward(x), other(y)

        cast.__dict__.update(forward=forward, with_another=with_another)

    for cast in casts:
        watch(cast)
    try:
        yield
    finally:
        for cast in casts:
            for name in ("forward", "with_another"):
                cast.__dict__.pop(name, None)


@contextlib.contextmanager
def _unwatched(cast: Quantizer) -> Iterator[None]:
    own = {name: cast.__dict__.pop(name) for name in ("forward", "with_another")}
    try:
        yield
    finally:
        cast.__dict__.update(own)
