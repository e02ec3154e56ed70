"""The fused C++ Cast: the bits of the definition and of the torch operators, whatever the layout, the types and the number of threads."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kernel_cases import OVERFLOWS, adversarial, assert_equals_definition, assert_same_bits, types
from test_kernel import check_gradients
from torch import Tensor

from qfx.fixed import eager, native, native_build
from qfx.fixed.kernel import CastMode, channel_moments, quantize
from qfx.fixed.plan import Plan, plan_of
from qfx.fixed.type import FixedType, OMode, QMode

pytestmark = pytest.mark.usefixtures("gxx")

RND_SAT = CastMode(True, QMode.RND, OMode.SAT)


def fused_forward(plan: Plan, x: Tensor, frac_bits: Tensor, scale: Tensor | None, shift: Tensor | None, addend: Tensor | None) -> Tensor | None:
    """The fused pass, if there is one for the call."""
    found = native.fused(plan, x, frac_bits, None, scale, shift, addend)
    return None if found is None else found.forward(x, frac_bits, None, scale, shift, addend)


def native_cast(x: Tensor, to: FixedType) -> Tensor:
    out = fused_forward(plan_of(CastMode.of(to), to.width), x, torch.tensor(float(to.frac_bits)), None, None, None)
    assert out is not None, "not executed natively"
    return out


@pytest.fixture
def threads() -> Iterator[None]:
    """Restores the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_it_is_available() -> None:
    assert native.available()


@pytest.mark.parametrize("q", QMode)
def test_it_equals_the_definition_in_float64(q: QMode) -> None:
    for to in types(q, ((1, 5), (8, -400), (8, 5), (32, 5), (53, 40))):
        x = adversarial(to, torch.float64)
        assert_equals_definition(native_cast(x, to), x, to)


@pytest.mark.parametrize("q", QMode)
def test_it_equals_the_definition_in_float32(q: QMode, thorough: bool) -> None:
    """Each rounding with each overflow mode without N and, to build less, with a third of the others (all of them with --thorough)."""
    for to in types(q, ((1, 5), (8, -90), (8, 5), (24, 120), (24, 5))):
        if thorough or not to.n or to.n % 3 == list(QMode).index(q) % 3:
            x = adversarial(to, torch.float32)
            out = native_cast(x, to)
            assert out.dtype is torch.float32
            assert_equals_definition(out, x, to)


@pytest.mark.parametrize("q", QMode)
def test_wide_words_of_float32_numbers_are_float64(q: QMode) -> None:
    for index, to in enumerate(types(q, ((25, 3), (32, 3)))):
        if index % len(QMode) == list(QMode).index(q):  # a seventh each: the rounding and the overflow are tested above
            x = adversarial(to, torch.float32)
            out = native_cast(x, to)
            assert out.dtype is torch.float64
            assert_equals_definition(out, x, to)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("o", "n"), OVERFLOWS)
def test_gradients_follow_the_table(o: OMode, n: int, dtype: torch.dtype) -> None:
    for q in (QMode.RND, QMode.TRN):
        check_gradients(FixedType(6, 4, True, q, o, n), dtype, partial(native_backward, parameters=True))


def native_backward(plan: Plan, grad: Tensor, *args: Any, parameters: bool) -> object:
    found = native.fused(plan, *args[:6])
    assert found is not None, "not executed natively"
    return found.backward(grad, *args, parameters)


SHAPES = {  # of x, and of the binary points that it meets
    (7,): [(), (7,)],
    (3, 5): [(), (1, 5), (3, 1), (3, 5), (5,)],
    (40, 64): [(), (1, 64), (40, 1)],
    (2, 3, 4, 5): [(), (1, 3, 1, 1), (2, 1, 1, 1), (2, 3, 4, 5), (1, 3, 4, 5), (2, 3, 1, 1)],
    (3, 16, 33, 37): [(), (1, 16, 1, 1)],
}
LAYOUTS = [(shape, frac, last) for shape, fracs in SHAPES.items() for frac in fracs for last in ((False, True) if len(shape) == 4 else (False,))]
MODES = [
    RND_SAT,
    CastMode(False, QMode.RND_CONV, OMode.SAT),
    CastMode(True, QMode.TRN, OMode.WRAP),
    CastMode(True, QMode.RND_INF, OMode.WRAP_SM, 2),
    CastMode(True, QMode.TRN_ZERO, OMode.SAT_ZERO),
]


@pytest.mark.parametrize(("shape", "frac_shape", "channels_last"), LAYOUTS)
def test_it_equals_the_torch_operators_in_every_layout(shape: tuple[int, ...], frac_shape: tuple[int, ...], channels_last: bool) -> None:
    """Forward bit for bit; gradients up to rounding (a float32 one is a sum of float32 terms, each off by 2**-24 at most)."""
    generator = torch.Generator().manual_seed(len(LAYOUTS) + sum(frac_shape))

    def grid(*size: int) -> Tensor:
        return torch.randint(-1024, 1024, size, generator=generator) / 16

    executed = 0
    for number, mode in enumerate(MODES):
        wide = number == 1
        x = grid(*shape).to(torch.float64 if wide else torch.float32)
        x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
        frac_bits = torch.rand(frac_shape, generator=generator, dtype=torch.float64 if number % 2 else torch.float32) * 8 - 2
        channels = shape[1:2] if number < 4 else ()
        scale = grid(*channels).double() if len(shape) > 1 and number in (0, 2, 4) else None
        shift = grid(*channels) if len(shape) > 1 and number in (0, 3, 4) else None
        addend = grid(*shape).to(x.dtype) if number in (0, 2) else None
        slope, upper = [(0.0, 6.0), (0.0, None), (1.0, None), (0.125, 3.0), (1.0, None)][number]
        plan = plan_of(mode, 9, slope, upper)
        out = fused_forward(plan, x, frac_bits, scale, shift, addend)
        if out is None:
            continue
        executed += 1
        assert_same_bits(out, eager.forward(plan, x, frac_bits, None, scale, shift, addend))
        assert not bool(torch.any(torch.signbit(out) & (out == 0)))
        g = torch.randn(shape, generator=generator, dtype=x.dtype)
        found = native.fused(plan, x, frac_bits, None, scale, shift, addend)
        assert found is not None
        fused = found.backward(g, x, frac_bits, None, scale, shift, addend, 0.5, True)
        for a, b in zip(fused, eager.backward(plan, g, x, frac_bits, None, scale, shift, addend, 0.5), strict=True):
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                bound = 2e-6 if torch.float32 in (x.dtype, a.dtype) else 1e-12
                torch.testing.assert_close(a, b, rtol=bound, atol=bound * max(1.0, float(b.abs().max())))
    per_channel = math.prod(frac_shape) == 1 or frac_shape in ((1, *shape[1:2], *(1,) * (len(shape) - 2)), shape[1:2])
    if channels_last and not per_channel and frac_shape != (shape[0], 1, 1, 1):
        assert executed == 0  # binary points that vary along several axes of a permuted tensor are left to the torch operators
    else:
        assert executed >= (len(MODES) if per_channel else 1)  # a vector over the channels beside others over another axis is left to them too


@pytest.mark.parametrize("frac_shape", [(), (1, 40, 1), (50, 1, 1), (50, 40, 77)])
@pytest.mark.usefixtures("threads")
def test_no_bit_depends_on_the_number_of_threads(frac_shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(50, 40, 77, generator=generator)
    g = torch.randn(x.shape, generator=generator)
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        leaf, frac_bits, width = (
            x.clone().requires_grad_(),
            torch.full(frac_shape, 3.2, requires_grad=True),
            torch.full(frac_shape, 1.4, requires_grad=True),
        )
        out = quantize(leaf, frac_bits, 7, RND_SAT, int_bits=width)
        out.backward(g)
        assert leaf.grad is not None
        assert frac_bits.grad is not None
        assert width.grad is not None
        results.append((out, leaf.grad, frac_bits.grad, width.grad, *channel_moments(x)))
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            assert_same_bits(a, b)


def test_many_additions_stay_accurate() -> None:
    """A million equal terms: sums in float32 would be off by percents."""
    x = torch.full((1 << 20,), 0.1)
    frac_bits = torch.tensor(3.0, requires_grad=True)
    quantize(x, frac_bits, 8, RND_SAT).sum().backward()
    assert frac_bits.grad is not None
    exact = -np.log(2) * (0.125 - float(np.float32(0.1))) * (1 << 20)
    assert frac_bits.grad.item() == pytest.approx(exact, rel=1e-6)


def test_nan_stays_visible_where_it_is_not_checked() -> None:
    x = torch.tensor([float("nan"), 0.3])
    assert quantize(x, torch.tensor(4.0), 8, RND_SAT).isnan().tolist() == [True, False]


class Marked(Tensor):
    """A subclass may mean anything by its data; the torch operators respect it."""


def test_what_it_does_not_know_goes_to_the_torch_operators() -> None:
    plan, f = plan_of(RND_SAT, 8), torch.tensor(4.0)
    x = torch.randn(2, 3, 4)
    assert native.fused(plan, x.as_subclass(Marked), f, None, None, None, None) is None
    assert native.fused(plan, x.to("meta"), f, None, None, None, None) is None
    assert native.fused(plan, x, torch.full((2, 1, 4), 4.0), None, None, None, None) is None  # varies along axes 0 and 2, not along 1
    assert native.fused(plan, x, f.half(), None, None, None, None) is None
    assert_same_bits(quantize(x, torch.full((2, 1, 4), 4.0), 8, RND_SAT), quantize(x, f, 8, RND_SAT))


def test_an_aliased_parameter_is_read_where_it_lies() -> None:
    """Views of one buffer with strides, as a checkpoint loader may leave them."""
    f = torch.arange(12.0).reshape(6, 2)[:, 0]
    scale = torch.arange(1.0, 13.0, dtype=torch.float64).reshape(6, 2)[:, 1]
    x = torch.randint(-64, 64, (5, 6)) / 8
    plan = plan_of(RND_SAT, 9)
    for tensor in (x, x.t().contiguous().t()):
        out = fused_forward(plan, tensor, f[None], scale, None, None)
        assert out is not None
        assert_same_bits(out, eager.forward(plan, tensor, f[None], None, scale, None, None))


def run_python(code: str, **environment: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(Path(native.__file__).parents[2]), **environment}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


OPENMP = """
from pathlib import Path
from typing import Any
import torch
from qfx.fixed.kernel import cast
from qfx.fixed.type import FixedType
before = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "omp" in line.rpartition("/")[2]}
cast(torch.zeros(4), FixedType(8, 4))
after = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "omp" in line.rpartition("/")[2]}
print(len(before), after == before)
"""


def test_no_second_openmp_runtime_is_loaded() -> None:
    """In a process of its own: other packages bring runtimes too."""
    if not Path("/proc/self/maps").exists():
        pytest.skip("needs /proc")
    assert run_python(OPENMP) == "1 True"


@pytest.mark.parametrize("q", [QMode.RND, QMode.RND_CONV, QMode.TRN])
def test_the_compiler_vectorizes_every_loop_over_elements(gxx: str, q: QMode, tmp_path: Path) -> None:
    """Every loop marked ``omp simd`` of native.cpp, for a plain and for an affine Cast; a scalar loop would be ten times slower, silently."""
    if os.uname().machine != "x86_64":
        pytest.skip("what the flags select differs elsewhere")
    source = Path(native.__file__).with_name("native.cpp")
    lines = source.read_text().splitlines()
    for affine, words in ((False, False), (True, False), (False, True), (True, True)):
        build = native.Build(list(QMode).index(q), 0, 0, "float", "float", affine, affine, affine, words)
        command = [
            gxx,
            *native_build.FLAGS,
            "-march=x86-64-v3",
            *build.defines(),
            "-fopenmp-simd",
            "-fopt-info-vec-optimized",
            str(source),
            "-o",
            str(tmp_path / "x.so"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        vectorized = {int(line.split(":")[1]) for line in done.stderr.splitlines() if "loop vectorized" in line}
        for name in ("forward_row", "forward_columns", "backward_row", "backward_columns"):
            first = next(number for number, line in enumerate(lines, 1) if f"void {name}(" in line)
            last = next(number for number, line in enumerate(lines, 1) if number > first and line == "}")
            assert vectorized & set(range(first, last)), f"{name} is not vectorized"
