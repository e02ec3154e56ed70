"""Runs the vendor's simulation headers: casts through a generated C++ program, compiled with g++, that reads and writes raw integers."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qfx.fixed.reference import cast_float, cast_raw
from qfx.fixed.type import FixedType

CASTS_PER_PROGRAM = 400  # bounds g++'s memory; the headers themselves cost 0.7 s a program

_HEAD = """
#include <ap_fixed.h>
#include <cstdint>
#include <cstdio>

template <class T> bool get(T& x) { return std::fread(&x, sizeof x, 1, stdin) == 1; }
inline void put(std::int64_t x) { std::fwrite(&x, sizeof x, 1, stdout); }

template <class S> struct Source {
  S operator()(std::int64_t raw) const { S s; s.V = raw; return s; }
};
template <> struct Source<double> {
  double operator()(std::int64_t bits) const { union { std::int64_t i; double d; } u; u.i = bits; return u.d; }
};

template <class S, class T> void cast() {
  std::int64_t count, raw;
  for (get(count); count > 0 && get(raw); --count) {
    T t = Source<S>()(raw);
    put((std::int64_t)t.V.get_VAL());
  }
}
"""


@dataclass(frozen=True)
class Casts:
    """One pair of types and what to cast: raws of ``source``, or floats where ``source`` is None."""

    source: FixedType | None
    target: FixedType
    inputs: tuple[int, ...] | tuple[float, ...]

    def packed(self) -> bytes:
        if self.source is None:
            return struct.pack(f"<q{len(self.inputs)}d", len(self.inputs), *self.inputs)
        return struct.pack(f"<q{len(self.inputs)}q", len(self.inputs), *(_int64(int(raw)) for raw in self.inputs))

    def define(self) -> list[int]:
        """What the definition says."""
        if self.source is None:
            return [cast_float(value, self.target) for value in self.inputs]
        return [cast_raw(int(raw), self.source.frac_bits, self.target) for raw in self.inputs]


def _int64(raw: int) -> int:
    return raw - (1 << 64) if raw >= 1 << 63 else raw


def all_raws(type_: FixedType) -> tuple[int, ...]:
    """Every raw of the type's bit patterns, whatever its overflow mode."""
    low = -(1 << (type_.width - 1)) if type_.signed else 0
    return tuple(range(low, low + (1 << type_.width)))


def compile_and_run(source: str, data: bytes, gxx: str, include: Path, folder: Path) -> bytes:
    """What the program ``source`` writes when fed ``data``."""
    (folder / "oracle.cpp").write_text(source)
    binary = folder / "oracle"
    subprocess.run([gxx, "-std=c++11", "-DNDEBUG", "-w", "-O0", "-I", str(include), str(folder / "oracle.cpp"), "-o", str(binary)], check=True)
    return subprocess.run([str(binary)], input=data, stdout=subprocess.PIPE, check=True).stdout


def run_casts(casts: Sequence[Casts], gxx: str, include: Path, folder: Path) -> Iterator[tuple[Casts, list[int]]]:
    """What the vendor's headers give for each of ``casts``, in order. Words of at most 64 bits."""
    for start in range(0, len(casts), CASTS_PER_PROGRAM):
        chunk = casts[start : start + CASTS_PER_PROGRAM]
        calls = "".join(f"  cast<{c.source or 'double'}, {c.target} >();\n" for c in chunk)
        data = b"".join(c.packed() for c in chunk)
        output = compile_and_run(f"{_HEAD}\nint main() {{\n{calls}}}\n", data, gxx, include, folder)
        words = struct.unpack(f"<{sum(len(c.inputs) for c in chunk)}q", output)
        position = 0
        for c in chunk:
            mask = 0 if c.target.signed else (1 << c.target.width) - 1
            yield c, [word & mask if mask else word for word in words[position : position + len(c.inputs)]]
            position += len(c.inputs)


def assert_defined(casts: Casts, vendor_raw: Sequence[int]) -> None:
    """The definition gives exactly ``vendor_raw``; the message shows the first raw that differs."""
    defined_raw = casts.define()
    assert len(defined_raw) == len(vendor_raw)
    if list(defined_raw) != list(vendor_raw):
        for value, ours, theirs in zip(casts.inputs, defined_raw, vendor_raw, strict=True):
            assert ours == theirs, f"{casts.source or 'double'} {value!r} -> {casts.target}: defined {ours}, vendor {theirs}"
