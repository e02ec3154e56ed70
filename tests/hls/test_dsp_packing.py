"""Packed products on every operand there is, at small widths of all signs, of one pixel and of two: the C++ against Python's integers, through the
vendor's header and the fast emulator's; and that ``dsp.exact`` asks for no more than it must: a bit less between the fields, and the C++ errs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from qfx.fixed.arith import Interval
from qfx.fixed.type import FixedType
from qfx.hardware.assets import hls_root
from qfx.hardware.design import dsp
from qfx.hardware.emit.emit import CSIM_FLAGS
from qfx.hardware.emit.spelling import raw

Ints = npt.NDArray[np.int64]
OPERAND_BITS = 13
"""The bits of all operands of a sum: as many cases as that has values."""


@dataclass(frozen=True)
class Form:
    """Chains of ``length`` products of each of ``outputs`` weights with each of ``pixels`` inputs; the fields ``split`` bits apart, ``known`` bits
    found outside."""

    weight: FixedType
    x: FixedType
    outputs: int
    pixels: int
    length: int
    split: int
    known: int

    @property
    def count(self) -> int:
        return self.outputs * self.pixels

    @property
    def product(self) -> Interval:
        return Interval.of(self.weight) * Interval.of(self.x)

    @property
    def exact(self) -> bool:
        return dsp.exact(self.product, self.count, self.length, self.split, self.known)

    @property
    def bits(self) -> int:
        return self.length * (self.outputs * self.weight.width + self.pixels * self.x.width)

    @property
    def least(self) -> int:
        """Numbers may not overlap in a factor."""
        return max(self.known + 1, self.weight.width, self.x.width if self.pixels > 1 else 0)

    @property
    def operands(self) -> tuple[Ints, Ints]:
        """All weights (cases, length, outputs) and inputs (cases, pixels, length) that there are."""
        codes = np.arange(1 << self.bits)
        numbers = []
        for count, type_ in ((self.length * self.outputs, self.weight), (self.length * self.pixels, self.x)):
            fields = codes[:, None] >> np.arange(count) * type_.width & (1 << type_.width) - 1
            numbers.append(np.where(fields > type_.max_raw, fields - (1 << type_.width), fields))
            codes = codes >> count * type_.width
        return numbers[0].reshape(-1, self.length, self.outputs), numbers[1].reshape(-1, self.pixels, self.length)

    @property
    def expected(self) -> Ints:
        weights, x = self.operands
        return np.einsum("nlj,nil->nij", weights, x).reshape(-1, self.count)


TYPES = (FixedType(1, 1, False), FixedType(2, 2), FixedType(2, 2, False), FixedType(3, 3), FixedType(3, 3, False))


def forms() -> Iterator[Form]:
    """The least split of every shape that is not too large, by turns for the types."""
    for i, (weight, x, count, length, known) in enumerate(product(TYPES, TYPES, ((2, 1), (3, 1), (4, 1), (2, 2)), (1, 2, 3), (0, 1, 2))):
        tried = (Form(weight, x, *count, length, split, known) for split in range(20))
        least = next(form for form in tried if form.split >= form.least and form.exact)
        if least.bits <= OPERAND_BITS and i % 5 == 0:
            yield least


FORMS = tuple(forms())
LAX = tuple(lax for lax in (replace(form, split=form.split - 1) for form in FORMS) if not lax.exact and lax.split >= lax.least)

MAIN = """#include <stdint.h>
#include <fstream>
#include "qfx/multiply.h"
#include "qfx/rom.h"
template <class M, class W, class X, bool W_SIGNED, bool X_SIGNED, int W_BITS, int X_BITS, int OUTPUTS, int PIXELS, int LENGTH>
static void run(std::ofstream& out) {{
  for (uint32_t code = 0; code >> (LENGTH * (OUTPUTS * W_BITS + PIXELS * X_BITS)) == 0; code++) {{
    uint32_t left = code;
    W row[LENGTH * OUTPUTS];
    qfx::vec<X, LENGTH * PIXELS> x;
    for (int i = 0; i < LENGTH * OUTPUTS; i++, left >>= W_BITS) {{
      const int field = left & ((1u << W_BITS) - 1);
      row[i] = W(W_SIGNED && field >> (W_BITS - 1) ? field - (1 << W_BITS) : field);
    }}
    for (int i = 0; i < LENGTH * PIXELS; i++, left >>= X_BITS) {{
      const int field = left & ((1u << X_BITS) - 1);
      x[i] = X(X_SIGNED && field >> (X_BITS - 1) ? field - (1 << X_BITS) : field);
    }}
    qfx::sint<16> sum[OUTPUTS * PIXELS];
    M::template dot<OUTPUTS * PIXELS, LENGTH * PIXELS, qfx::plain<W> >(row, x, sum);
    for (int i = 0; i < OUTPUTS * PIXELS; i++) {{
      const int16_t number = static_cast<int16_t>(sum[i]);
      out.write(reinterpret_cast<const char*>(&number), sizeof number);
    }}
  }}
}}
int main(int, char** argv) {{
  std::ofstream out(argv[1], std::ios::binary);
{calls}
  return out.good() ? 0 : 2;
}}
"""


def call(form: Form) -> str:
    packed = held(Interval.of(form.weight), form.outputs, form.pixels * form.split)
    wide = held(sums(form), form.count, form.split)
    last = (form.length, form.split, form.known, form.weight.width - form.weight.signed)
    if form.pixels == 1:
        multiplier = f"qfx::mul_packed<{', '.join(map(str, (form.count, *last)))}, {packed}, {wide} >"
    else:
        words = ", ".join(map(str, (form.outputs, form.pixels, *last, form.x.width - form.x.signed)))
        grid = f"qfx::mul_grid<{words}, {packed}, {held(Interval.of(form.x), form.pixels, form.split)}, {wide} >"
        multiplier = f"{grid}::over_pixels<{form.pixels}, {form.outputs}, {form.length}>"
    signs = ["true" if type_.signed else "false" for type_ in (form.weight, form.x)]
    shape = (*signs, form.weight.width, form.x.width, form.outputs, form.pixels, form.length)
    return f"  run<{multiplier}, {raw(form.weight)}, {raw(form.x)}, {', '.join(map(str, shape))}>(out);"


def held(one: Interval, count: int, apart: int) -> str:
    """What holds so many numbers at once."""
    factor = sum(1 << k * apart for k in range(count))
    return raw(FixedType(Interval(one.lo * factor, one.hi * factor, 0).width + 1, 0))


def sums(form: Form) -> Interval:
    return form.product.times(form.length).with_zero()


@cache
def results(native: bool, gxx: str, vendor_include: Path, folder: Path) -> tuple[Ints, ...]:
    """What the C++ makes of all forms, then of the lax ones."""
    (folder / "packing.cpp").write_text(MAIN.format(calls="\n".join(map(call, (*FORMS, *LAX)))))
    sim = hls_root() / "sim"
    numbers = ["-DQFX_NATIVE", "-fwrapv", f"-I{sim / 'native'}", f"-I{sim / 'emulate'}"] if native else ["-isystem", str(vendor_include)]
    flags = [*CSIM_FLAGS, "-Werror", "-O1", *numbers, f"-I{hls_root() / 'include'}"]
    done = subprocess.run([gxx, *flags, str(folder / "packing.cpp"), "-o", str(folder / "run")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]
    done = subprocess.run([str(folder / "run"), str(folder / "sums.bin")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    found = np.frombuffer((folder / "sums.bin").read_bytes(), dtype="<i2").astype(np.int64)
    parts = np.split(found, np.cumsum([form.count << form.bits for form in (*FORMS, *LAX)])[:-1])
    return tuple(part.reshape(-1, form.count) for part, form in zip(parts, (*FORMS, *LAX), strict=True))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tmp_path_factory.mktemp("packing"), tmp_path_factory.mktemp("packing")


@pytest.mark.parametrize("native", [False, True], ids=["vendor", "native"])
def test_every_operand(native: bool, gxx: str, vendor_include: Path, folders: tuple[Path, Path]) -> None:
    assert {form.known for form in FORMS} == {0, 1, 2}
    assert {(form.outputs, form.pixels) for form in FORMS} == {(2, 1), (3, 1), (4, 1), (2, 2)}
    for grids in (False, True):
        own = [form for form in FORMS if (form.pixels == 2) == grids]
        assert {form.known for form in own} == {0, 1, 2}
        assert {(form.weight.signed, form.x.signed) for form in own} == set(product((False, True), repeat=2))
    found = results(native, gxx, vendor_include, folders[native])
    for form, sums_ in zip(FORMS, found, strict=False):
        np.testing.assert_array_equal(sums_, form.expected, str(form))
    # Off by one in the last number of the last form, and it is seen.
    planted = FORMS[-1].expected
    planted[-1, -1] += 1
    assert (found[len(FORMS) - 1] != planted).sum() == 1


@pytest.mark.parametrize("native", [False, True], ids=["vendor", "native"])
def test_a_bit_less_and_some_sums_are_wrong(native: bool, gxx: str, vendor_include: Path, folders: tuple[Path, Path]) -> None:
    assert len(LAX) > len(FORMS) // 3
    for form, sums_ in zip(LAX, results(native, gxx, vendor_include, folders[native])[len(FORMS) :], strict=True):
        assert (sums_ != form.expected).any(), form


@pytest.mark.parametrize("name", [*dsp.PACKED, *dsp.GRIDS])
@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_what_is_chosen_is_exact_at_its_ends(name: str, bits: int) -> None:
    """The formula in Python's integers, on every corner of the sums and around them, for words of all signs, full and symmetric ranges."""
    outputs, pixels = dsp.sides(name)
    for weight, x in product((FixedType(bits, bits), FixedType(bits, bits, False)), (FixedType(4, 4), FixedType(8, 8, False), FixedType(bits, bits))):
        for weights in (Interval.of(weight), Interval(min(-weight.max_raw, 0) if weight.signed else 0, weight.max_raw, 0)):
            for lanes in (1, 3, 8, 18):
                form = dsp.packing(name, weights, x, lanes)
                if form is None:
                    assert dsp.refusal(name, weights, x) is not None
                    continue
                assert form.count == outputs * pixels
                for one, count, apart, port in (
                    (weights, outputs, pixels * form.split, dsp.port(name)),
                    (Interval.of(x), pixels, form.split, dsp.DSP_NARROW),
                ):
                    assert count == 1 or all(
                        -(1 << port - 1) <= sum(end << k * apart for k in range(count)) < 1 << port - 1 for end in (one.lo, one.hi)
                    )
                    assert count == 1 or one.type().width - one.type().signed <= apart  # they lie beside each other
                assert form.packed.width <= dsp.port(name)
                assert (form.numbers is None) == (pixels == 1)
                assert form.wide.width <= dsp.DSP_SUM
                total = (weights * Interval.of(x)).times(form.chain).with_zero()
                near = sorted({min(max(end + step, total.lo), total.hi) for end in (total.lo, 0, total.hi) for step in (-1, 0, 1)})
                for sums_ in product(near, repeat=form.count):
                    whole = sum(number << k * form.split for k, number in enumerate(sums_))
                    assert form.wide.min_raw <= whole <= form.wide.max_raw
                    assert split(form, whole, sums_) == sums_, form


def split(form: dsp.Packing, whole: int, sums_: tuple[int, ...]) -> tuple[int, ...]:
    """As multiply.h does it; of the sums only the known bits are used."""
    found, carried, width = [], 0, form.split + form.known
    for k in range(form.count - 1):
        known = sums_[k + 1] & (1 << form.known) - 1
        here = (whole >> k * form.split) - (known << form.split) & (1 << width) - 1
        here -= here >> width - 1 << width
        found.append(here - carried)
        carried = here >> form.split
    return (*found, (whole >> (form.count - 1) * form.split) - carried)
