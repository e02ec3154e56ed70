"""The quantized model as a thing: checkpoints that know their types, pickling, wrappers, torch's compilers and exporters, threads."""

from __future__ import annotations

import copy
import io
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

import qfx
from qfx import DataError, ModelFileError, QfxError, Recipe, RecipeError, Spec, UnsupportedError

X = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))


def quantized(recipe: Recipe | None = None) -> nn.Module:
    return qfx.quantize(network(), X, recipe)


def same(a: nn.Module, b: nn.Module) -> bool:
    return torch.equal(a.eval()(X), b.eval()(X))


# --- checkpoints ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("theirs", "mine", "message"),
    [
        (Recipe.uniform(4), Recipe.uniform(8), r"0\.weight: the checkpoint was trained as 4 bits signed .*the model has 8 bits"),
        (Recipe(output=Spec(16, o="AP_WRAP")), Recipe(), r"4\.output: .*AP_WRAP.*AP_SAT"),
        (Recipe(output=Spec(16, q="AP_TRN")), Recipe(), r"4\.output: .*AP_TRN.*AP_RND"),
        (Recipe(activation=Spec(8, signed=True)), Recipe(), r"2\.output: .*8 bits signed.*8 bits unsigned"),
        (Recipe(output=Spec(16, o="AP_WRAP", n=1)), Recipe(output=Spec(16, o="AP_WRAP", n=2)), r"n=1.*n=2"),
    ],
)
def test_a_checkpoint_of_other_types_is_refused_and_changes_nothing(theirs: Recipe, mine: Recipe, message: str, strict: bool) -> None:
    model = quantized(mine)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = quantized(theirs)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.25
    with pytest.raises(ModelFileError, match=message) as caught:
        model.load_state_dict(other.state_dict(), strict=strict)
    assert caught.value.remedy
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ModelFileError, match=message):  # also as a part of another module
        nn.ModuleDict({"inner": model}).load_state_dict(nn.ModuleDict({"inner": other}).state_dict(), strict=strict)


def test_checkpoints_come_back(tmp_path: Path) -> None:
    first = quantized(Recipe.uniform(4))
    with torch.no_grad():
        for parameter in first.parameters():
            parameter += 0.25
    save_file(first.state_dict(), tmp_path / "model.safetensors")
    torch.save(first.state_dict(), tmp_path / "model.pt")
    for state in (load_file(tmp_path / "model.safetensors"), torch.load(tmp_path / "model.pt", weights_only=True)):
        second = quantized(Recipe.uniform(4))
        assert not same(first, second)
        assert str(second.load_state_dict(state)) == "<All keys matched successfully>"
        assert same(first, second)


def test_checkpoints_of_earlier_days_and_of_float_models_load() -> None:
    first, second = quantized(), quantized()
    with torch.no_grad():
        for parameter in first.parameters():
            parameter += 0.25
    old = {name: value for name, value in first.state_dict().items() if not name.endswith(("cast_type", "frac_start"))}
    assert str(second.load_state_dict(old)) == "<All keys matched successfully>"
    assert same(first, second)
    points = [quantizer.frac_bits.clone() for _, quantizer in qfx.quantizers(second)]
    second.load_state_dict(network().state_dict())
    assert all(torch.equal(a, quantizer.frac_bits) for a, (_, quantizer) in zip(points, qfx.quantizers(second), strict=True))
    assert torch.equal(second.get_parameter("0.weight"), network()[0].weight)
    with pytest.raises(RuntimeError, match="Missing key"):
        second.load_state_dict({name: value for name, value in first.state_dict().items() if name != "2.output_cast.frac_bits"})


def test_a_learned_word_length_is_no_part_of_the_type() -> None:
    recipe = Recipe(activation=Spec(6, learn_width=True))
    first, second = quantized(recipe), quantized(recipe)
    with torch.no_grad():
        first.get_parameter("2.output_cast.int_bits").sub_(3.0)
    second.load_state_dict(first.state_dict())
    assert dict(qfx.quantizers(second))["2.output"].word_length == 3
    assert same(first, second)


# --- pickles and wrappers -------------------------------------------------------------------------------------------------------------


def test_a_pickled_model_is_like_the_original() -> None:
    model = quantized()
    model.get_submodule("1").eval()
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    again = torch.load(buffer, weights_only=False)
    assert type(again).__mro__[1] is type(model).__mro__[1]
    assert not again.get_submodule("1").training
    assert again.get_submodule("0").training
    assert same(model, again)
    assert str(again.load_state_dict(network().state_dict())) == "<All keys matched successfully>"
    with pytest.raises(ModelFileError):
        again.load_state_dict(quantized(Recipe.uniform(4)).state_dict())
    twice = copy.deepcopy(again)
    assert str(twice.load_state_dict(network().state_dict())) == "<All keys matched successfully>"
    model.load_state_dict(network().state_dict())
    assert qfx.to_graph(twice).infos == qfx.to_graph(model.eval()).infos


@pytest.mark.parametrize(
    "wrap", [AveragedModel, nn.DataParallel, lambda model: torch.compile(model, backend="eager"), lambda m: nn.DataParallel(AveragedModel(m))]
)
def test_wrappers_are_looked_through(wrap: Any, tmp_path: Path) -> None:
    model = quantized()
    wrapped = wrap(model)
    assert [name for name, _ in qfx.quantizers(wrapped)] == [name for name, _ in qfx.quantizers(model)]
    assert qfx.to_graph(wrapped).infos == qfx.to_graph(model).infos
    qfx.export_onnx(wrapped, tmp_path / "model.onnx")
    qfx.calibrate(wrapped, X)
    assert len(qfx.parameter_groups(wrapped, lr=0.1)) == 2
    assert same(qfx.quantize(wrap(network()), X), quantized())


def test_a_model_inside_another_is_named() -> None:
    class Lit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = quantized()

    with pytest.raises(QfxError, match=r"Lit: is not a quantized model\n.*\.net"):
        qfx.to_graph(Lit())
    with pytest.raises(QfxError, match=r"make one with qfx\.quantize"):
        qfx.to_graph(network())


# --- calibrate ------------------------------------------------------------------------------------------------------------------------


def test_calibrate_is_one_function_and_leaves_every_mode() -> None:
    import qfx.ptq

    assert qfx.calibrate is qfx.ptq.calibrate
    model = quantized().train()
    model.get_submodule("1").eval()  # frozen
    modes = [module.training for module in model.modules()]
    qfx.calibrate(model, X)
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(DataError):
        qfx.calibrate(model, X * float("nan"))
    assert [module.training for module in model.modules()] == modes
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(DataError):
        qfx.calibrate(model, [100 * X, X * float("nan")])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    qfx.calibrate(model, [X[:4], X[4:]])
    qfx.calibrate(model, example_input=X)
    with pytest.raises(DataError, match="got no data"):
        qfx.calibrate(model)


# --- torch's compilers and exporters --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("backend", "style"), [("aot_eager", "keep"), ("inductor", "fold"), ("aot_eager", "fold"), ("inductor", "keep")])
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_trains_with_the_same_numbers(backend: str, style: Any, thorough: bool) -> None:
    if not thorough and (backend, style) in (("aot_eager", "fold"), ("inductor", "keep")):
        pytest.skip("the other two pairs run with --thorough")
    model = quantized(Recipe(batch_norm=style)).train()
    compiled_model = copy.deepcopy(model)
    torch._dynamo.reset()
    compiled = torch.compile(compiled_model, backend=backend)
    for _ in range(2):
        expected, found = model(X), compiled(X)
        assert torch.equal(expected, found)
        for result in (expected, found):
            result.square().sum().backward()
    for (name, mine), theirs in zip(model.named_parameters(), compiled_model.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None), name
        assert mine.grad is None or torch.allclose(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5), name  # sums in another order
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore")
def test_torchs_exporters_are_refused_with_what_to_use() -> None:
    model = quantized().eval()
    with pytest.raises(UnsupportedError, match=r"torch\.jit\.trace(.|\n)*qfx\.export_onnx"):
        torch.jit.trace(model, X)
    with pytest.raises(UnsupportedError, match=r"torch\.onnx\.export(.|\n)*qfx\.export_onnx"):
        torch.onnx.export(model, (X,), io.BytesIO(), dynamo=False)
    with pytest.raises(Exception, match=r"qfx\.export_onnx"):
        torch.export.export(model, (X,))


# --- activation checkpointing, one value per channel ----------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["keep", "fold"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_computes_the_same(style: Any, reentrant: bool) -> None:
    plain = quantized(Recipe(batch_norm=style)).train()
    saved = copy.deepcopy(plain)
    for step in range(3):
        xs = [(X + step + i).requires_grad_() for i in range(2)]
        ys = [(X + step + i).requires_grad_() for i in range(2)]
        first = [plain(x) for x in xs]
        second = [checkpoint(saved, y, use_reentrant=reentrant) for y in ys]
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a, b)
        sum(a.square().sum() for a in first).backward()  # type: ignore[union-attr]
        sum(b.square().sum() for b in second).backward()  # type: ignore[union-attr]
        for x, y in zip(xs, ys, strict=True):
            assert torch.equal(x.grad, y.grad)  # type: ignore[arg-type]
    for (name, mine), theirs in zip(plain.named_parameters(), saved.parameters(), strict=True):
        assert torch.allclose(mine.grad, theirs.grad, rtol=1e-5), name  # type: ignore[arg-type]  # added up in another order
    for (name, mine), theirs in zip(plain.named_buffers(), saved.buffers(), strict=True):
        assert torch.equal(mine, theirs), name


@pytest.mark.parametrize("style", ["keep", "fold"])
def test_one_value_per_channel_has_no_variance(style: Any) -> None:
    torch.manual_seed(0)
    model = qfx.quantize(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), torch.randn(32, 3), Recipe(batch_norm=style)).train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    with pytest.raises(DataError, match="more than 1 value per channel") as caught:
        model(torch.randn(1, 3))
    assert caught.value.where == "1"
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    model.eval()(torch.randn(1, 3))


# --- threads --------------------------------------------------------------------------------------------------------------------------


def test_threads_share_the_switches_of_the_process() -> None:
    model, failures = quantized().eval(), []
    expected, enabled = model(X), torch.backends.nnpack.is_available() and torch._C._get_nnpack_enabled()

    def work() -> None:
        for _ in range(60):
            if not torch.equal(model(X), expected):
                failures.append("another result")

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert torch._C._get_nnpack_enabled() == enabled or not torch.backends.nnpack.is_available()


def test_a_switch_is_off_while_any_thread_needs_it_off() -> None:
    from qfx.nn.backends import _Switch

    setting = [True]
    switch = _Switch(lambda: setting[0], lambda value: setting.__setitem__(0, value))
    switch.__enter__()
    switch.__enter__()  # another thread, in the middle of the first one's work
    switch.__exit__(None, None, None)
    assert setting == [False]
    switch.__exit__(None, None, None)
    assert setting == [True]


# --- learned word lengths -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("o", ["AP_WRAP_SM", "AP_SAT_ZERO"])
def test_a_learned_word_length_needs_a_mode_with_a_gradient(o: str) -> None:
    with pytest.raises(RecipeError, match=f"learn_width.*no gradient under {o}"):
        Spec(8, o=o, learn_width=True)  # type: ignore[arg-type]
    recipe = Recipe(activation=Spec(8, o=o), overrides=(qfx.Override("2", {"learn_width": True}),))  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"override '2' of 2\.output: .*no gradient"):
        quantized(recipe)
