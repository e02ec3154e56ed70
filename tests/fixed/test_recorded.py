"""The step of a Cast in C++ is the step in Python: the same bits, the same refusals, and the same place in autograd."""

from __future__ import annotations

import copy
import itertools
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import qfx
from qfx.errors import ExactnessError
from qfx.fixed import native
from qfx.fixed import recorded as of_recorded
from qfx.fixed.kernel import CastMode, quantize
from qfx.fixed.plan import plan_of
from qfx.fixed.recorded import recorded
from qfx.fixed.step import Flat, Step, Whole
from qfx.fixed.type import OMode, QMode

SAT = CastMode(o=OMode.SAT)

needs_step = pytest.mark.skipif(recorded() is None, reason="recorded.cpp cannot be built here: no compiler, or no headers of Python")


@pytest.fixture
def numbers() -> Tensor:
    return torch.randn(6, 4, 5, 3, generator=torch.Generator().manual_seed(0)) * 4


def leaf(values: Any) -> Tensor:
    return torch.as_tensor(values).detach().clone().requires_grad_()


def both_ways(way: Flat | Whole, by_quantize: Any, tensors: list[Tensor | None]) -> None:
    """Result and gradients of Python's step and of the one that ``quantize`` takes, to the bit."""
    gradients = []
    for run in (lambda *given: Step.apply(way, *given), by_quantize):
        given = [None if t is None else leaf(t) for t in tensors]
        out = run(*given)
        kind = "StepBackward"
        assert type(out.grad_fn).__name__ == (kind if run is not by_quantize else "CppFunction")
        weights = torch.arange(out.numel(), dtype=out.dtype).reshape(out.shape).sin()
        (out * weights).sum().backward()
        gradients.append([out.detach(), *(t.grad for t in given if t is not None)])
    assert all(torch.equal(a, b) and a.dtype is b.dtype for a, b in zip(*gradients, strict=True))


@needs_step
@pytest.mark.parametrize(("q", "o"), list(itertools.product((QMode.RND, QMode.TRN, QMode.RND_CONV), (OMode.SAT, OMode.SAT_SYM, OMode.WRAP))))
def test_plain_casts(q: QMode, o: OMode, numbers: Tensor) -> None:
    mode, frac = CastMode(q=q, o=o), torch.tensor(3.2)
    for slope, upper in ((1.0, None), (0.0, None), (0.0, 6.0)):
        bound = native.flat_bound(mode, 6, slope, upper)
        assert bound is not None
        taken = partial(quantize, width=6, mode=mode, negative_slope=slope, upper=upper, frac_grad_scale=0.25)
        both_ways(Flat(bound, 0.25), taken, [numbers, frac])
        both_ways(Flat(bound, 0.25), taken, [numbers.contiguous(memory_format=torch.channels_last), frac])


@needs_step
def test_a_plain_cast_of_channels_last_is_one_of_channels_first(numbers: Tensor) -> None:
    found = []
    for form in (torch.contiguous_format, torch.channels_last):
        x, frac = leaf(numbers.contiguous(memory_format=form)), leaf(3.2)
        out = quantize(x, frac, 6, SAT, negative_slope=0.0)
        (out * numbers).sum().backward()  # the gradient lies otherwise than x, once
        assert out.is_contiguous(memory_format=form)
        assert x.grad is not None
        assert x.grad.is_contiguous(memory_format=form)
        found.append((out.detach(), x.grad, frac.grad))
    (first, by_x, by_frac), (second, x_too, frac_too) = found
    assert torch.equal(first, second)
    assert torch.equal(by_x, x_too)
    assert by_frac is not None
    assert frac_too is not None
    assert abs(float(by_frac - frac_too)) <= 2**-40 * abs(float(by_frac))  # a sum of float gradients, in another order


@needs_step
@pytest.mark.parametrize("form", ["contiguous", "channels last", "double"])
@pytest.mark.parametrize("width", [6, 30])
def test_casts_with_what_comes_before(form: str, width: int, numbers: Tensor) -> None:
    x = numbers.contiguous(memory_format=torch.channels_last) if form == "channels last" else numbers.double() if form == "double" else numbers
    scale, shift, addend = torch.tensor([1.0, 0.5, -2.0, 0.25]), torch.tensor([0.5, 0.0, 1.0, -1.0]), x.flip(0).contiguous()
    frac = torch.tensor([1.0, 2.0, 3.4, -1.0]).reshape(1, 4, 1, 1)
    for given in ([x, frac, None, None, None, None], [x, frac, None, scale, shift, None], [x, torch.tensor(2.0), None, None, shift.double(), addend]):
        plan = plan_of(SAT, width, 0.0, None)
        fused = native.fused(plan, x, given[1], None, given[3], given[4], given[5])
        assert fused is not None

        slots = [place for place, t in enumerate(given) if t is not None]

        def spread(t: tuple[Tensor, ...], slots: list[int] = slots) -> list[Tensor | None]:
            every: list[Tensor | None] = [None] * 6
            for place, one in zip(slots, t, strict=True):
                every[place] = one
            return every

        def in_python(*t: Tensor, way: Whole = Whole(plan, fused, 1.0)) -> Tensor:  # noqa: B008
            return Step.apply(way, *spread(t))  # type: ignore[no-any-return, no-untyped-call]

        def run(*t: Tensor) -> Tensor:
            x, frac, ints, scale, shift, addend = spread(t)
            assert x is not None
            assert frac is not None
            return quantize(x, frac, width, SAT, int_bits=ints, scale=scale, shift=shift, addend=addend, negative_slope=0.0)

        found = []
        for call in (in_python, run):
            leaves = [leaf(t) for t in given if t is not None]
            out = call(*leaves)
            out.backward(torch.arange(out.numel(), dtype=out.dtype).reshape(out.shape).cos())
            found.append([out.detach(), *(t.grad for t in leaves)])
        assert all(torch.equal(a, b) and a.dtype is b.dtype and a.stride() == b.stride() for a, b in zip(*found, strict=True))


@needs_step
def test_word_lengths_of_their_own(numbers: Tensor) -> None:
    frac, integer = torch.rand(4, generator=torch.Generator().manual_seed(1)) * 4, torch.tensor([2.0, 1.0, -4.0, 3.0])
    shape = (1, 4, 1, 1)
    plan = plan_of(SAT, 8)
    found = []
    for cpp in (False, True):
        x, f, i = leaf(numbers), leaf(frac.reshape(shape)), leaf(integer.reshape(shape))
        way = Whole(plan, native.fused(plan, x, f, i, None, None, None), 1.0)
        out = quantize(x, f, 8, SAT, int_bits=i) if cpp else Step.apply(way, x, f, i, None, None, None)  # type: ignore[no-untyped-call]
        out.square().sum().backward()
        found.append((out.detach(), x.grad, f.grad, i.grad))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@needs_step
def test_a_step_of_another_scale_is_seen(numbers: Tensor) -> None:
    """The comparison above is one: gradients that differ in their last bits differ."""
    bound = native.flat_bound(SAT, 6, 1.0, None)
    assert bound is not None
    with pytest.raises(AssertionError):
        both_ways(Flat(bound, 0.25), lambda x, f: quantize(x, f, 6, SAT, frac_grad_scale=0.25 * (1 + 2**-20)), [numbers, torch.tensor(3.0)])


@needs_step
def test_refusals_are_those_of_python(numbers: Tensor) -> None:
    with pytest.raises(ExactnessError, match="fractional bits are outside"):
        quantize(leaf(numbers), leaf(300.0), 8, SAT)
    x, frac = leaf(numbers), leaf(3.0)
    (by_x,) = torch.autograd.grad(quantize(x, frac, 8, SAT).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        by_x.sum().backward()
    out = quantize(x, frac, 8, SAT)
    with torch.no_grad():
        frac += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()
    out = quantize(x, frac, 8, SAT)
    out.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        out.sum().backward()


@needs_step
@pytest.mark.filterwarnings("ignore")  # torch's own, of what it compiles for forward-mode derivatives
def test_what_is_no_ordinary_tensor_goes_pythons_way(numbers: Tensor) -> None:
    step, bound = recorded(), native.flat_bound(SAT, 8, 1.0, None)
    assert step is not None
    assert bound is not None
    cast = partial(step.cast, bound.flat_address, 1.0)

    class Sub(torch.Tensor):
        pass

    point = torch.tensor(3.0)
    others = {
        "a subclass": numbers.as_subclass(Sub),
        "no data": numbers.to("meta"),
        "strided": numbers[:, ::2],
        "double": numbers.double(),
        "negated": torch.view_as_complex(numbers[..., :2].contiguous()).conj().imag,
        "none": numbers[:0],
    }
    assert cast(numbers, point) is not None
    assert {name for name, x in others.items() if cast(x, point) is not None} == set()
    assert cast(numbers, numbers[0]) is None
    assert torch.func.vmap(lambda x: torch.tensor(float(cast(x, point) is None)))(numbers).all()
    with torch.autograd.forward_ad.dual_level():
        assert cast(torch.autograd.forward_ad.make_dual(numbers, numbers), point) is None


@needs_step
def test_hooks_see_what_is_saved_and_their_errors_arrive(numbers: Tensor) -> None:
    seen: list[int] = []

    class StopError(Exception):
        pass

    def pack(t: Tensor) -> Tensor:
        seen.append(t.numel())
        return t

    def refuse(t: Tensor) -> Tensor:
        raise StopError

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        quantize(leaf(numbers), leaf(3.0), 8, SAT).sum().backward()
    assert seen[:2] == [numbers.numel(), 1]
    with pytest.raises(StopError), torch.autograd.graph.saved_tensors_hooks(refuse, lambda t: t):
        quantize(leaf(numbers), leaf(3.0), 8, SAT)


@needs_step
def test_it_looks_at_constants_as_torch_does() -> None:
    step = recorded()
    assert step is not None
    numbers, points = torch.tensor([0.5, -3.0, 0.0]), torch.tensor([7.0, 3.4, 100.0])
    assert step.holds(numbers, points, 64.0) is True
    assert step.holds(numbers, points, 63.9) is False
    assert step.holds(numbers, torch.tensor(2.0), 12.0) is True
    assert step.holds(torch.tensor([float("nan")]), torch.tensor(0.0), 1.0) is False
    assert step.holds(numbers, points[:2], 64.0) is None
    assert step.holds(numbers.double(), points, 64.0) is None
    assert [step.point(torch.tensor(bits), torch.tensor(3.0), 2) for bits in (2.5, 3.5, 5.0, 5.1, float("nan"))] == [2, 4, 5, None, None]


def test_without_headers_python_makes_the_step(numbers: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_recorded.sysconfig, "get_path", lambda name: str(tmp_path))
    assert of_recorded.recorded.__wrapped__() is None


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_refusal_of_the_compiler_is_asked_for_once(tmp_path: Path) -> None:
    code = (
        "import sys; from qfx.fixed import native_build\n"
        "print(native_build.extension('recorded.cpp', ('-std=c++20', '-fsyntax-only', '-DPLANTED', '-include', 'no_such_header.h')))"
    )
    told = [
        subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        for _ in range(2)
    ]
    assert [(run.stdout.strip(), run.stderr) for run in told] == [("None", "")] * 2
    (refused,) = (tmp_path / "qfx").iterdir()
    assert refused.suffix == ".refused"
    assert "no_such_header.h" in refused.read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_compiler_that_takes_too_long_is_stopped_and_told_of(tmp_path: Path) -> None:
    """Once in a process; nothing is remembered, so the next process asks again. One that refuses in time says nothing."""
    slow = tmp_path / "slow++"
    slow.write_text("#!/bin/sh\ncase $1 in --version) exec g++ $1;; esac\nexec sleep 60\n", encoding="utf-8")
    slow.chmod(0o755)
    code = (
        "import sys; from qfx.fixed import native_build\n"
        "native_build._COMPILE_SECONDS = 0.3\n"
        "print([native_build.extension('recorded.cpp', ('-std=c++20', '-fsyntax-only')) for _ in range(2)])"
    )
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "CXX": str(slow)}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[None, None]"
    assert run.stderr.count("NativeKernelWarning") == 1
    assert "recorded.cpp" in run.stderr
    assert "took more than 0.3 seconds" in run.stderr
    assert list((tmp_path / "qfx").iterdir()) == []


@needs_step
def test_models_are_copied_and_saved_with_what_they_know(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    x = torch.randn(8, 4)
    qmodel = qfx.quantize(model, x).train()
    qmodel(x).sum().backward()
    other = copy.deepcopy(qmodel)
    torch.save(qmodel, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    assert torch.equal(other(x), qmodel(x))
    assert torch.equal(loaded(x), qmodel(x))
