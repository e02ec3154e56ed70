"""What is known of each number of an imported network: that the source's float arithmetic gives it exactly, or why not; and the proof, number by
number, that a cast behind float arithmetic gives what the source's does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from qfx.capture.traced import Traced
from qfx.errors import UnsupportedError
from qfx.fixed.arith import Bounds, Channels, Interval
from qfx.nn.fixed_layer import FixedLayer
from qfx.nn.layers import QAdd, QAvgPool, QBatchNorm, QConcat, QDropout, QLeakyReLU, QMaxPool, QMul, QReLU, QReLU6, QSub, Weighted
from qfx.nn.layers.elementwise.constant import QAddConstant, QMulConstant, QScaleBy
from qfx.nn.layers.elementwise.expand import QExpand
from qfx.nn.layers.elementwise.held import HeldConstant
from qfx.nn.layers.elementwise.piecewise import QPReLU
from qfx.nn.layers.given import GivenQuantizer, QLines, QOffset
from qfx.nn.layers.reductions.reduce import QReduceMean
from qfx.nn.layers.reshape import QReshape
from qfx.nn.layers.tables.lookup import QLookup
from qfx.nn.qtensor import QTensor, dtype_of

FLOAT32_BITS = 24
"""The integers that float32 holds: up to 2**24."""

MOST = 1 << 20
"""Up to so many numbers, of all channels together, are tried one by one; of more the steps are found."""

PER_NUMBER = (QBatchNorm, QReLU, QReLU6, QLeakyReLU, QPReLU, QAddConstant, QMulConstant, QScaleBy, QDropout, QOffset, QLines, QLookup)
"""Layers that make one number of one number, by constants of its channel at most."""

_SUMS = (QAdd, QSub, QMul, QAvgPool, QReduceMean, QExpand, QConcat, *PER_NUMBER[1:-1])
"""Layers that float32 computes exactly where it holds the result, and their constants are exact."""


FLOAT_BIAS, COMPUTED_WITH = "has a bias without a quantizer", "and is computed with before one follows"


@dataclass(frozen=True)
class Loose:
    """Of sums of products to which the source adds a bias in float32, in an order that nobody knows. ``sums``: what the products come to, on their
    grid. Here each is that plus ``ours``, in the source it is within ``slack`` of that plus ``theirs``; all of each channel."""

    sums: Channels
    theirs: Tensor
    ours: Tensor
    slack: Tensor


@dataclass(frozen=True)
class Known:
    """Of a value. ``why`` not: empty if the source has exactly this number. ``where`` that began. ``reach``: tighter bounds than its interval.

    ``start``: the exact value from which ``nodes`` of the source (and ``layers`` here) lead to it, number by number; None where others mix in.
    ``between``: not empty if the source's number and the one here lie between the same two numbers with so many fractional bits, of each channel or
    of all. ``loose``: that ``start`` itself is not exact, but so. ``shape``: that which the value of ``start`` has been brought into on the way, the
    batch left out, where its one channel has become many."""

    why: str = ""
    where: str = ""
    start: fx.Node | None = None
    nodes: tuple[fx.Node, ...] = ()
    layers: tuple[FixedLayer, ...] = ()
    reach: Bounds | None = None
    between: tuple[int, ...] = ()
    loose: Loose | None = None
    shape: tuple[int, ...] = ()

    def through(self, layer: FixedLayer, node: fx.Node) -> Known:
        """The same, a layer further."""
        if isinstance(layer, QMaxPool):  # a monotone cast of the greatest is the greatest of the casts: what holds for each number holds behind it
            return self
        nodes = self.nodes if self.nodes[-1:] == (node,) else (*self.nodes, node)
        return replace(self, nodes=nodes, layers=(*self.layers, layer))


def judged(layer: FixedLayer, path: str, node: fx.Node, sources: Sequence[tuple[fx.Node, Known, QTensor]], result: QTensor) -> Known:
    """What is known of what a layer gives. ``node``: its operation in the source. ``sources``: what it reads: the value's node here, what is known of
    it, and the value."""
    inexact = next((known for _, known, _ in sources if known.why), None)
    one = len(sources) == 1 and isinstance(layer, (*PER_NUMBER, QMaxPool)) and not _turns(layer)
    if inexact is not None:
        tabled = any(isinstance(part, QLookup) for part in inexact.layers[-1:])  # behind a table stands its cast
        falls = inexact.loose is not None and isinstance(layer, QLookup)  # it may rise and fall within the slack
        if one and inexact.start is not None and not tabled and not falls:
            return inexact.through(layer, node)
        if isinstance(layer, QReshape) and inexact.start is not None:
            (_, _, before), after = sources[0], tuple(result.shape[1:])
            if before.shape[1] == after[0]:  # each channel stays one
                return inexact
            if before.shape[1] == 1 and inexact.loose is None:
                return replace(inexact, shape=after)
        return Known(f"{inexact.why}, {COMPUTED_WITH}" if inexact.loose is not None else inexact.why, inexact.where)
    off = next((known for _, known, _ in sources if known.between), None)
    if off is not None:
        return _beside(off, layer)
    bounds = [known.reach or value.interval for _, known, value in sources]
    if isinstance(layer, QMaxPool | QDropout):
        return Known(reach=bounds[0])
    if layer.traits.moves_only or isinstance(layer, QOffset | QLines):  # parts of signs and counts, which the source does not compute
        return Known()
    if isinstance(layer, Weighted):
        return _of_weights(layer, path, bounds[0])
    tight = bounds[0].relu() if isinstance(layer, QReLU) else bounds[0] + bounds[1] if isinstance(layer, QAdd) else None
    why = _why_inexact(layer, tight or result.interval)
    if not why:
        return Known(reach=tight)
    start = sources[0][0] if one else None
    return Known(why, path, start, *((node,), (layer,)) if one else ((), ()))


def _beside(known: Known, layer: FixedLayer) -> Known:
    """What comes of numbers that lie between the same two as the source's: a function that never falls and that no cast tells from the value itself
    between its steps leaves them there."""
    if isinstance(layer, QReLU | QReLU6 | QMaxPool | QDropout):
        return replace(known, reach=None)
    if layer.traits.moves_only:
        return replace(known, reach=None, between=(min(known.between),))
    return Known(f"{FLOAT_BIAS}, {COMPUTED_WITH}", known.where)


def beside(layer: Weighted, weight_points: Sequence[int], x: Bounds) -> tuple[Tensor, tuple[int, ...], str]:
    """For a bias in float on sums of products that lie on a grid: numbers that stand for it, the fractional bits of the grid of each output, and why
    the source might be found at another place of the grid: empty if it cannot.

    A bias off the grid puts every sum between two numbers of the grid; half a step between them stands for it. The source's float32 adds exact
    integers to it in some order: each addition rounds to the last place of what it gives, and to that only where it is coarser than before, so that
    all of them together move it by less than a last place of the greatest partial sum.
    """
    with torch.no_grad():
        bias, rows = layer.bias.detach().double().reshape(-1), layer.as_cast(layer.weight).detach()  # type: ignore[union-attr]
        hull = x.hull.with_zero()
        each = list(weight_points) * (len(bias) if len(weight_points) == 1 else 1)
        grids = tuple(hull.frac_bits + point for point in each)
        scale = torch.exp2(torch.tensor(grids, dtype=torch.float64))
        low = (bias * scale).floor()
        share = bias * scale - low
        weights = rows.double().flatten(1) * torch.exp2(torch.tensor(each, dtype=torch.float64))[:, None]
        most = weights.round().abs().sum(1) * max(-hull.lo, hull.hi) + low.abs() + 1
        close = (share > 0) & (torch.minimum(share, 1 - share) <= most * 2.0 ** -(FLOAT32_BITS - 1))
        why = ""
        if bool(close.any()):
            place = int(close.nonzero()[0, 0])
            what = f"number {place} lies {float(torch.minimum(share, 1 - share)[place]):.1e} steps beside the grid of the products"
            why = f"has a bias without a quantizer, of which {what}: float32 may round a sum onto it"
        return (low + torch.where(share > 0, 0.5, 0.0)) / scale, grids, why


def loosely(layer: Weighted, theirs: Tensor, x: Bounds) -> Loose | None:
    """What is known of the sums of ``layer``, whose source adds the bias ``theirs`` in float32; None where more than 24 bits would round the products
    too.

    The sums of products are exact. Each addition of a float to them rounds by half a last place of what it gives at most, and only where that is
    coarser than all before, so that the places double: together they move it by less than a last place of the greatest partial sum, in any order.
    """
    with torch.no_grad():
        weight, bias = layer.constants()
        hull = x.hull.with_zero()
        sums, _ = reached(weight, None, x)
        sizes = weight.value.detach().double().flatten(1).abs().sum(1) * max(-hull.lo, hull.hi) * 2.0**-hull.frac_bits + theirs.abs()
        steps = torch.tensor([2.0**own.frac_bits for own in sums.spread(len(sizes))], dtype=torch.float64)
        if bool((sizes * steps > 2**FLOAT32_BITS).any()):
            return None
        ours = torch.zeros_like(theirs) if bias is None else bias.value.detach().double().reshape(-1)
        return Loose(sums, theirs, ours, sizes * (1 + 2.0**-10) * 2.0 ** (1 - FLOAT32_BITS))  # its own rounding included


def _turns(layer: FixedLayer) -> bool:
    """Whether it falls and rises: steps of such a function are not found by its ends."""
    return isinstance(layer, QPReLU) and bool((layer.constant.real() < 0).any())


def _why_inexact(layer: FixedLayer, bounds: Bounds) -> str:
    if isinstance(layer, QBatchNorm):
        return "is a BatchNorm, whose constants the source leaves in float"
    for part in layer.modules():
        if isinstance(part, HeldConstant) and not torch.equal(part().value.double(), part.real()):
            return "has a constant without a quantizer"
    if isinstance(layer, QAvgPool | QReduceMean):
        count = layer.divisor if isinstance(layer, QAvgPool) else layer.count
        if count & (count - 1):
            return f"divides by {count}, which is no power of two"
    if not isinstance(layer, _SUMS):
        return f"is a {type(layer).__name__.removeprefix('Q')}, which the source computes in float"
    return "" if bounds.fits_float32() else _too_wide(bounds.magnitude_bits)


def _too_wide(bits: int) -> str:
    return f"gives numbers of {bits} bits, more than the {FLOAT32_BITS} that the source's float32 holds, and has no quantizer of its own there"


def _of_weights(layer: Weighted, path: str, x: Bounds) -> Known:
    with torch.no_grad():
        weight, bias = layer.constants()
        kept, own = layer.cast_weight(), layer.bias
        if not isinstance(layer.weight_cast, GivenQuantizer) and not torch.equal(weight.value.double(), kept.double()):
            return Known("has weights without a quantizer", path)
        if (
            bias is not None
            and own is not None
            and not isinstance(layer.bias_cast, GivenQuantizer)
            and not torch.equal(bias.value.double(), own.double())
        ):
            return Known(FLOAT_BIAS, path)
        bounds, most = reached(weight, bias, x)
    if most > 2**FLOAT32_BITS:
        return Known(_too_wide((most - 1).bit_length()), path)
    return Known(reach=bounds)


def reached(weight: QTensor, bias: QTensor | None, x: Bounds) -> tuple[Channels, int]:
    """What each output of a sum of products with these very weights can be, and the greatest partial sum of any, on the grid of the finest number
    that goes into it."""
    hull = x.hull.with_zero()  # padding
    rows = weight.value.detach().double().flatten(1)
    channels, most = [], 0
    for place, own in enumerate(weight.interval.spread(len(rows))):
        grid = own.frac_bits + hull.frac_bits
        numbers = rows[place] * 2.0**own.frac_bits
        up, down = int(numbers.clamp(min=0).sum()), int(numbers.clamp(max=0).sum())
        low, high, size = up * hull.lo + down * hull.hi, up * hull.hi + down * hull.lo, (up - down) * max(-hull.lo, hull.hi)
        if bias is not None:
            of_bias = bias.interval.spread(len(rows))[place].frac_bits
            raw = int(bias.value.detach().double().flatten()[place] * 2.0**of_bias)
            while raw and raw % 2 == 0 and of_bias > grid:
                raw, of_bias = raw // 2, of_bias - 1
            fine = max(grid, of_bias) if raw else grid
            shift, moved = fine - grid, raw << (fine - of_bias) if raw else 0
            low, high, size, grid = (low << shift) + moved, (high << shift) + moved, (size << shift) + abs(moved), fine
        channels.append(Interval(low, high, grid))
        most = max(most, size)
    return Channels(tuple(channels)), most


def difference(traced: Traced, known: Known, bounds: Bounds, shape: tuple[int, ...], start: Bounds | None = None) -> str:
    """Why the cast at the end of ``known.nodes`` does not give what the source's gives: empty if it does, for every number within ``bounds`` in every
    channel. ``shape``: of the value from which the nodes start, the batch left out, and ``start`` its own bounds here. Of sums that are ``loose`` the
    source's may be any number within their slack: both ends must give what is given here, and all between them does, since what follows never turns.

    Up to MOST numbers are tried. Of more it is used that both functions are monotone in each channel, rounding included: an interval at whose ends
    both give one number is done, any other is halved.
    """
    spread = bounds.spread(shape[0])
    interval: Bounds = spread[0] if len(set(spread)) == 1 else Channels(spread)
    lows, highs = (torch.tensor([getattr(own, end) for own in spread], dtype=torch.int64) for end in ("lo", "hi"))
    steps = torch.tensor([2.0**-own.frac_bits for own in spread], dtype=torch.float64)

    loose, own = known.loose, interval if start is None else start

    def both(raws: Tensor) -> tuple[Tensor, Tensor]:
        """What the source and what the layers here make of raw numbers (rows, channels); of what the source may give, what differs, if any does."""
        x = raws * steps
        ends = (x,) if loose is None else (x + (loose.theirs - loose.slack), x + (loose.theirs + loose.slack))
        form = (len(raws), shape[0], *(1,) * (len(shape) - 1))
        value = QTensor((x if loose is None else x + loose.ours).to(dtype_of(own, torch.float32)).reshape(form), own)
        for layer in known.layers:
            value = layer(value)
        ours = value.tensor()
        try:
            found = [_in_float(traced, known.nodes, end.float().reshape(form)) for end in ends]
        except RuntimeError as error:  # of torch, which has other axes there
            raise UnsupportedError("it has other axes there") from error
        if ours.shape != form or any(theirs.shape != form for theirs in found):
            raise UnsupportedError("its constants are not one number, or one for each channel")
        theirs = found[0] if loose is None else torch.where(found[0].double() == ours.double(), found[1], found[0])
        return theirs.double().flatten(1), ours.double().flatten(1)

    def told(channel: int, raw: int, theirs: float, ours: float) -> str:
        value = raw * float(steps[channel])
        if loose is None:
            return f"for {value:g} in channel {channel} the source gives {theirs:g}, exact arithmetic {ours:g}"
        return f"for products of {value:g} in channel {channel} float32 may give {theirs:g}, by the order of its additions, exact arithmetic {ours:g}"

    try:
        with torch.no_grad():
            most = int((highs - lows).max()) + 1
            if most * shape[0] <= MOST:
                raws = torch.minimum(lows + torch.arange(most)[:, None], highs)
                theirs, ours = both(raws)
                wrong = (theirs != ours).nonzero()
                if not len(wrong):
                    return ""
                row, channel = wrong[0].tolist()
                return told(channel, int(raws[row, channel]), float(theirs[row, channel]), float(ours[row, channel]))
            if any(isinstance(layer, QLookup) for layer in known.layers):
                return f"of {most} numbers that it can read no more than {MOST // shape[0]} are tried"  # its function may rise and fall
            return _by_steps(lows, highs, both, told)
    except UnsupportedError as error:
        return error.what


def _by_steps(lows: Tensor, highs: Tensor, both: Callable[[Tensor], tuple[Tensor, Tensor]], told: Callable[[int, int, float, float], str]) -> str:
    """``difference`` of functions with steps: intervals are halved until both ends of each give one number, or are neighbours."""

    def at(channel: Tensor, raw: Tensor) -> tuple[Tensor, str]:
        """What the source gives there, and the first difference."""
        order = torch.argsort(channel, stable=True)
        counts = torch.bincount(channel, minlength=len(lows))
        row = torch.empty_like(channel)
        row[order] = torch.arange(len(channel)) - (counts.cumsum(0) - counts)[channel[order]]
        raws = lows.expand(int(counts.max()), -1).clone()
        raws[row, channel] = raw
        theirs, ours = (part[row, channel] for part in both(raws))
        wrong = (theirs != ours).nonzero()
        if not len(wrong):
            return theirs, ""
        place = int(wrong[0, 0])
        return theirs, told(int(channel[place]), int(raw[place]), float(theirs[place]), float(ours[place]))

    channel, low, high = torch.arange(len(lows)), lows, highs
    (at_low, why), (at_high, other) = at(channel, low), at(channel, high)
    while not (why or other):
        there = (at_low != at_high) & (high - low > 1)
        if not bool(there.any()):
            return ""
        channel, low, high, at_low, at_high = (part[there] for part in (channel, low, high, at_low, at_high))
        middle = (low + high) // 2
        between, why = at(channel, middle)
        channel = torch.cat([channel, channel])
        low, high = torch.cat([low, middle]), torch.cat([middle, high])
        at_low, at_high = torch.cat([at_low, between]), torch.cat([between, at_high])
    return why or other


def _in_float(traced: Traced, nodes: Sequence[fx.Node], x: Tensor) -> Tensor:
    """What operations of the source make of ``x``, as it computes them."""
    for node in nodes:
        value = x

        def argument(source: fx.Node, value: Tensor = value) -> Any:
            if source in traced.fixed:
                return traced.fixed[source]
            return traced.constants.get(source, value)

        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), argument)
        if node.op == "call_module":
            x = traced.module.get_submodule(str(node.target))(*args, **kwargs)
        elif node.op == "call_method":
            x = getattr(args[0], str(node.target))(*args[1:], **kwargs)
        else:
            x = node.target(*args, **kwargs)  # type: ignore[operator]
    return x
