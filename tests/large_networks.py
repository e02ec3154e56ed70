"""Networks of the literature at their published sizes, as plain torch modules: ResNet-18 and -50, MobileNetV1 and V2, VGG16 and YOLOv3-tiny.

``make_large(name)`` gives a seeded network in evaluation mode and images of its size. ``side`` crops the images (to a multiple of 32) and ``narrow``
divides all channels, for tests that have no time: neither changes what layers there are. Weights are random, of He's scale; BatchNorm has the
statistics of the images.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from networks import Shape, samples, settled
from torch import Tensor, nn


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: nn.Module | None = None) -> nn.Sequential:
    """Convolution that keeps the size, divided by the stride, BatchNorm and the activation."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), *([] if act is None else [act]))


class Basic(nn.Module):
    """He et al. 2016, figure 5 left."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv_norm(inputs, planes, 3, stride, act=nn.ReLU())
        self.conv2 = conv_norm(planes, planes, 3)
        self.downsample = nn.Identity() if stride == 1 and inputs == planes else conv_norm(inputs, planes, 1, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv2(self.conv1(x)) + self.downsample(x))


class Bottleneck(nn.Module):
    """He et al. 2016, figure 5 right, with the stride in the 3x3 convolution ("v1.5", what is trained everywhere)."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * planes
        self.conv1 = conv_norm(inputs, planes, 1, act=nn.ReLU())
        self.conv2 = conv_norm(planes, planes, 3, stride, act=nn.ReLU())
        self.conv3 = conv_norm(planes, outputs, 1)
        self.downsample = nn.Identity() if stride == 1 and inputs == outputs else conv_norm(inputs, outputs, 1, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv3(self.conv2(self.conv1(x))) + self.downsample(x))


class ImageNetResNet(nn.Module):
    """He et al. 2016, table 1: a 7x7 stem with a max pooling, four stages, the average and 1,000 classes."""

    def __init__(self, block: type[Basic | Bottleneck], blocks: tuple[int, ...], narrow: int) -> None:
        super().__init__()
        inputs = 64 // narrow
        self.stem = conv_norm(3, inputs, 7, 2, act=nn.ReLU())
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        stages = []
        for index, count in enumerate(blocks):
            planes = (64 << index) // narrow
            layers = []
            for position in range(count):
                layers.append(block(inputs, planes, 2 if index and not position else 1))
                inputs = planes * block.expansion
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, 1000 // narrow)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.avgpool(self.stages(self.maxpool(self.stem(x)))).flatten(1))


class MobileNetV1(nn.Module):
    """Howard et al. 2017, table 1: a stem and thirteen depthwise-separable convolutions."""

    LAYERS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))

    def __init__(self, narrow: int) -> None:
        super().__init__()
        inputs = 32 // narrow
        layers = [conv_norm(3, inputs, 3, 2, act=nn.ReLU())]
        for channels, stride in self.LAYERS:
            layers += [conv_norm(inputs, inputs, 3, stride, inputs, nn.ReLU()), conv_norm(inputs, channels // narrow, 1, act=nn.ReLU())]
            inputs = channels // narrow
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, 1000 // narrow)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.avgpool(self.features(x)).flatten(1))


class Inverted(nn.Module):
    """Sandler et al. 2018, table 1: expand (but for a factor of 1), depthwise, project without an activation; a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, factor: int) -> None:
        super().__init__()
        hidden = inputs * factor
        expand = [] if factor == 1 else [conv_norm(inputs, hidden, 1, act=nn.ReLU6())]
        self.conv = nn.Sequential(*expand, conv_norm(hidden, hidden, 3, stride, hidden, nn.ReLU6()), conv_norm(hidden, outputs, 1))
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    """Sandler et al. 2018, table 2."""

    STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    """Factor, channels, blocks, stride of the first."""

    def __init__(self, narrow: int) -> None:
        super().__init__()
        inputs = 32 // narrow
        layers: list[nn.Module] = [conv_norm(3, inputs, 3, 2, act=nn.ReLU6())]
        for factor, channels, count, stride in self.STAGES:
            for position in range(count):
                layers.append(Inverted(inputs, channels // narrow, 1 if position else stride, factor))
                inputs = channels // narrow
        self.features = nn.Sequential(*layers, conv_norm(inputs, 1280 // narrow, 1, act=nn.ReLU6()))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280 // narrow, 1000 // narrow))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


class VGG16(nn.Module):
    """Simonyan and Zisserman 2015, configuration D, as published without BatchNorm: 138 million parameters, most in the first linear layer."""

    STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))

    def __init__(self, narrow: int, side: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for channels, count in self.STAGES:
            for _ in range(count):
                layers += [nn.Conv2d(inputs, channels // narrow, 3, padding=1), nn.ReLU()]
                inputs = channels // narrow
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        flat, hidden = inputs * (side // 32) ** 2, 4096 // narrow
        self.classifier = nn.Sequential(
            nn.Linear(flat, hidden), nn.ReLU(), nn.Dropout(),
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(),
            nn.Linear(hidden, 1000 // narrow),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


def _leaky(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    return conv_norm(inputs, outputs, kernel, act=nn.LeakyReLU(0.1))


class YoloTiny(nn.Module):
    """Redmon and Farhadi 2018, YOLOv3-tiny for the 80 classes of COCO: boxes and scores as they leave the convolutions, coarse and fine."""

    BOXES = 255
    """Three boxes of four coordinates, whether there is something, and 80 classes."""

    def __init__(self, narrow: int) -> None:
        super().__init__()
        c = 16 // narrow
        layers: list[nn.Module] = [_leaky(3, c, 3)]
        for stage in range(4):
            layers += [nn.MaxPool2d(2), _leaky(c << stage, c << stage + 1, 3)]
        self.fine = nn.Sequential(*layers)
        self.coarse = nn.Sequential(
            nn.MaxPool2d(2), _leaky(16 * c, 32 * c, 3),
            nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(2, 1), _leaky(32 * c, 64 * c, 3), _leaky(64 * c, 16 * c, 1),
        )  # fmt: skip
        self.coarse_head = nn.Sequential(_leaky(16 * c, 32 * c, 3), nn.Conv2d(32 * c, self.BOXES, 1))
        self.up = nn.Sequential(_leaky(16 * c, 8 * c, 1), nn.Upsample(scale_factor=2, mode="nearest"))
        self.fine_head = nn.Sequential(_leaky(24 * c, 16 * c, 3), nn.Conv2d(16 * c, self.BOXES, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.fine(x)
        coarse = self.coarse(fine)
        return self.coarse_head(coarse), self.fine_head(torch.cat([self.up(coarse), fine], 1))


LARGE: dict[str, tuple[int, Callable[[int, int], nn.Module]]] = {
    "resnet18": (224, lambda narrow, side: ImageNetResNet(Basic, (2, 2, 2, 2), narrow)),
    "resnet50": (224, lambda narrow, side: ImageNetResNet(Bottleneck, (3, 4, 6, 3), narrow)),
    "mobilenetv1": (224, lambda narrow, side: MobileNetV1(narrow)),
    "mobilenetv2": (224, lambda narrow, side: MobileNetV2(narrow)),
    "vgg16": (224, VGG16),
    "yolov3_tiny": (416, lambda narrow, side: YoloTiny(narrow)),
}
"""By name: the side of the published input, and how to make the network from ``narrow`` and that side."""


def he(model: nn.Module) -> nn.Module:
    """Weights of a variance that keeps that of what goes through ReLUs (He et al. 2015); biases are a little off zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.05)
    return model


def large_shape(name: str, side: int | None = None) -> Shape:
    """The shape of an image, channels first."""
    return 3, side or LARGE[name][0], side or LARGE[name][0]


def make_large(name: str, *, side: int | None = None, narrow: int = 1, count: int = 4, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """The network, in evaluation mode and with the statistics of ``count`` images, and those images."""
    x = samples(large_shape(name, side), count, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return settled(he(LARGE[name][1](narrow, side or LARGE[name][0])), x), x
