"""quantize(): names, states and recipes come through; numbers are kept; nothing is changed on the way."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from nn_models import DATA, WIDE, Calls, check_exact, check_same_numbers, integers, small_network, trained
from torch import Tensor, nn

import qfx
from qfx import ExactnessError, Override, Recipe, RecipeError, Spec
from qfx import operators as ops
from qfx.nn.model import recipe_of
from qfx.testing import assert_bit_exact

IMAGE, SIGNAL, VECTOR = integers(4, 3, 7, 5), integers(4, 4, 9), integers(4, 6)
EVEN = IMAGE[:, :, :4, :4]


class PreActivation(nn.Module):
    """A residual block with its norms first, and a shortcut on another scale."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, padding=1)
        self.shortcut = nn.Conv2d(3, 3, 1)
        self.shortcut.weight.data *= factor

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(out))))
        out += self.shortcut(x)
        return torch.cat([out, x], 1)


@pytest.mark.parametrize("factor", [1.0, 2.0**12, 2.0**-12, 2.0**20, 2.0**-30])
@pytest.mark.parametrize("style", ["keep", "fold"])
def test_residual_blocks_of_any_scale_are_exact(factor: float, style: str) -> None:
    torch.manual_seed(0)
    model = trained(PreActivation(factor), DATA)
    q = qfx.quantize(model, DATA, Recipe(**{name: getattr(WIDE, name) for name in ("weight", "activation")}, batch_norm=style))
    check_exact(q)


@pytest.mark.parametrize("granularity", ["tensor", "channel", "element"])
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_all_granularities_are_exact(granularity: str, bits: int) -> None:
    spec = Spec(bits, granularity=granularity)
    roles = dict.fromkeys(("input", "weight", "bias", "scale", "shift", "activation", "output"), spec)
    check_exact(qfx.quantize(small_network(), DATA, Recipe(**roles)))
    signal = nn.Sequential(nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4), nn.ReLU6(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(12, 3))
    check_exact(qfx.quantize(signal, SIGNAL, Recipe(**roles)))
    joined = Calls(lambda m, x: torch.cat([m.bn(m.conv(x)), x], 1).permute(0, 2, 3, 1), conv=nn.Conv2d(3, 4, 1), bn=nn.BatchNorm2d(4))
    check_exact(qfx.quantize(joined, DATA, Recipe(**roles)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_models_of_other_dtypes_are_exact(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).to(dtype)
    q = qfx.quantize(model, DATA.to(dtype))
    check_exact(q, dtype=torch.float64 if dtype is torch.float64 else torch.float32)
    assert {p.dtype for p in q.parameters()} == ({torch.float64} if dtype is torch.float64 else {dtype, torch.float32})


def test_float64_accumulators_are_exact_where_float32_is_not() -> None:
    """16-bit weights and activations: the sums need more than 24 bits, and float32 arithmetic would lose some."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4))
    graph = check_exact(qfx.quantize(model, DATA, WIDE), samples=30)
    widths = [ops.accumulator(node.op, graph.infos[node.inputs[0]]).width for node in graph.nodes if isinstance(node.op, ops.Conv | ops.Linear)]
    assert max(widths) > 30


def test_batch_size_and_memory_layout_change_nothing() -> None:
    q = qfx.quantize(small_network(), DATA).eval()
    with torch.no_grad():
        together = q(DATA)
        assert torch.equal(together, torch.cat([q(sample[None]) for sample in DATA]))
        assert torch.equal(together, q(DATA.to(memory_format=torch.channels_last)))
        assert torch.equal(together, q(DATA.repeat_interleave(2, 3)[..., ::2]))
        assert torch.equal(together, q(DATA.transpose(2, 3).contiguous().transpose(2, 3)))
        assert q(DATA[:0]).shape == (0, 3)
        with torch.inference_mode():
            assert torch.equal(together, q(DATA))
    assert torch.equal(together, q(DATA).detach())
    check_exact(qfx.quantize(small_network(), DATA[:1]))


def test_the_original_stays_as_it_is() -> None:
    model = small_network()
    model.train()
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    example, rng = DATA.clone(), torch.get_rng_state()
    q = qfx.quantize(model, example)
    assert q.training
    assert model.training
    assert not model[1].training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(example, DATA)
    assert torch.equal(rng, torch.get_rng_state())
    assert not {id(p) for p in model.parameters()} & {id(p) for p in q.parameters()}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_quantizing_moves_no_statistics_and_drops_nothing() -> None:
    """The network is built in evaluation mode: running statistics stay, and calibration sees what inference will see."""
    model = trained(small_network(), DATA)
    model.train()
    q = qfx.quantize(model, DATA)
    for name in ("1.running_mean", "1.running_var", "1.num_batches_tracked"):
        assert torch.equal(model.state_dict()[name], q.state_dict()[name]), name
    points = {name: p.detach().clone() for name, p in q.named_parameters() if name.endswith("frac_bits")}
    qfx.calibrate(q, DATA)
    assert q.training
    assert all(torch.equal(points[name], dict(q.named_parameters())[name]) for name in points)


def test_names_are_kept_and_float_checkpoints_load() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
            self.blocks = nn.ModuleList([nn.ModuleDict({"conv": nn.Conv2d(4, 4, 1)}), nn.ModuleDict({"conv": nn.Conv2d(4, 4, 1)})])
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for block in self.blocks:
                x = F.relu(block["conv"](x)) + x
            return self.head(x.mean((2, 3)))

    torch.manual_seed(0)
    model, other = Net(), Net()
    for style in ("keep", "fold"):
        q = qfx.quantize(model, DATA, Recipe(batch_norm=style))
        assert set(model.state_dict()) <= set(q.state_dict())
        q.load_state_dict(other.state_dict(), strict=True)
        assert all(torch.equal(q.state_dict()[name], tensor) for name, tensor in other.state_dict().items())
        check_exact(q)
        names = [name for name, _ in qfx.quantizers(q)]
        assert len(names) == len(set(names))
        assert "blocks.1.conv.weight" in names


def test_a_checkpoint_with_some_binary_points_must_have_all() -> None:
    q = qfx.quantize(small_network(), DATA)
    state = q.state_dict()
    del state["2.output_cast.frac_bits"]
    with pytest.raises(RuntimeError, match=r"2\.output_cast\.frac_bits"):
        q.load_state_dict(state)


def test_deep_copies_and_pickles_are_quantized_models(tmp_path: object) -> None:
    recipe = Recipe.uniform(5)
    q = qfx.quantize(small_network(), DATA, recipe).eval()
    torch.save(q, f"{tmp_path}/model.pt")
    for copied in (copy.deepcopy(q), torch.load(f"{tmp_path}/model.pt", weights_only=False)):
        assert torch.equal(copied(DATA), q(DATA))
        assert recipe_of(copied) == recipe
        check_exact(copied)
        with torch.no_grad():
            copied.get_submodule("6").bias += 1
        assert not torch.equal(copied(DATA), q(DATA))


class Plain(nn.Conv2d):
    def __init__(self) -> None:
        super().__init__(3, 4, 3)

    def extra_repr(self) -> str:
        return "mine"


class Standardized(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight - weight.mean(), bias)


class Block(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(Plain(), nn.ReLU())


def test_subclasses_of_layers_and_containers() -> None:
    check_same_numbers(nn.Sequential(Block(), nn.Sequential(nn.Sequential(nn.MaxPool2d(2)))), IMAGE)
    check_same_numbers(Block(), IMAGE)
    check_same_shape = qfx.quantize(nn.Sequential(Standardized(3, 4, 3)), DATA)(DATA)
    assert check_same_shape.shape == Standardized(3, 4, 3)(DATA).shape


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"'0\.wieght' matches nothing\n.*'0\.weight'"):
        qfx.quantize(small_network(), DATA, Recipe(overrides=(Override("0.wieght", {"width": 4}),)))
    with pytest.raises(RecipeError, match=r"'1\.scale' matches nothing"):  # folded away
        qfx.quantize(small_network(), DATA, Recipe(batch_norm="fold", overrides=(Override("1.scale", {"width": 4}),)))


def test_overrides_reach_quantizers_and_layers() -> None:
    recipe = Recipe(
        overrides=(Override("0", {"width": 5}), Override("*.weight", {"frac_bits": 3, "learn": False}), Override("2.output", {"width": 3}))
    )
    found = dict(qfx.quantizers(qfx.quantize(small_network(), DATA, recipe)))
    assert {name for name, q in found.items() if q.word_length == 5} == {"0.weight", "0.bias"}
    assert found["2.output"].word_length == 3
    for name, q in found.items():
        assert (q.frac_bits.item() == 3 and not q.frac_bits.requires_grad) == name.endswith(".weight"), name


def test_too_wide_names_the_layer() -> None:
    roles = dict.fromkeys(("input", "weight", "bias", "scale", "shift", "activation", "output"), Spec(32))
    with pytest.raises(ExactnessError, match=r"^0: .*53"):
        qfx.quantize(small_network(), DATA, Recipe(**roles))


def test_inexact_arithmetic_is_refused_where_it_is_switched_on() -> None:
    q = qfx.quantize(small_network(), DATA).eval()
    expected = q(DATA)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # is for what is around the model
        assert torch.equal(q(DATA), expected)
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(ExactnessError, match=r"^0: float32 products may be rounded"):
            q(DATA)
    finally:
        torch.set_float32_matmul_precision("highest")
    check_exact(q)


def test_quantizing_in_inference_mode_gives_a_trainable_model() -> None:
    with torch.inference_mode():
        q = qfx.quantize(small_network(), DATA)
    q(DATA).sum().backward()
    assert all(p.grad is not None for p in q.parameters() if p.requires_grad)


def test_wrap_sign_magnitude_makes_an_activation_signed() -> None:
    q = qfx.quantize(small_network(), DATA, Recipe(activation=Spec(8, o="AP_WRAP_SM")))
    assert all(point.signed for name, point in qfx.quantizers(q) if name.endswith("output"))
    check_exact(q)


def test_a_channel_that_training_switched_off_is_no_obstacle() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    with torch.no_grad():
        model[0].weight[0] = 0
        model[0].bias[0] = 0
        model[0].weight[1] *= 1e-30
        model[2].weight[1] *= 1e-38
    roles = dict.fromkeys(("weight", "activation"), Spec(8, granularity="channel"))
    check_exact(qfx.quantize(model, DATA, Recipe(**roles)))


def test_the_output_keeps_its_role_through_what_only_moves_values() -> None:
    """A network that ends in pooling and flatten returns the recipe's output type, not its activation type."""
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout())
    qmodel = qfx.quantize(model, torch.randn(4, 1, 6, 6), qfx.Recipe(activation=qfx.Spec(5), output=qfx.Spec(13)))
    widths = {name: quantizer.spec.width for name, quantizer in qfx.quantizers(qmodel)}
    assert (widths["1.output"], widths["2.output"]) == (5, 13)


def test_a_frozen_batch_norm_stays_frozen() -> None:
    model = nn.Sequential(nn.Conv1d(1, 3, 3), nn.BatchNorm1d(3), nn.ReLU()).train()
    model[1].eval()
    qmodel = qfx.quantize(model, torch.randn(4, 1, 6))
    assert qmodel.training
    assert not qmodel.get_submodule("1").training


def test_inputs_keep_their_names_to_themselves() -> None:
    """Torch.fx calls those of ``*x`` as it would call what is computed of the one before."""

    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, *x: Tensor) -> Tensor:
            return self.fc(x[0]) - x[1]

    class Named(Listed):
        def forward(self, x: Tensor, x_1: Tensor) -> Tensor:  # type: ignore[override]
            return self.fc(x) - x_1

    for model in (Listed(), Named()):
        q = qfx.quantize(model.eval(), (VECTOR, VECTOR + 1), WIDE)
        graph = qfx.to_graph(q)
        x = {node.name: data.numpy() for node, data in zip(graph.inputs, (VECTOR, VECTOR + 1), strict=True)}
        with torch.no_grad():
            assert_bit_exact(q(VECTOR, VECTOR + 1).numpy(), qfx.run(graph, x), names=("torch", "interpreter"))
