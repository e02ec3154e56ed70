"""Binary points that flip come to rest; others move on."""

from __future__ import annotations

import copy

import pytest
import torch
from nn_models import check_exact
from torch import Tensor, nn

import qfx
from qfx import QfxError, Recipe, Settling, Spec
from qfx.errors import ModelFileError


def _between() -> tuple[nn.Module, Tensor, Tensor]:
    """A layer whose best scale lies between two powers of two: the ends of its range are as heavy as what lies inside."""
    torch.manual_seed(0)
    x = torch.cat([torch.rand(200, 1) * 2 - 1, torch.full((12, 1), 1.6)])
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.bias.zero_()
    recipe = Recipe(input=Spec(3), weight=Spec(8, learn=False), bias=Spec(16, learn=False), output=Spec(16, learn=False))
    qmodel = qfx.quantize(model, x, recipe)
    for name, parameter in qmodel.named_parameters():
        parameter.requires_grad_(name.endswith("cast.frac_bits") and name.startswith("input"))
    return qmodel, x, x.clone()


def _flips(qmodel: nn.Module, x: Tensor, y: Tensor, settling: Settling | None, steps: int) -> list[int]:
    points = [parameter for parameter in qmodel.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(points, lr=0.05)
    cast = dict(qfx.quantizers(qmodel))["input"]
    seen = [int(cast.points())]
    for _ in range(steps):
        optimizer.zero_grad()
        (qmodel(x) - y).square().mean().backward()
        optimizer.step()
        if settling is not None:
            settling.step()
        seen.append(int(cast.points()))
    return [step for step in range(steps) if seen[step] != seen[step + 1]]


def test_a_point_that_flips_comes_to_rest() -> None:
    qmodel, x, y = _between()
    free = _flips(copy.deepcopy(qmodel), x, y, None, 300)
    assert len(free) > 10  # it does flip
    settling = Settling(qmodel)
    held = _flips(qmodel, x, y, settling, 300)
    assert len(held) <= 4
    assert settling.resting == 1
    check_exact(qmodel)


def test_a_point_that_goes_one_way_is_not_held() -> None:
    qmodel = qfx.quantize(nn.Linear(4, 3), torch.randn(16, 4), Recipe(weight=Spec(8, granularity="channel")))
    settling = Settling(qmodel)
    points = dict(qfx.quantizers(qmodel))["layer.weight"].frac_bits.detach().view(-1)  # the same memory
    start = points.clone()
    with torch.no_grad():
        for step in range(60):
            points[0] += 0.1  # on and on
            points[1] += 1.0 if step % 2 else -1.0  # to and fro
            settling.step()
    assert float(points[0] - start[0]) == pytest.approx(6.0, abs=1e-3)
    assert settling.resting == 1
    assert float(points[1]) == float(start[1].round())
    assert float(points[2]) == float(start[2])


def test_resumed_as_if_never_stopped() -> None:
    qmodel, _, _ = _between()
    whole, resumed = copy.deepcopy(qmodel), copy.deepcopy(qmodel)
    a, b = Settling(whole), Settling(resumed)
    moves = torch.randn(40, generator=torch.Generator().manual_seed(0))

    def move(model: nn.Module, settling: Settling, steps: Tensor) -> None:
        for change in steps:
            with torch.no_grad():
                dict(qfx.quantizers(model))["input"].frac_bits.add_(change)
            settling.step()

    move(whole, a, moves)
    move(resumed, b, moves[:3])
    again = copy.deepcopy(qmodel)
    again.load_state_dict(resumed.state_dict())
    c = Settling(again)
    c.load_state_dict(b.state_dict())
    move(again, c, moves[3:])
    assert all(torch.equal(p, q) for p, q in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    assert all(torch.equal(a.state_dict()[name].nan_to_num(99), value.nan_to_num(99)) for name, value in c.state_dict().items())


def test_what_it_refuses() -> None:
    qmodel, _, _ = _between()
    other = qfx.quantize(nn.Linear(4, 3), torch.randn(16, 4))
    with pytest.raises(ModelFileError, match="another model"):
        Settling(qmodel).load_state_dict(Settling(other).state_dict())
    with pytest.raises(QfxError, match="is not a quantized model"):
        Settling(nn.Linear(2, 2))
    fixed = qfx.quantize(
        nn.Linear(4, 3), torch.randn(16, 4), Recipe(**{role: Spec(8, learn=False) for role in ("input", "weight", "bias", "output")})
    )
    lengths = qfx.quantize(
        nn.Linear(4, 3), torch.randn(16, 4), Recipe(**{role: Spec(8, learn_width=True) for role in ("input", "weight", "bias", "output")})
    )
    for model in (fixed, lengths):
        settling = Settling(model)
        settling.step()
        assert settling.resting == 0
        assert not settling.state_dict()["last"].numel()
