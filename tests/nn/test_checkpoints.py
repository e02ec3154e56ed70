"""What a checkpoint of a quantized model keeps, and which ones a model takes: the types travel with the numbers."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import qfx
from qfx import ModelFileError, Override, Recipe, Spec
from qfx.capture.checkpoint import load_checkpoint
from qfx.nn.model import recipe_of

X = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )  # one of every kind of quantizer


def quantized(recipe: Recipe | None = None, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return qfx.quantize(network(), X, recipe)


def saved(q: nn.Module) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in q.state_dict().items()}


def with_types(q: nn.Module) -> bool:
    return any(name.endswith("cast_type") for name in q.state_dict())


def role(name: str, **changes: Any) -> Recipe:
    return replace(Recipe(), **{name: replace(getattr(Recipe(), name), **changes)})


OTHERS = {
    "width": Recipe.uniform(4),
    "width of one layer": Recipe(overrides=(Override("5.weight", {"width": 7}),)),
    "rounding": role("activation", q="AP_TRN"),
    "ties": role("weight", q="AP_RND_CONV"),
    "overflow": role("activation", o="AP_WRAP"),
    "saturated bits": role("activation", o="AP_WRAP", n=2),
    "sign": role("activation", signed=True),
    "input": role("input", width=9),
    "bias": role("bias", width=12),
    "scale": role("scale", width=12),
    "shift": role("shift", o="AP_SAT_SYM"),
    "reciprocal": role("reciprocal", width=10),
    "output": role("output", width=10),
    "learned": role("weight", learn_width=True),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("strict", [True, False])
def test_a_checkpoint_of_other_types_is_refused_and_changes_nothing(name: str, strict: bool) -> None:
    theirs, ours = quantized(OTHERS[name], seed=1), quantized()
    for source, target in ((theirs, ours), (ours, theirs)):
        before = saved(target)
        with pytest.raises(ModelFileError) as caught:
            target.load_state_dict(source.state_dict(), strict=strict)
        types = dict(qfx.quantizers(target))
        assert caught.value.where in types
        assert all(torch.equal(before[key], tensor) for key, tensor in target.state_dict().items())
        assert caught.value.what.count("signed") == 2
        assert "Override(" in caught.value.remedy
        # and a load that fits goes on as ever
        target.load_state_dict(before, strict=strict)


@pytest.mark.parametrize("name", [name for name in OTHERS if name != "width"])
def test_the_remedy_works(name: str) -> None:
    theirs, ours = quantized(OTHERS[name], seed=1), quantized()
    for source, target in ((theirs, ours), (ours, theirs)):
        recipe = recipe_of(target)
        for _ in range(8):
            fresh = quantized(recipe)
            try:
                fresh.load_state_dict(source.state_dict())
            except ModelFileError as error:
                call = error.remedy[error.remedy.index("Override(") : error.remedy.rindex(")") + 1]
                recipe = replace(recipe, overrides=(*recipe.overrides, eval(call, {"Override": Override})))
            else:
                break
        with torch.no_grad():
            assert torch.equal(fresh.eval()(X), source.eval()(X))


def test_learned_widths_are_parameters_and_only_the_modes_must_match() -> None:
    recipe = role("weight", learn_width=True)
    theirs, ours = quantized(recipe, seed=1), quantized(recipe)
    for name, quantizer in qfx.quantizers(theirs):
        if name.endswith(".weight"):
            with torch.no_grad():
                quantizer.int_bits.copy_(5.0 - quantizer.frac_bits)
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        assert torch.equal(ours.eval()(X), theirs.eval()(X))
    with pytest.raises(ModelFileError, match="AP_TRN"):
        ours.load_state_dict(quantized(role("weight", learn_width=True, q="AP_TRN")).state_dict())


@pytest.mark.parametrize("granularity", ["tensor", "channel", "element"])
def test_one_word_length_of_earlier_days_becomes_the_same_for_every_position(granularity: str) -> None:
    recipe = role("weight", width=6, learn_width=True, granularity=granularity)
    theirs, ours, plain = quantized(recipe, seed=1), quantized(recipe), quantized(role("weight", width=6, granularity=granularity))
    old = {name: tensor for name, tensor in saved(theirs).items() if not name.endswith("int_bits")}
    old |= {name.replace("int_bits", "width"): torch.tensor(6.3) for name in saved(theirs) if name.endswith("int_bits")}
    assert str(ours.load_state_dict(old)) == "<All keys matched successfully>"
    plain.load_state_dict({name: t for name, t in old.items() if not name.endswith((".width", "cast_type"))})
    with torch.no_grad():
        assert torch.equal(ours.eval()(X), plain.eval()(X))


def through_torch(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    torch.save(state, path)
    loaded: dict[str, Tensor] = torch.load(path, weights_only=True)
    return loaded


def through_safetensors(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    save_file(state, str(path))
    return load_file(str(path))


@pytest.mark.parametrize("through", [through_torch, through_safetensors])
def test_types_travel_in_both_formats(through: Callable[..., dict[str, Tensor]], tmp_path: Path) -> None:
    theirs, ours = quantized(seed=1), quantized()
    assert with_types(theirs)
    ours.load_state_dict(through(theirs.state_dict(), tmp_path / "q"))
    with torch.no_grad():
        assert torch.equal(ours.eval()(X), theirs.eval()(X))
    with pytest.raises(ModelFileError):
        quantized(Recipe.uniform(4)).load_state_dict(through(theirs.state_dict(), tmp_path / "r"))


@pytest.mark.parametrize("assign", [False, True])
def test_checkpoints_of_earlier_versions_load(assign: bool) -> None:
    theirs, ours = quantized(seed=1), quantized()
    old = {name: tensor for name, tensor in saved(theirs).items() if not name.endswith(("cast_type", "frac_start"))}
    assert str(ours.load_state_dict(old, assign=assign)) == "<All keys matched successfully>"
    with torch.no_grad():
        assert torch.equal(ours.eval()(X), theirs.eval()(X))
    assert with_types(ours)
    with pytest.raises(ModelFileError):  # even these tell whether a word length was learned
        quantized().load_state_dict({f"{key}": value for key, value in old.items()} | {"5.weight_cast.width": torch.tensor(8.0)}, strict=False)


def pickled(q: nn.Module) -> nn.Module:
    stream = io.BytesIO()
    torch.save(q, stream)
    stream.seek(0)
    loaded: nn.Module = torch.load(stream, weights_only=False)
    return loaded


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "itself": lambda q: q,
    "deepcopy": copy.deepcopy,
    "pickle": pickled,
    "pickle of a deepcopy": lambda q: pickled(copy.deepcopy(q)),
    "deepcopy of a pickle": lambda q: copy.deepcopy(pickled(q)),
    "pickle of a pickle": lambda q: pickled(pickled(q)),
    "part of another module": lambda q: nn.ModuleDict({"inner": q}),
    "pickle in another module": lambda q: pickled(nn.ModuleDict({"inner": q})),
}


@pytest.mark.parametrize("name", COPIES)
@pytest.mark.parametrize("assign", [False, True])
def test_copies_take_and_refuse_what_the_original_does(name: str, assign: bool) -> None:
    made = COPIES[name](quantized())
    prefix = "inner." if isinstance(made, nn.ModuleDict) else ""
    q = made["inner"] if isinstance(made, nn.ModuleDict) else made
    float_model = network()
    points = {key: value.clone() for key, value in q.state_dict().items() if key.endswith(("frac_bits", "frac_start", "cast_type"))}
    state = {prefix + key: value for key, value in float_model.state_dict().items()}
    assert str(made.load_state_dict(state, assign=assign)) == "<All keys matched successfully>"
    assert all(torch.equal(q.state_dict()[key], value) for key, value in points.items())
    assert all(torch.equal(q.state_dict()[key], value) for key, value in float_model.state_dict().items())
    assert all(quantizer.frac_bits.requires_grad for key, quantizer in qfx.quantizers(q) if "reciprocal" not in key)
    before = saved(q)
    other = {prefix + key: value for key, value in quantized(Recipe.uniform(4)).state_dict().items()}
    with pytest.raises(ModelFileError):
        made.load_state_dict(other, strict=False, assign=assign)
    assert all(torch.equal(before[key], value) for key, value in q.state_dict().items())
    some = {key: value for key, value in saved(made).items() if key != f"{prefix}5.weight_cast.frac_bits"}
    some[f"{prefix}0.weight"] += 1
    with pytest.raises(RuntimeError, match=r"5.weight_cast.frac_bits"):
        made.load_state_dict(some, assign=assign)
    if made is q:  # what torch refuses changes nothing either
        assert all(torch.equal(before[key], value) for key, value in q.state_dict().items())


def test_types_stay_true_when_buffers_are_averaged() -> None:
    average = AveragedModel(quantized(), avg_fn=lambda old, new, _: old * 0.9 + new * 0.05, use_buffers=True)
    for _ in range(2):
        average.update_parameters(quantized())
    quantized().load_state_dict(average.module.state_dict())


def test_starts_stay_with_a_float_checkpoint() -> None:
    q = quantized()
    quantizer = dict(qfx.quantizers(q))["5.weight"]
    with torch.no_grad():
        quantizer.frac_bits += 3.25
    start = quantizer.frac_start.clone()
    q.load_state_dict(network().state_dict())
    assert torch.equal(quantizer.frac_start, start)


def test_calibrating_keeps_the_type_true() -> None:
    q = quantized(Recipe(activation=Spec(6)))
    before = {key: value for key, value in saved(q).items() if key.endswith("cast_type")}
    qfx.calibrate(q, 3 * X)
    assert all(torch.equal(q.state_dict()[key], value) for key, value in before.items())


def test_load_checkpoint_takes_the_same(tmp_path: Path) -> None:
    q, path = quantized(), tmp_path / "c.pt"
    for state in (network().state_dict(), quantized(seed=2).state_dict()):
        torch.save(state, path)
        load_checkpoint(q, path)
        assert all(torch.equal(q.state_dict()[key], value) for key, value in state.items())
    torch.save(quantized(Recipe.uniform(4)).state_dict(), path)
    before = saved(q)
    with pytest.raises(ModelFileError):
        load_checkpoint(q, path)
    assert all(torch.equal(before[key], value) for key, value in q.state_dict().items())
