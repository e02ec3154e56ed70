"""Constants of few digits in words of learned lengths: projected, trained, pruned, kept in checkpoints, and the same in every executor."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from executors import same_in_torch_and_the_file
from support.bundles import Bundle, build_bundle
from torch import Tensor, nn

import qfx
from qfx.errors import ModelFileError, RecipeError
from qfx.fixed.digits import DigitForm, digit_count, few_digits, k_hot, most_digits, nearest
from qfx.fixed.kernel import CastMode, quantize
from qfx.fixed.type import OMode, QMode
from qfx.hardware.board import board
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Request, Schedule
from qfx.hardware.folding.plan import shallow_estimate
from qfx.hardware.folding.search import resolve
from qfx.hardware.project.project import prepare
from qfx.hardware.unrolled.plan import plan
from qfx.ir.graph import Graph
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.nn.casts import digits as fixed_words
from qfx.nn.casts.digit_words import numbers, project
from qfx.nn.quantizer import Quantizer
from qfx.ptq.rounding.grid import integer_range
from qfx.recipe import Recipe, Spec
from qfx.testing import assert_bit_exact

FORMS: tuple[DigitForm, ...] = ("signed", "ones")
SAT = CastMode(q=QMode.RND, o=OMode.SAT)


def of_words(x: Tensor, points: Tensor, lengths: Tensor, table: Any, scale: float = 1.0) -> Tensor:
    return project(x, points, lengths - points, table, scale)


# ---- the projection ----


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("o", [OMode.SAT, OMode.SAT_SYM])
def test_each_position_has_the_nearest_in_its_word(form: DigitForm, signed: bool, o: OMode) -> None:
    """On every eighth of a unit, in words of all lengths at once, at several binary points, in float32 and float64."""
    longest = 7
    units = np.arange(8 * (-(2**longest)) - 9, 8 * 2**longest + 9) / 8
    lengths, points = np.arange(-1, longest + 1)[:, None], np.array([-3, 0, 7] * 3)[:, None]
    mode = CastMode(signed, o=o)
    for digits in range(1, most_digits(longest, signed, form) + 1):
        table = numbers(longest, mode, digits, form)
        rows = [
            nearest(units, few_digits(n, signed, min(digits, most_digits(n, signed, form)), form, o is OMode.SAT_SYM and signed and n > 1))
            for n in range(1, 8)
        ]
        expected = np.ldexp(np.stack([0 * units, 0 * units, *rows]), -points)
        x = torch.from_numpy(np.ldexp(units, -points))
        f, w = torch.from_numpy(points).float(), torch.from_numpy(lengths).float()
        for given in (x, x.float()):
            found = of_words(given, f + 0.3, w, table)
            assert found.dtype is given.dtype
            assert np.array_equal(found.double().numpy(), expected)


@pytest.mark.parametrize("o", [OMode.SAT, OMode.SAT_SYM])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_with_all_digits_it_is_the_cast(form: DigitForm, signed: bool, o: OMode) -> None:
    """Forward and backward, in words of every length from none."""
    x = (torch.arange(-1400, 1400) / 8 / 16).requires_grad_()
    mode = CastMode(signed, QMode.RND, o)
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    for length in range(9):
        f, i = torch.tensor(4.3, requires_grad=True), torch.tensor(length - 4.4, requires_grad=True)
        table = numbers(8, mode, most_digits(8, signed, form), form)
        found = []
        for cast in (project(x, f, i, table, 0.5), quantize(x, f, 8, mode, int_bits=i, frac_grad_scale=0.5)):
            found.append((cast, *torch.autograd.grad((cast * weight).sum(), (x, f, i))))
        assert torch.equal(found[0][0], found[1][0])
        assert torch.equal(found[0][1], found[1][1])
        torch.testing.assert_close(found[0][2:], found[1][2:], atol=1e-4, rtol=1e-4)  # sums of floats


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("o", [OMode.SAT, OMode.SAT_SYM])
def test_words_of_one_length_are_those_that_are_not_learned(form: DigitForm, o: OMode) -> None:
    """Values, and what lies beyond the ends."""
    x = torch.linspace(-300, 300, 4001, dtype=torch.float64, requires_grad=True)
    f = torch.zeros(())
    for digits in (1, 2, 3):
        one = fixed_words.project(x, f, fixed_words.numbers(8, CastMode(o=o), digits, form))
        for longest in (8, 11):
            other = project(x, f, torch.tensor(8.0), numbers(longest, CastMode(o=o), digits, form))
            assert torch.equal(one, other)
            assert torch.equal(*(torch.autograd.grad(value.sum(), x, retain_graph=True)[0] for value in (one, other)))


def test_the_gradients_are_those_of_the_docstring() -> None:
    x = torch.tensor([3.0, 1.4, 5.9, 95.9, 96.0, 300.0, -300.0, 7.0, 0.7], requires_grad=True)
    f, i = torch.zeros(9, requires_grad=True), torch.tensor([8.0] * 7 + [2.0, 0.0], requires_grad=True)
    value = project(x, f, i, numbers(8, SAT, 1, "signed"))
    assert value.tolist() == [4.0, 1.0, 4.0, 64.0, 64.0, 64.0, -128.0, 1.0, 0.0]
    value.sum().backward()
    assert x.grad is not None
    assert f.grad is not None
    assert i.grad is not None
    assert x.grad.tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 1]
    torch.testing.assert_close(f.grad, torch.tensor([0, 0.4, 0, 0, 0, 0, 0, 1, 0.7]) * math.log(2))
    torch.testing.assert_close(i.grad, torch.tensor([0, 0, 0, 0, 64.0, 64, -128, 2, 0]) * math.log(2))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("digits", [1, 2, 3])
def test_the_resolution_has_the_slope_of_the_expected_error(digits: int, form: DigitForm) -> None:
    """Evenly spread numbers at a fixed range. A bit less behind the point makes four times as much of the error of numbers between neighbours on the
    grid, and leaves that of all others; the gradient is that of such a parabola, -2 * ln2 times the first part."""
    x = torch.arange(-(2**13), 2**13, dtype=torch.float64) / 2**7 + 2**-8  # half of the range: nothing lies beyond its ends
    table = numbers(12, SAT, digits, form)

    def error(f: Tensor) -> Tensor:
        return (project(x, f, torch.tensor(8.0), table) - x).square().sum()

    for points in (1.0, 2.0, 3.0):
        f = torch.tensor(points, requires_grad=True)
        now = error(f)
        (slope,) = torch.autograd.grad(now, f)
        part = float(error(f.detach() - 1) - now.detach()) / 3
        assert 0 < part < float(now.detach()) * 1.001
        assert float(slope) == pytest.approx(-2 * math.log(2) * part, rel=0.02)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("digits", [1, 2])
def test_the_range_has_the_slope_of_the_error(digits: int, form: DigitForm) -> None:
    """Of numbers beyond the ends the result is a smooth function of the range between whole numbers of bits: the gradient is its derivative."""
    x = torch.tensor([200.0, -900.0, 300.0, -700.0], dtype=torch.float64)
    for length in (5, 6):
        f, i = torch.tensor(0.0, requires_grad=True), torch.tensor(float(length), requires_grad=True)
        value = project(x, f, i, numbers(8, SAT, digits, form))
        (slope,) = torch.autograd.grad((value - x).square().sum(), i)
        more, less = (project(x, f, i + step, numbers(8, SAT, digits, form)).detach() for step in (1, -1))
        value = value.detach()
        # end(I) = scale * 2**I + rest, through the ends of the words a bit longer and a bit shorter
        expected = sum(2 * (float(v) - float(n)) * math.log(2) * (float(m) - float(s)) / 1.5 for v, n, m, s in zip(value, x, more, less, strict=True))
        assert float(slope) == pytest.approx(expected, rel=1e-6)


def test_positions_share_a_word_length_or_have_their_own() -> None:
    """In every granularity the cast is the projection, position by position; gradients are summed to the positions."""
    x = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    for granularity, shape in (("tensor", ()), ("channel", (4, 1, 1)), ("element", (4, 3, 5))):
        cast = Quantizer(Spec(6, digits=2, granularity=granularity, learn_width=True), channel_axis=0, name="layer.weight")  # type: ignore[arg-type]
        cast.initialize(x)
        assert cast.frac_bits.shape == cast.bits().shape == shape
        moved(cast, 3)
        value, lengths, points = cast(x).value, cast.word_lengths().expand(x.shape), cast.points().expand(x.shape)
        for v, n, f, q in zip(*(t.detach().flatten().tolist() for t in (x, lengths, points, value)), strict=True):
            allowed = few_digits(int(n), True, 2) if n else np.zeros(1, dtype=np.int64)
            assert q == nearest(np.array([v * 2**f]), allowed)[0] * 2.0**-f
        value.sum().backward()
        assert cast.frac_bits.grad is not None
        assert cast.frac_bits.grad.shape == cast.int_bits.grad.shape == shape  # type: ignore[union-attr]


# ---- recipes and checkpoints ----


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"digits": 5}, "more than 524288 32-bit numbers of 5 signed digits, and a learned word may come to be as long"),
        ({"digits": 17}, "no 32-bit number has more than 16 signed digits"),
        ({"digits": 2, "o": "AP_WRAP"}, "o is 'AP_WRAP'"),
        ({"digits": 2, "accumulator": 16}, "learn_width is True, with which weights cannot be kept within an accumulator"),
    ],
)
def test_what_a_spec_refuses(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(RecipeError, match=what):
        Spec(8, learn_width=True, **changes)
    assert Spec(3, learn_width=True, digits=4)  # a word that may grow
    recipe = Recipe(weight=Spec(3, learn_width=True, digits=4))
    assert Recipe.from_toml(recipe.to_toml()) == recipe


def few(digits: int, form: DigitForm = "signed", **changes: Any) -> Recipe:
    """Every constant that multiplies has at most so many digits, in words of learned lengths."""
    spec = Spec(12, digits=digits, digit_form=form, learn_width=True, **changes)
    return Recipe.uniform(8, weight=replace(spec, width=6), scale=spec, reciprocal=replace(spec, learn=False, learn_range=False), constant=spec)


def network() -> nn.Sequential:
    """Every role that multiplies: weights, scales, reciprocals and slopes."""
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(3, 1), nn.Conv2d(4, 6, 3), nn.PReLU(6), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip
    slopes = net[5]
    assert isinstance(slopes, nn.PReLU)
    nn.init.normal_(slopes.weight)
    return net.eval()


def images(count: int = 16) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def moved(cast: Quantizer, seed: int) -> None:
    """Word lengths other than at the start, some of them none."""
    generator, held = torch.Generator().manual_seed(seed), cast.learned_ints
    assert held is not None
    steps = torch.randint(-3, 3, cast.frac_bits.shape, generator=generator)
    held.detach().add_(steps)
    cast.frac_bits.detach().add_(torch.randint(-1, 2, cast.frac_bits.shape, generator=generator))
    if held.dim() and held.numel() > 4:
        held.detach().view(-1)[1::4] = -50.0


def few_words(digits: int, form: DigitForm = "signed", granularity: str = "element") -> nn.Module:
    q = qfx.quantize(network(), images(), few(digits, form, granularity=granularity)).eval()
    for place, (_, cast) in enumerate(qfx.quantizers(q)):
        if cast.spec.learn_width:
            moved(cast, place)
    return q


def test_a_checkpoint_knows_digits_and_word_lengths() -> None:
    two = few_words(2)
    again = qfx.quantize(network(), images(), few(2, granularity="element"))
    again.load_state_dict(two.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(images()), two(images()))
    for recipe, told in (
        (few(3, granularity="element"), "a learned number of bits.*digits=2, signed.*'digits': 2"),
        (Recipe(weight=Spec(6, granularity="element", learn_width=True)), r"Override\('0.weight', {'digits': 2}\)"),
        (Recipe(weight=Spec(6, granularity="element", digits=2)), r"Override\('0.weight', {'learn_width': True}\)"),
    ):
        with pytest.raises(ModelFileError, match=f"(?s){told}"):
            qfx.quantize(network(), images(), recipe).load_state_dict(two.state_dict())
    free = qfx.quantize(network(), images(), Recipe(weight=Spec(6, granularity="element", learn_width=True)))
    with pytest.raises(ModelFileError, match=r"Override\('0.weight', {'digits': 16}\)"):
        two.load_state_dict(free.state_dict())
    named = Quantizer(Spec(6, granularity="element", learn_width=True, digits=16), channel_axis=0)  # as the remedy says
    named.initialize(network()[0].weight.detach())  # type: ignore[operator]
    assert named.misfit(free.state_dict(), "0.weight_cast.") is None


# ---- training ----


@pytest.mark.parametrize("digits", [1, 2])
def test_training_trades_bits_for_loss(digits: int) -> None:
    """A cost of bits shortens words and prunes some; the loss alone is lower after training than before."""
    x, y = images(64), torch.randint(3, (64,), generator=torch.Generator().manual_seed(2))
    q = qfx.quantize(network(), x, few(digits, granularity="element"))
    optimizer = torch.optim.Adam(qfx.parameter_groups(q, lr=0.01, binary_point_lr=0.1))
    learned = [cast for _, cast in qfx.quantizers(q) if cast.spec.learn_width and cast.spec.learn]
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        losses.append(nn.functional.cross_entropy(q(x), y))
        (losses[-1] + 0.01 * torch.stack([cast.bits().mean() for cast in learned]).sum()).backward()
        optimizer.step()
    lengths = torch.cat([cast.word_lengths().flatten() for cast in learned])
    assert float(losses[-1].detach()) < float(losses[0].detach())
    assert 0 < float(lengths.mean()) < 6
    for node in qfx.to_graph(q).nodes:
        for role, const in node.op.constants().items():
            assert role in ("bias", "shift") or digit_count(const.raw).max() <= digits


def test_roundings_are_chosen_among_what_is_left() -> None:
    cast = Quantizer(Spec(6, digits=1, learn_width=True), channel_axis=0, name="layer.weight")
    cast.initialize(torch.randn(9))
    with torch.no_grad():
        cast.int_bits += 2
    allowed = cast.allowed()
    assert integer_range(cast) == (-128, 127)
    assert allowed is not None
    assert allowed.raw.tolist() == few_digits(8, True, 1).tolist()


def test_a_budget_is_met() -> None:
    x, y = images(64), torch.randint(3, (64,), generator=torch.Generator().manual_seed(2))
    q = qfx.quantize(network(), x, few(2, granularity="element"))
    budget = qfx.Budget(mean_weight_bits=2)
    optimizer = torch.optim.Adam(qfx.parameter_groups(q, lr=0.01, binary_point_lr=0.1))
    for _ in range(60):
        optimizer.zero_grad()
        (nn.functional.cross_entropy(q(x), y) + budget.loss(q)).backward()
        optimizer.step()
    budget.meet(q)
    assert budget.measure(q).met
    weights = [const.raw for node in qfx.to_graph(q).nodes for role, const in node.op.constants().items() if role == "weight"]
    assert max(int(digit_count(raw).max()) for raw in weights) == 2


# ---- executors ----


@pytest.mark.parametrize("granularity", ["tensor", "channel", "element"])
def test_every_constant_has_few_digits(granularity: str, tmp_path: Path) -> None:
    for digits, form in ((1, "signed"), (2, "signed"), (3, "ones")):
        q = few_words(digits, form, granularity)  # type: ignore[arg-type]
        same_in_torch_and_the_file(q, images(), tmp_path)
        for node in qfx.to_graph(q).nodes:
            for role, const in node.op.constants().items():
                if role not in ("bias", "shift"):
                    most = digit_count(const.raw).max() if form == "signed" else max(len(k_hot(value)) for value in const.raw.ravel().tolist())
                    assert most <= digits, (node.name, role)


@pytest.mark.usefixtures("gxx")
def test_cpp(tmp_path: Path) -> None:
    """The streaming C++, which multiplies nowhere (``--shift-and-add``)."""
    graphs = [qfx.to_graph(few_words(2))]
    schedules = [resolve(graph, board("ultra96v2"), Request(shift_and_add=True), clock_ns=5).schedule for graph in graphs]
    for graph, schedule in zip(graphs, schedules, strict=True):
        assert shallow_estimate(lower(graph, schedule), board("ultra96v2")).total.dsp == 0
    same_in_designs(build_bundle(list(zip(graphs, schedules, strict=True)), tmp_path), graphs, images())


@pytest.mark.usefixtures("gxx")
def test_unrolled(tmp_path: Path) -> None:
    """The adder graphs are made of the digits that are left: fewer of them cost less, and a cost in training is that of what would be built."""
    torch.manual_seed(2)
    net, x = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(16, 6)
    graphs, luts = [], []
    for digits in (1, 2, None):
        spec = Spec(8, learn_width=True, granularity="element", digits=digits)
        q = qfx.quantize(net, x, Recipe(weight=spec)).eval()
        for place, (_, cast) in enumerate(qfx.quantizers(q)):
            if cast.spec.learn_width:
                moved(cast, place)
        found = qfx.cost(q, "zcu102", style="unrolled")
        assert found.dsp.item() == 0
        luts.append(found.lut.item())
        graphs.append(qfx.to_graph(q))
        assert luts[-1] == plan(prepare(graphs[-1]), board("zcu102"), clock_ns=board("zcu102").clock_ns).estimate.total.lut
    assert luts == sorted(luts)
    assert luts[0] < luts[1] < luts[2]
    bundle = build_bundle([(graph, Schedule()) for graph in graphs[:2]], tmp_path, unrolled=True)
    same_in_designs(bundle, graphs[:2], x)


def same_in_designs(bundle: Bundle, graphs: list[Graph], x: Tensor) -> None:
    for place, graph in enumerate(graphs):
        raw = quantize_input(graph, x.numpy())
        assert_bit_exact(bundle.run_from_raw(place, raw), run_from_raw(graph, raw), names=(f"design {place} in C++", "interpreter"))
