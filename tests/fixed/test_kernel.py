"""The torch Cast: equal to the definition in every mode, its gradients equal to the formulas, whatever executes it."""

from __future__ import annotations

import math

import pytest
import torch
from fixed_strategies import fixed_types
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import OVERFLOWS, adversarial, assert_equals_definition, assert_same_bits, expected_gradient, types
from torch import Tensor

from qfx.errors import DataError, ExactnessError, TypeSyntaxError
from qfx.fixed import eager
from qfx.fixed.kernel import CastMode, PlainCast, cast, channel_moments, quantize, quantize_pair
from qfx.fixed.plan import plan_of
from qfx.fixed.type import FixedType, OMode, QMode

RND_SAT = CastMode(True, QMode.RND, OMode.SAT)


def eager_cast(x: Tensor, to: FixedType) -> Tensor:
    return eager.forward(plan_of(CastMode.of(to), to.width), x, torch.tensor(float(to.frac_bits)), None, None, None, None)


# ---- the forward -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("q", QMode)
def test_float64_equals_the_definition(q: QMode) -> None:
    for to in types(q, ((1, 5), (3, 40), (8, -400), (8, 5), (24, 5), (32, -3), (53, 40))):
        x = adversarial(to, torch.float64)
        assert_equals_definition(eager_cast(x, to), x, to)


@pytest.mark.parametrize("q", QMode)
def test_float32_equals_the_definition(q: QMode) -> None:
    for to in types(q, ((1, 5), (3, 120), (8, -90), (8, 5), (24, 5), (32, -3))):
        x = adversarial(to, torch.float32)
        assert_equals_definition(eager_cast(x, to), x, to)


@settings(max_examples=150)
@given(fixed_types(max_width=53), st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
def test_any_type_and_any_number(to: FixedType, values: list[float]) -> None:
    x = torch.tensor(values, dtype=torch.float64)
    assert_equals_definition(eager_cast(x, to), x, to)


@pytest.mark.parametrize("executor", [cast, eager_cast])
def test_the_known_traps(executor: object) -> None:
    assert callable(executor)
    rnd = FixedType(24, 24, True, QMode.RND, OMode.SAT)
    trn = FixedType(8, 28, True, QMode.TRN, OMode.SAT)  # lsb 2**20: scaling a subnormal underflows to -0.0, whose floor is still -1
    wrap = FixedType(8, 4, True, QMode.RND, OMode.WRAP)
    for to, values in (
        (rnd, [0.49999997, -0.49999997, 0.5, -0.5, 8388607.0, 4194305.0, 4194303.5]),
        (FixedType(32, 32, True, QMode.RND, OMode.SAT), [8388609.0, 16777217.0, -8388609.0]),
        (trn, [-1e-45, 1e-45, -1e-30, -0.0]),
        (wrap, [7.99, 1e30, -1e30, 3.4e38, 7.97]),
        (FixedType(8, -92, False, QMode.RND, OMode.SAT), [3e38, -3e38, 1e-30]),  # scaling by 2**100 overflows float32
    ):
        x = torch.tensor(values)
        assert_equals_definition(executor(x, to), x, to)


@pytest.mark.parametrize("shape", [(), (1, 3, 1, 1), (2, 1, 1, 1), (3, 1, 1), (2, 3, 4, 5), (1, 3, 4, 1), (1, 1, 4, 1), (1, 3, 1, 5), (5,)])
def test_binary_points_per_tensor_channel_or_element(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(2, 3, 4, 5, generator=generator) * 3
    frac_bits = torch.rand(shape, generator=generator) * 8 - 1
    for mode in (RND_SAT, CastMode(True, QMode.TRN, OMode.WRAP)):
        out = quantize(x, frac_bits, 6, mode)
        assert out.shape == x.shape
        for value, number, f in zip(out.reshape(-1), x.reshape(-1), torch.broadcast_to(frac_bits, x.shape).reshape(-1), strict=True):
            assert_equals_definition(value, number, mode.type(6, round(f.item())))


def test_binary_points_round_to_even() -> None:
    x = torch.tensor([0.3])
    for f, rounded in ((4.5, 4), (3.5, 4), (4.500001, 5), (-0.5, 0)):
        assert_same_bits(quantize(x, torch.tensor(f), 16, RND_SAT), cast(x, RND_SAT.type(16, rounded)))
    fine = torch.tensor(4.5 + 1e-12, dtype=torch.float64)  # float32 would make it a tie
    assert_same_bits(quantize(x, fine, 16, RND_SAT), cast(x, RND_SAT.type(16, 5)))


def test_affine_addend_and_activation_are_exact() -> None:
    """16 products of 24-bit numbers, sums of 53 bits: float32 arithmetic anywhere would show."""
    generator = torch.Generator().manual_seed(1)

    def integers(bits: int, *shape: int) -> Tensor:
        return torch.randint(-(2**bits), 2**bits, shape, generator=generator).double()

    x, addend = integers(24, 4, 3, 5).float(), integers(24, 4, 3, 5).float()
    scale, shift = integers(24, 3) * 2.0**-20, integers(30, 3) * 2.0**-8
    for slope, upper in ((1.0, None), (0.0, 3e6), (0.25, 1.5)):
        out = quantize(
            x, torch.tensor(-20.0), 20, RND_SAT, scale=scale, shift=shift, addend=addend, negative_slope=slope, upper=upper, frac_grad_scale=1.0
        )
        v = x.double() * scale[:, None] + shift[:, None] + addend.double()
        v = torch.where(v < 0, v * slope, v)
        v = v if upper is None else v.clamp(max=upper)
        assert_equals_definition(out, v, RND_SAT.type(20, -20))


def test_result_dtypes() -> None:
    f = torch.tensor(4.0)
    single, double = torch.randn(4), torch.randn(4, dtype=torch.float64)
    assert quantize(single, f, 24, RND_SAT).dtype is torch.float32
    assert quantize(single, f, 25, RND_SAT).dtype is torch.float64
    assert quantize(double, f, 8, RND_SAT).dtype is torch.float64
    assert quantize(single, f, 8, RND_SAT, addend=single).dtype is torch.float32
    assert quantize(single, f, 8, RND_SAT, addend=double).dtype is torch.float64
    assert quantize(single.half(), f, 8, RND_SAT).dtype is quantize(single.bfloat16(), f, 8, RND_SAT).dtype is torch.float32
    assert cast(torch.arange(4), FixedType(8, 8)).dtype is torch.float64
    assert cast(single, FixedType(8, -122)).dtype is torch.float64  # 130 fractional bits are beyond float32's normal numbers


def test_half_precision_and_integers_are_taken_as_they_are() -> None:
    to = FixedType(12, 6, True, QMode.RND, OMode.WRAP)
    for x in (torch.randn(50).half() * 40, torch.randn(50).bfloat16() * 40, torch.arange(-90, 90), torch.tensor([True, False])):
        assert_equals_definition(cast(x, to), x.double(), to)


@pytest.mark.parametrize("width", [8, 32])
def test_the_forward_never_depends_on_a_mode_flag(width: int) -> None:
    x, f = torch.randn(3, 40, requires_grad=True), torch.tensor(3.3, requires_grad=True)
    trained = quantize(x, f, width, RND_SAT)
    assert trained.requires_grad
    with torch.no_grad():
        assert_same_bits(quantize(x, f, width, RND_SAT), trained)
    with torch.inference_mode():
        assert_same_bits(quantize(x, f, width, RND_SAT), trained)
    assert_same_bits(quantize(x.detach(), f.detach(), width, RND_SAT), trained)


def test_memory_layouts_and_empty_tensors() -> None:
    x = torch.randn(4, 6, 5, 3)
    f = torch.linspace(1, 5, 6).reshape(1, 6, 1, 1)
    expected = quantize(x, f, 8, RND_SAT)
    last = quantize(x.contiguous(memory_format=torch.channels_last), f, 8, RND_SAT)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert_same_bits(last.contiguous(), expected)
    assert_same_bits(quantize(x.transpose(2, 3), f, 8, RND_SAT).transpose(2, 3).contiguous(), expected)
    assert quantize(torch.empty(0, 6, 5, 3), f, 8, RND_SAT).shape == (0, 6, 5, 3)
    assert cast(torch.tensor(0.3), FixedType(8, 4)).shape == ()


def test_shapes_and_dtypes_without_data() -> None:
    out = quantize(torch.empty(2, 3, device="meta"), torch.empty((), device="meta"), 8, RND_SAT)
    assert out.is_meta
    assert (out.shape, out.dtype) == ((2, 3), torch.float32)


def test_a_planted_error_of_one_lsb_is_found() -> None:
    to = FixedType(8, 4, True, QMode.RND_CONV, OMode.SAT)
    x = torch.linspace(-9, 9, 33)
    out = cast(x, to)
    assert_equals_definition(out, x, to)
    out[17] += 2.0**-4
    with pytest.raises(AssertionError, match="the definition says"):
        assert_equals_definition(out, x, to)


# ---- the gradients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("q", QMode)
@pytest.mark.parametrize(("o", "n"), OVERFLOWS)
def test_gradients_follow_the_table(q: QMode, o: OMode, n: int) -> None:
    """One binary point and one upstream gradient per number, so that each gradient shows; both executors share this table (``test_native.py``)."""
    for signed in (True,) if o is OMode.WRAP_SM else (True, False):
        check_gradients(FixedType(6, 4, signed, q, o, n), torch.float64, eager.backward)


def check_gradients(to: FixedType, dtype: torch.dtype, backward: object) -> None:
    """Against ``expected_gradient``, each to within 4 units in the last place (or the least normal number) of the gradient's dtype."""
    assert callable(backward)
    x = adversarial(to, dtype)
    x = x[x.abs() < 1e4]
    g = torch.linspace(0.5, 2, len(x), dtype=dtype)
    frac_bits = torch.full(x.shape, float(to.frac_bits), dtype=dtype)
    by_x, by_frac, *_ = backward(plan_of(CastMode.of(to), to.width), g, x, frac_bits, None, None, None, None, 0.5)
    rows = [expected_gradient(value, to) for value in x.tolist()]
    eps, tiny = torch.finfo(dtype).eps, torch.finfo(dtype).tiny
    assert by_x.tolist() == [g_i * row[0] for g_i, row in zip(g.tolist(), rows, strict=True)]
    for actual, g_i, row in zip(by_frac.tolist(), g.tolist(), rows, strict=True):
        assert actual == pytest.approx(0.5 * g_i * row[1], rel=4 * eps, abs=tiny)


def chained(x: Tensor, scale: Tensor, shift: Tensor, addend: Tensor, slope: float, upper: float) -> Tensor:
    """What comes before the Cast, in torch's own operators."""
    u = x * scale[:, None] + shift[:, None] + addend
    leaky = torch.where(u > 0, u, u * slope)
    return torch.where(leaky < upper, leaky, torch.full_like(leaky, upper))


@pytest.mark.parametrize(("slope", "upper"), [(1.0, 3.0), (0.0, 1.5), (0.25, math.inf)])
@pytest.mark.parametrize("o", [OMode.SAT, OMode.WRAP, OMode.SAT_SYM])
def test_gradients_chain_through_everything_before_the_cast(slope: float, upper: float, o: OMode) -> None:
    generator = torch.Generator().manual_seed(3)
    mode = CastMode(True, QMode.RND, o)
    grid = [torch.randint(-64, 64, shape, generator=generator).double() / 16 for shape in ((6, 4, 9), (4,), (4,), (6, 4, 9))]
    f, w = (torch.rand(1, 4, 1, generator=generator).double() * 4 for _ in range(2))
    fused, apart = ([t.clone().requires_grad_() for t in (*grid, f, w)] for _ in range(2))
    x, scale, shift, addend, frac_bits, int_bits = fused
    options = {"int_bits": int_bits, "scale": scale, "shift": shift, "addend": addend, "negative_slope": slope, "upper": upper}
    out = quantize(x, frac_bits, 6, mode, frac_grad_scale=0.1, **options)  # type: ignore[arg-type]
    plain = quantize(chained(*apart[:4], slope, upper), apart[4], 6, mode, int_bits=apart[5], frac_grad_scale=0.1)  # type: ignore[call-arg,misc]
    assert_same_bits(out, plain)
    g = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    out.backward(g)
    plain.backward(g)
    for a, b in zip(fused, apart, strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert a.grad.shape == a.shape
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-12)


def test_a_rounding_that_overflows_is_saturated() -> None:
    x = torch.tensor([7.99, 7.95], requires_grad=True)
    quantize(x, torch.tensor(4.0), 8, RND_SAT).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0]


def test_only_the_inputs_are_kept_for_the_backward() -> None:
    x, f, w = torch.randn(3, 5, requires_grad=True), torch.tensor(3.0, requires_grad=True), torch.tensor(8.0, requires_grad=True)
    scale, shift, addend = torch.ones(5, requires_grad=True), torch.zeros(5, requires_grad=True), torch.randn(3, 5, requires_grad=True)
    inputs = {t.data_ptr() for t in (x, f, w, scale, shift, addend)}
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        quantize(x, f, 8, RND_SAT)
        quantize(x, f, 8, RND_SAT, int_bits=w, scale=scale, shift=shift, addend=addend, negative_slope=0.0)
    assert kept
    assert set(kept) <= inputs


def test_gradients_flow_where_they_are_wanted_only() -> None:
    x, f = torch.randn(4, 3), torch.tensor(3.0, requires_grad=True)
    quantize(x, f, 8, RND_SAT).sum().backward()
    assert f.grad is not None
    y = torch.randn(4, 3, requires_grad=True)
    quantize(y, f.detach(), 8, RND_SAT).sum().backward()
    assert y.grad is not None
    assert not quantize(x, f.detach(), 8, RND_SAT).requires_grad


def test_float32_gradients_have_the_dtypes_of_their_tensors() -> None:
    x, f = torch.randn(4, 3, requires_grad=True), torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    w, scale = torch.tensor(27.0, dtype=torch.float64, requires_grad=True), torch.ones(3, requires_grad=True)
    quantize(x, f, 30, RND_SAT, int_bits=w, scale=scale).sum().backward()  # a float64 result
    for tensor in (x, f, w, scale):
        assert tensor.grad is not None
        assert tensor.grad.dtype is tensor.dtype


def test_a_second_derivative_is_refused() -> None:
    x, f = torch.randn(4, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    for width in (8, 30):
        (grad,) = torch.autograd.grad(quantize(x, f, width, RND_SAT).square().sum(), f, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            grad.backward()


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_cast_refuses_what_has_no_fixed_point_value(bad: float) -> None:
    x = torch.zeros(3, 4)
    x[1, 2] = bad
    with pytest.raises(DataError, match=r"at flat index 6 of a tensor of shape \(3, 4\)"):
        cast(x, FixedType(8, 4))
    with pytest.raises(DataError, match="flat index 6"):
        quantize(torch.zeros(3, 4), torch.tensor(4.0), 8, RND_SAT, addend=x, check_finite=True)


def test_a_finite_tensor_whose_sum_overflows_is_fine() -> None:
    x = torch.full((9,), 3e38)
    assert cast(x, FixedType(8, 4, o=OMode.SAT)).tolist() == [7.9375] * 9


def test_words_beyond_float64_are_refused() -> None:
    with pytest.raises(ExactnessError, match="54 bits"):
        cast(torch.zeros(2), FixedType(54, 4))
    with pytest.raises(ExactnessError, match="54 bits"):
        quantize(torch.zeros(2), torch.tensor(4.0), 54, RND_SAT)


@pytest.mark.parametrize("f", [math.nan, math.inf, 121.0, -101.0])
@pytest.mark.parametrize("shape", [(), (1, 3), (2, 3)])
def test_binary_points_beyond_the_dtype_are_refused(f: float, shape: tuple[int, ...]) -> None:
    frac_bits = torch.full(shape, 4.0)
    frac_bits.reshape(-1)[-1] = f
    with pytest.raises(ExactnessError, match=r"fractional bits are outside -100\.\.120"):
        quantize(torch.zeros(2, 3), frac_bits, 8, RND_SAT)
    if math.isfinite(f):
        quantize(torch.zeros(2, 3).double(), frac_bits, 8, RND_SAT)
    else:
        with pytest.raises(ExactnessError, match=r"outside -512\.\.566"):
            quantize(torch.zeros(2, 3).double(), frac_bits, 8, RND_SAT)


def test_misfits_are_refused() -> None:
    x, f = torch.zeros(2, 3), torch.tensor(4.0)
    with pytest.raises(DataError, match="frac_bits has shape"):
        quantize(x, torch.zeros(4, 2, 3), 8, RND_SAT)
    with pytest.raises(DataError, match="frac_bits has shape"):
        quantize(x, torch.zeros(2), 8, RND_SAT)
    with pytest.raises(DataError, match="addend has shape"):
        quantize(x, f, 8, RND_SAT, addend=torch.zeros(3))
    with pytest.raises(DataError, match="scale has shape"):
        quantize(x, f, 8, RND_SAT, scale=torch.zeros(2))
    with pytest.raises(DataError, match="complex"):
        cast(torch.zeros(2, dtype=torch.complex64), FixedType(8, 4))
    with pytest.raises(TypeSyntaxError, match="AP_WRAP_SM"):
        CastMode(False, QMode.TRN, OMode.WRAP_SM)
    with pytest.raises(TypeSyntaxError, match="N is 9"):
        quantize(x, f, 8, CastMode(True, QMode.TRN, OMode.WRAP, 9))
    with pytest.raises(DataError, match="negative_slope"):
        quantize(x, f, 8, RND_SAT, negative_slope=math.nan)


# ---- statistics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(500, 5), (3, 70, 8, 9), (2, 3, 50)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_channel_moments_survive_a_large_mean(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 3 + 1e4).to(dtype)
    tensors = [x, x.contiguous(memory_format=torch.channels_last)] if x.dim() == 4 else [x, x.flip(0).transpose(0, 1).contiguous().transpose(0, 1)]
    for tensor in tensors:
        axes = [axis for axis in range(x.dim()) if axis != 1]
        for mean, variance in (channel_moments(tensor), eager.channel_moments(tensor)):
            torch.testing.assert_close(mean, tensor.double().mean(axes), rtol=1e-13, atol=0)
            torch.testing.assert_close(variance, tensor.double().var(axes, correction=0), rtol=1e-10, atol=0)


def test_channel_moments_of_a_constant_and_of_nothing() -> None:
    mean, variance = channel_moments(torch.full((7, 2), 0.1, requires_grad=True))
    assert not mean.requires_grad
    assert variance.tolist() == [0.0, 0.0]
    for bad in (torch.zeros(3), torch.zeros(0, 3)):
        with pytest.raises(DataError, match="no channels or no elements"):
            channel_moments(bad)


# ---- torch.compile --------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("default")  # dynamo itself warns when it looks at the gradient of a graph's output
def test_torch_compile_steps_around_the_cast() -> None:
    x, f = torch.randn(5, 6, requires_grad=True), torch.tensor(4.0, requires_grad=True)

    def model(x: Tensor) -> Tensor:
        return quantize(cast(torch.relu(x), FixedType(12, 4)) * 3, f, 8, RND_SAT) * 2

    assert_same_bits(torch.compile(model, backend="eager")(x), model(x))


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_pair_is_two_casts(per_channel: bool) -> None:
    """``quantize_pair`` gives the numbers and the gradients of two ``quantize``, in one step of autograd or (per channel) in two."""
    generator = torch.Generator().manual_seed(11)
    mode = CastMode(True, QMode.RND_CONV, OMode.SAT, 0)

    def arguments() -> tuple[PlainCast, PlainCast]:
        torch.manual_seed(5)
        x, y = torch.randn(6, 4, requires_grad=True), torch.randn(6, requires_grad=True)
        x_bits = torch.full((6, 1) if per_channel else (), 2.3, requires_grad=True)
        y_bits = torch.tensor(5.0, requires_grad=True)
        return PlainCast(x, x_bits, 4, mode, 0.5), PlainCast(y, y_bits, 7, mode, 0.25)

    weights = torch.randn(6, 4, generator=generator), torch.randn(6, generator=generator)
    pair, alone = arguments(), arguments()
    results = quantize_pair(*pair)
    expected = [quantize(c.x, c.frac_bits, c.width, c.mode, frac_grad_scale=c.frac_grad_scale) for c in alone]
    for result, other in zip(results, expected, strict=True):
        assert torch.equal(result, other)
    sum((r * w).sum() for r, w in zip(results, weights, strict=True)).backward()
    sum((r * w).sum() for r, w in zip(expected, weights, strict=True)).backward()
    for c, d in zip(pair, alone, strict=True):
        assert torch.equal(c.x.grad, d.x.grad)
        assert torch.equal(c.frac_bits.grad, d.frac_bits.grad)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(quantize_pair(*pair), expected, strict=True))


def test_views_that_say_minus_are_read_as_what_they_say() -> None:
    """torch keeps a lazy sign on some views (``is_neg``): memory holds the opposite number."""
    generator = torch.Generator().manual_seed(0)

    def pair(*shape: int) -> tuple[Tensor, Tensor]:
        view = torch.randn(*shape, dtype=torch.cfloat, generator=generator).conj().imag
        assert view.is_neg()
        return view, view.clone().resolve_neg()

    mode = CastMode(o=OMode.SAT)
    view, plain = pair(6, 4)
    bits = torch.tensor(3.0)
    to = FixedType(8, 5, o=OMode.SAT)
    assert torch.equal(cast(view, to), cast(plain, to))
    assert torch.equal(quantize(view, bits, 8, mode), quantize(plain, bits, 8, mode))
    mean, expected = channel_moments(view), channel_moments(plain)
    assert torch.equal(mean[0], expected[0])
    assert torch.equal(mean[1], expected[1])
    (scale, scale_plain), (shift, shift_plain), (addend, addend_plain) = pair(4), pair(4), pair(6, 4)
    assert torch.equal(
        quantize(view, bits, 8, mode, scale=scale, shift=shift, addend=addend),
        quantize(plain, bits, 8, mode, scale=scale_plain, shift=shift_plain, addend=addend_plain),
    )
    first = quantize_pair(PlainCast(view, bits, 8, mode, 1.0), PlainCast(plain, bits, 8, mode, 1.0))
    assert torch.equal(first[0], first[1])
    x, y = plain.clone().requires_grad_(), plain.clone().requires_grad_()
    gradient, gradient_plain = pair(6, 4)
    quantize(x, bits, 8, mode).backward(gradient)
    quantize(y, bits, 8, mode).backward(gradient_plain)
    assert torch.equal(x.grad, y.grad)
