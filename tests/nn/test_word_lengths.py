"""Learned word lengths: quantizers, training, pruning down to no bits, checkpoints, and the same integers in torch and the interpreter."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from nn_models import check_exact
from torch import Tensor, nn

import qfx
from qfx import DataError, Override, Recipe, Spec
from qfx.fixed import native
from qfx.fixed.kernel import cast
from qfx.fixed.type import FixedType, OMode
from qfx.ir.interpret import run_raw
from qfx.nn.casts import word_length
from qfx.nn.quantizer import Quantizer
from qfx.ptq.allocation.front import weight_bits
from qfx.ptq.rounding.grid import integer_range
from qfx.testing import adversarial_inputs, assert_bit_exact
from qfx.verify import onnx_runtime

SHAPES = {("tensor", 1): (), ("channel", 1): (1, 3, 1), ("channel", 0): (4, 1, 1), ("element", 1): (1, 3, 5), ("element", 0): (4, 3, 5)}


def made(spec: Spec, x: Tensor, **options: object) -> Quantizer:
    quantizer = Quantizer(spec, name="layer.weight", **options)  # type: ignore[arg-type]
    quantizer.initialize(x)
    return quantizer


def spread(q: Quantizer, seed: int, least: int = -2, most: int = 9) -> None:
    """Word lengths of ``least`` (below none) to ``most``, and binary points some places away."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        q.frac_bits += torch.randint(-2, 3, q.frac_bits.shape, generator=generator)
        q.int_bits.copy_(torch.randint(least, most + 1, q.frac_bits.shape, generator=generator) - q.frac_bits.round())


@pytest.mark.parametrize("o", ["AP_SAT", "AP_SAT_SYM"])
@pytest.mark.parametrize(("granularity", "axis"), SHAPES)
def test_each_position_has_a_word_length_of_its_own(granularity: str, axis: int, o: str) -> None:
    x = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    for seed in range(3):
        q = made(Spec(6, o=o, granularity=granularity, learn_width=True), x, channel_axis=axis)  # type: ignore[arg-type]
        assert q.frac_bits.shape == q.int_bits.shape == q.bits().shape == SHAPES[granularity, axis]
        assert set(q.bits().flatten().tolist()) == {6.0}
        spread(q, seed)
        y, lengths = q(x), q.word_lengths().expand(x.shape)
        points = q.frac_bits.detach().round().expand(x.shape)
        for index in range(x.numel()):
            at = torch.unravel_index(torch.tensor(index), x.shape)
            width, bits = int(lengths[at]), int(points[at])
            assert y.value[at] == (cast(x[at], FixedType(width, width - bits, True, q.spec.q, q.spec.o)) if width else 0.0)
        assert q.word_length == int(q.word_lengths().max())
        for channel, interval in zip(y.value.detach().double().movedim(axis, 0), y.interval.spread(x.shape[axis]), strict=True):
            raw = channel * 2.0**interval.frac_bits
            assert torch.equal(raw, raw.round())
            assert interval.lo <= raw.min()
            assert raw.max() <= interval.hi


def test_elements_begin_on_the_grid_of_their_channel() -> None:
    x = torch.randn(4, 30, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.01, 1.0, 10.0, 100.0])[:, None]
    element, channel = (made(Spec(5, granularity=granularity, learn_width=True), x, channel_axis=0) for granularity in ("element", "channel"))  # type: ignore[arg-type]
    assert torch.equal(element.frac_bits, channel.frac_bits.expand(4, 30))
    assert torch.equal(element(x).value, channel(x).value)


def test_bits_are_the_true_word_lengths_with_the_gradient_of_their_sum() -> None:
    q = made(Spec(4, granularity="element", learn_width=True, frac_bits=1), torch.randn(6), channel_axis=0)
    with torch.no_grad():
        q.frac_bits.copy_(torch.tensor([1.4, 2.5, -3.0, 1.6, 0.2, 7.0]))
        q.int_bits.copy_(torch.tensor([2.4, 1.5, 1.0, -1.4, 0.0, 60.0]))
    bits = q.bits()
    assert bits.tolist() == [3.0, 4.0, 0.0, 1.0, 0.0, 32.0]
    bits.sum().backward()
    assert q.frac_bits.grad is not None
    assert q.frac_bits.grad.tolist() == q.int_bits.grad.tolist() == [1.0, 1.0, 0.0, 1.0, 1.0, 0.0]  # type: ignore[union-attr]
    fixed = made(Spec(5, granularity="channel"), torch.randn(2, 3))
    assert fixed.bits().tolist() == [[5.0] * 3]
    assert not fixed.bits().requires_grad


@pytest.mark.parametrize(("learn", "learn_range"), [(True, True), (True, False), (False, True), (False, False)])
def test_resolution_and_range_are_learned_apart_or_together(learn: bool, learn_range: bool) -> None:
    x = torch.randn(50, generator=torch.Generator().manual_seed(0))
    q = made(Spec(4, learn_width=True, learn=learn, learn_range=learn_range), x)
    before = [p.detach().clone() for p in (q.frac_bits, q.int_bits)]
    free = [p for p in q.parameters() if p.requires_grad]
    assert len(free) == learn + learn_range
    if free:
        optimizer = torch.optim.Adam(free, lr=0.3)
        for _ in range(8):
            optimizer.zero_grad()
            ((q(x).value - x).square().mean() - 0.1 * q.bits().sum()).backward()
            optimizer.step()
    assert [not torch.equal(a, b) for a, b in zip(before, (q.frac_bits, q.int_bits), strict=True)] == [learn, learn_range]


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("penalty", [1.0, -1.0])
def test_a_word_length_does_not_drift_away_from_its_bounds(optimizer: type[torch.optim.Optimizer], penalty: float) -> None:
    """Under a penalty for years it stands at its bound, and comes back as soon as gradients ask for it."""
    x = torch.linspace(-1, 1, 50)
    q = made(Spec(4, learn_width=True), x)
    steps = optimizer(q.parameters(), lr=0.2)  # type: ignore[call-arg]
    for _ in range(300):
        steps.zero_grad()
        (q(x).value.sum() * 0 + penalty * (q.frac_bits + q.int_bits)).backward()
        steps.step()
    q(x)
    assert q.word_length == (0 if penalty > 0 else 32 if q.frac_bits.item() + q.int_bits.item() >= 32 else q.word_length)
    assert -1.01 <= (q.frac_bits + q.int_bits).item() <= 32 + q.spec.reach
    for _ in range(60):
        steps.zero_grad()
        (-penalty * (q.frac_bits + q.int_bits)).backward()
        steps.step()
    assert q.word_length > 0


def test_what_is_not_a_number_is_named() -> None:
    q = made(Spec(4, learn_width=True, granularity="channel"), torch.randn(3, 5))
    q.int_bits.data[0, 2] = math.nan
    with pytest.raises(DataError, match=r"^layer\.weight: its learned word length is NaN"):
        q(torch.randn(3, 5))


@pytest.mark.usefixtures("gxx")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_ways_to_look_at_words_see_and_write_the_same(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for channels, learned in ((1, (True, True)), (5, (True, False)), (60, (False, True)), (7, (False, False))):
        frac, integer, start = (torch.randn(420, generator=generator, dtype=dtype) * 12 for _ in range(3))
        frac, start = frac.clamp(-60, 60), start.round()
        pairs = [(frac.clone(), integer.clone()) for _ in range(2)]
        found = native.words(*pairs[0], start, channels, 6, word_length.MAX_WIDTH, learned)
        width, *each = word_length.looked(*(t.view(channels, -1) for t in (*pairs[1], start)), 0, 6, learned).tolist()
        assert found == (width, tuple(each[:channels]), tuple(each[channels:]))
        assert torch.equal(pairs[0][0], pairs[1][0])
        assert torch.equal(pairs[0][1], pairs[1][1])


# ---- networks --------------------------------------------------------------------------------------------------------


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5)
    )


X = torch.randn(16, 2, 8, 8, generator=torch.Generator().manual_seed(1))
Y = torch.randint(5, (16,), generator=torch.Generator().manual_seed(2))


def learned(bits: int, granularity: str, **options: object) -> Spec:
    return Spec(bits, learn_width=True, granularity=granularity, **options)  # type: ignore[arg-type]


def cost(q: nn.Module) -> Tensor:
    return torch.stack([c.bits().mean() for _, c in qfx.quantizers(q) if c.spec.learn_width]).sum()


def trained(recipe: Recipe, *, steps: int = 30, factor: float = 0.05) -> nn.Module:
    q = qfx.quantize(network(), X, recipe)
    optimizer = torch.optim.Adam(qfx.parameter_groups(q, lr=0.01, binary_point_lr=0.1))
    for _ in range(steps):
        optimizer.zero_grad()
        (nn.functional.cross_entropy(q(X), Y) + factor * cost(q)).backward()
        optimizer.step()
    return q


@pytest.mark.parametrize("granularity", ["tensor", "channel", "element"])
def test_training_trades_bits_for_loss_and_stays_exact(granularity: str, tmp_path: Path) -> None:
    roles = {role: learned(6, granularity) for role in ("input", "weight", "bias", "scale", "shift", "activation", "output")}
    q = trained(Recipe(**roles), factor=0.01)
    lengths = torch.cat([c.word_lengths().flatten() for _, c in qfx.quantizers(q)])
    assert float(lengths.mean()) < 5.5
    assert granularity != "element" or bool((lengths == 0).any())
    graph = check_exact(q)
    x = adversarial_inputs(graph, np.random.default_rng(3), 7)
    qfx.export_onnx(q, tmp_path / "model.onnx")
    assert qfx.load_graph(tmp_path / "model.onnx").infos == graph.infos
    assert_bit_exact(onnx_runtime(tmp_path / "model.onnx", graph)(x), run_raw(graph, x), names=("ONNX Runtime", "interpreter"))


def test_the_cost_alone_prunes_everything_and_the_loss_alone_brings_it_back() -> None:
    q = trained(Recipe(overrides=(Override("7.weight", {"learn_width": True, "granularity": "element", "width": 3}),)), steps=80, factor=1e3)
    weights = [c for name, c in qfx.quantizers(q) if name == "7.weight"]
    assert all(c.word_length == 0 for c in weights)
    optimizer = torch.optim.Adam(qfx.parameter_groups(q, lr=0.01, binary_point_lr=0.1))
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(q(X), Y).backward()
        optimizer.step()
    assert any(c.word_length > 0 for c in weights)


def test_a_checkpoint_carries_word_lengths(tmp_path: Path) -> None:
    recipe = Recipe(weight=learned(5, "element"), activation=learned(5, "channel"))
    q = trained(recipe, steps=10)
    torch.save(q.state_dict(), tmp_path / "q.pt")
    again = qfx.quantize(network(), X, recipe)
    again.load_state_dict(torch.load(tmp_path / "q.pt", weights_only=True))
    with torch.no_grad():
        assert torch.equal(again.eval()(X), q.eval()(X))
        assert torch.equal(copy.deepcopy(q)(X), q(X))
    assert all(torch.equal(a.bits(), b.bits()) for (_, a), (_, b) in zip(qfx.quantizers(q), qfx.quantizers(again), strict=True))
    plain = qfx.quantize(network(), X, Recipe(weight=Spec(5, granularity="element"), activation=Spec(5, granularity="channel")))
    with pytest.raises(qfx.ModelFileError, match="a learned number of bits") as caught:
        plain.load_state_dict(q.state_dict())
    assert "'learn_width': True" in caught.value.remedy


def test_one_layer_may_learn_while_others_do_not() -> None:
    q = qfx.quantize(network(), X, Recipe(overrides=(Override("4.weight", {"learn_width": True, "granularity": "element", "width": 3}),)))
    assert [name for name, _ in q.named_parameters() if name.endswith("int_bits")] == ["4.weight_cast.int_bits"]
    check_exact(q)


def test_training_mode_is_no_matter() -> None:
    q = trained(Recipe(weight=learned(5, "element"), activation=learned(5, "channel", o=OMode.SAT_SYM)), steps=5)
    with torch.no_grad():
        assert torch.equal(q.eval()(X), q.train()(X))


# ---- ranges that follow the numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("q", ["AP_RND", "AP_TRN", "AP_RND_ZERO"])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "element"])
def test_weights_under_wrap_have_the_least_range_in_which_none_wraps(granularity: str, q: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 40, generator=generator)
    cast_ = made(Spec(4, q=q, o="AP_WRAP", granularity=granularity, learn_width=True), x, channel_axis=0)  # type: ignore[arg-type]
    assert [name for name, _ in cast_.named_parameters()] == ["frac_bits"]
    for scale in (1.0, 30.0, 0.01):
        y = cast_(x * scale).value.double()
        points, lengths = (t.expand(x.shape) for t in (cast_.points(), cast_.word_lengths()))
        wide = torch.stack(
            [cast(v, FixedType(50, 50 - int(f), True, cast_.spec.q)) for v, f in zip((x * scale).double().flatten(), points.flatten(), strict=True)]
        )
        assert torch.equal(y.flatten(), wide)
        raw = (y * 2.0 ** points.double()).reshape(y.shape)
        held = 2.0 ** (lengths.double() - 1)
        assert bool(((raw >= -held) & (raw <= held - 1) | (raw == 0)).all())
        tight = (raw >= held / 2) | (raw < -held / 2) | (lengths == 0) | ((lengths == 1) & (raw == -1))  # one bit less would not do
        shared = {"tensor": (0, 1), "channel": (1,), "element": ()}[granularity]
        assert bool((tight.any(shared) if len(shared) == 1 else tight.any() if shared else tight).all())


def test_ranges_of_activations_follow_training_then_stay() -> None:
    recipe = Recipe(weight=learned(6, "element", o=OMode.WRAP), activation=learned(8, "channel", o=OMode.WRAP))
    q = qfx.quantize(network(), X, recipe)
    assert not [name for name, _ in q.named_parameters() if name.endswith("int_bits")]
    before = {name: c.int_bits.clone() for name, c in qfx.quantizers(q) if c.spec.learn_width}
    with torch.no_grad():
        first = q.eval()(4 * X)
        assert all(torch.equal(before[name], c.int_bits) for name, c in qfx.quantizers(q) if c.spec.learn_width and c.channel_axis)
        assert torch.equal(copy.deepcopy(q).train()(4 * X), first)  # what is seen counts from the next forward on
        q.train()(4 * X)
    grown = {name: c.int_bits.clone() for name, c in qfx.quantizers(q) if c.spec.learn_width and c.channel_axis}
    assert any(bool((grown[name] > before[name]).any()) for name in grown)
    qfx.fix_ranges(q, X)
    assert qfx.prove_no_wrap(q, X) == tuple(name for name, c in qfx.quantizers(q) if c.spec.o is OMode.WRAP)
    fixed = {name: c.int_bits.clone() for name, c in qfx.quantizers(q) if c.spec.learn_width and c.channel_axis}
    with torch.no_grad():
        q.train()(40 * X)
    assert all(torch.equal(fixed[name], dict(qfx.quantizers(q))[name].int_bits) for name in fixed)
    with pytest.raises(DataError, match=r"^2\.output: \d+ of \d+ numbers wrap: .*\n  remedy: qfx\.fix_ranges"):
        qfx.prove_no_wrap(q, [X, 400 * X])
    assert "forward" not in vars(next(c for _, c in qfx.quantizers(q)))
    check_exact(q)


def test_a_checkpoint_knows_that_ranges_are_fixed() -> None:
    recipe = Recipe(weight=learned(6, "element", o=OMode.WRAP), activation=learned(8, "channel", o=OMode.WRAP))
    q, resumed, earlier = (qfx.quantize(network(), X, recipe) for _ in range(3))
    qfx.fix_ranges(q, X)
    state = q.state_dict()
    assert str(resumed.load_state_dict(state)) == "<All keys matched successfully>"
    before = {name: value for name, value in state.items() if not name.endswith("range_fixed")}
    assert before.keys() != state.keys()
    assert str(earlier.load_state_dict(before)) == "<All keys matched successfully>"  # of earlier days: they are as they were here
    with torch.no_grad():
        expected = q.eval()(X)
        for model in (q, resumed, earlier, copy.deepcopy(resumed)):
            assert torch.equal(model.eval()(X), expected)
            model.train()(40 * X)
            same = [torch.equal(c.int_bits, state[f"{path}.int_bits"]) for path, c in casts(model) if c.spec.learn_width and c.channel_axis]
            assert all(same) is (model is not earlier)
    float_one = qfx.float_state(q)
    assert not [name for name in float_one if name.endswith("range_fixed")]


def casts(q: nn.Module) -> list[tuple[str, Quantizer]]:
    """Every quantizer with its path."""
    return [(path, module) for path, module in q.named_modules() if isinstance(module, Quantizer)]


def test_the_proof_holds_for_word_lengths_that_are_not_learned_too() -> None:
    q = qfx.quantize(network(), X, Recipe(weight=Spec(8, o=OMode.WRAP, observer="minmax"), activation=Spec(3, o=OMode.WRAP, frac_bits=2)))
    with pytest.raises(DataError, match=r"^2\.output: .* wrap"):
        qfx.prove_no_wrap(q, X)
    with torch.no_grad():
        q.get_submodule("0").weight *= 9
    with pytest.raises(DataError, match=r"^0\.weight: .* wrap"):
        qfx.prove_no_wrap(q, X)


# ---- everything driven to zero -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["2.output", "4.weight", "7.weight", "7.output"])
def test_a_network_that_collapsed_is_refused_by_name(where: str) -> None:
    q = qfx.quantize(network(), X, Recipe(overrides=(Override(where, {"learn_width": True, "granularity": "channel"}),)))
    cast_ = dict(qfx.quantizers(q))[where]
    with torch.no_grad():
        cast_.int_bits[...] = -20.0
        q.eval()(X)  # computes on
        with pytest.raises(qfx.QfxError, match=f"^{where}: has no bits left.*, and the result no longer depends on the input") as caught:
            qfx.to_graph(q)
    assert "a smaller weight of the cost" in caught.value.remedy
    with torch.no_grad():
        cast_.int_bits.flatten()[0] = 3.0
    check_exact(q)


def test_a_branch_may_be_pruned_as_a_whole() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.a(x))
            return torch.relu(y + self.b(y))

    q = qfx.quantize(Branch(), X, Recipe(overrides=(Override("b.weight", {"learn_width": True}),)))
    with torch.no_grad():
        q.get_parameter("b.weight_cast.int_bits").fill_(-20.0)
    check_exact(q)


# ---- what else reads word lengths ----------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.gru, self.last = nn.Linear(6, 8), nn.GRU(8, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.gru(torch.tanh(self.first(x)))
        return torch.softmax(self.last(y[:, -1]), -1)


@pytest.mark.parametrize("o", ["AP_SAT", "AP_WRAP"])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "element"])
def test_tables_and_states_take_learned_words(granularity: str, o: str) -> None:
    torch.manual_seed(0)
    roles = ("input", "weight", "bias", "constant", "internal", "activation", "output")
    q = qfx.quantize(Recurrent(), torch.randn(8, 4, 6), Recipe(**{role: learned(6, granularity, o=o) for role in roles}))
    generator = torch.Generator().manual_seed(1)
    for _, cast_ in qfx.quantizers(q):
        if cast_.learned_ints is not None:
            cast_.learned_ints.detach().add_(torch.randint(-2, 3, cast_.frac_bits.shape, generator=generator))
    check_exact(q)


def test_a_rounding_for_words_of_one_length_is_refused_for_several() -> None:
    q = qfx.quantize(network(), X, Recipe(weight=learned(4, "element")))
    cast_ = dict(qfx.quantizers(q))["0.weight"]
    assert integer_range(cast_) == (-8, 7)
    assert weight_bits(q) == 4 * (6 * 2 * 9 + 8 * 6 * 9 + 5 * 32)
    with torch.no_grad():
        cast_.int_bits[0, 0, 0, 0] += 1
        cast_.int_bits[0, 0, 0, 1] -= 9
    assert weight_bits(q) == 4 * (6 * 2 * 9 + 8 * 6 * 9 + 5 * 32) + 1 - 4
    with pytest.raises(qfx.UnsupportedError, match=r"^0\.weight: its weights have learned word lengths"):
        integer_range(cast_)


def test_looking_at_a_model_between_forward_and_backward_changes_no_gradient() -> None:
    """The ranges of weights that wrap follow them at each forward, that of a cost as well."""
    torch.manual_seed(0)
    x = torch.randn(16, 6)
    model = qfx.quantize(nn.Linear(6, 3), x, Recipe(weight=Spec(6, o="AP_WRAP", granularity="element", learn_width=True)))
    grads = []
    for looks in (False, True):
        result = model(x).square().sum()
        if looks:
            model(x)
            qfx.cost(model)
        model.zero_grad()
        result.backward()
        grads.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))


def test_a_budget_may_fall_while_training_goes_on() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 6)
    model = qfx.quantize(nn.Linear(6, 3), x, Recipe(weight=Spec(6, o="AP_WRAP", granularity="element", learn_width=True)))
    budget = qfx.Budget(mean_weight_bits=6)
    before = budget.measure(model).share
    budget.limit(mean_weight_bits=3)
    assert budget.measure(model).share == pytest.approx(2 * before, rel=1e-12)
    budget.meet(model)
    assert budget.measure(model).met
    with pytest.raises(qfx.RecipeError, match="mean_weight_bits"):
        budget.limit(mean_weight_bits=0)
