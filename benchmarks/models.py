"""The networks that are timed: in plain PyTorch, and the same in Brevitas with power-of-two scales."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IN_PLANES = 16


class Layers:
    """Where a network takes its layers from: PyTorch's own. ``benchmarks.brevitas_layers`` gives Brevitas'."""

    def conv(self, inputs: int, outputs: int, stride: int = 1) -> nn.Module:
        return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)

    def linear(self, inputs: int, outputs: int) -> nn.Module:
        return nn.Linear(inputs, outputs)

    def relu(self) -> nn.Module:
        return nn.ReLU()

    def entry(self) -> nn.Module:
        """In front of the network: the cast of its input, where there is one."""
        return nn.Identity()

    def exit(self) -> nn.Module:
        """Behind the network: the cast of its output."""
        return nn.Identity()

    def average(self) -> nn.Module:
        """Behind the global average."""
        return nn.Identity()


class Block(nn.Module):
    """A basic block of ResNet (He et al., 2015) with its parameter-free shortcut, option A: every second pixel, new channels of zeros."""

    def __init__(self, layers: Layers, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = layers.conv(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.relu1 = layers.relu()
        self.conv2, self.bn2 = layers.conv(outputs, outputs), nn.BatchNorm2d(outputs)
        self.relu2 = layers.relu()
        self.changes = stride != 1 or inputs != outputs
        self.more = (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more, self.more)) if self.changes else x
        return self.relu2(y + shortcut)  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """A ResNet for CIFAR images (N, 3, 32, 32) of ``6 * depth + 2`` layers: depth 3 is ResNet-20, 0.27 million parameters."""

    def __init__(self, layers: Layers, depth: int = 3) -> None:
        super().__init__()
        self.entry = layers.entry()
        self.conv1, self.bn1, self.relu = layers.conv(3, IN_PLANES), nn.BatchNorm2d(IN_PLANES), layers.relu()
        blocks = []
        planes = IN_PLANES
        for stage in range(3):
            for index in range(depth):
                outputs = IN_PLANES << stage
                blocks.append(Block(layers, planes, outputs, 2 if stage and not index else 1))
                planes = outputs
        self.blocks = nn.Sequential(*blocks)
        self.average = layers.average()
        self.fc, self.exit = layers.linear(planes, 10), layers.exit()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(self.entry(x))))
        x = self.average(F.adaptive_avg_pool2d(self.blocks(x), 1))
        return self.exit(self.fc(torch.flatten(x, 1)))  # type: ignore[no-any-return]


def mlp(layers: Layers) -> nn.Module:
    """16-64-32-32-5 with ReLU: the jet-tagging network of the hls4ml papers."""
    sizes = (16, 64, 32, 32)
    hidden = [module for pair in pairwise(sizes) for module in (layers.linear(*pair), layers.relu())]
    return nn.Sequential(layers.entry(), *hidden, layers.linear(32, 5), layers.exit())
