"""The real data of ``benchmarks.tasks``: spoken digits as spectrograms, images of clothes, pairs of small and large photographs."""

from __future__ import annotations

import gzip
import io
import lzma
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

DATA = Path(os.environ.get("QFX_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
RATE_HZ, WINDOW, HOP, BANDS, FRAMES = 8000, 256, 200, 32, 40
"""Of spectrograms: one second of sound becomes FRAMES frames of BANDS bands."""


@dataclass(frozen=True, eq=False)
class Data:
    """Inputs and targets, for training and for judging."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def _unpacked(name: str) -> bytes:
    path = DATA / name
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else gzip.decompress(data)


def _filters() -> Tensor:
    """Triangular bands, evenly spaced on the mel scale (O'Shaughnessy: 2595 log10(1 + f / 700)), shape (WINDOW / 2 + 1, BANDS)."""
    edges_mel = torch.linspace(2595 * np.log10(1 + 60 / 700), 2595 * np.log10(1 + RATE_HZ / 2 / 700), BANDS + 2)
    edges = 700 * (10 ** (edges_mel / 2595) - 1)
    bins = torch.linspace(0, RATE_HZ / 2, WINDOW // 2 + 1)[:, None]
    low, mid, high = edges[:-2], edges[1:-1], edges[2:]
    return torch.minimum((bins - low) / (mid - low), (high - bins) / (high - mid)).clamp_min(0)


def spoken_digits() -> Data:
    """Free Spoken Digit Dataset: logarithms of band energies (N, FRAMES, BANDS), normalized over the training part, and digits."""
    with np.load(DATA / "fsdd" / "index.npz") as index:
        offsets, labels, is_test = index["offset"], index["label"], index["is_test"].astype(bool)
    samples: NDArray[np.int16] = np.load(io.BytesIO(_unpacked("fsdd/audio_int16_8khz.npy.xz")))
    length = WINDOW + HOP * (FRAMES - 1)
    sounds = np.zeros((len(labels), length), np.float32)
    for row, start, end in zip(sounds, offsets[:-1], offsets[1:], strict=True):
        part = samples[start:end][:length]
        row[: len(part)] = part / 32768
    frames = torch.from_numpy(sounds).unfold(1, WINDOW, HOP) * torch.hann_window(WINDOW)
    power = torch.fft.rfft(frames).abs().square() @ _filters()
    x = (power + 1e-5).log()
    train, test = torch.from_numpy(~is_test), torch.from_numpy(is_test)
    x = (x - x[train].mean()) / x[train].std()
    y = torch.from_numpy(labels.astype(np.int64))
    return Data(x[train], y[train], x[test], y[test])


def clothes() -> Data:
    """Fashion-MNIST: images (N, 1, 28, 28) of -1..1, and classes."""

    def part(name: str) -> tuple[Tensor, Tensor]:
        images = np.frombuffer(_unpacked(f"fashion_mnist/{name}-images-idx3-ubyte.xz"), np.uint8, offset=16).reshape(-1, 1, 28, 28)
        labels = np.frombuffer(_unpacked(f"fashion_mnist/{name}-labels-idx1-ubyte.gz"), np.uint8, offset=8)
        return torch.from_numpy(images.astype(np.float32)) / 127.5 - 1, torch.from_numpy(labels.astype(np.int64))

    return Data(*part("train"), *part("t10k"))


def photographs(count: int = 10_000, judged: int = 1_000) -> Data:
    """CIFAR-10: images averaged over 2 x 2 pixels (N, 3, 16, 16), and as they are (N, 3, 32, 32), of 0..1."""

    def part(name: str, number: int) -> tuple[Tensor, Tensor]:
        pixels = np.load(io.BytesIO(_unpacked(f"cifar10/{name}")))[:number]
        large = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32)) / 255
        return F.avg_pool2d(large, 2), large

    first = min(path.name for path in (DATA / "cifar10").glob("train_x*.npy.xz"))
    return Data(*part(first, count), *part("test_x.npy.xz", judged))
