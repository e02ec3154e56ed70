"""The definition of Cast and the exact result types against the vendor's own headers, raw integer by raw integer."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from vendor_oracle import Casts, all_raws, assert_defined, compile_and_run, run_casts

from qfx.fixed.arith import Interval
from qfx.fixed.type import FixedType, OMode, QMode

F = FixedType

# (source width, source int_bits, target width, target int_bits), each tried with a signed and an unsigned source. The first rounds and overflows in
# every mode, so every mode pair gets it; the others take turns (with --thorough, every mode pair gets all of them).
FIRST = (10, 6, 5, 4)
OTHERS = (
    (10, 3, 4, 6),  # drops 9 of 10 bits
    (10, 0, 4, 4),  # drops as many bits as the source has
    (10, 2, 4, 8),  # drops more
    (10, -2, 4, 8),  # far more: every bit lies below the round bit
    (10, 2, 3, 3),
    (9, 5, 1, 1),  # one-bit targets
    (9, 5, 1, -1),
    (6, 1, 1, 1),
    (9, 9, 6, 3),  # shifts left and overflows
    (8, 10, 6, 2),
    (6, 12, 6, 0),  # shifts left by more than the target has
    (6, 6, 6, 0),  # shifts left by as many
    (6, 20, 10, 3),
    (7, 7, 10, 4),
    (10, 0, 5, -2),  # negative int_bits
    (10, -3, 6, -4),
    (10, 5, 10, 5),  # nothing to do, except for AP_SAT_SYM and between signednesses
    (10, 5, 9, 5),  # rounding alone, which can carry into overflow
    (10, 10, 8, 10),
    (10, 5, 9, 4),
    (10, 5, 12, 4),  # a wider word with fewer integer bits
    (8, 4, 16, 8),
    (10, 14, 5, 12),  # int_bits above the width
    (10, 4, 6, 5),
    (7, 3, 7, 4),
    (5, 5, 4, 4),
    (1, 1, 1, 1),
    (1, 0, 2, 1),
    (2, 1, 1, 1),
    (3, -2, 2, 4),
)
WIDE = (
    (64, 32, 32, 16),
    (64, 32, 64, 48),
    (64, 64, 64, 60),
    (64, 1, 24, 8),
    (64, 20, 63, 2),
    (63, 40, 33, 0),
    (54, 20, 53, 18),
    (40, 20, 48, -8),
    (33, 1, 25, 1),
    (64, 10, 12, 76),
    (32, 70, 64, 40),
    (48, 24, 16, 8),
)
FROM_DOUBLE = ((16, 6), (8, 3), (1, 1), (24, 1), (32, 16), (5, 9), (6, -3), (53, 20), (64, 32), (12, 40), (60, 70))


def mode_pairs(width: int, signed: bool) -> Iterator[tuple[QMode, OMode, int]]:
    for q in QMode:
        for o in OMode:
            if o is OMode.WRAP_SM and not signed:
                continue
            for n in range(4) if o in (OMode.WRAP, OMode.WRAP_SM) else (0,):
                if n <= width:
                    yield q, o, n


def targets(geometries: Sequence[tuple[int, ...]], per_mode: int, thorough: bool) -> Iterator[tuple[tuple[int, ...], FixedType]]:
    """Every mode pair, signed and unsigned, with ``per_mode`` of the geometries in turn; a geometry ends in the target's width and int_bits."""
    turn = 0
    for signed in (True, False):
        for q, o, n in mode_pairs(64, signed):
            chosen = range(len(geometries)) if thorough else range(turn, turn + per_mode)
            turn += per_mode
            for index in chosen:
                geometry = geometries[index % len(geometries)]
                width, int_bits = geometry[-2:]
                yield geometry, F(width, int_bits, signed, q, o, min(n, width))


def test_every_raw_of_narrow_words(gxx: str, vendor_include: Path, tmp_path: Path, thorough: bool) -> None:
    casts = []
    for geometry, target in (*targets((FIRST,), 1, thorough), *targets(OTHERS, 3, thorough)):
        for source_signed in (True, False):
            source = F(geometry[0], geometry[1], source_signed)
            casts.append(Casts(source, target, all_raws(source)))
    for case, vendor_raw in run_casts(casts, gxx, vendor_include, tmp_path):
        assert_defined(case, vendor_raw)


def test_the_first_geometry_tells_all_modes_apart() -> None:
    """If two modes agreed on every raw of it, comparing with the headers would not prove that the definition implements both.

    Left out: unsigned targets that clamp, where the results of negative numbers, and with them some rounding modes, are rightly the same.
    """
    width, int_bits, target_width, target_int_bits = FIRST
    source = F(width, int_bits)
    for signed in (True, False):
        results: dict[tuple[int, ...], FixedType] = {}
        for q, o, n in mode_pairs(target_width, signed):
            if signed or o is OMode.WRAP:
                target = F(target_width, target_int_bits, signed, q, o, n)
                result = tuple(Casts(source, target, all_raws(source)).define())
                assert result not in results, (str(target), str(results[result]))
                results[result] = target
        assert len(results) == (77 if signed else 28)


def adversarial_raws(source: FixedType, target: FixedType) -> tuple[int, ...]:
    """Bounds, powers of two, ties and the target's bounds, each with its neighbours; those that the source holds."""
    drop = source.frac_bits - target.frac_bits
    seeds = {0, *((sign << k) for k in range(source.width + 1) for sign in (1, -1))}
    low, high = target.min_raw, target.max_raw
    for k in (0, 1, 2, 3, -1, -2, -3, low, high, low - 1, high + 1, low // 2, high // 2, 2 * high, 2 * low, 3 * high + 1):
        for half in (2 * k, 2 * k + 1):  # on the target's grid, and half way
            seeds.add(half << (drop - 1) if drop > 0 else half >> (1 - drop))
    raws = {seed + step for seed in seeds for step in (-1, 0, 1)}
    return tuple(sorted(raw for raw in raws if source.min_raw <= raw <= source.max_raw))


def test_adversarial_raws_of_wide_words(gxx: str, vendor_include: Path, tmp_path: Path, thorough: bool) -> None:
    casts = []
    for geometry, target in targets(WIDE, 2, thorough):
        for source_signed in (True, False):
            source = F(geometry[0], geometry[1], source_signed)
            casts.append(Casts(source, target, adversarial_raws(source, target)))
    for case, vendor_raw in run_casts(casts, gxx, vendor_include, tmp_path):
        assert_defined(case, vendor_raw)


def adversarial_doubles(target: FixedType) -> tuple[float, ...]:
    low, high = target.min_raw, target.max_raw
    values = [0.0, -0.0, 5e-324, -5e-324, 2.2e-308, -2.2e-308, 1e-300, -1e-300, 1e300, -1e300, 1.7e308, 0.49999997, 0.49999999999999994]
    values += [sign * (2.0**k + step) for k in (24, 53) for step in (-1.0, 0.0, 1.0, 2.0) for sign in (1, -1)]
    for k in (0, 1, 2, 3, -1, -2, -3, -4, low, high, low - 1, high + 1, low // 2, high // 2, 2 * high, 2 * low, 5 * low, 3 * high + 1):
        for half in (2 * k, 2 * k + 1):
            value = float(Fraction(half, 2) * target.lsb)
            values += [value, math.nextafter(value, math.inf), math.nextafter(value, -math.inf)]
    return tuple(values)


def test_casts_from_double(gxx: str, vendor_include: Path, tmp_path: Path, thorough: bool) -> None:
    casts = [Casts(None, target, adversarial_doubles(target)) for _, target in targets(FROM_DOUBLE, 2, thorough)]
    for case, vendor_raw in run_casts(casts, gxx, vendor_include, tmp_path):
        assert_defined(case, vendor_raw)


def test_a_planted_error_of_one_lsb_is_found(gxx: str, vendor_include: Path, tmp_path: Path) -> None:
    source = F(10, 6)
    case = Casts(source, F(5, 4, q=QMode.RND, o=OMode.SAT), all_raws(source))
    ((_, vendor_raw),) = run_casts([case], gxx, vendor_include, tmp_path)
    assert_defined(case, vendor_raw)
    for index in (0, 512, 1023):
        wrong = list(vendor_raw)
        wrong[index] += 1
        with pytest.raises(AssertionError, match="vendor"):
            assert_defined(case, wrong)
    with pytest.raises(AssertionError):
        assert_defined(replace(case, target=replace(case.target, q=QMode.RND_MIN_INF)), vendor_raw)


ARITH = """
#include <ap_fixed.h>
#include <cstdint>
#include <cstdio>
void put(std::int64_t x) { std::fwrite(&x, sizeof x, 1, stdout); }
template <int W, int I, bool S, ap_q_mode Q, ap_o_mode O, int N> void show(const ap_fixed_base<W, I, S, Q, O, N>&) { put(W); put(I); put(S); }
template <class A, class B> void pairs() {
  A a; B b;
  show(a + b); show(a - b); show(a * b);
  for (long i = 0; i < (1L << A::width); ++i)
    for (long j = 0; j < (1L << B::width); ++j) {
      a.V = i; b.V = j;
      put((a + b).V.get_VAL()); put((a - b).V.get_VAL()); put((a * b).V.get_VAL());
    }
}
"""


def test_results_of_operators_are_the_vendors_and_no_wider(gxx: str, vendor_include: Path, tmp_path: Path) -> None:
    shapes = ((4, 2), (3, 5), (4, -2), (1, 1), (5, 5))
    types = [F(width, int_bits, signed) for width, int_bits in shapes for signed in (True, False)]
    cases = [(a, b) for a in types for b in types]
    calls = "".join(f"  pairs<{a}, {b} >();\n" for a, b in cases)
    output = compile_and_run(f"{ARITH}\nint main() {{\n{calls}}}\n", b"", gxx, vendor_include, tmp_path)
    words = iter(struct.unpack(f"<{len(output) // 8}q", output))
    for a, b in cases:
        ours = [x.type() for x in (Interval.of(a) + Interval.of(b), Interval.of(a) - Interval.of(b), Interval.of(a) * Interval.of(b))]
        theirs = [F(next(words), next(words), bool(next(words))) for _ in range(3)]
        for mine, vendor in zip(ours, theirs, strict=True):
            assert mine.frac_bits == vendor.frac_bits, (a, b)
            assert mine.width <= vendor.width, (a, b)
            assert mine.int_bits <= vendor.int_bits, (a, b)
            assert vendor.signed or not mine.signed, (a, b)
        for i in range(1 << a.width):
            for j in range(1 << b.width):
                x, y = _value(i, a), _value(j, b)
                for exact, mine, vendor in zip((x + y, x - y, x * y), ours, theirs, strict=True):
                    assert next(words) * vendor.lsb == exact, (a, b, i, j)
                    assert mine.min_raw <= exact / mine.lsb <= mine.max_raw, (a, b, i, j)
    assert next(words, None) is None


def _value(pattern: int, type_: FixedType) -> Fraction:
    negative = type_.signed and pattern >> (type_.width - 1)
    return (pattern - (1 << type_.width) if negative else pattern) * type_.lsb


SHIFTS = """
#include <ap_fixed.h>
#include <cstdio>
int main() {
  ap_fixed<8, 4, AP_RND, AP_SAT> a = 3.3125;  // raw 53
  std::printf("%d %d ", (int)(a << 2).V.get_VAL(), (int)(a >> 2).V.get_VAL());
  std::printf("%d %d", (int)a.lshift<2>().V.get_VAL(), (int)(a.lshift<2>().to_double() == 13.25));
}
"""


def test_the_vendors_shift_operators_lose_bits(gxx: str, vendor_include: Path, tmp_path: Path) -> None:
    """``<<`` and ``>>`` keep the type: bits fall off, whatever the modes say. Interval.shifted moves the binary point, as lshift<n>() does."""
    words = compile_and_run(SHIFTS, b"", gxx, vendor_include, tmp_path).decode().split()
    assert words == ["-44", "13", "53", "1"]  # 212 wrapped despite AP_SAT; 13.25 floored despite AP_RND; and the exact shift
    assert Interval(53, 53, 4).shifted(2).type().lsb * 53 == Fraction("13.25")
