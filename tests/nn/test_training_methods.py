"""Training in few bits as the literature does it: stochastic rounding, fixed gradients, loss scaling, switched words, low-rank weights, learned
levels."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from executors import same_in_torch_and_the_file
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import qfx
from qfx import FixedType, OMode, Recipe, Spec
from qfx.errors import DataError, QfxError, RecipeError
from qfx.fixed.stochastic import RANDOM_BITS, cast_word, random_array, random_bits, round_array
from qfx.ptq import search_powers
from qfx.training.adaptive import AdaptivePrecision, kl_divergence, push_down, push_up
from qfx.training.dynamic import Dynamic, dynamic, product, with_dynamic
from qfx.training.gradients import FixedGradients, FixedWeights, LossScale, best_point, rounded
from qfx.training.low_rank import low_rank


def task() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(128, 16)
    return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4)), x, (x[:, :4] + x[:, 4:8]).argmax(1)


def losses(q: nn.Module, x: Tensor, y: Tensor, optimizer: torch.optim.Optimizer, steps: int = 40) -> tuple[float, float]:
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(q(x), y)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found[0], found[-1]


# ---- stochastic rounding ----


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(-4, 12), st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=20))
def test_stochastic_rounding_is_the_definition(seed: int, frac_bits: int, values: list[float]) -> None:
    every = [*values, -1e-30, 1e-30, 0.0, -(2.0**-frac_bits), float(np.nextafter(0.5, 1)), -0.5]
    kind = FixedType(40, 40 - frac_bits, o=OMode.SAT)
    wanted = [cast_word(value, kind, seed, index) for index, value in enumerate(every)]
    assert round_array(every, frac_bits, seed).tolist() == wanted
    assert random_array(seed, 5).tolist() == [random_bits(seed, index) for index in range(5)]


def test_stochastic_rounding_is_right_on_average() -> None:
    up = round_array(np.full(100_000, 0.3), 0, 7).mean()
    assert abs(up - 0.3) < 4 * (0.21 / 100_000) ** 0.5
    assert abs(round_array(np.full(100_000, -0.3), 0, 8).mean() + 0.3) < 4 * (0.21 / 100_000) ** 0.5
    assert round_array(np.array([1 - 2.0**-RANDOM_BITS]), 0, 0).tolist() == [
        cast_word(Fraction(1) - Fraction(1, 1 << RANDOM_BITS), FixedType(8, 8), 0, 0)
    ]
    with pytest.raises(DataError, match="NaN"):
        round_array([float("nan")], 0, 0)


def test_weights_without_a_float_master_learn_only_stochastically() -> None:
    """The point of it (Gupta et al.): steps below half a last place are lost by rounding to nearest."""
    ends = {}
    for seed in (0, None):
        net, x, y = task()
        weights = FixedWeights(net.parameters(), 8, seed=seed)
        optimizer = torch.optim.SGD(net.parameters(), lr=2e-2)
        for _ in range(60):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            weights.settle()
        ends[seed] = loss.item()
        for parameter, point in zip(net.parameters(), weights.frac_bits, strict=True):
            raw = parameter.detach() * 2.0**point
            assert torch.equal(raw, raw.round())
    assert ends[0] < 0.9 * ends[None]


@pytest.mark.parametrize("seed", [0, None])
def test_single_numbers_and_empty_weights_are_rounded_too(seed: int | None) -> None:
    """Of a quantized model ``parameters()`` are binary points, too: tensors without axes."""
    net, x, _ = task()
    every = [*qfx.quantize(net, x).parameters(), nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.zeros(0, 3))]
    assert min(parameter.dim() for parameter in every) == 0
    before = [parameter.detach().double().clone() for parameter in every]
    weights = FixedWeights(every, 8, seed=seed)
    for place, (parameter, start, point) in enumerate(zip(every, before, weights.frac_bits, strict=True)):
        kind = FixedType(9, 9 - point, o=OMode.SAT)
        if seed is None:
            wanted = [round(Fraction(value) * Fraction(2) ** point) for value in start.flatten().tolist()]
        else:
            wanted = [cast_word(value, kind, seed + (place << 16), index) for index, value in enumerate(start.flatten().tolist())]
        assert (parameter.detach().double() * 2.0**point).flatten().tolist() == wanted


def test_what_makes_no_sense_is_refused() -> None:
    net, x, _ = task()
    with pytest.raises(QfxError, match="bits is 1"):
        FixedWeights(net.parameters(), 1)
    with pytest.raises(QfxError, match="no parameter that is trained"):
        FixedWeights((parameter.requires_grad_(False) for parameter in task()[0].parameters()), 8)
    with pytest.raises(QfxError, match="bits is 1"):
        FixedGradients(qfx.quantize(net, x), 1)
    for value in (0, -8, float("inf")):
        with pytest.raises(QfxError, match="the value is"):
            LossScale(value)
    with pytest.raises(RecipeError, match="no exponents"):
        search_powers(net, x, Recipe(weight=Spec(8)), 4, ())


# ---- gradients ----


def test_gradients_are_words_of_few_bits_and_training_works() -> None:
    net, x, y = task()
    q = qfx.quantize(net, x, Recipe.uniform(8))
    gradients = FixedGradients(q, 4, seed=0)
    arrived: list[tuple[str, Tensor, Tensor]] = []
    fixed_of = gradients.fixed

    def watched(grad: Tensor, name: str) -> Tensor:
        arrived.append((name, grad.clone(), fixed_of(grad, name)))
        return arrived[-1][2]

    gradients.fixed = watched  # type: ignore[method-assign]
    nn.functional.cross_entropy(q(x), y).backward()
    assert [name for name, _, _ in arrived] == ["2.output", "1.output"]
    for number, (name, grad, fixed) in enumerate(arrived, 1):
        point = gradients.frac_bits[name]
        words = [
            cast_word(value, FixedType(4, 4 - point, o=OMode.SAT_SYM), number << 20, place) for place, value in enumerate(grad.flatten().tolist())
        ]
        assert (fixed * 2.0**point).flatten().tolist() == words
        assert len(set(words)) > 3
        assert not torch.equal(fixed, grad)
    bias, (_, _, last_fixed) = q.get_submodule("2").bias.grad, arrived[0]
    assert torch.equal(bias, last_fixed.sum(0))  # what goes on is what was rounded, not what came
    gradients.fixed = fixed_of  # type: ignore[method-assign]
    first, last = losses(q, x, y, torch.optim.Adam(qfx.parameter_groups(q, lr=5e-3)))
    assert last < 0.7 * first
    assert set(gradients.frac_bits) == {"1.output", "2.output"}
    grad = torch.randn(1000)
    fixed = gradients.fixed(grad, "a") * 2.0 ** gradients.frac_bits["a"]
    assert torch.equal(fixed, fixed.round())
    assert fixed.abs().max() <= 7
    gradients.close()
    assert all(not cast.behind for _, cast in qfx.quantizers(q))


def test_forward_and_backward_are_products_of_fixed_point_numbers() -> None:
    """What a weight's gradient is: integers of few bits, times integers of few bits, summed. By the definition, in Python integers."""
    torch.manual_seed(0)
    x = torch.randn(16, 6)
    q = qfx.quantize(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), x, Recipe.uniform(6))
    gradients, arrived = FixedGradients(q, 4, seed=None), {}
    fixed = gradients.fixed
    gradients.fixed = lambda grad, name: arrived.setdefault(name, fixed(grad, name))  # type: ignore[method-assign]
    nn.functional.cross_entropy(q(x), torch.arange(16) % 3).backward()
    casts, layer = dict(qfx.quantizers(q)), q.get_submodule("2")
    with torch.no_grad():
        hidden = torch.relu(q.get_submodule("0")(casts["input"](x)).tensor())
        read = casts["1.output"](hidden).tensor()
    grid, point = int(casts["1.output"].points()), gradients.frac_bits["2.output"]
    g, a = (torch.round(part.double() * 2.0**bits).to(torch.int64).tolist() for part, bits in ((arrived["2.output"], point), (read, grid)))
    assert max(abs(raw) for row in g for raw in row) <= 7
    wanted = [[sum(g[n][o] * a[n][i] for n in range(16)) / 2.0 ** (point + grid) for i in range(5)] for o in range(3)]
    assert layer.weight.grad.tolist() == wanted
    first = (torch.round(arrived["1.output"].double() * 2.0 ** gradients.frac_bits["1.output"])).abs()
    assert first.max() <= 7
    assert torch.equal(
        q.get_submodule("0").weight.grad * 2.0 ** (gradients.frac_bits["1.output"] + int(casts["input"].points())) % 1, torch.zeros(5, 6)
    )


def test_the_interval_suits_large_gradients() -> None:
    """Among all binary points (a brute force over many) none has a smaller error of the largest twentieth."""
    torch.manual_seed(1)
    for grad in (torch.randn(4000), torch.randn(4000) ** 3, torch.cat([torch.randn(3999), torch.tensor([500.0])])):
        large = grad.abs().topk(200).values
        errors = {point: float((rounded(large, point, 4, None) - large).square().sum()) for point in range(-12, 12)}
        found = best_point(grad, 4)
        assert found is not None
        assert errors[found] == pytest.approx(min(errors.values()))
    assert best_point(torch.zeros(4), 4) is None


def test_loss_scale_skips_what_overflowed() -> None:
    net, x, y = task()
    scale = LossScale(2.0**9, patience=2)
    plain = torch.autograd.grad(nn.functional.cross_entropy(net(x), y), list(net.parameters()))
    scale.backward(nn.functional.cross_entropy(net(x), y))
    assert scale.ready(net.parameters())
    for parameter, grad in zip(net.parameters(), plain, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, grad, rtol=1e-5, atol=1e-9)
    scale.backward(nn.functional.cross_entropy(net(x), y))
    assert scale.ready(net.parameters())
    assert scale.value == 2.0**10
    next(net.parameters()).grad.fill_(float("inf"))  # type: ignore[union-attr]
    assert not scale.ready(net.parameters())
    assert scale.value == 2.0**9


# ---- word lengths that are switched ----


def divergence_by_hand(weight: np.ndarray[Any, Any], other: np.ndarray[Any, Any], bins: int) -> float:
    """sum p log(p / q) of two histograms over the weight's range."""
    edges = np.linspace(weight.min(), weight.max(), bins + 1)
    p, q = (np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / len(weight) for values in (weight, other))
    return float(sum(a * np.log(a / (b or 0.5 / len(weight))) for a, b in zip(p, q, strict=True) if a))


def test_pushing_down_keeps_the_histogram_and_no_shorter_word_does() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4000)
    width, frac_bits, divergence = push_down(weight, 64, 1e-2)
    assert divergence <= 1e-2
    exact = weight.double().numpy()

    def rounded(bits: int, point: int) -> np.ndarray[Any, Any]:
        half = 1 << bits - 1
        return np.clip(np.floor(exact * 2.0**point + 0.5), -half, half - 1) / 2.0**point  # type: ignore[no-any-return]

    assert divergence == pytest.approx(divergence_by_hand(exact, rounded(width, frac_bits), 64), rel=0.05)
    shorter = [divergence_by_hand(exact, rounded(bits, point), 64) for bits in range(2, width) for point in range(frac_bits - 4, frac_bits + 1)]
    assert min(shorter) > 1e-2
    assert push_down(weight * 2.0**-5, 64, 1e-2)[:2] == (width, frac_bits + 5)
    assert push_down(torch.tensor([1.0, -1.0, 0.0]), 2, 1e-2)[0] <= 3
    assert kl_divergence(torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0.0, 1.0, 1.0, 1.0]), 2) == pytest.approx(
        0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    )


def authors_push_up(ds: float, fl: int, strategy: str) -> int:
    """What AdaPT's program adds to the fractional bits."""
    s = 1
    if 0 < ds < float("inf") and np.log(ds) - 1 > 0:
        d2 = (np.log(ds) - 1) ** 2
        s1, s2 = max(int(np.ceil(1 / d2)), 1), max(min(int(np.ceil(32 * d2)), 32) - fl, 0)
        s = {"min": min(s1, s2), "max": max(s1, s2), "mean": int(np.ceil(0.5 * (s1 + s2)))}[strategy]
    return s


def test_pushing_up_is_the_rule_of_the_paper() -> None:
    cases = [(ds, fl, name) for ds in (0.5, 1.0, 2.7, 3.5, 4.0, 5.0, 8.0, 50.0, float("inf")) for fl in (0, 5, 20) for name in ("min", "mean", "max")]
    assert [push_up(*case) for case in cases] == [authors_push_up(*case) for case in cases]  # type: ignore[arg-type]


def test_words_go_up_by_the_diversity_of_the_gradients_that_were_watched() -> None:
    net, x, _ = task()
    q = qfx.quantize(net, x, Recipe(weight=Spec(16, learn_width=True, learn=False, learn_range=False)))
    for strategy in ("min", "max"):
        adaptive = AdaptivePrecision(q, most_up=8, strategy=strategy)  # type: ignore[arg-type]
        generator, seen = torch.Generator().manual_seed(1), {"0": [], "2": []}  # type: ignore[var-annotated]
        for step in range(40):
            for name, grads in seen.items():
                weight = q.get_submodule(name).weight
                weight.grad = torch.randn(weight.shape, generator=generator) * 2.0 ** (step % 5)
                grads.append(weight.grad.clone())
            adaptive.watch()
        for switch in adaptive.switch():
            grads = [grad / grad.norm() for grad in seen[switch.name.split(".")[0]]]
            ds = sum(grad.norm() for grad in grads) / torch.stack(grads).sum(0).norm()
            width, frac_bits, _ = push_down(q.get_submodule(switch.name.split(".")[0]).weight.detach(), 64, 1e-2)
            assert switch.diversity == pytest.approx(float(ds), rel=1e-4)
            assert switch.after == width + min(authors_push_up(switch.diversity, frac_bits, strategy), 8)
    strategies = []
    for loss in (1.0, 0.9, 0.9, 1.0, 1.1, 0.5):
        adaptive.watch(loss)
        adaptive.switch()
        strategies.append(adaptive.strategy)
    assert strategies == ["min", "min", "mean", "max", "max", "min"]
    with pytest.raises(QfxError, match="the strategy is 'most'"):
        AdaptivePrecision(q, strategy="most")  # type: ignore[arg-type]
    wrong: dict[str, float] = {"loss": -1, "resolution": 1, "most_up": float("nan")}
    for name, value in wrong.items():
        with pytest.raises(QfxError, match=f"{name} is "):
            AdaptivePrecision(q, **{name: value})  # type: ignore[arg-type]


def test_adaptive_precision_ends_in_a_fixed_point_model(tmp_path: Path) -> None:
    """Words go down from the start's 16 bits, and up again between two switches."""
    net, x, y = task()
    weight = Spec(16, learn_width=True, learn=False, learn_range=False)
    q = qfx.quantize(net, x, Recipe(weight=weight, activation=Spec(8)))
    adaptive = AdaptivePrecision(q)
    optimizer = torch.optim.Adam(qfx.parameter_groups(q, lr=5e-3))
    switched = []
    for epoch in range(4):
        for _ in range(10):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(q(x), y)
            loss.backward()
            adaptive.watch(loss)
            optimizer.step()
        switched.append(adaptive.switch())
        assert [switch.after for switch in switched[epoch]] == [cast.word_length for name, cast in qfx.quantizers(q) if name.endswith(".weight")]
    assert all(switch.before == 16 for switch in switched[0])
    assert all(3 <= switch.after < 16 for switch in switched[-1])
    adaptive.most_up = 0
    lowest = adaptive.switch()
    assert any(switch.after < switch.before for switch in lowest)  # down
    adaptive.most_up = 4
    for _ in range(10):
        loss = nn.functional.cross_entropy(q(x), y)
        loss.backward()
        adaptive.watch()
    assert all(switch.after > switch.before for switch in adaptive.switch())  # and up
    same_in_torch_and_the_file(q.eval(), x[:16], tmp_path)
    with pytest.raises(QfxError, match=r"0\.weight: has a word of fixed length"):
        AdaptivePrecision(qfx.quantize(task()[0], x))


# ---- low rank ----


def test_low_rank_weights_are_inside_the_rounding(tmp_path: Path) -> None:
    net, x, y = task()
    frozen = [net[0].weight.detach().clone(), net[2].weight.detach().clone()]  # type: ignore[index, union-attr]
    with torch.no_grad():
        before = net(x)
    added = low_rank(net, 2)
    with torch.no_grad():
        assert torch.equal(net(x), before)
    q = qfx.quantize(net, x, Recipe.uniform(4))
    trained = {name: parameter for name, parameter in q.named_parameters() if parameter.requires_grad and parameter.dim() == 2}
    assert list(trained) == [f"{layer}.parametrizations.weight.0.{part}" for layer in (0, 2) for part in "ab"]
    assert [parameter.shape for parameter in trained.values()] == [parameter.shape for parameter in added]
    first, last = losses(q, x, y, torch.optim.Adam(qfx.parameter_groups(q, lr=2e-2)))
    assert last < 0.8 * first
    a, b = (trained[f"0.parametrizations.weight.0.{part}"] for part in "ab")
    layer = q.get_submodule("0")
    wanted = layer.weight_cast(frozen[0] + a.detach() @ b.detach()).value
    assert torch.equal(layer.constants()[0].value, wanted)
    same_in_torch_and_the_file(q.eval(), x[:16], tmp_path)
    with pytest.raises(QfxError, match="no weight of a layer"):
        low_rank(task()[0], 100)
    for name, value in {"rank": 0.5, "gain": float("nan")}.items():
        with pytest.raises(QfxError, match=f"{name} is {value}"):
            low_rank(task()[0], **{name: value})  # type: ignore[arg-type]
    with pytest.raises(QfxError, match="is quantized already"):
        low_rank(qfx.quantize(*task()[:2]), 2)


# ---- levels ----


def test_levels_are_learned_and_become_the_numbers(tmp_path: Path) -> None:
    net, x, y = task()
    q = qfx.quantize(net, x, Recipe(weight=Spec(8), activation=Spec(8)))
    levels = qfx.Levels(q, 3)
    groups = [*qfx.parameter_groups(q, lr=5e-3), {"params": levels.parameters(), "lr": 0.3}]
    optimizer = torch.optim.Adam(groups)
    start = levels.loss().item()
    for _ in range(80):
        optimizer.zero_grad()
        (nn.functional.cross_entropy(q(x), y) + 30 * levels.loss()).backward()
        optimizer.step()
    assert levels.loss().item() < 0.5 * start
    float_net = task()[0]
    float_net.load_state_dict(qfx.float_state(q))
    small = qfx.quantize(float_net, x, Recipe(weight=Spec(8), activation=Spec(8), overrides=levels.overrides()))
    raw = next(node for node in qfx.to_graph(small).nodes if node.name == "0").op.constants()["weight"].raw
    assert len(np.unique(raw)) <= 7
    with torch.no_grad():
        before, after = ((net(x).argmax(1) == y).float().mean() for net in (q, small))
    assert after > before - 0.1
    same_in_torch_and_the_file(small.eval(), x[:16], tmp_path)
    with pytest.raises(QfxError, match="matches no weight"):
        qfx.Levels(q, 3, "nothing")
    with pytest.raises(QfxError, match="bits is 9"):
        qfx.Levels(q, 9)


# ---- dynamic fixed point ----


def chained(a: list[list[int]], b: list[list[int]], chain: int) -> list[list[list[int]]]:
    """The definition: for each output the sums of its chains, in 32 bits that wrap."""
    found: list[list[list[int]]] = []
    for row in a:
        found.append([])
        for column in zip(*b, strict=True):
            sums = []
            for first in range(0, len(row), chain):
                total = 0
                for x, y in zip(row[first : first + chain], column[first : first + chain], strict=True):
                    total = (total + x * y + (1 << 31)) % (1 << 32) - (1 << 31)
                sums.append(total)
            found[-1].append(sums)
    return found


@pytest.mark.parametrize("chain", [1, 3, 8])
def test_dynamic_products_are_those_of_32_bits(chain: int) -> None:
    rng = np.random.default_rng(chain)
    a, b = rng.integers(-32767, 32768, (5, 20)), rng.integers(-32767, 32768, (20, 4))
    a[0], b[:, 0] = 32767, 32767  # wraps from three products on
    held = product(Dynamic(torch.from_numpy(a).double(), -10), Dynamic(torch.from_numpy(b).double(), -12), chain)
    sums = chained(a.tolist(), b.tolist(), chain)
    for i in range(5):
        for j in range(4):
            wanted = np.float32(0)
            for total in sums[i][j]:
                wanted = np.float32(wanted + np.float32(np.float32(total) * np.float32(2.0**-22)))
            assert held[i, j].item() == wanted
    assert (sums[0][0][0] != 32767**2 * chain) == (chain > 2)


def test_dynamic_layers_train_as_float_ones() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    x, y = torch.randn(32, 2, 6, 6), torch.arange(32) % 3
    other = with_dynamic(net, x)
    grads = []
    for model in (net, other):
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        grads.append([parameter.grad for parameter in model.parameters()])
    for plain, ours in zip(*grads, strict=True):
        assert ours is not None
        assert (plain - ours).norm() < 1e-3 * plain.norm()  # type: ignore[operator]
    first, last = losses(other, x, y, torch.optim.Adam(other.parameters(), 5e-3))
    assert last < 0.8 * first
    net.load_state_dict(other.state_dict())
    qfx.quantize(net, x)
    raw, exponent = dynamic(torch.tensor([0.75, -1.5, 0.0]), 5)
    assert (raw.tolist(), exponent) == ([6.0, -12.0, 0.0], -3)
    with pytest.raises(QfxError, match="bits is 3"):
        with_dynamic(net, x, bits=3)
    with pytest.raises(QfxError, match="has no linear layer"):
        with_dynamic(nn.ReLU(), x)
