"""The sign of the input: no bit is lost to one that the data do not have, and none is dropped that they have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx import DataError, Override, Recipe, Spec, ptq
from qfx.hardware.project import csim
from qfx.hardware.project.project import write_project
from qfx.testing import adversarial_inputs, assert_bit_exact
from qfx.verify import raw_of, verify


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).eval()


def images(count: int = 16) -> Tensor:
    images = torch.randint(0, 256, (count, 3, 6, 6), generator=torch.Generator().manual_seed(1))
    images[0, 0, 0, 0], images[0, 0, 0, 1] = 0, 255
    return images


def input_type(qmodel: nn.Module) -> str:
    return str(dict(qfx.quantizers(qmodel))["input"]).removeprefix("Quantizer(").removesuffix(")")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8, torch.int64])
def test_images_keep_all_their_bits(dtype: torch.dtype) -> None:
    x = images().to(dtype)
    qmodel = qfx.quantize(network(), x.float()).eval()
    assert input_type(qmodel) == "ap_ufixed<8,8,AP_RND,AP_SAT>"
    graph = qfx.to_graph(qmodel)
    assert np.array_equal(qmodel.get_submodule("input")(x).tensor().detach().numpy(), x.numpy())
    assert_bit_exact(qmodel(x.float()).detach().numpy(), qfx.run(graph, x.float().numpy()))


NEGATIVE = {
    "one negative number": (lambda x: torch.cat([x, -x[:1]]), Recipe(), True),
    "all zero": (torch.zeros_like, Recipe(), True),
    "negative zeros": (lambda x: torch.where(x < 9, -0.0, x), Recipe(), False),
    "sign-magnitude wrap": (lambda x: x, Recipe(input=Spec(8, o="AP_WRAP_SM")), True),
    "the recipe says signed": (lambda x: x, Recipe(input=Spec(8, signed=True)), True),
    "the recipe says unsigned": (lambda x: -x, Recipe(input=Spec(8, signed=False)), False),
    "an override says signed": (lambda x: x, Recipe(overrides=[Override("input", {"signed": True})]), True),
    "a binary point per channel": (lambda x: x * torch.tensor([1.0, 0.1, 0.01])[:, None, None], Recipe(input=Spec(8, granularity="channel")), False),
    "one channel is negative": (lambda x: x * torch.tensor([1.0, 1.0, -1.0])[:, None, None], Recipe(input=Spec(8, granularity="channel")), True),
    "one bit": (lambda x: (x > 99).float(), Recipe(input=Spec(1)), False),
    "wrap": (lambda x: x, Recipe(input=Spec(8, o="AP_WRAP")), False),
}


@pytest.mark.parametrize("name", NEGATIVE)
def test_the_data_decide_where_the_recipe_does_not(name: str) -> None:
    change, recipe, signed = NEGATIVE[name]
    x = change(images().float())
    qmodel = qfx.quantize(network(), x, recipe).eval()
    cast = qmodel.get_submodule("input").cast
    assert cast.mode.signed is cast.signed is signed
    graph = qfx.to_graph(qmodel)
    near = adversarial_inputs(graph, np.random.default_rng(0), 8)
    assert_bit_exact(qmodel(torch.from_numpy(near)).detach().numpy(), qfx.run(graph, near))


Calibrate = Callable[[nn.Module, Tensor], None]


@pytest.mark.parametrize("calibrate", [qfx.calibrate, ptq.calibrate, lambda q, x: ptq.calibrate(q, list(x.split(3)))])
def test_later_data_do_not_change_the_sign(calibrate: Calibrate) -> None:
    """Negative ones are refused for a model without: what follows the input was chosen for it. The other way round nothing is lost but a bit."""
    x = images().float()
    unsigned, signed, fixed = (
        qfx.quantize(network(), *pair) for pair in ((x,), (x - 128,), (x, Recipe(input=Spec(8, signed=False), output=Spec(8))))
    )
    before = {name: value.clone() for name, value in unsigned.state_dict().items()}
    with pytest.raises(DataError, match=r"(?s)^input: negative numbers, but .* had none.*signed = true in the recipe's \[input\]"):
        calibrate(unsigned, torch.cat([x, x - 128]))
    assert all(torch.equal(value, before[name]) for name, value in unsigned.state_dict().items())
    calibrate(unsigned, x / 256)
    assert input_type(unsigned) == "ap_ufixed<8,0,AP_RND,AP_SAT>"
    calibrate(signed, x)
    assert input_type(signed) == "ap_fixed<8,9,AP_RND,AP_SAT>"
    calibrate(fixed, x - 128)  # as the recipe has it


def test_both_remedies_work() -> None:
    x = torch.cat([images().float(), images().float() - 128])
    for example, recipe in ((x, Recipe()), (x[:16], Recipe(input=Spec(8, signed=True)))):
        qmodel = qfx.quantize(network(), example, recipe)
        qfx.calibrate(qmodel, x)
        assert input_type(qmodel).startswith("ap_fixed<8,")


def test_it_stays_when_a_float_checkpoint_is_loaded() -> None:
    trained, x = network(), images().float()
    qmodel = qfx.quantize(network(), x)
    qmodel.load_state_dict({name: 2 * value for name, value in trained.state_dict().items()})
    qfx.calibrate(qmodel, x)
    assert input_type(qmodel) == "ap_ufixed<8,8,AP_RND,AP_SAT>"


def test_what_does_nothing_but_move_the_input_has_its_sign() -> None:
    x = images().float()
    for example, signed in ((x, False), (x - 1, True)):
        qmodel = qfx.quantize(nn.Sequential(nn.AvgPool2d(2), nn.Flatten()), example)
        assert {name: cast.signed for name, cast in qfx.quantizers(qmodel)} == {"input": signed, "0.reciprocal": False, "0.output": signed}


def test_all_executors_agree(gxx: str, tmp_path: Path) -> None:
    """Down to the C++, on numbers below zero, too, which saturate."""
    x = images().float()
    qmodel = qfx.quantize(network(), x).eval()
    qfx.export_onnx(qmodel, tmp_path / "model.onnx")
    graph = qfx.load_graph(tmp_path / "model.onnx")
    project = write_project(graph, tmp_path / "project", board="zcu102")
    near = np.concatenate([x.numpy() - 100, adversarial_inputs(graph, np.random.default_rng(0), 8)]).astype(np.float32)

    def in_torch(x: np.ndarray) -> np.ndarray:
        return raw_of(qmodel(torch.from_numpy(x)).detach().numpy(), graph, "torch")

    rows = verify(tmp_path / "model.onnx", near, {"C simulation": lambda x: csim.run_raw(project.path, x), "torch": in_torch})
    assert {row.executor: row.differing_values for row in rows} == dict.fromkeys([row.executor for row in rows], 0)


def test_after_training_all_data_decide() -> None:
    """Not only the first samples, on which binary points start."""
    x = torch.cat([images(300).float(), images(20).float() - 128]) / 64
    found = ptq.autoquant(network(), x, lambda model: 1.0, max_drop=0.0)
    assert input_type(found.qmodel).startswith("ap_fixed<8,")
    found = ptq.autoquant(network(), x[:300], lambda model: 1.0, max_drop=0.0)
    assert input_type(found.qmodel) == "ap_ufixed<8,2,AP_RND,AP_SAT>"
