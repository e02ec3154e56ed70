"""Models of Brevitas: the same types, the same raw integers, trained on; and what is refused."""

from __future__ import annotations

import copy
import io
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from executors import same_in_cpp, same_in_torch_and_the_file
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import qfx
from qfx.exchange.exact import _by_steps as by_steps

pytest.importorskip("brevitas", reason="Brevitas is in the extra 'bench'", exc_type=ImportError)
nets = pytest.importorskip("brevitas_nets")
pytestmark = pytest.mark.filterwarnings("ignore")  # Brevitas' own

qnn: Any = nets.qnn


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def residual() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(1)
    net = nets.settled(nets.Residual(), numbers(32, 2, 4, 4))
    return net, qfx.from_brevitas(net, numbers(16, 2, 4, 4))


def test_the_types_are_those_of_brevitas_and_stand_where_it_quantizes(residual: tuple[nn.Module, nn.Module]) -> None:
    net, q = residual
    found = dict(qfx.quantizers(q))
    casts = ["input", "conv1.weight", "conv1.bias", "norm.scale", "norm.shift", "relu.output", "conv2.weight", "conv2.output"]
    assert list(found) == [*casts, "add.input", "add.output", "fc.weight"]
    scale = net.relu.act_quant.scale()  # type: ignore[operator, union-attr]
    kind = found["relu.output"].types()[0]
    assert (kind.width, kind.signed, float(kind.lsb), kind.q, kind.o) == (4, False, float(scale), qfx.QMode.RND_CONV, qfx.OMode.SAT)
    assert found["fc.weight"].types()[0].o is qfx.OMode.SAT_SYM  # a narrow range
    assert found["conv1.weight"].frac_bits.shape == (4, 1, 1, 1)
    assert qfx.conversion(q).exact
    recipe = qfx.Recipe.from_toml(qfx.to_graph(q).metadata["recipe"])
    assert recipe.spec("relu.output", "activation").width == 4  # the recipe tells the types


def test_a_saved_model_is_the_same(residual: tuple[nn.Module, nn.Module]) -> None:
    q, x, content = residual[1], numbers(16, 2, 4, 4), io.BytesIO()
    torch.save(q, content)
    content.seek(0)
    loaded = torch.load(content, weights_only=False)
    assert torch.equal(loaded(x), q(x))
    assert qfx.conversion(loaded).exact


def test_raw_integers_are_equal_also_beyond_the_example(residual: tuple[nn.Module, nn.Module]) -> None:
    nets.assert_same(*residual, numbers(200, 2, 4, 4, seed=3) * 3)


def test_a_difference_of_one_least_significant_bit_is_found(residual: tuple[nn.Module, nn.Module]) -> None:
    net, q = residual[0], copy.deepcopy(residual[1])
    quantizer = dict(qfx.quantizers(q))["fc.weight"]
    with torch.no_grad():
        weight = q.get_parameter("fc.weight")
        weight[0, 0] += (1 if weight[0, 0] < 0 else -1) * float(quantizer.types()[0].lsb)
    with pytest.raises(AssertionError, match="numbers differ"):
        nets.assert_same(net, q, numbers(100, 2, 4, 4))


def test_another_rounding_mode_is_noticed(residual: tuple[nn.Module, nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules["qfx.exchange.brevitas"].__dict__["_ROUNDING"], "RoundSte", "FLOOR")
    with pytest.raises(qfx.UnsupportedError, match="differs from the source's on the example"):
        qfx.from_brevitas(residual[0], numbers(16, 2, 4, 4))


@pytest.mark.parametrize("most", [1 << 20, 1], ids=["number by number", "by steps"])
def test_constants_that_are_too_short_for_a_float_batch_norm_are_noticed(
    most: int, residual: tuple[nn.Module, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qfx.exchange.exact.MOST", most)
    assert qfx.conversion(qfx.from_brevitas(residual[0], numbers(16, 2, 4, 4))).exact
    monkeypatch.setattr("qfx.exchange.build.WIDTHS", (4,))
    with pytest.raises(qfx.UnsupportedError, match=r"norm: is a BatchNorm.*for .* in channel \d the source gives"):
        qfx.from_brevitas(residual[0], numbers(16, 2, 4, 4))


def test_training_goes_on_and_stays_exact(residual: tuple[nn.Module, nn.Module], tmp_path: Path) -> None:
    q, x = copy.deepcopy(residual[1]).train(), numbers(32, 2, 4, 4)
    before = {name: value.detach().clone() for name, value in q.named_parameters()}
    optimizer = torch.optim.Adam(qfx.parameter_groups(q, lr=0.05))
    for _ in range(3):
        optimizer.zero_grad()
        q(x).square().sum().backward()
        optimizer.step()
    moved = {name for name, value in q.named_parameters() if not torch.equal(value, before[name])}
    assert {"conv1.weight", "conv2.weight", "fc.weight", "norm.weight", "relu.output_cast.frac_bits"} <= moved
    same_in_torch_and_the_file(q.eval(), x, tmp_path)


def test_c_simulation_gives_the_same(residual: tuple[nn.Module, nn.Module], tmp_path: Path, fast: bool) -> None:
    same_in_cpp([(residual[1], numbers(8, 2, 4, 4, seed=5))], tmp_path, fast=fast)


def test_biases_with_the_scale_of_the_products() -> None:
    net = nets.settled(nets.Residual("external 32"), numbers(32, 2, 4, 4))
    nets.assert_same(net, qfx.from_brevitas(net, numbers(16, 2, 4, 4)), numbers(50, 2, 4, 4, seed=2))


def linear(inputs: int = 8, outputs: int = 6, **settings: Any) -> nn.Module:
    return qnn.QuantLinear(inputs, outputs, **{"bias": False, "weight_quant": nets.WEIGHT, **settings})  # type: ignore[no-any-return]


def sign(**settings: Any) -> nn.Module:
    return qnn.QuantIdentity(act_quant=nets.binary.SignedBinaryActPerTensorConst, return_quant_tensor=True, **settings)  # type: ignore[no-any-return]


LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "signs of values and weights": (lambda: [nets.first(), qnn.QuantLinear(8, 6, bias=False, **nets.BINARY), sign()], (8,)),
    "signs of inputs": (lambda: [sign(), qnn.QuantLinear(8, 6, bias=False, **nets.BINARY)], (8,)),
    "ternary": (lambda: [nets.first(), qnn.QuantLinear(8, 6, bias=False, **nets.TERNARY), nets.first(2, narrow_range=True)], (8,)),
    "average with truncation": (lambda: [nets.first(), qnn.TruncAvgPool2d(2, trunc_quant=nets.scaled_int.TruncTo8bit)], (2, 4, 4)),
    "average of all": (lambda: [nets.first(), qnn.TruncAdaptiveAvgPool2d(1), nn.Flatten(), linear(2, 3)], (2, 4, 4)),
    "transposed, per channel": (
        lambda: [nets.first(4), qnn.QuantConvTranspose2d(2, 3, 3, stride=2, bias=False, weight_quant=nets.PER_CHANNEL)],
        (2, 4, 4),
    ),
    "in front and behind": (
        lambda: [nets.first(), qnn.QuantLinear(8, 6, bias=False, weight_quant=nets.WEIGHT, input_quant=nets.ACT, output_quant=nets.ACT)],
        (8,),
    ),
    "one layer": (lambda: [qnn.QuantConv1d(2, 3, 3, bias=False, weight_quant=nets.WEIGHT, input_quant=nets.ACT, stride=2)], (2, 9)),
    "upsampling": (lambda: [nets.first(), qnn.QuantUpsample(scale_factor=2)], (2, 4, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    torch.manual_seed(2)
    make, shape = LAYERS[name]
    parts = make()
    net = nets.settled(nn.Sequential(*parts) if len(parts) > 1 else parts[0], numbers(16, *shape))
    nets.assert_same(net, qfx.from_brevitas(net, numbers(8, *shape)), numbers(40, *shape, seed=4) * 2)


def test_statistics_of_no_batch_count_as_they_are() -> None:
    net = nn.Sequential(nets.settled(nets.first(), numbers(16, 8)), linear(), nn.BatchNorm1d(6), nets.settled(nets.first(), numbers(16, 6))).eval()
    nets.assert_same(net, qfx.from_brevitas(net, numbers(8, 8)), numbers(40, 8, seed=4))
    assert not net[2].running_mean.any()


def test_a_bias_beyond_its_range_saturates_as_in_brevitas() -> None:
    net = nets.settled(nn.Sequential(nets.first(), linear(bias=True, bias_quant=nets.BIASES["external 16"])), numbers(16, 8))
    with torch.no_grad():
        net[1].bias[0] = 1e6
    q = qfx.from_brevitas(net, numbers(8, 8))
    nets.assert_same(net, q, numbers(40, 8, seed=4))
    nets.assert_same(net, q.train(), numbers(40, 8, seed=5))


def test_a_quantizer_that_two_layers_share_stays_one() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.relu = nets.first(), qnn.QuantReLU(act_quant=nets.UNSIGNED, return_quant_tensor=True)
            self.a, self.b = (qnn.QuantLinear(4, 4, bias=False, weight_quant=nets.WEIGHT) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.relu(self.a(x)) + self.relu(self.b(x))  # type: ignore[no-any-return]

    net = nets.settled(Twice(), numbers(16, 4))
    q = qfx.from_brevitas(net, numbers(16, 4))
    assert sum(name.startswith("relu") for name, _ in qfx.quantizers(q)) == 1
    nets.assert_same(net, q, numbers(50, 4, seed=1))


@pytest.mark.parametrize("late", [False, True])
def test_a_step_that_comes_one_number_later_is_found(late: bool) -> None:
    lows, highs, step = torch.tensor([-5000, -300]), torch.tensor([4000, 7000]), 1500

    def both(raws: Tensor) -> tuple[Tensor, Tensor]:
        theirs = torch.floor(raws.double() * torch.tensor([0.013, -0.002]) - torch.tensor([0.0, 1e-6]))
        ours = theirs.clone()
        ours[:, 1][raws[:, 1] == step] += late  # where -0.002 x goes below -3
        return theirs, ours

    found = by_steps(lows, highs, both, lambda *numbers: str(numbers))
    assert found == ("(1, 1500, -4.0, -3.0)" if late else "")


def check_random(seed: int) -> bool:
    """Whether the network of the seed comes over; the rare one has sums that Brevitas' float32 does not hold, and is refused for it."""
    net, x = nets.random_net(seed)
    try:
        q = qfx.from_brevitas(net, x)
    except qfx.UnsupportedError as error:
        if "more than the 24 that the source's float32 holds" not in str(error):
            raise
        return False
    nets.assert_same(net, q, torch.cat([x * 2, numbers(60, *x.shape[1:], seed=seed)]))
    return True


@settings(max_examples=3)
@given(seed=st.integers(0, 10_000))
def test_random_networks(seed: int) -> None:
    check_random(seed)


def test_many_random_networks(thorough: bool) -> None:
    if not thorough:
        pytest.skip("many random networks are compared with --thorough")
    came = 0
    for seed in range(100):
        print("seed", seed)
        came += check_random(seed)
    assert came > 90


@pytest.mark.parametrize("bits", [1, 2])
def test_the_networks_of_bnn_pynq(bits: int, thorough: bool) -> None:
    """What TFC, LFC and SFC are, smaller: their preprocessing, BatchNorms in float, and dropout; the norm of the result is float, and so left out."""
    if bits > 1 and not thorough:
        pytest.skip("the one with signs runs; this one with --thorough")
    from brevitas_examples.bnn_pynq.models.FC import FC  # type: ignore[import-untyped, unused-ignore]

    torch.manual_seed(3)
    net = FC(10, bits, bits, bits, 1, [16, 16], (5, 5))
    nets.settled(net, torch.rand(32, 1, 5, 5))
    x = torch.randint(0, 256, (64, 1, 5, 5)) / 256
    with pytest.raises(qfx.UnsupportedError, match="input: is read by mul before it is quantized"):
        qfx.from_brevitas(net, x)
    kind = qfx.FixedType.parse("ap_ufixed<8,0>")
    with pytest.raises(qfx.UnsupportedError, match=r"has a constant without a quantizer, and no quantizer follows before the output"):
        qfx.from_brevitas(net, x, input_type=kind)
    with pytest.raises(qfx.DataError, match="does not lie on the grid"):
        qfx.from_brevitas(net, x / 3, input_type=kind)
    net.features[-1] = nn.Identity()
    nets.assert_same(net, qfx.from_brevitas(net, x[:16], input_type=kind), x)


def test_cnv(thorough: bool) -> None:
    if not thorough:
        pytest.skip("CNV is imported with --thorough")
    from brevitas_examples.bnn_pynq.models.CNV import CNV  # type: ignore[import-untyped, unused-ignore]

    torch.manual_seed(3)
    net = nets.settled(CNV(10, 1, 1, 8, 3), torch.rand(16, 3, 32, 32))
    net.linear_features[-1] = nn.Identity()
    x = torch.randint(0, 256, (32, 3, 32, 32)) / 256
    q = qfx.from_brevitas(net, x[:8], input_type=qfx.FixedType.parse("ap_ufixed<8,0>"))
    with torch.no_grad():
        assert torch.equal(net(x), q(x))


def floats() -> nn.Module:
    torch.manual_seed(4)
    net = nn.Sequential(qnn.QuantIdentity(), qnn.QuantLinear(8, 6, bias=True), qnn.QuantReLU(), qnn.QuantLinear(6, 3, bias=False))
    return nets.settled(net, numbers(32, 8))  # type: ignore[no-any-return]


def test_float_scales_are_refused_or_told() -> None:
    net, x = floats(), numbers(32, 8)
    with pytest.raises(qfx.UnsupportedError, match="no power of two") as caught:
        qfx.from_brevitas(net, x)
    assert [error.where for error in caught.value.blockers] == ["0.output", "1.weight", "2.output", "3.weight"]
    q = qfx.from_brevitas(net, x, strict=False)
    found = qfx.conversion(q)
    assert not found.exact
    rows = {row.name: row for row in found.rows}
    assert set(rows) == {"1.weight", "3.weight", "input", "2.output", "result"}
    assert all(0.55 < row.scale_ratio <= 1.1 for row in found.rows)
    with torch.no_grad():
        error = (net(x) - q(x)).square().mean().sqrt() / net(x).square().mean().sqrt()
    assert rows["result"].error == pytest.approx(float(error))
    assert [note.where for note in found.notes] == ["1"]
    assert "1: has a bias without a quantizer" in str(found)


def refused(make: Any, match: str, shape: tuple[int, ...] = (8,), **settings: Any) -> None:
    torch.manual_seed(5)
    net = nets.settled(make(), numbers(16, *shape))
    with pytest.raises(qfx.UnsupportedError, match=match):
        qfx.from_brevitas(net, numbers(16, *shape), **settings)


def test_what_would_be_something_else_is_refused() -> None:
    first = nets.first
    refused(lambda: nn.Sequential(linear(), first()), "input: is read by 0 before it is quantized")
    refused(lambda: nn.Sequential(first(), linear(bias=True)), "1: has a bias without a quantizer, and no quantizer follows")
    refused(lambda: nn.Sequential(first(), linear(weight_quant=None), first()), "1: has weights without a quantizer")
    refused(lambda: nn.Sequential(first(), linear(), nn.BatchNorm1d(6)), "2: is a BatchNorm.*no quantizer follows")
    refused(lambda: nn.Sequential(first(), qnn.QuantLinear(8, 6, bias=False)), "1.weight: has the scale")
    refused(lambda: nn.Sequential(first(float_to_int_impl_type="ceil"), linear()), "0.output: rounds by CEIL")
    refused(lambda: qnn.QuantLSTM(4, 3), "QuantLSTM has no fixed-point form", (5, 4))
    refused(lambda: nn.Linear(8, 4), "has no layers of Brevitas")
    with pytest.raises(qfx.UnsupportedError, match="is no float32"):
        qfx.from_brevitas(nn.Sequential(first(), linear()).double(), numbers(4, 8).double())
    refused(lambda: nn.Sequential(first(), qnn.TruncAvgPool2d(3)), "no power of two", (2, 6, 6))
    refused(lambda: nn.Sequential(first(), qnn.QuantReLU(act_quant=nets.UNSIGNED, narrow_range=True)), "a narrow range without a sign")
    wide = {"bias": False, "weight_quant": nets.WEIGHT, "weight_bit_width": 16}
    refused(lambda: nn.Sequential(first(16), qnn.QuantLinear(8, 6, **wide), first()), r"1: gives numbers of \d+ bits, more than the 24")


def test_a_forward_for_quant_tensors_is_told() -> None:
    class Wants(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nets.first()

        def forward(self, x: Tensor) -> Tensor:
            return self.first(x) * self.first(x).scale  # type: ignore[no-any-return]

    refused(Wants, "its forward works with QuantTensors")


def test_without_brevitas_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "brevitas.nn", None)
    with pytest.raises(qfx.QfxError, match=r"Brevitas is not installed(.|\n)*pip install brevitas"):
        qfx.from_brevitas(nn.Linear(2, 2), numbers(4, 2))


def test_brevitas_is_imported_when_it_is_needed() -> None:
    folder = Path(qfx.__file__).parent / "exchange"
    lines = [line for path in folder.glob("*.py") for line in path.read_text(encoding="utf-8").splitlines()]
    assert not [line for line in lines if re.match(r"\s*(import|from) (brevitas|qonnx)", line)]


def test_a_model_that_was_not_imported_has_no_conversion() -> None:
    q = qfx.quantize(nn.Linear(4, 2), numbers(8, 4))
    with pytest.raises(qfx.QfxError, match="was not imported"):
        qfx.conversion(q)
