"""Cast in one fused pass each way, in Triton: what ``native.cpp`` and ``native_cast.h`` compute, operation by operation, so that values and the
gradients of single elements have the same bits. Imports Triton.

``T`` is float32 only where float32 arithmetic is exact, as there. Nothing is taken from libdevice, whose functions may flush subnormal numbers; sums
and products are rounded one by one (``enable_fp_fusion=False`` where the kernels are started). A bad binary point gives NaN: nobody here can raise.

A tensor is seen as in ``layout.Layout``: element (o, c, i) lies at (o * channels + c) * inner + i, and parameters belong to c. A program has a tile
of ``ROWS`` pairs (o, i) and ``COLUMNS`` channels, and goes on by ``steps`` tiles along the pairs. Sums of gradients are taken in float64 in an order
that follows from the shape alone: each program adds up its tiles and writes what it has to a place of its own, and ``finish`` adds the places, in
turn. There are no atomic additions, so a sum never depends on which program came first.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _power_of_two(exponent):
    """2**exponent in float64, for an int64 of -1022 .. 1023."""
    return ((exponent + 1023) << 52).to(tl.float64, bitcast=True)


@triton.jit
def _to_even(s, T: tl.constexpr):
    """To the nearest integer, ties to even, by the rounding of an addition."""
    unit = tl.full((1, 1), 4503599627370496.0 if T == tl.float64 else 8388608.0, T)  # from here on all numbers are integers
    magnitude = tl.abs(s)
    rounded = tl.where(magnitude < unit, (magnitude + unit) - unit, magnitude)
    return tl.where(s < 0.0, -rounded, rounded)


@triton.jit
def _to_zero(s):
    whole = tl.floor(tl.abs(s))
    return tl.where(s < 0.0, -whole, whole)


@triton.jit
def _floor_of(s, v):
    """v < 0 whose scaling underflowed to -0.0 is still below 0."""
    floor = tl.floor(s)
    return tl.where(v < 0.0, tl.where(floor < -1.0, floor, -1.0), floor)


@triton.jit
def _rounded(s, v, Q: tl.constexpr, T: tl.constexpr):
    """Differences from the nearest and from the integer towards zero are exact; those from floor are not, and s + 0.5 is not."""
    if Q == 0:  # RND, in the order of QMode
        nearest = _to_even(s, T)
        result = nearest + tl.where(s - nearest == 0.5, 1.0, 0.0)
    elif Q == 1:  # RND_ZERO
        whole = _to_zero(s)
        result = whole + tl.where(tl.abs(s - whole) > 0.5, tl.where(s < 0.0, -1.0, 1.0), 0.0)
    elif Q == 2:  # RND_MIN_INF
        nearest = _to_even(s, T)
        result = nearest - tl.where(s - nearest == -0.5, 1.0, 0.0)
    elif Q == 3:  # RND_INF
        whole = _to_zero(s)
        result = whole + tl.where(tl.abs(s - whole) >= 0.5, tl.where(s < 0.0, -1.0, 1.0), 0.0)
    elif Q == 4:  # RND_CONV
        result = _to_even(s, T)
    elif Q == 5:  # TRN
        result = _floor_of(s, v)
    else:  # TRN_ZERO
        result = _to_zero(s)
    return result


@triton.jit
def _low_bits(r, power, inverse):
    """r modulo a power of two. The inverse is given: Triton's division of float32 is not exact."""
    return r - tl.floor(r * inverse) * power


@triton.jit
def _low_bits_of(r, COUNT: tl.constexpr, T: tl.constexpr):
    """r modulo 2**COUNT."""
    return _low_bits(r, tl.full((1, 1), 2.0**COUNT, T), tl.full((1, 1), 2.0**-COUNT, T))


@triton.jit
def _wrapped(r, WIDTH: tl.constexpr, SIGNED: tl.constexpr, T: tl.constexpr):
    modulus = tl.full((1, 1), 2.0**WIDTH, T)
    low = _low_bits_of(r, WIDTH, T)
    fold = tl.full((1, 1), 2.0 ** (WIDTH - 1) if SIGNED else 2.0**WIDTH, T)
    return tl.where(low >= fold, low - modulus, low)


@triton.jit
def _pinned(r, low, WIDTH: tl.constexpr, KEPT: tl.constexpr, SIGNED: tl.constexpr, T: tl.constexpr):
    """``low`` below the saturated bits: the sign bit keeps the sign, the others oppose it; all ones without a sign."""
    if SIGNED:
        pin = tl.full((1, 1), 2.0 ** (WIDTH - 1) - 2.0**KEPT, T)
        result = low + tl.where(r < 0.0, tl.full((1, 1), -(2.0 ** (WIDTH - 1)), T), pin)
    else:
        result = low + tl.full((1, 1), 2.0**WIDTH - 2.0**KEPT, T)
    return result


@triton.jit
def _cast(
    s, v, lo, hi, Q: tl.constexpr, OVER: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr, KEPT: tl.constexpr, SIGNED: tl.constexpr,
    WORDS: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """The raw, dq/dv, and the side that saturates (the derivative by the integer bits). N: 0, 1, or 2 for more; KEPT: WIDTH less the true N."""
    r = _rounded(s, v, Q, T)
    one = tl.full(s.shape, 1.0, T)
    zero = tl.full(s.shape, 0.0, T)
    slope = one
    side = zero
    low = r < lo
    high = r > hi
    if OVER == 0:  # SAT, SAT_SYM
        at_least = tl.where(low, lo, r)
        raw = tl.where(at_least > hi, hi, at_least)
        slope = tl.where(raw == r, one, zero)
        side = tl.where(high, one, tl.where(low & SIGNED, -one, zero))
        if WORDS:
            none = lo == hi  # nothing but 0
            slope = tl.where(none, one, slope)
            side = tl.where(none, zero, side)
    elif OVER == 1:  # SAT_ZERO
        raw = tl.where(low | high, zero, r)
        slope = tl.where(low | high, zero, one)
    else:
        huge = tl.full((1, 1), 2.0**1000 if T == tl.float64 else 2.0**120, T)  # a wrap sees no difference beyond
        r = tl.where(r > huge, huge, r)
        r = tl.where(r < -huge, -huge, r)
        if OVER == 2:  # WRAP
            if N == 0:
                if WORDS:
                    modulus = hi - lo + 1.0
                    bits = _low_bits(r, modulus, (1.0 / modulus.to(tl.float64)).to(T))
                    raw = tl.where(bits > hi, bits - modulus, bits)
                else:
                    raw = _wrapped(r, WIDTH, SIGNED, T)
            else:
                bits = _low_bits_of(r, KEPT, T)
                raw = tl.where(low | high, _pinned(r, bits, WIDTH, KEPT, SIGNED, T), r)
        elif N < 2:  # WRAP_SM
            wrapped = _wrapped(r, WIDTH, SIGNED, T)
            if N == 0:
                floor = _floor_of(s, v)  # the lost bit is that of the unrounded source
                floor = tl.where(floor > huge, huge, floor)
                floor = tl.where(floor < -huge, -huge, floor)
                sign = _low_bits_of(tl.floor(floor * tl.full((1, 1), 2.0**-WIDTH, T)), 1, T) == 1.0
            else:
                sign = low
            flipped = (low | high) & ((wrapped < 0.0) != sign)
            raw = tl.where(flipped, -1.0 - wrapped, wrapped)
            slope = tl.where(flipped, -one, one)
        else:
            kept = tl.full((1, 1), 2.0**KEPT, T)
            bits = _low_bits_of(r, KEPT, T)
            bit = _low_bits_of(r, KEPT + 1, T) >= kept
            flipped = (low | high) & (bit == low)
            bits = tl.where(flipped, kept - 1.0 - bits, bits)
            raw = tl.where(low | high, _pinned(r, bits, WIDTH, KEPT, SIGNED, T), r)
            slope = tl.where(flipped, -one, one)
    return raw, slope, side


@triton.jit
def _parameter(pointer, column, columns, MANY: tl.constexpr):
    """One number for all columns, or that of each, in float64 as (1, COLUMNS)."""
    place = column if MANY else column * 0
    return tl.load(pointer + place, mask=columns, other=0.0).to(tl.float64)


@triton.jit
def _scales(
    frac, words, column, columns, WIDTH: tl.constexpr, SIGNED: tl.constexpr, SYMMETRIC: tl.constexpr, LO: tl.constexpr, HI: tl.constexpr,
    LEAST: tl.constexpr, MOST: tl.constexpr, MANY: tl.constexpr, WORDS: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """2**F, 2**-F, and the least and the greatest raw of each column."""
    f = _to_even(_parameter(frac, column, columns, MANY), tl.float64)
    good = (f >= LEAST) & (f <= MOST)  # false for NaN
    lo = tl.full((1, 1), LO, T)
    hi = tl.full((1, 1), HI, T)
    if WORDS:
        width = f + _to_even(_parameter(words, column, columns, MANY), tl.float64)
        good = good & (width == width)
        width = tl.where(width > 0.0, width, 0.0)
        width = tl.where(width < WIDTH, width, tl.full((1, 1), WIDTH, tl.float64))
        above = _power_of_two(tl.where(width > 0.0, width - (1.0 if SIGNED else 0.0), 0.0).to(tl.int64))
        lo = tl.where(width > 0.0, tl.where(width > 1.0, 1.0 if SYMMETRIC else 0.0, 0.0) - above, 0.0).to(T) if SIGNED else (above * 0.0).to(T)
        hi = (above - 1.0).to(T)
    exponent = tl.where(good, f, 0.0).to(tl.int64)
    bad = tl.full((1, 1), float("nan"), tl.float64)
    return tl.where(good, _power_of_two(exponent), bad).to(T), tl.where(good, _power_of_two(-exponent), bad).to(T), lo, hi


@triton.jit
def _rows(tile, ROWS: tl.constexpr, LONG: tl.constexpr):
    """The rows of a tile."""
    if LONG:
        tile = tile.to(tl.int64)
    return tile * ROWS + tl.arange(0, ROWS)[:, None]


@triton.jit
def _places(row, column, channels, inner, LONG: tl.constexpr):
    """Where the elements of a tile lie."""
    if LONG:
        row = row.to(tl.int64)
    outer = row // inner
    return (outer * channels + column) * inner + (row - outer * inner)


@triton.jit
def _before(x, addend, place, inside, scale, shift, AFFINE: tl.constexpr, ADDEND: tl.constexpr, T: tl.constexpr):
    u = x.to(T)
    if AFFINE:
        u = u * scale + shift
        if ADDEND:
            u = u + tl.load(addend + place, mask=inside, other=0.0).to(T)
    return u


@triton.jit
def _activated(u, SLOPE: tl.constexpr, UPPER: tl.constexpr, LEAKY: tl.constexpr, CAPPED: tl.constexpr, T: tl.constexpr):
    v = u
    if LEAKY:
        v = tl.where(u < 0.0, u * tl.full((1, 1), SLOPE, T), u)
    if CAPPED:
        upper = tl.full((1, 1), UPPER, T)
        v = tl.where(v > upper, upper, v)
    return v


@triton.jit
def forward(
    out, x, addend, frac, words, scale, shift, channels, inner, rows,
    Q: tl.constexpr, OVER: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr, KEPT: tl.constexpr, SIGNED: tl.constexpr, SYMMETRIC: tl.constexpr,
    LO: tl.constexpr, HI: tl.constexpr, LEAST: tl.constexpr, MOST: tl.constexpr, SLOPE: tl.constexpr, UPPER: tl.constexpr, LEAKY: tl.constexpr,
    CAPPED: tl.constexpr, AFFINE: tl.constexpr, ADDEND: tl.constexpr, WORDS: tl.constexpr, MANY: tl.constexpr, MANY_SCALES: tl.constexpr,
    MANY_SHIFTS: tl.constexpr, T: tl.constexpr, LONG: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Values. Grid: (tiles of rows, tiles of columns)."""
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    columns = column < channels
    row = _rows(tl.program_id(0), ROWS, LONG)
    up, down, lo, hi = _scales(frac, words, column, columns, WIDTH, SIGNED, SYMMETRIC, LO, HI, LEAST, MOST, MANY, WORDS, T)
    by = _parameter(scale, column, columns, MANY_SCALES) if scale is not None else tl.full((1, 1), 1.0, tl.float64)
    moved = _parameter(shift, column, columns, MANY_SHIFTS) if shift is not None else tl.full((1, 1), 0.0, tl.float64)
    inside = (row < rows) & columns
    place = _places(row, column, channels, inner, LONG)
    u = _before(tl.load(x + place, mask=inside, other=0.0), addend, place, inside, by, moved, AFFINE, ADDEND, T)
    v = _activated(u, SLOPE, UPPER, LEAKY, CAPPED, T)
    raw, _, _ = _cast(v * up, v, lo, hi, Q, OVER, N, WIDTH, KEPT, SIGNED, WORDS, T)
    tl.store(out + place, (raw * down + 0.0).to(out.dtype.element_ty), mask=inside)  # + 0.0 turns -0.0 into +0.0


@triton.jit
def backward(
    grad_x, grad_addend, partial, grad, x, addend, frac, words, scale, shift, channels, inner, rows, steps, splits,
    Q: tl.constexpr, OVER: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr, KEPT: tl.constexpr, SIGNED: tl.constexpr, SYMMETRIC: tl.constexpr,
    LO: tl.constexpr, HI: tl.constexpr, LEAST: tl.constexpr, MOST: tl.constexpr, SLOPE: tl.constexpr, UPPER: tl.constexpr, LEAKY: tl.constexpr,
    CAPPED: tl.constexpr, AFFINE: tl.constexpr, ADDEND: tl.constexpr, WORDS: tl.constexpr, MANY: tl.constexpr, MANY_SCALES: tl.constexpr,
    MANY_SHIFTS: tl.constexpr, SUMS: tl.constexpr, T: tl.constexpr, LONG: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Gradients of elements, and into ``partial`` (4, splits, channels) those of the binary point, of the range, of scale and of shift, without
    constant factors. Grid: (splits, tiles of columns)."""
    split = tl.program_id(0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    columns = column < channels
    up, down, lo, hi = _scales(frac, words, column, columns, WIDTH, SIGNED, SYMMETRIC, LO, HI, LEAST, MOST, MANY, WORDS, T)
    by = _parameter(scale, column, columns, MANY_SCALES) if scale is not None else tl.full((1, 1), 1.0, tl.float64)
    moved = _parameter(shift, column, columns, MANY_SHIFTS) if shift is not None else tl.full((1, 1), 0.0, tl.float64)
    by_frac = tl.zeros((ROWS, COLUMNS), tl.float64)
    by_range = tl.zeros((ROWS, COLUMNS), tl.float64)
    by_scale = tl.zeros((ROWS, COLUMNS), tl.float64)
    by_shift = tl.zeros((ROWS, COLUMNS), tl.float64)
    for step in range(steps):
        row = _rows(split * steps + step, ROWS, LONG)
        inside = (row < rows) & columns
        place = _places(row, column, channels, inner, LONG)
        number = tl.load(x + place, mask=inside, other=0.0)
        g = tl.load(grad + place, mask=inside, other=0.0).to(T)
        u = _before(number, addend, place, inside, by, moved, AFFINE, ADDEND, T)
        v = _activated(u, SLOPE, UPPER, LEAKY, CAPPED, T)
        s = v * up
        raw, slope, side = _cast(s, v, lo, hi, Q, OVER, N, WIDTH, KEPT, SIGNED, WORDS, T)
        by_input = tl.where(slope != 0.0, g, 0.0)
        if OVER == 0 and WORDS:
            bound = side * (hi + 1.0)
            frac_term = g * tl.where(slope != 0.0, raw * down - v, (raw - bound) * down)
            by_range += tl.where(inside, (g * (bound * down)).to(tl.float64), 0.0)
        elif OVER <= 1:
            frac_term = g * tl.where(slope != 0.0, raw - s, raw)  # in units of the least significant bit
        elif OVER == 2:
            by_input = g
            frac_term = g * (raw * down - v)
        else:
            by_input = g * slope
            frac_term = g * (raw * down - v * slope)
        if LEAKY or CAPPED:
            sloped = tl.full((1, 1), SLOPE, T)
            if CAPPED:
                leaky = tl.where(u < 0.0, u * sloped, u)
                by_input = tl.where(leaky < tl.full((1, 1), UPPER, T), by_input, 0.0)
            by_input = tl.where(u > 0.0, by_input, by_input * sloped)
        if AFFINE:
            tl.store(grad_x + place, (by_input * by).to(grad_x.dtype.element_ty), mask=inside)
        else:
            tl.store(grad_x + place, by_input.to(grad_x.dtype.element_ty), mask=inside)
        if ADDEND:
            tl.store(grad_addend + place, by_input.to(grad_addend.dtype.element_ty), mask=inside)
        if SUMS:
            by_frac += tl.where(inside, frac_term.to(tl.float64), 0.0)
            if AFFINE:
                by_scale += tl.where(inside, by_input.to(tl.float64) * number.to(tl.float64), 0.0)
                by_shift += tl.where(inside, by_input.to(tl.float64), 0.0)
    if SUMS:
        place = split * channels + column
        size = splits * channels
        unit = down.to(tl.float64) if OVER <= 1 and not WORDS else tl.full((1, 1), 1.0, tl.float64)
        tl.store(partial + place, tl.sum(by_frac, 0)[None, :] * unit, mask=columns)
        if WORDS:
            tl.store(partial + size + place, tl.sum(by_range, 0)[None, :], mask=columns)
        if AFFINE:
            tl.store(partial + 2 * size + place, tl.sum(by_scale, 0)[None, :], mask=columns)
            tl.store(partial + 3 * size + place, tl.sum(by_shift, 0)[None, :], mask=columns)


@triton.jit(do_not_specialize=["factor"])
def finish(out, partial, factor, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The sums over the rows of ``partial`` (rows, columns), times a factor: the bits of a float64, since Triton passes floats as float32."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    total = tl.zeros((ROWS, COLUMNS), tl.float64)
    for first in range(0, rows, ROWS):
        row = first + tl.arange(0, ROWS)[:, None]
        total += tl.load(partial + row * columns + column, mask=(row < rows) & (column < columns), other=0.0)
    by = factor.to(tl.int64).to(tl.float64, bitcast=True)
    tl.store(out + column, (tl.sum(total, 0)[None, :] * by).to(out.dtype.element_ty), mask=column < columns)
