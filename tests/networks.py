"""Eight kinds of network that go the whole way, as plain torch modules: each in a small size for every day and in the size of its real task.

``make(name, small=...)`` gives a seeded network in evaluation mode whose BatchNorm statistics have seen data, and a batch of that data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shape = tuple[int, ...]


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut; where the size changes, it is a 1x1 convolution ("B") or subsampling and zero channels ("A")."""

    def __init__(self, inputs: int, planes: int, stride: int, option: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.extra = (planes - inputs) // 2
        self.shortcut: nn.Module = nn.Identity()
        self.subsamples = stride != 1 and option == "A"
        if stride != 1 and option == "B":
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.subsamples:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra, self.extra))
        out += self.shortcut(x)
        return self.relu(out)


class ResNet(nn.Module):
    """He et al. 2016, section 4.2: three stages of ``blocks`` blocks. 1 block and option B make ResNet-8, 3 blocks and option A ResNet-20."""

    def __init__(self, blocks: int, planes: int, option: str, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, planes, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.layer1 = self._stage(planes, planes, 1, blocks, option)
        self.layer2 = self._stage(planes, 2 * planes, 2, blocks, option)
        self.layer3 = self._stage(2 * planes, 4 * planes, 2, blocks, option)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(4 * planes, classes)

    @staticmethod
    def _stage(inputs: int, planes: int, stride: int, blocks: int, option: str) -> nn.Sequential:
        rest = (BasicBlock(planes, planes, 1, option) for _ in range(blocks - 1))
        return nn.Sequential(BasicBlock(inputs, planes, stride, option), *rest)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(torch.flatten(self.avgpool(x), 1))


class VGG(nn.Module):
    """Simonyan and Zisserman 2015, with BatchNorm: pairs of convolutions between poolings, then two linear layers with dropout."""

    def __init__(self, planes: int, stages: int, size: int, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for stage in range(stages):
            outputs = planes << stage
            for _ in range(2):
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        hidden = 4 * planes
        flat = inputs * (size >> stages) ** 2
        self.classifier = nn.Sequential(nn.Linear(flat, hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.classifier(x.view(x.size(0), -1))


def _conv_bn_relu6(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    """Sandler et al. 2018: expand, depthwise, project without an activation; a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        self.conv = nn.Sequential(
            _conv_bn_relu6(inputs, hidden, 1),
            _conv_bn_relu6(hidden, hidden, 3, stride, hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.use_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.use_shortcut else self.conv(x)


class MobileNet(nn.Module):
    """Depthwise-separable: a stem, two blocks of the first version (Howard et al. 2017), three inverted residuals of the second, a head."""

    def __init__(self, planes: int, classes: int = 10) -> None:
        super().__init__()
        self.stem = _conv_bn_relu6(3, planes, 3, 2)
        self.separable = nn.Sequential(
            _conv_bn_relu6(planes, planes, 3, 1, planes),
            _conv_bn_relu6(planes, 2 * planes, 1),
            _conv_bn_relu6(2 * planes, 2 * planes, 3, 2, 2 * planes),
            _conv_bn_relu6(2 * planes, 3 * planes, 1),
        )
        self.bottlenecks = nn.Sequential(
            InvertedResidual(3 * planes, 3 * planes, 1, 2),
            InvertedResidual(3 * planes, 4 * planes, 2, 2),
            InvertedResidual(4 * planes, 4 * planes, 1, 2),
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(4 * planes, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bottlenecks(self.separable(self.stem(x))))


class SignalNet(nn.Module):
    """1-D convolutions for keywords or heartbeats: long strided kernels, a dilated and a depthwise-separable layer, global average."""

    def __init__(self, inputs: int, planes: int, classes: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv1d(inputs, planes, 9, stride=4, padding=4, bias=False), nn.BatchNorm1d(planes), nn.ReLU(), nn.MaxPool1d(2),
            nn.Conv1d(planes, 2 * planes, 3, padding=2, dilation=2), nn.BatchNorm1d(2 * planes), nn.ReLU(),
            nn.Conv1d(2 * planes, 2 * planes, 5, stride=2, padding=2, groups=2 * planes, bias=False), nn.BatchNorm1d(2 * planes), nn.LeakyReLU(0.125),
            nn.Conv1d(2 * planes, 3 * planes, 1, bias=False), nn.BatchNorm1d(3 * planes), nn.ReLU(),
        )  # fmt: skip
        self.pool = nn.AdaptiveAvgPool1d(1)
        self.dropout = nn.Dropout(0.3)
        self.fc = nn.Linear(3 * planes, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.dropout(self.pool(self.encoder(x)).squeeze(-1)))


class DoubleConv(nn.Sequential):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
        )  # fmt: skip


class Up(nn.Module):
    """Twice the size, padded to that of the skip, joined with it, and two convolutions."""

    def __init__(self, inputs: int, skip: int, outputs: int, transposed: bool) -> None:
        super().__init__()
        self.up: nn.Module = nn.ConvTranspose2d(inputs, outputs, 2, stride=2) if transposed else nn.Upsample(scale_factor=2, mode="nearest")
        self.conv = DoubleConv((outputs if transposed else inputs) + skip, outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.up(x)
        rows, columns = skip.size(2) - x.size(2), skip.size(3) - x.size(3)
        if rows or columns:
            x = F.pad(x, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])
        return self.conv(torch.cat([skip, x], dim=1))


class UNet(nn.Module):
    """Ronneberger et al. 2015, with two levels: a score for every pixel. ``transposed``: upsample by a transposed convolution."""

    def __init__(self, planes: int, transposed: bool, classes: int = 3) -> None:
        super().__init__()
        self.inc = DoubleConv(3, planes)
        self.down1 = nn.Sequential(nn.MaxPool2d(2), DoubleConv(planes, 2 * planes))
        self.down2 = nn.Sequential(nn.MaxPool2d(2), DoubleConv(2 * planes, 4 * planes))
        self.up1 = Up(4 * planes, 2 * planes, 2 * planes, transposed)
        self.up2 = Up(2 * planes, planes, planes, transposed)
        self.outc = nn.Conv2d(planes, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.inc(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        return self.outc(self.up2(self.up1(x3, x2), x1))


class Autoencoder(nn.Module):
    """Strided convolutions to a short code and transposed ones back; ``output_padding`` undoes the stride's rounding."""

    def __init__(self, planes: int, size: int, code: int) -> None:
        super().__init__()
        side = size // 4
        self.encoder = nn.Sequential(
            nn.Conv2d(3, planes, 3, stride=2, padding=1), nn.BatchNorm2d(planes), nn.ReLU(),
            nn.Conv2d(planes, 2 * planes, 3, stride=2, padding=1), nn.BatchNorm2d(2 * planes), nn.ReLU(),
            nn.Flatten(), nn.Linear(2 * planes * side * side, code),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(code, 2 * planes * side * side), nn.ReLU(), nn.Unflatten(1, (2 * planes, side, side)),
            nn.ConvTranspose2d(2 * planes, planes, 3, stride=2, padding=1, output_padding=1, bias=False), nn.BatchNorm2d(planes), nn.ReLU(),
            nn.ConvTranspose2d(planes, 3, 4, stride=2, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class JetTagger(nn.Module):
    """The jet-tagging network 16-64-32-32-5 (Duarte et al. 2018), its softmax left out; ``norm``: with BatchNorm behind the hidden layers."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((16, 64), (64, 32), (32, 32)):
            layers += [nn.Linear(inputs, outputs), *([nn.BatchNorm1d(outputs)] if norm else []), nn.ReLU()]
        self.hidden = nn.Sequential(*layers)
        self.output = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.hidden(x))


@dataclass(frozen=True)
class Size:
    """One size of a network: how to make it, and the shape of its input without the batch."""

    make: Callable[[], nn.Module]
    shape: Shape


NETWORKS: dict[str, tuple[Size, Size]] = {
    "resnet8": (Size(lambda: ResNet(1, 4, "B"), (3, 8, 8)), Size(lambda: ResNet(1, 16, "B"), (3, 32, 32))),
    "resnet20": (Size(lambda: ResNet(3, 2, "A"), (3, 8, 8)), Size(lambda: ResNet(3, 16, "A"), (3, 32, 32))),
    "vgg": (Size(lambda: VGG(4, 2, 8), (3, 8, 8)), Size(lambda: VGG(32, 3, 32), (3, 32, 32))),
    "mobilenet": (Size(lambda: MobileNet(4), (3, 16, 16)), Size(lambda: MobileNet(16), (3, 32, 32))),
    "ecg": (Size(lambda: SignalNet(2, 4, 5), (2, 64)), Size(lambda: SignalNet(2, 16, 5), (2, 256))),
    "keyword": (Size(lambda: SignalNet(1, 4, 10), (1, 96)), Size(lambda: SignalNet(1, 24, 10), (1, 4000))),
    "unet_nearest": (Size(lambda: UNet(2, False), (3, 10, 8)), Size(lambda: UNet(16, False), (3, 32, 32))),
    "unet_transposed": (Size(lambda: UNet(2, True), (3, 10, 8)), Size(lambda: UNet(16, True), (3, 32, 32))),
    "autoencoder": (Size(lambda: Autoencoder(4, 8, 6), (3, 8, 8)), Size(lambda: Autoencoder(16, 32, 64), (3, 32, 32))),
    "jet": (Size(lambda: JetTagger(False), (16,)), Size(lambda: JetTagger(False), (16,))),
    "jet_norm": (Size(lambda: JetTagger(True), (16,)), Size(lambda: JetTagger(True), (16,))),
}
"""By name: the small size, and that of the real task (CIFAR-10, a window of an ECG, half a second of speech)."""


def samples(shape: Shape, count: int, seed: int = 0) -> Tensor:
    """Data like that of the task, of about unit variance: smooth images with some noise, sums of sines, correlated features."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, *shape, generator=generator)
    if len(shape) == 1:
        mixing = torch.randn(shape[0], shape[0], generator=torch.Generator().manual_seed(99)) / math.sqrt(shape[0])
        return noise @ mixing + 0.3 * noise
    if len(shape) == 2:
        time = torch.linspace(0, 1, shape[1])
        frequency = 1 + 20 * torch.rand(count, shape[0], 1, generator=generator)
        return torch.sin(2 * math.pi * frequency * time) + torch.sin(5 * frequency * time + 1) ** 5 + 0.1 * noise
    coarse = torch.randn(count, shape[0], 4, 4, generator=generator)
    return 1.5 * F.interpolate(coarse, shape[1:], mode="bilinear") + 0.3 * noise


def settled(model: nn.Module, x: Tensor) -> nn.Module:
    """The model in evaluation mode, its running statistics and BatchNorm parameters as after some training."""
    generator = torch.Generator().manual_seed(7)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = None  # the plain average over all batches
            norm.weight.copy_(0.6 + 0.8 * torch.rand(norm.weight.shape, generator=generator))
            norm.bias.copy_(0.3 * torch.randn(norm.bias.shape, generator=generator))
        model.train()
        for part in x.split(max(len(x) // 4, 2)):
            model(part)
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def make(name: str, *, small: bool = True, data: Tensor | None = None, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """The network, in evaluation mode and with statistics of ``data`` (by default 64 ``samples``), and that data."""
    size = NETWORKS[name][0 if small else 1]
    x = samples(size.shape, 64, seed) if data is None else data
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return settled(size.make(), x), x
