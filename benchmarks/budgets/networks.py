"""The networks of ``benchmarks.budgets``, small, with real data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.task_data import BANDS, DATA, clothes, spoken_digits


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
    """A network, its data, and how many frames a second of it are asked for. ``floats``: steps of training in float."""

    name: str
    make: Callable[[], nn.Module]
    data: Callable[[], tuple[Tensor, Tensor]]
    fps: float
    floats: int = 300
    batch: int = 64


def _clothes(size: int) -> tuple[Tensor, Tensor]:
    found = clothes()
    return F.adaptive_avg_pool2d(found.train_x[:8000], size), found.train_y[:8000]


def _flat() -> tuple[Tensor, Tensor]:
    x, y = _clothes(7)
    return x.flatten(1), y


def _spoken(every: int) -> tuple[Tensor, Tensor]:
    found = spoken_digits()
    return found.train_x[:, ::every], found.train_y


def _frames() -> tuple[Tensor, Tensor]:
    x, y = _spoken(1)
    return x.transpose(1, 2).contiguous(), y


def _images() -> tuple[Tensor, Tensor]:
    import io
    import lzma

    import numpy as np

    first = min((DATA / "cifar10").glob("train_x*.npy.xz"))
    pixels = np.load(io.BytesIO(lzma.decompress(first.read_bytes())))[:2000]
    labels = np.load(DATA / "cifar10" / "train_y.npy")[:2000]
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32)), torch.from_numpy(labels.astype(np.int64))


def _resnet8() -> nn.Module:
    model = ResNet8()
    model.load_state_dict(torch.load(DATA / "models" / "resnet8_cifar10.pt", weights_only=True))
    return model


NETWORKS = (
    Network("MLP", perceptron, _flat, 2e6),
    Network("separable", separable, lambda: _clothes(14), 50_000),
    Network("keywords", keywords, _frames, 50_000),
    Network("LSTM", Recurrent, lambda: _spoken(4), 20_000),
    Network("ResNet-8", _resnet8, _images, 2000, floats=0, batch=16),
)
