"""Constants beside values, joined along an axis or all around, in all executors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from executors import same_in_cpp, same_in_torch_and_the_file
from torch import Tensor, nn

import qfx
from qfx.errors import UnsupportedError
from qfx.nn.clipped import Clipped
from qfx.nn.layers.elementwise.beside import QBeside, QFill

Form = Callable[["Net", Tensor], Tensor]
FORMS: dict[str, Form] = {
    "zeros": lambda m, x: torch.cat([x, torch.zeros(x.shape[0], 1, 6, 5)], 1),
    "zeros before": lambda m, x: torch.cat([x.new_zeros(len(x), 4, 2, 5), x], 2),
    "ones": lambda m, x: torch.cat([x, torch.ones(x.shape[0], 1, 6, 5)], 1),
    "class token": lambda m, x: torch.cat([m.token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2).reshape(len(x), -1, 5)], 1),
    "token repeated": lambda m, x: torch.cat((m.place.repeat(len(x), 1, 1, 1), x), 2),
    "rows around": lambda m, x: torch.cat((m.place.expand(len(x), -1, -1, -1), x, 2 * m.place.expand(len(x), -1, -1, -1)), 2),
    "buffer": lambda m, x: torch.cat((x, m.column.expand(len(x), -1, -1, -1)), 3),
    "channels": lambda m, x: torch.cat((x, m.channels.expand(len(x), -1, 6, 5)), 1),
    "between": lambda m, x: torch.cat((x, m.place.expand(len(x), -1, -1, -1), F.relu(x)), 2),
    "stack": lambda m, x: torch.stack((x, m.whole.expand(len(x), -1, -1, -1)), 1),
    "stack along rows": lambda m, x: torch.stack((x, m.whole.expand(len(x), -1, -1, -1), x), 2),
    "like": lambda m, x: torch.cat((torch.full_like(x, 0.25), x * torch.ones_like(x), x.new_full((len(x), 1, 6, 5), -1.0)), 1),
    "pad one": lambda m, x: F.pad(x, (1, 2, 0, 1), value=1.0),
    "pad channels": lambda m, x: F.pad(x, (1, 2, 0, 1, 1, 0), value=-0.3),
    "pad and cut": lambda m, x: F.pad(x, (-1, 2), value=-100.3),
    "ConstantPad2d": lambda m, x: m.pad(x),
}


class Net(nn.Module):
    """The form behind a convolution, whose result is cast."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 1)
        self.form = form
        self.pad = nn.ConstantPad2d((0, 1, 2, 0), 0.5)
        self.token = nn.Parameter(torch.randn(1, 1, 5))
        self.place = nn.Parameter(torch.randn(1, 4, 1, 5))
        self.whole = nn.Parameter(torch.randn(4, 6, 5))
        self.register_buffer("column", torch.randn(1, 4, 6, 1))
        self.register_buffer("channels", torch.randn(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.form(self, self.conv(x))


@pytest.fixture(scope="module")
def made() -> dict[str, tuple[nn.Module, Tensor, nn.Module]]:
    """A quantized network of every form, an input, and the float one."""
    torch.manual_seed(0)
    x = torch.randn(4, 2, 6, 5)
    nets = {name: Net(form).eval() for name, form in FORMS.items()}
    recipe = qfx.Recipe(activation=qfx.Spec(11), output=qfx.Spec(11))
    return {name: (qfx.quantize(net, x, recipe).eval(), x, net) for name, net in nets.items()}


@pytest.mark.parametrize("name", FORMS)
def test_torch_the_graph_and_the_file_agree(name: str, made: dict[str, tuple[nn.Module, Tensor, nn.Module]], tmp_path: Path) -> None:
    q, x, net = made[name]
    same_in_torch_and_the_file(q, x, tmp_path)
    with torch.no_grad():
        assert (q(x) - net(x)).abs().max() < 0.06


def test_c_simulation_agrees(fast: bool, made: dict[str, tuple[nn.Module, Tensor, nn.Module]], tmp_path: Path, gxx: str) -> None:
    same_in_cpp([(q, x) for q, x, _ in made.values()], tmp_path, fast=fast)


def test_tokens_are_trained_under_their_names() -> None:
    torch.manual_seed(1)
    for name, parameter in (("class token", "token"), ("token repeated", "place"), ("stack", "whole")):
        net, x = Net(FORMS[name]).eval(), torch.randn(4, 2, 6, 5)
        q = qfx.quantize(net, x).train()
        q(x).sum().backward()
        (found,) = (value for key, value in q.named_parameters() if key.endswith(f".{parameter}"))
        assert torch.equal(found, net.get_parameter(parameter))
        assert bool((found.grad == len(x)).all())
        state = {key: value + 1.0 if key == parameter else value for key, value in net.state_dict().items()}
        unused = {"token", "place", "whole", "column", "channels"} - {parameter}
        q.load_state_dict({key: value for key, value in state.items() if key not in unused})
        assert torch.equal(found, net.get_parameter(parameter) + 1.0)


def test_zeros_cost_no_constant_and_others_start_on_the_grid_of_the_value() -> None:
    torch.manual_seed(2)
    x = torch.randn(4, 2, 6, 5)
    assert not any(isinstance(layer, QBeside) for layer in qfx.quantize(Net(FORMS["zeros"]).eval(), x).modules())
    q = qfx.quantize(Net(FORMS["token repeated"]).eval(), x)
    graph = qfx.to_graph(q)
    assert graph.infos[graph.output].type.frac_bits == graph.infos["conv.output"].type.frac_bits


def test_what_a_layer_gives_is_told_channel_by_channel() -> None:
    torch.manual_seed(3)
    q = qfx.quantize(Net(FORMS["channels"]).eval(), torch.randn(4, 2, 6, 5)).eval()
    (layer,) = (layer for layer in q.modules() if isinstance(layer, QBeside))
    found = layer.distribution([Clipped.normal(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.ones(4))])
    assert found.mean[:4].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert torch.equal(found.mean[4:], layer.constant().value.double().detach().reshape(-1))
    assert not found.std[4:].any()
    assert not layer.scales_channels(7)
    q = qfx.quantize(Net(FORMS["pad channels"]).eval(), torch.randn(4, 2, 6, 5)).eval()
    (fill,) = (layer for layer in q.modules() if isinstance(layer, QFill))
    assert float(fill.distribution([Clipped.normal(torch.ones(4), torch.ones(4))]).mean[0]) == float(fill.constant().value.detach())


def test_what_differs_from_sample_to_sample_is_refused() -> None:
    class Own(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x, torch.arange(x.shape[0]).reshape(-1, 1).float()], 1)

    with pytest.raises(UnsupportedError, match="a length of 1 along the batch"):
        qfx.quantize(nn.Sequential(nn.Linear(3, 3), Own()), torch.randn(4, 3))
