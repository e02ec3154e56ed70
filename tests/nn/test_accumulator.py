"""Accumulators of a chosen width: weights that keep sums within, and sums that wrap or saturate there."""

from __future__ import annotations

import copy
import math
import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from executors import same_in_cpp, same_in_torch_and_the_file
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bundles import build_bundle
from torch import Tensor, nn

import qfx
from qfx import Override, Recipe, Spec
from qfx.errors import ModelFileError, QfxError, RecipeError, UnsupportedError
from qfx.fixed.arith import Interval
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Schedule
from qfx.hardware.emit.emit import emit_sources
from qfx.ir.graph import Graph
from qfx.ir.interpret import quantize_input
from qfx.ir.losses import losses
from qfx.ir.passes.pipeline import optimize
from qfx.ir.within import places
from qfx.nn.accumulator import Accumulating, nearest
from qfx.nn.quantizer import Quantizer
from qfx.operators import Conv, Linear

MODES = ("bound", "wrap", "saturate")


def network() -> nn.Module:
    """Groups, padding, stride, a norm, and a bias here and there."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, groups=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.ConvTranspose2d(8, 4, 3, stride=2), nn.LeakyReLU(0.25), nn.Flatten(), nn.Linear(4 * 25, 5),
    )  # fmt: skip


def quantized(bits: int, mode: str = "bound", *, granularity: str = "tensor", batch_norm: str = "keep", activation: Spec | None = None) -> Any:
    recipe = Recipe(
        weight=Spec(6, granularity=granularity, accumulator=bits, accumulator_mode=mode),  # type: ignore[arg-type]
        input=Spec(4),
        activation=activation or Spec(4),
        batch_norm=batch_norm,  # type: ignore[arg-type]
    )
    x = torch.randn(16, 3, 6, 6)
    return qfx.quantize(network(), x, recipe).eval(), x


def sums(graph: Graph) -> list[int]:
    """How many bits the sums of products of each layer need."""
    found = []
    for node in graph.nodes:
        if isinstance(node.op, Conv | Linear):
            found.append(replace(node.op, bias=None).accumulator(graph.infos[node.inputs[0]]).width)
        if (body := node.op.inner()) is not None:
            found += sums(body)
    return found


def in_cpp(graph: Graph) -> list[int]:
    """The widths of the accumulators in the generated code."""
    text = "".join(emit_sources(lower(optimize(graph), Schedule()), "top").values())
    return [int(bits) for bits in re.findall(r"shape<[^;]*?qfx::(?:wrapping<qfx::)?[su]int<(\d+)>(?:, qfx::[su]int<\d+> >::raw)?, qfx::mul", text)]


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("bits", [9, 11, 14])
def test_no_sum_needs_more_bits(bits: int, granularity: str, tmp_path: Path) -> None:
    torch.manual_seed(bits)
    for batch_norm in ("keep", "fold"):
        q, x = quantized(bits, granularity=granularity, batch_norm=batch_norm)
        same_in_torch_and_the_file(q, x, tmp_path)
        graph = qfx.to_graph(q)
        assert max(sums(graph)) <= bits
        assert max(sums(graph)) >= bits - 2, "the accumulator is not used"
        found = in_cpp(graph)
        assert len(found) == 4
        assert max(found) <= bits


@pytest.mark.parametrize("mode", ["wrap", "saturate"])
def test_sums_are_cast(mode: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    for granularity, batch_norm in product(("tensor", "channel"), ("keep", "fold")):
        q, x = quantized(9, mode, granularity=granularity, batch_norm=batch_norm)
        same_in_torch_and_the_file(q, x, tmp_path)
        graph = qfx.to_graph(q)
        assert max(sums(graph)) > 9
        if mode == "wrap":
            found = in_cpp(graph)
            assert len(found) == 4
            assert max(found) <= 9


@pytest.mark.usefixtures("gxx")
def test_the_generated_code(fast: bool, tmp_path: Path) -> None:
    torch.manual_seed(2)
    models = [quantized(9, mode, granularity=granularity) for mode in MODES for granularity in ("tensor", "channel")]
    same_in_cpp(models, tmp_path, fast=fast)


# ---- the guarantee ----


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_partial_sum_leaves_the_accumulator(data: st.DataObject) -> None:
    """Any order, any subset: the sums of the products that pull one way are the extremes."""
    seed, bits = data.draw(st.integers(0, 2**32 - 1)), data.draw(st.integers(8, 24))
    torch.manual_seed(seed)
    outputs, inputs, width = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 40)), data.draw(st.integers(1, 10))
    lo = -data.draw(st.integers(0, 100))
    hi = data.draw(st.integers(0, 100))
    sym = data.draw(st.sampled_from(["AP_SAT", "AP_SAT_SYM", "AP_SAT_ZERO"])) if width > 1 else "AP_SAT"
    spec = Spec(
        width, accumulator=bits, granularity=data.draw(st.sampled_from(["tensor", "channel"])), o=sym,
        q=data.draw(st.sampled_from(["AP_RND", "AP_TRN", "AP_TRN_ZERO", "AP_RND_INF"])), signed=data.draw(st.booleans()) or sym == "AP_SAT_SYM",
    )  # fmt: skip
    cast = Accumulating(spec, channel_axis=0, name="fc.weight")
    weight = (torch.randn(outputs, inputs) * 10 ** data.draw(st.floats(-3, 3))).requires_grad_()
    if max(-lo, hi) > (1 << (bits - 1)) - 1:
        return
    cast.meet(Interval(lo, hi, 3))
    cast.initialize(weight)
    for _ in range(2):
        found = cast(weight).value
        raw = np.rint(np.ldexp(found.detach().double().numpy(), cast.points().reshape(-1, 1).int().numpy())).astype(np.int64)
        least, most = (
            np.where(raw > 0, raw * end, 0) + np.where(raw < 0, raw * other, 0) for end, other in ((min(lo, 0), max(hi, 0)), (max(hi, 0), min(lo, 0)))
        )
        assert most.sum(1).max() <= (1 << (bits - 1)) - 1
        assert least.sum(1).min() >= -(1 << (bits - 1))
        kind = cast.mode.type(width, 0)
        assert raw.min() >= kind.min_raw
        assert raw.max() <= kind.max_raw
        found.square().sum().backward()
        with torch.no_grad():
            weight.mul_(3)  # the binary points stay
            cast.frac_bits += 1.0


@settings(max_examples=60, deadline=None)
@given(
    size=st.lists(st.integers(0, 30).map(lambda n: n / 8), min_size=1, max_size=4), most=st.integers(0, 10), limit=st.integers(1, 3)
)  # fmt: skip
def test_the_nearest_integers_within_a_budget(size: list[float], most: int, limit: int) -> None:
    found = nearest(torch.tensor([size], dtype=torch.float64), most, limit)[0].tolist()
    every = (point for point in product(range(limit + 1), repeat=len(size)) if sum(point) <= most)
    least = min(sum((a - b) ** 2 for a, b in zip(point, size, strict=True)) for point in every)
    assert sum(found) <= most
    assert max(found) <= limit
    assert sum((a - b) ** 2 for a, b in zip(found, size, strict=True)) == least


def test_weights_that_fit_are_cast_as_ever() -> None:
    torch.manual_seed(3)
    weight = torch.randn(6, 20)
    weight[3:] *= 0.02
    cast, plain = Accumulating(Spec(8, accumulator=12, frac_bits=5), channel_axis=0), Quantizer(Spec(8, frac_bits=5), channel_axis=0)
    cast.meet(Interval(0, 15, 4))
    cast.initialize(weight)
    plain.signed = True
    plain.initialize(weight)
    a, b = cast(weight).value, plain(weight).value
    assert torch.equal(a[3:], b[3:])
    assert not torch.equal(a[:3], b[:3])


# ---- gradients ----


def onto_the_ball(v: Tensor, radius: Tensor) -> Tensor:
    """The Euclidean projection of positive numbers onto those that add up to ``radius``, by sorting; autograd differentiates it."""
    ordered = v.detach().sort(descending=True).values
    counts = torch.arange(1, len(v) + 1)
    live = int((ordered - (ordered.cumsum(0) - radius.detach()) / counts > 0).sum())
    kept = v.detach() >= ordered[live - 1]
    return torch.where(kept, v - (v[kept].sum() - radius) / live, torch.zeros(()))


@pytest.mark.parametrize("interval", [Interval(0, 3, 2), Interval(-3, 3, 2), Interval(-3, 0, 2)])
def test_gradients_are_those_of_the_projection(interval: Interval) -> None:
    """On a grid so fine that rounding is next to nothing; weights that become 0 keep theirs."""
    torch.manual_seed(4)
    weight = torch.randn(1, 12).requires_grad_()
    bits = 20
    cast = Accumulating(Spec(24, accumulator=bits, frac_bits=16), channel_axis=0)
    cast.meet(interval)
    cast.initialize(weight)
    cast.frac_bits.requires_grad_()
    slope = torch.randn(1, 12)
    found = cast(weight).value
    (found * slope).sum().backward()
    frac_bits = cast.frac_bits.detach().clone().requires_grad_()
    radius = ((1 << (bits - 1)) - 1) / 3 * torch.exp2(-frac_bits)
    v = weight.detach().clone().requires_grad_()
    if interval.signed and interval.hi:
        wanted = onto_the_ball(v.abs().flatten(), radius) * v.detach().sign().flatten()
    else:
        positive, negative = v[v > 0], v[v < 0]
        wanted = torch.zeros(12).masked_scatter(v.detach().flatten() > 0, onto_the_ball(positive, radius))
        wanted = wanted.masked_scatter(v.detach().flatten() < 0, -onto_the_ball(-negative, radius))
    (wanted * slope.flatten()).sum().backward()
    assert torch.allclose(found.flatten(), wanted, atol=1e-3)
    live = (found != 0).flatten()
    assert 2 < int(live.sum()) < 12
    assert torch.allclose(weight.grad.flatten()[live], v.grad.flatten()[live], atol=1e-5)
    assert torch.equal(weight.grad.flatten()[~live], slope.flatten()[~live])
    assert math.isclose(float(cast.frac_bits.grad), float(frac_bits.grad) * cast.frac_grad_scale, rel_tol=1e-2)


def test_training_learns_within_the_accumulator() -> None:
    torch.manual_seed(5)
    teacher, x = nn.Linear(12, 3), torch.rand(256, 12)
    q = qfx.quantize(nn.Linear(12, 3), x, Recipe(weight=Spec(6, accumulator=9), input=Spec(3)))
    optimizer = torch.optim.Adam(q.parameters(), 0.02)
    losses = []
    for _ in range(150):
        loss = (q(x) - teacher(x).detach()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 4
    assert max(sums(qfx.to_graph(q))) <= 9
    with torch.no_grad():
        assert torch.equal(q.train()(x), q.eval()(x))
        wrapped = qfx.quantize(nn.Linear(12, 3), x, Recipe(weight=Spec(6, accumulator=8, accumulator_mode="wrap")))
        assert torch.equal(wrapped.train()(x), wrapped.eval()(x))


# ---- doors ----


def test_recipes(tmp_path: Path) -> None:
    recipe = Recipe(
        overrides=(Override("conv1.weight", {"accumulator": 14}), Override("type:Linear.weight", {"accumulator": 16, "accumulator_mode": "wrap"}))
    )
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert Recipe(weight=Spec(accumulator=20)).to_toml().count("accumulator") == 2
    assert "accumulator" not in Recipe().to_toml()
    for role in ("input", "bias", "scale", "activation", "output"):
        with pytest.raises(RecipeError, match="accumulator is 14"):
            Recipe(**{role: Spec(16, accumulator=14)})
    for bad in (7, 49, 12.5, True):
        with pytest.raises(RecipeError, match="accumulator is"):
            Spec(accumulator=bad)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="finished sum"):
        Spec(accumulator=12, accumulator_mode="saturate_each")  # type: ignore[arg-type]
    for wrong in ({"granularity": "element"}, {"learn_width": True}, {"o": "AP_WRAP"}):
        with pytest.raises(RecipeError, match="within an accumulator"):
            Spec(accumulator=12, **wrong)
        assert Spec(accumulator=12, accumulator_mode="wrap", **wrong).accumulator == 12
    x = torch.rand(8, 4)
    with pytest.raises(RecipeError, match="no weight"):
        qfx.quantize(nn.Sequential(nn.Linear(4, 3)), x, Recipe(overrides=(Override("0", {"accumulator": 14}),)))


def test_too_narrow_and_no_sums() -> None:
    x = torch.rand(8, 4)
    with pytest.raises(QfxError, match="an accumulator of 8 bits holds no product of inputs of 8 bits") as found:
        qfx.quantize(nn.Sequential(nn.Linear(4, 3)), x, Recipe(weight=Spec(accumulator=8)))
    assert "accumulator = 9" in str(found.value)
    qfx.quantize(nn.Sequential(nn.Linear(4, 3)), x, Recipe(weight=Spec(accumulator=9)))
    with pytest.raises(UnsupportedError, match="nothing adds up"):
        qfx.quantize(nn.Embedding(5, 4), torch.randint(5, (8, 3)), Recipe(weight=Spec(accumulator=14)))
    with pytest.raises(QfxError, match=r"hidden\.weight: an accumulator of 8 bits holds no product of inputs of 8 bits"):
        qfx.quantize(Recurrent("GRU"), torch.rand(8, 4, 5), Recipe(overrides=(Override("*hidden.weight", {"accumulator": 8}),)))


class Recurrent(nn.Module):
    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(5, 8, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]  # type: ignore[no-any-return]


CELLS: tuple[tuple[str, dict[str, Any]], ...] = (("LSTM", {}), ("GRU", {}), ("RNN", {"nonlinearity": "relu"}), ("LSTM", {"proj_size": 4}))


def recurrent(kind: str, mode: str, bits: int, **options: Any) -> tuple[Any, Tensor]:
    """Every product has the accumulator: that of the sequence, that of the states, and the projection's; each row its own."""
    torch.manual_seed(0)
    weight = Spec(6, granularity="channel", accumulator=bits, accumulator_mode=mode)  # type: ignore[arg-type]
    x = torch.randn(24, 4, 5)
    model = Recurrent(kind, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 2
    return qfx.quantize(model, x, Recipe.uniform(6, input=Spec(5), internal=Spec(6), weight=weight)).eval(), x


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("kind", "options"), CELLS)
def test_recurrent_weights(kind: str, options: dict[str, Any], mode: str, tmp_path: Path) -> None:
    bits = 12
    q, x = recurrent(kind, mode, bits, **options)
    same_in_torch_and_the_file(q, x, tmp_path)
    graph, free = qfx.to_graph(q), qfx.to_graph(recurrent(kind, mode, 30, **options)[0])
    products = 3 if options.get("proj_size") else 2
    assert len(sums(graph)) == len(sums(free)) == products
    if mode == "bound":
        assert max(sums(graph)) <= bits < max(sums(free))
    optimizer = torch.optim.Adam(q.parameters(), lr=0.05)
    for _ in range(4):  # states' ranges move, and the bounds with them
        optimizer.zero_grad()
        (q.train()(x) - 1).square().sum().backward()
        optimizer.step()
    same_in_torch_and_the_file(q.eval(), x, tmp_path)
    assert mode != "bound" or max(sums(qfx.to_graph(q))) <= bits


@pytest.mark.usefixtures("gxx")
def test_recurrent_weights_in_cpp(tmp_path: Path) -> None:
    same_in_cpp([recurrent("LSTM", "bound", 12, proj_size=4), recurrent("GRU", "wrap", 10), recurrent("RNN", "saturate", 10)], tmp_path, fast=False)


class Twice(nn.Module):
    """One layer that reads numbers of two word lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.tanh(self.fc(x)))


def test_several_calls_share_the_weights(tmp_path: Path) -> None:
    torch.manual_seed(6)
    x = torch.rand(16, 6)
    recipe = Recipe(input=Spec(3), activation=Spec(6), weight=Spec(6, accumulator=11), overrides=(Override("*tanh*", {"width": 7}),))
    q = qfx.quantize(Twice(), x, recipe)
    same_in_torch_and_the_file(q, x, tmp_path)
    assert max(sums(qfx.to_graph(q))) <= 11
    with pytest.raises(UnsupportedError, match="several calls share"):
        qfx.quantize(Twice(), x, Recipe(weight=Spec(6, accumulator=11, accumulator_mode="wrap")))


class Joined(nn.Module):
    """Weights that read numbers of two grids, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.last = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([torch.relu(self.a(x)), torch.relu(self.b(x))], 1))


@pytest.mark.parametrize("mode", MODES)
def test_binary_points_that_move_before_it(mode: str, tmp_path: Path) -> None:
    """What the weights meet has another range then: the file follows, without a forward between."""
    torch.manual_seed(7)
    x = torch.rand(16, 6)
    recipe = Recipe(weight=Spec(6, accumulator_mode=mode, accumulator=14), activation=Spec(5))  # type: ignore[arg-type]
    q = qfx.quantize(Joined(), x, recipe)
    for step in (2.0, -3.0, 1.0):
        with torch.no_grad():
            next(cast for name, cast in qfx.nn.model.quantizers(q) if name == "relu.output").frac_bits.add_(step)
        graph = qfx.to_graph(q)
        if mode == "bound":
            assert max(sums(graph)) <= 14
        same_in_torch_and_the_file(q, x, tmp_path)


def test_checkpoints() -> None:
    torch.manual_seed(8)
    x = torch.rand(8, 4)

    def model(accumulator: int | None, mode: str = "bound") -> nn.Module:
        return qfx.quantize(nn.Sequential(nn.Linear(4, 3)), x, Recipe(weight=Spec(6, accumulator=accumulator, accumulator_mode=mode)))  # type: ignore[arg-type]

    trained, again = model(12), model(12)
    again.load_state_dict(trained.state_dict())
    assert torch.equal(again(x), trained(x))
    copied = copy.deepcopy(trained)
    assert torch.equal(copied(x), trained(x))
    for other in (model(13), model(12, "wrap"), model(None)):
        before = other(x)
        with pytest.raises(ModelFileError, match=r"accumulator of 12 bits \(bound\)") as found:
            other.load_state_dict(trained.state_dict())
        assert "'accumulator': 12" in str(found.value)
        assert torch.equal(other(x), before)
    with pytest.raises(ModelFileError, match="no bound on accumulators"):
        trained.load_state_dict(model(None).state_dict())
    floats = nn.Sequential(nn.Linear(4, 3))
    trained.load_state_dict(floats.state_dict())
    assert torch.equal(trained.state_dict()["0.weight"], floats[0].weight)


@pytest.mark.usefixtures("gxx")
def test_what_wraps_is_counted(tmp_path: Path) -> None:
    """In C++ too, where the accumulator has wrapped before the cast sees it."""
    torch.manual_seed(9)
    models = [quantized(9, mode, granularity=granularity) for mode in ("wrap", "saturate") for granularity in ("tensor", "channel")]
    graphs = [qfx.to_graph(q) for q, _ in models]
    for fast in (False, True):
        bundle = build_bundle([(graph, Schedule()) for graph in graphs], tmp_path / str(fast), fast=fast, flags=("-O1", "-DQFX_REPORT"))
        for place, (graph, (_, x)) in enumerate(zip(graphs, models, strict=True)):
            sites = places(graph)
            expected = {sites[name]: loss for name, loss in losses(graph, x.numpy()).items() if name != graph.input.name}
            assert bundle.losses_from_raw(place, quantize_input(graph, x.numpy())) == expected
            assert any(loss.above for loss in expected.values())
