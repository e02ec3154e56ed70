"""What a user of ``qfx ptq`` has in a folder, and how the command is run and its report read in tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from click.testing import CliRunner, Result
from torch import nn

import qfx
from qfx.cli import main

MODULE = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3))
"""


def user_folder(place: Path) -> Path:
    """Everything that a user has: a module, a checkpoint, calibration and evaluation data."""
    (place / "usersnet.py").write_text(MODULE)
    torch.manual_seed(0)
    scope: dict[str, type[nn.Module]] = {}
    exec(MODULE, scope)
    net = scope["Net"]()
    x = torch.randn(40, 1, 6, 6)
    with torch.no_grad():
        net(x)
        net.eval()[5].bias -= net(x).mean(0)  # so that every class is there
        y = net(x).argmax(1)
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in net.state_dict().items()}}, place / "weights.pt")
    np.savez(place / "calib.npz", x=x.numpy())
    np.savez(place / "test.npz", x=x.numpy(), y=y.numpy())
    qfx.Recipe(weight=qfx.Spec(4, granularity="channel"), overrides=[qfx.Override("2.output", {"width": 6})]).save(place / "recipe.toml")
    return place


BASE = ("ptq", "--model", "usersnet:Net", "--checkpoint", "weights.pt", "--calib", "calib.npz")


def qfx_command(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refusal(*arguments: object) -> str:
    """What the command says when it refuses: exit code 2, a complaint, a remedy, no traceback."""
    result = qfx_command(*arguments)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert "error:" in result.stderr, result.stderr
    assert "remedy:" in result.stderr, result.stderr
    return result.stderr
