"""Matrix-vector units against numpy: every arithmetic, ROM layout and integer type, on random and on extreme numbers, all raw integers compared."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from qfx.fixed.arith import Interval
from qfx.fixed.type import FixedType
from qfx.hardware.assets import hls_root
from qfx.hardware.design import arithmetic, dsp
from qfx.hardware.design.weights.sparse import Kept
from qfx.hardware.emit.emit import CSIM_FLAGS
from qfx.hardware.emit.spelling import multiplier, pack_weights, raw

Ints = npt.NDArray[np.int64]
SEED = 7
PIXELS = 11  # eight together and three more


@dataclass(frozen=True, eq=False)
class Case:
    """``weights``: (groups, outputs of a group, inputs of an output); depthwise units have one output a group. ``x``: (pixels, groups, inputs)."""

    arithmetic: str
    weights: Ints
    x: Ints
    x_type: FixedType
    pe: int
    simd: int
    depthwise: bool = False
    shared: int = 1
    """Groups that follow each other with the same weights begin again after ``groups / shared``."""
    rest: int = 0
    """The rows of a second memory."""
    kept: Kept | None = None
    """Whether the lanes of zeros are left out."""

    @property
    def name(self) -> str:
        groups, outputs, inputs = self.weights.shape
        kind, sign = "depthwise" if self.depthwise else "matvec", "s" if self.x_type.signed else "u"
        two = (f"_rest{self.rest}" if self.rest else "") + (f"_{self.kept.n}of{self.kept.m}" if self.kept else "")
        return f"{kind}_{self.arithmetic}_{groups}x{outputs}x{inputs}_pe{self.pe}_simd{self.simd}_{sign}{self.x_type.width}{two}"

    @property
    def sums(self) -> Ints:
        """(pixels, channels)."""
        return np.einsum("goi,pgi->pgo", self.weights, self.x).reshape(len(self.x), -1)

    @property
    def expected(self) -> Ints:
        """The sums through the epilogue ``told``."""
        sums = self.sums
        pixels, channels = sums.shape
        return (sums * 8 + (np.arange(pixels)[:, None] * 3 + np.arange(channels)) % 8).reshape(-1)

    @property
    def words(self) -> Ints:
        """The numbers in the order of the stream."""
        pixels, groups, inputs = self.x.shape
        if not self.depthwise:
            return self.x.reshape(-1)
        return self.x.reshape(pixels, groups // self.pe, self.pe, inputs).transpose(0, 1, 3, 2).reshape(-1)

    @property
    def rows(self) -> Ints:
        weights = self.weights[: len(self.weights) // self.shared]
        groups, outputs, inputs = weights.shape
        if self.depthwise:
            return weights.reshape(groups // self.pe, self.pe, inputs).transpose(0, 2, 1).reshape(-1, self.pe * self.simd)
        folded = weights.reshape(groups, outputs // self.pe, self.pe, inputs // self.simd, self.simd)
        return folded.transpose(0, 1, 3, 4, 2).reshape(-1, self.simd * self.pe)

    @property
    def accumulator(self) -> FixedType:
        """The smallest type that holds every sum: those of all inputs that the type allows, not only of ``x``."""
        ends = np.stack([self.weights * self.x_type.min_raw, self.weights * self.x_type.max_raw])
        return Interval(int(ends.min(axis=0).sum(axis=-1).min()), int(ends.max(axis=0).sum(axis=-1).max()), 0).type()


def case(
    kind: str, shape: tuple[int, int, int], pe: int, simd: int, weights: tuple[int, int], x: str, *, depthwise: bool = False, keep: float = 1.0
) -> Case:
    """Weights in the bounds ``weights``, both of which occur where two neighbours meet; ``x``: "s8" or "u8"; ``keep``: the share not made 0."""
    rng = np.random.default_rng([SEED, *shape, pe, simd])
    x_type = FixedType(int(x[1:]), int(x[1:]), x[0] == "s")
    low, high = weights
    drawn = rng.integers(low, high + 1, shape)
    drawn[rng.random(shape) >= keep] = 0
    corners = np.array([low, low, high, high, low, high, high, low])
    for axis in (1, 2):  # neighbouring outputs share an input in a pair
        flat = np.moveaxis(drawn, axis, -1)
        flat[0, 0, : min(8, shape[axis])] = corners[: shape[axis]]
    numbers = rng.integers(x_type.min_raw, x_type.max_raw + 1, (PIXELS, shape[0], shape[2]))
    numbers[0] = np.where(drawn[:, 0] > 0, x_type.max_raw, x_type.min_raw)  # the greatest sums of the first outputs, then the least
    numbers[1] = np.where(drawn[:, 0] > 0, x_type.min_raw, x_type.max_raw)
    numbers[2], numbers[3] = x_type.min_raw, x_type.max_raw
    return Case(kind, drawn, numbers, x_type, pe, simd, depthwise)


def few(n: int, m: int, one: Case, rest: int = 0) -> Case:
    """The case with n of each m neighbours along the inputs, and of some groups fewer."""
    kept, rng = Kept(n, m), np.random.default_rng([SEED, n, m])
    groups, outputs, inputs = one.weights.shape
    rank = rng.permuted(np.broadcast_to(np.arange(m), (groups, outputs, inputs // m, m)), axis=3).reshape(one.weights.shape)
    return replace(one, weights=np.where(rank < n, one.weights, 0), kept=kept, rest=rest)


def sharing(one: Case, shared: int) -> Case:
    """The case with the weights of its first groups in all of them."""
    weights = np.concatenate([one.weights[: len(one.weights) // shared]] * shared)
    return Case(one.arithmetic, weights, one.x, one.x_type, one.pe, one.simd, one.depthwise, shared)


def powers(kind: str, shape: tuple[int, int, int], pe: int, simd: int, signs: tuple[int, ...], *, depthwise: bool = False) -> Case:
    """Weights with at most one digit."""
    made = case(kind, shape, pe, simd, (0, 5), "s6", depthwise=depthwise)
    rng = np.random.default_rng(SEED)
    return Case(kind, rng.choice(signs, shape) << made.weights, made.x, made.x_type, pe, simd, depthwise)


CASES = (
    case("auto", (1, 4, 6), 1, 1, (-16, 15), "s9"),  # 5 bits, one lane
    case("auto", (1, 5, 18), 5, 9, (-4, 3), "u4"),  # 45 lanes of 3 bits: three elements
    case("auto", (2, 4, 6), 2, 3, (-16, 15), "s5"),
    case("auto", (1, 6, 6), 6, 6, (-64, 63), "s9"),
    case("auto", (1, 2, 4), 1, 4, (-512, 511), "u10"),
    case("auto", (1, 4, 4), 2, 2, (0, 15), "u8"),
    case("auto", (1, 3, 8), 3, 2, (-(2**23), 2**23 - 1), "s25"),
    case("auto", (1, 2, 4), 2, 4, (0, 1), "u1"),
    case("auto", (6, 1, 9), 3, 1, (-8, 7), "s7", depthwise=True),
    case("dsp", (1, 4, 6), 2, 3, (-128, 127), "u8"),
    case("dsp", (2, 4, 6), 4, 1, (0, 255), "u8"),
    case("dsp", (1, 2, 4), 1, 2, (-(2**20), 2**20), "s20"),
    case("dsp", (4, 1, 6), 2, 1, (-128, 127), "s8", depthwise=True),
    case("lut", (1, 4, 6), 2, 3, (-128, 127), "s8"),
    case("lut", (3, 2, 2), 1, 2, (-3, 9), "u3"),
    case("lut", (4, 1, 6), 4, 1, (-8, 7), "u8", depthwise=True),
    case("shift", (1, 8, 16), 4, 4, (-128, 127), "u8"),  # four digits
    case("shift", (1, 8, 16), 2, 8, (-8, 7), "s8"),
    case("shift", (2, 4, 6), 2, 3, (0, 15), "u5"),
    case("shift", (1, 4, 8), 4, 8, (-100, 5), "s5", keep=0.3),
    case("shift", (1, 3, 4), 1, 2, (0, 0), "s5"),
    case("shift", (1, 2, 9), 2, 3, (1, 1), "u5"),
    case("shift", (6, 1, 9), 3, 1, (-32, 31), "s7", depthwise=True),
    powers("shift", (1, 4, 8), 2, 4, (-1, 1)),
    powers("shift", (1, 4, 8), 4, 2, (-1, 0, 1)),
    powers("shift", (4, 1, 8), 4, 1, (1,), depthwise=True),
    case("auto", (6, 1, 9), 3, 9, (-8, 7), "s7", depthwise=True),  # all taps of a window in a word
    case("dsp", (4, 1, 25), 2, 25, (-128, 127), "s8", depthwise=True),
    case("lut", (4, 1, 6), 4, 3, (-8, 7), "u8", depthwise=True),
    case("shift", (6, 1, 9), 2, 3, (-32, 31), "s7", depthwise=True),
    case("pair", (1, 8, 16), 2, 4, (-128, 127), "u8"),
    case("pair", (1, 8, 16), 8, 2, (-128, 127), "s8"),
    case("pair", (2, 4, 6), 4, 3, (-8, 7), "u4"),
    case("pair", (1, 4, 8), 2, 8, (0, 15), "u8"),
    case("pair", (1, 4, 8), 2, 1, (-15, -3), "s4"),
    case("pair", (1, 2, 3), 2, 1, (0, 1), "u1"),
    case("pair", (1, 2, 3), 2, 1, (0, 0), "s1"),
    case("pair", (1, 4, 8), 4, 8, (-2, 1), "s17"),
    case("pair", (1, 6, 40), 3, 20, (-127, 127), "u8"),  # two known bits, three chains; the last output alone
    case("triple", (1, 8, 16), 8, 8, (-7, 7), "u4"),  # a known bit; three, three and two
    case("triple", (1, 6, 8), 3, 4, (-31, 31), "u4"),  # two known bits
    case("triple", (1, 3, 6), 3, 1, (0, 15), "u5"),
    case("quad", (1, 8, 16), 8, 8, (-7, 7), "u4"),
    case("pair27", (1, 4, 16), 4, 8, (-128, 127), "u8"),
    case("triple27", (1, 3, 8), 3, 8, (-8, 7), "u4"),
    case("quad27", (1, 8, 16), 8, 4, (-8, 7), "u4"),
    case("quad", (1, 7, 12), 7, 12, (-7, 7), "s4"),
    case("quad", (1, 8, 16), 8, 1, (-4, 3), "u5"),
    case("quad", (2, 4, 10), 4, 5, (-8, 7), "u4"),
    case("quad", (1, 5, 9), 5, 1, (0, 7), "u3"),
    case("dsp", (1, 6, 54), 3, 27, (-128, 127), "u8"),  # chains of 7, 7, 7 and 6
    case("dsp", (1, 2, 9), 1, 9, (0, 255), "s8"),
    case("dsp", (1, 2, 16), 2, 16, (-(2**17), 2**17 - 1), "s25"),
    case("dsp", (1, 2, 4), 1, 4, (-(2**18), 2**18), "s25"),  # no single block
    few(2, 4, case("auto", (1, 6, 16), 3, 8, (-128, 127), "u8")),
    few(1, 4, case("dsp", (2, 4, 16), 2, 8, (-128, 127), "s8"), rest=3),
    few(5, 8, case("dsp", (1, 4, 16), 2, 16, (0, 255), "u8")),
    few(3, 4, case("lut", (1, 4, 12), 4, 4, (-7, 8), "s9")),
    few(1, 2, case("shift", (1, 8, 16), 4, 4, (-128, 127), "u8")),
    few(2, 16, case("auto", (1, 4, 32), 2, 16, (-(2**23), 2**23 - 1), "s25")),
    *(replace(case(kind, (2, 4, 6), 2, 3, (-8, 7), "u4"), rest=rest) for kind, rest in (("auto", 1), ("dsp", 3), ("shift", 7), ("pair", 2))),
)

REGISTERS = (  # as many numbers as fill some, for the emulator alone
    case("auto", (1, 40, 37), 4, 37, (-128, 127), "u8"),  # registers that are not full
    case("auto", (1, 70, 18), 35, 9, (-128, 127), "s8"),
    case("auto", (2, 20, 11), 20, 11, (0, 255), "s8"),
    case("auto", (1, 18, 9), 18, 9, (-128, 127), "s16"),
    case("auto", (1, 18, 9), 9, 9, (-(2**15), 2**15 - 1), "s12"),
    case("auto", (1, 18, 9), 9, 3, (-128, 127), "u16"),  # no 16 bits with a sign
    case("auto", (1, 18, 9), 9, 3, (-(2**15), 2**15 - 1), "s16"),  # sums of 36 bits
    case("auto", (1, 9, 5), 9, 5, (-(2**31), 2**31 - 1), "s24"),
    case("auto", (1, 9, 5), 3, 5, (-8, 7), "s34"),
    sharing(case("auto", (6, 3, 6), 3, 6, (-128, 127), "u8"), 3),
    sharing(case("auto", (6, 1, 4), 3, 1, (-128, 127), "u8", depthwise=True), 2),
    case("auto", (64, 1, 9), 64, 1, (-128, 127), "u8", depthwise=True),
)
ALL = (*CASES, *REGISTERS)

NATIVE = ("-DQFX_NATIVE", "-DQFX_UNPACKED", "-fwrapv")
FEATURES = {"AVX2": ("avx2",), "AVX-512": ("avx512f", "avx512bw"), "VNNI": ("avx512f", "avx512bw", "avx512vnni")}
"""Further vectors that the emulator has forms for, and the processor's features that they take."""

VARIANTS = {
    "vendor": (),
    "packed": ("-UQFX_UNPACKED",),  # as the vendor's tools simulate it
    "exact ROM": ("-UQFX_UNPACKED", "-DQFX_EXACT_ROM"),
    "native": NATIVE,
    "whole": (*NATIVE, "-DWHOLE_FRAMES"),  # with those that every processor of the kind has: SSE2
    **{f"whole {name}": (*NATIVE, "-DWHOLE_FRAMES", "-march=x86-64", *(f"-m{one}" for one in features)) for name, features in FEATURES.items()},
}
EMULATED = [variant for variant in VARIANTS if variant not in ("vendor", "packed", "exact ROM")]


def compiled(variant: str) -> list[int]:
    """Which of the cases: those of registers for the emulator, and where it goes a frame at a time those alone that it has a form for."""
    known = ALL if variant in EMULATED else CASES
    return [index for index, one in enumerate(known) if not variant.startswith("whole") or one.arithmetic == "auto"]


MAIN = """#include <stdint.h>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>
#include "qfx/matvec.h"
#ifdef WHOLE_FRAMES
#include "qfx_layers.h"
#define stream_of qfx_native::frames
#else
#define stream_of hls::stream
#endif
struct told {{
  typedef qfx::sint<64> out;
  template <class T> static inline out apply(const T& x, const int pixel, const int channel) {{ return out(out(x) * 8 + (pixel * 3 + channel) % 8); }}
}};
{cases}
template <class A, int P, int R>
static void drive(
    void (*run)(stream_of<qfx::vec<A, P> >&, stream_of<qfx::vec<told::out, R> >&), const int64_t*& x, size_t count, std::ofstream& y) {{
  stream_of<qfx::vec<A, P> > in("in");
  stream_of<qfx::vec<told::out, R> > out("out");
  for (size_t i = 0; i < count; i += P) {{
    qfx::vec<A, P> word;
    for (int p = 0; p < P; p++) word[p] = A(*x++);
    in.write(word);
  }}
  run(in, out);
  while (!out.empty()) {{
    const qfx::vec<told::out, R> word = out.read();
    for (int p = 0; p < R; p++) {{
      const int64_t number = static_cast<int64_t>(word[p]);
      y.write(reinterpret_cast<const char*>(&number), sizeof number);
    }}
  }}
}}
int main(int, char** argv) {{
  std::ifstream file(argv[1], std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const std::vector<int64_t> numbers(reinterpret_cast<const int64_t*>(bytes.data()), reinterpret_cast<const int64_t*>(bytes.data() + bytes.size()));
  const int64_t* x = numbers.data();
  std::ofstream y(argv[2], std::ios::binary);
{calls}
  return y.good() ? 0 : 2;
}}
"""


def program(indices: list[int]) -> str:
    cases, calls = [], []
    for i, one in ((index, ALL[index]) for index in indices):
        groups, outputs, inputs = one.weights.shape
        codes, code_type = one.rows, arithmetic.weight_type(one.weights)
        if one.kept is not None:
            codes, ways = one.kept.compressed(one.rows, one.pe)
        if one.arithmetic == "shift":
            form = arithmetic.digit_form(one.weights)
            codes, code_type = form.codes(codes), FixedType(form.width, form.width, signed=False)
        inputs_of: tuple[object, ...] = ()
        if one.kept is not None:
            inputs_of = (
                1,
                "qfx::along_outputs",
                f"qfx::few_inputs<{one.kept.n}, {one.kept.m}, {'true' if code_type.signed else 'false'}, {code_type.width}>",
            )
            codes, code_type = one.kept.coded(codes, code_type, ways)
        first = len(codes) - one.rest
        rom, reader = pack_weights(f"rom{i}", codes[:first], code_type)
        roms = [rom, *([pack_weights(f"rest{i}", codes[first:], code_type)[0]] if one.rest else [])]
        turn = arithmetic.turn_type(one.rows, one.x_type, one.simd)
        acc = one.accumulator
        total = acc if turn.width < acc.width else replace(acc, width=acc.width + 1)
        product = multiplier(one.arithmetic, one.weights, one.x_type, one.kept.lanes(one.simd) if one.kept else one.simd)
        types = (reader, raw(acc), product, raw(turn if turn.width < acc.width else acc), raw(total))
        numbers = (PIXELS, groups, outputs, inputs, one.pe, one.simd, *types, *inputs_of)
        kept = ["kept"] * (not one.depthwise)
        read = one.pe * one.simd if one.depthwise else one.simd
        cases.append(
            f"// {one.name}\n"
            + "".join(f"static const {rom.type} {rom.name}{rom.dims} = {{{rom.body}}};\n" for rom in roms)
            + f"static void case{i}(stream_of<qfx::vec<{raw(one.x_type)}, {read}> >& in, stream_of<qfx::vec<told::out, {one.pe}> >& out) {{\n"
            f"  typedef qfx::matvec_shape<{', '.join(map(str, numbers))} > shape;\n"
            + ("" if one.depthwise else f"  {raw(one.x_type)} kept[{inputs // one.simd}][{one.simd}];\n")
            + f"  qfx::{'depthwise' if one.depthwise else 'matvec'}<shape, told>(in, out, {', '.join([rom.name for rom in roms] + kept)});\n}}\n"
        )
        calls.append(f"  drive<{raw(one.x_type)}, {read}, {one.pe}>(case{i}, x, {one.x.size}, y);")
    return MAIN.format(cases="".join(cases), calls="\n".join(calls))


@cache
def _defined(gxx: str) -> str:
    """The macros of the processor at hand."""
    return subprocess.run([gxx, "-march=native", "-dM", "-E", "-x", "c++", "/dev/null"], capture_output=True, text=True, check=True).stdout


def _skip_what_does_not_run_here(variant: str, gxx: str) -> None:
    features = FEATURES.get(variant.removeprefix("whole "), ())
    if missing := [feature for feature in features if f"#define __{feature.upper()}__ " not in _defined(gxx)]:
        pytest.skip(f"this processor has no {', '.join(missing)}")


@cache
def results(variant: str, gxx: str, vendor_include: Path, folder: Path) -> dict[int, Ints]:
    """What the C++ makes of every case."""
    indices = compiled(variant)
    (folder / "matvec.cpp").write_text(program(indices))
    sim = hls_root() / "sim"
    numbers = [f"-I{sim / 'native'}", f"-I{sim / 'emulate'}"] if variant in EMULATED else ["-isystem", str(vendor_include)]
    flags = [*CSIM_FLAGS, "-Werror", "-O1", *VARIANTS[variant], *numbers, f"-I{hls_root() / 'include'}"]
    done = subprocess.run([gxx, *flags, str(folder / "matvec.cpp"), "-o", str(folder / "run")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]
    (folder / "x.bin").write_bytes(np.concatenate([ALL[index].words for index in indices]).astype("<i8").tobytes())
    done = subprocess.run([str(folder / "run"), str(folder / "x.bin"), str(folder / "y.bin")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    y = np.frombuffer((folder / "y.bin").read_bytes(), dtype="<i8")
    return dict(zip(indices, np.split(y, np.cumsum([ALL[index].expected.size for index in indices])[:-1]), strict=True))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {variant: tmp_path_factory.mktemp("matvec") for variant in VARIANTS}


EVERY = [(variant, index) for variant in VARIANTS for index in compiled(variant)]


@pytest.mark.parametrize(("variant", "index"), EVERY, ids=[f"{variant}-{ALL[index].name}" for variant, index in EVERY])
def test_against_numpy(variant: str, index: int, gxx: str, vendor_include: Path, folders: dict[str, Path]) -> None:
    _skip_what_does_not_run_here(variant, gxx)
    np.testing.assert_array_equal(results(variant, gxx, vendor_include, folders[variant])[index], ALL[index].expected)


@pytest.mark.parametrize(
    ("variant", "kind"), [("whole", "auto"), *(("vendor", kind) for kind in ("auto", "dsp", "lut", "shift", "pair", "triple", "quad"))]
)
def test_the_comparison_sees_one_lsb_of_one_weight(kind: str, variant: str, gxx: str, vendor_include: Path, folders: dict[str, Path]) -> None:
    for rest in (False, True):
        index = next((i for i, one in enumerate(CASES) if one.arithmetic == kind and one.weights.any() and (one.rest > 0) == rest), None)
        if index is None:
            continue
        one = CASES[index]
        weights = one.weights.copy()
        weights[-1, -1, -1] += 1
        with pytest.raises(AssertionError):
            np.testing.assert_array_equal(results(variant, gxx, vendor_include, folders[variant])[index], replace(one, weights=weights).expected)


def test_the_cases_are_what_lowering_allows() -> None:
    for one in ALL:
        assert one.arithmetic in arithmetic.choices(one.rows, one.x_type, pe=one.pe, depthwise=one.depthwise), one.name


def test_the_cases_meet_every_number_of_known_bits() -> None:
    forms = [dsp.packing(one.arithmetic, arithmetic.bounds(one.weights), one.x_type, one.simd) for one in CASES if one.arithmetic in dsp.PACKED]
    assert {(form.count, form.known) for form in forms if form} >= {(2, 0), (2, 1), (2, 2), (3, 0), (3, 1), (3, 2), (4, 0), (4, 1), (4, 2)}


def test_pairs_meet_every_corner() -> None:
    """Both bounds of the low product, beside both bounds of the high weight: where a borrow would show."""
    one = next(one for one in CASES if one.arithmetic == "pair" and one.x_type == FixedType(8, 8, False))
    low, high = one.weights[:, ::2], one.weights[:, 1::2]
    assert {(int(a), int(b)) for a, b in zip(low.reshape(-1), high.reshape(-1), strict=True)} >= {(-128, -128), (127, 127), (-128, 127)}
