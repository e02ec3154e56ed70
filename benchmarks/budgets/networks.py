"""The networks of ``benchmarks.budgets``, small, with real data."""

from __future__ import annotations

import io
import lzma
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.task_data import BANDS, DATA, Data, clothes, spoken_digits


def perceptron() -> nn.Module:
    """Fashion-MNIST at a quarter of its height and width."""
    return nn.Sequential(nn.Linear(49, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


class ResNet8(nn.Module):
    """The image classifier of MLPerf Tiny (Banbury et al., 2021), with TensorFlow's padding: the names are those of its checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        planes = (16, 16, 32, 64)
        self.conv0, self.bn0 = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16, eps=1e-3)
        for index in (1, 2, 3):
            fewer, more = planes[index - 1], planes[index]
            stride = 1 if fewer == more else 2
            self.add_module(f"c{index}a", nn.Conv2d(fewer, more, 3, stride, 1 if stride == 1 else 0))
            self.add_module(f"b{index}a", nn.BatchNorm2d(more, eps=1e-3))
            self.add_module(f"c{index}b", nn.Conv2d(more, more, 3, padding=1))
            self.add_module(f"b{index}b", nn.BatchNorm2d(more, eps=1e-3))
            if stride == 2:
                self.add_module(f"s{index}", nn.Conv2d(fewer, more, 1, stride))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn0(self.conv0(x)))
        for index in (1, 2, 3):
            part = self.get_submodule
            padded = x if index == 1 else F.pad(x, (0, 1, 0, 1))
            y = F.relu(part(f"b{index}a")(part(f"c{index}a")(padded)))
            y = part(f"b{index}b")(part(f"c{index}b")(y))
            x = F.relu(y + (x if index == 1 else part(f"s{index}")(x)))
        return self.fc(F.avg_pool2d(x, 8).flatten(1))  # type: ignore[no-any-return]


def separable() -> nn.Module:
    """Depthwise and pointwise convolutions in turns (Howard et al., 2017), on Fashion-MNIST at half its height and width."""

    def block(fewer: int, more: int, stride: int) -> list[nn.Module]:
        first = [nn.Conv2d(fewer, fewer, 3, stride, 1, groups=fewer, bias=False), nn.BatchNorm2d(fewer), nn.ReLU()]
        return [*first, nn.Conv2d(fewer, more, 1, bias=False), nn.BatchNorm2d(more), nn.ReLU()]

    start = [nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*start, *block(16, 32, 2), *block(32, 32, 1), nn.MaxPool2d(7), nn.Flatten(), nn.Linear(32, 10))


def keywords() -> nn.Module:
    """Convolutions over the frames of spoken digits."""
    first = [nn.Conv1d(BANDS, 32, 3, padding=1), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool1d(2)]
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(320, 10))


class Recurrent(nn.Module):
    """An LSTM over every fourth frame of spoken digits."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(BANDS, 16, batch_first=True), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Network:
    """A network, its data, and how many frames a second of it are asked for. ``floats``: steps of training in float; ``steps``: with learned word
    lengths, and half as many behind them. ``lr``: Adam's, of those. ``share``: how much is allowed of what its 8-bit design takes."""

    name: str
    make: Callable[[], nn.Module]
    data: Callable[[], Data]
    fps: float
    floats: int = 3000
    steps: int = 1000
    batch: int = 64
    lr: float = 1e-3
    share: float = 0.8


def _clothes(size: int) -> Data:
    found = clothes()
    train, test = (F.adaptive_avg_pool2d(x, size) for x in (found.train_x[:20_000], found.test_x[:4000]))
    return Data(train, found.train_y[:20_000], test, found.test_y[:4000])


def _flat() -> Data:
    found = _clothes(7)
    return Data(found.train_x.flatten(1), found.train_y, found.test_x.flatten(1), found.test_y)


def _frames() -> Data:
    found = spoken_digits()
    train, test = (x.transpose(1, 2).contiguous() for x in (found.train_x, found.test_x))
    return Data(train, found.train_y, test, found.test_y)


def _every_fourth() -> Data:
    found = spoken_digits()
    return Data(found.train_x[:, ::4], found.train_y, found.test_x[:, ::4], found.test_y)


def _images() -> Data:
    def part(name: str, count: int) -> Tensor:
        pixels = np.load(io.BytesIO(lzma.decompress((DATA / "cifar10" / f"{name}.npy.xz").read_bytes())))[:count]
        return torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32))

    labels = [torch.from_numpy(np.load(DATA / "cifar10" / f"{name}_y.npy").astype(np.int64)) for name in ("train", "test")]
    return Data(part("train_x_0", 10_000), labels[0][:10_000], part("test_x", 2000), labels[1][:2000])


def _resnet8() -> nn.Module:
    model = ResNet8()
    model.load_state_dict(torch.load(DATA / "models" / "resnet8_cifar10.pt", weights_only=True))
    return model


NETWORKS = (
    Network("MLP", perceptron, _flat, 2e6),
    Network("separable", separable, lambda: _clothes(14), 50_000, floats=2000),
    Network("keywords", keywords, _frames, 50_000, floats=1000),
    Network("LSTM", Recurrent, _every_fourth, 20_000, share=0.9),
    Network("ResNet-8", _resnet8, _images, 2000, floats=0, steps=400, batch=32, lr=3e-4),
)
"""An LSTM's cell has so much that no word length changes that 80 % of its 8-bit design are refused on the ZCU102."""
