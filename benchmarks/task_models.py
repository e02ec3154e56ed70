"""The networks of ``benchmarks.tasks``, in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SpeechLSTM(nn.Module):
    """Two layers of LSTM over the frames of a spectrogram (N, frames, bands), the mean of all steps, ten classes."""

    def __init__(self, bands: int, hidden: int = 64) -> None:
        super().__init__()
        self.lstm = nn.LSTM(bands, hidden, num_layers=2, batch_first=True)
        self.head = nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        steps, _ = self.lstm(x)
        return self.head(steps.mean(1))  # type: ignore[no-any-return]


class SpeechTransformer(nn.Module):
    """Two encoder layers of torch's own over the frames of a spectrogram, the mean of all places, ten classes."""

    def __init__(self, bands: int, frames: int, width: int = 48) -> None:
        super().__init__()
        self.embed = nn.Linear(bands, width)
        self.places = nn.Parameter(0.02 * torch.randn(1, frames, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x) + self.places).mean(1))  # type: ignore[no-any-return]


class VitBlock(nn.Module):
    """Attention and a perceptron, each behind its LayerNorm and beside a shortcut (Dosovitskiy et al., 2020)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c)
        x = x + self.proj(attended)
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class Vit(nn.Module):
    """A vision transformer for 28 x 28 images: patches of 7 x 7, a class token, learned places."""

    def __init__(self, width: int = 64, depth: int = 3, heads: int = 4) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, 7, 7)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(0.02 * torch.randn(1, 17, width))
        self.blocks = nn.Sequential(*(VitBlock(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), dim=1) + self.places
        return self.head(self.norm(self.blocks(x))[:, 0])  # type: ignore[no-any-return]


class EdsrBlock(nn.Module):
    """Two convolutions beside a shortcut, the branch scaled (Lim et al., 2017)."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.conv1, self.conv2, self.scale = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1), scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.conv2(F.relu(self.conv1(x)))  # type: ignore[no-any-return]


class Edsr(nn.Module):
    """EDSR, small: twice the height and width of an RGB image of 0..1."""

    mean: Tensor

    def __init__(self, width: int = 24, depth: int = 3) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor((0.4914, 0.4822, 0.4465)).reshape(1, 3, 1, 1))
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*(EdsrBlock(width, 0.5) for _ in range(depth)), nn.Conv2d(width, width, 3, padding=1))
        self.tail = nn.Sequential(nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x - self.mean)
        return self.tail(x + self.body(x)) + self.mean  # type: ignore[no-any-return]
