"""Small float models that the tests of the float passes share, with BatchNorm statistics that are worth folding."""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qfx.ptq.floating.fold import along_inputs, along_outputs


def settled(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in evaluation mode, every BatchNorm with random constants and statistics."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_mean is not None:
            assert module.running_var is not None
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) * 4 + 0.1)
            if module.affine:
                with torch.no_grad():
                    module.weight.copy_(torch.randn(module.num_features, generator=generator))
                    module.bias.copy_(torch.randn(module.num_features, generator=generator))
    return model.eval()


def uneven(model: nn.Module, pairs: list[tuple[str, str]], octaves: float = 4.0, seed: int = 0) -> nn.Module:
    """A copy of the model that computes the same with the channels between each pair of layers scaled at random, by up to 2**octaves either way."""
    generator = torch.Generator().manual_seed(seed)
    model = copy.deepcopy(model)
    with torch.no_grad():
        for first, second in pairs:
            above, below = model.get_submodule(first), model.get_submodule(second)
            count = above.bias.numel()
            factors = torch.exp2(octaves * (2 * torch.rand(count, generator=generator) - 1))
            above.weight.mul_(along_outputs(above, factors))
            above.bias.mul_(factors)
            repeat = (below.in_features if isinstance(below, nn.Linear) else below.in_channels) // count
            below.weight.div_(along_inputs(below, factors.repeat_interleave(repeat)))
    return model


def separable(relu: type[nn.Module] = nn.ReLU) -> nn.Module:
    """Pointwise, depthwise, pointwise, a pool and a linear layer behind a flattening that is not trivial."""
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            expand=nn.Conv2d(3, 8, 1),
            relu1=relu(),
            depthwise=nn.Conv2d(8, 8, 3, padding=1, groups=8),
            relu2=relu(),
            project=nn.Conv2d(8, 6, 1),
            relu3=relu(),
            pool=nn.MaxPool2d(2),
            flat=nn.Flatten(),
            fc=nn.Linear(6 * 9, 5),
        )
    ).eval()


class Residual(nn.Module):
    """A block with functional activations; only conv1 -> conv2 may be equalized."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.bn0 = nn.BatchNorm2d(4)
        self.conv1 = nn.Conv2d(4, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 4, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn0(self.stem(x)))
        x = torch.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())) + x)
        return self.fc(x.mean((2, 3)))


IMAGES = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(7))
