"""Networks that give maps, or several outputs: U-Net, a YOLOv8-like detector, SSD with L2Norm, a VAE's encoder, ESPCN, EDSR."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DoubleConv(nn.Module):
    """(convolution => BatchNorm => ReLU) twice."""

    def __init__(self, in_channels: int, out_channels: int, mid_channels: int | None = None) -> None:
        super().__init__()
        if not mid_channels:
            mid_channels = out_channels
        self.double_conv = nn.Sequential(
            nn.Conv2d(in_channels, mid_channels, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(mid_channels), nn.ReLU(inplace=True),
            nn.Conv2d(mid_channels, out_channels, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.double_conv(x)


class Down(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(in_channels, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.maxpool_conv(x)


class Up(nn.Module):
    """Bilinear upsampling, padded to the size of the map that it joins."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.conv = DoubleConv(in_channels, out_channels, in_channels // 2)

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        x1 = self.up(x1)
        diff_y = x2.size()[2] - x1.size()[2]
        diff_x = x2.size()[3] - x1.size()[3]
        x1 = F.pad(x1, [diff_x // 2, diff_x - diff_x // 2, diff_y // 2, diff_y - diff_y // 2])
        x = torch.cat([x2, x1], dim=1)
        return self.conv(x)


class OutConv(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class UNet(nn.Module):
    """Ronneberger et al. 2015, as it is mostly written today."""

    def __init__(self, n_channels: int = 3, n_classes: int = 2) -> None:
        super().__init__()
        factor = 2
        self.inc = DoubleConv(n_channels, 4)
        self.down1 = Down(4, 8)
        self.down2 = Down(8, 16 // factor)
        self.up1 = Up(16, 8 // factor)
        self.up2 = Up(8, 4)
        self.outc = OutConv(4, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.inc(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x = self.up1(x3, x2)
        x = self.up2(x, x1)
        return self.outc(x)


def autopad(k: int, p: int | None = None, d: int = 1) -> int:
    """The padding that keeps the size."""
    if d > 1:
        k = d * (k - 1) + 1
    if p is None:
        p = k // 2
    return p


class Conv(nn.Module):
    """Convolution, BatchNorm, SiLU; ``act`` False leaves the activation out."""

    default_act = nn.SiLU()

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, p: int | None = None, g: int = 1, d: int = 1, act: bool | nn.Module = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, autopad(k, p, d), groups=g, dilation=d, bias=False)
        self.bn = nn.BatchNorm2d(c2, eps=0.001, momentum=0.03)
        self.act = self.default_act if act is True else act if isinstance(act, nn.Module) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, c1: int, c2: int, shortcut: bool = True, g: int = 1, k: tuple[int, int] = (3, 3), e: float = 0.5) -> None:
        super().__init__()
        c_ = int(c2 * e)
        self.cv1 = Conv(c1, c_, k[0], 1)
        self.cv2 = Conv(c_, c2, k[1], 1, g=g)
        self.add = shortcut and c1 == c2

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


class C2f(nn.Module):
    """Two halves, one through bottlenecks of which every result is kept."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = False, g: int = 1, e: float = 0.5) -> None:
        super().__init__()
        self.c = int(c2 * e)
        self.cv1 = Conv(c1, 2 * self.c, 1, 1)
        self.cv2 = Conv((2 + n) * self.c, c2, 1)
        self.m = nn.ModuleList(Bottleneck(self.c, self.c, shortcut, g, k=(3, 3), e=1.0) for _ in range(n))

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class SplitC2f(C2f):
    """The same with split, as it is exported."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv1(x).split((self.c, self.c), 1)
        y = [y[0], y[1]]
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class SPPF(nn.Module):
    """Maxima of growing windows."""

    def __init__(self, c1: int, c2: int, k: int = 5) -> None:
        super().__init__()
        c_ = c1 // 2
        self.cv1 = Conv(c1, c_, 1, 1)
        self.cv2 = Conv(c_ * 4, c2, 1, 1)
        self.m = nn.MaxPool2d(kernel_size=k, stride=1, padding=k // 2)

    def forward(self, x: Tensor) -> Tensor:
        y = [self.cv1(x)]
        y.extend(self.m(y[-1]) for _ in range(3))
        return self.cv2(torch.cat(y, 1))


class Concat(nn.Module):
    def __init__(self, dimension: int = 1) -> None:
        super().__init__()
        self.d = dimension

    def forward(self, x: list[Tensor]) -> Tensor:
        return torch.cat(x, self.d)


class Detect(nn.Module):
    """Boxes as distributions and classes, for each of the maps."""

    def __init__(self, nc: int, ch: tuple[int, ...], reg_max: int = 2) -> None:
        super().__init__()
        self.nc, self.nl, self.reg_max = nc, len(ch), reg_max
        self.no = nc + self.reg_max * 4
        c2, c3 = max(4, ch[0] // 4), max(4, min(ch[0], nc))
        self.cv2 = nn.ModuleList(nn.Sequential(Conv(x, c2, 3), nn.Conv2d(c2, 4 * self.reg_max, 1)) for x in ch)
        self.cv3 = nn.ModuleList(nn.Sequential(Conv(x, c3, 3), nn.Conv2d(c3, self.nc, 1)) for x in ch)

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        for i in range(self.nl):
            x[i] = torch.cat((self.cv2[i](x[i]), self.cv3[i](x[i])), 1)
        return x


class Detector(nn.Module):
    """Backbone, a path up and a path down, three outputs: a list of layers with where each reads from, as parsed from a file."""

    def __init__(self, nc: int = 2) -> None:
        super().__init__()
        layers: list[tuple[int | list[int], nn.Module]] = [
            (-1, Conv(3, 4, 3, 2)), (-1, C2f(4, 4, 1, True)), (-1, Conv(4, 6, 3, 2)), (-1, SplitC2f(6, 6, 1, True)),
            (-1, Conv(6, 8, 3, 2)), (-1, SPPF(8, 8, 3)),
            (-1, nn.Upsample(None, 2, "nearest")), ([-1, 3], Concat(1)), (-1, C2f(14, 6, 1)),
            (-1, nn.Upsample(None, 2, "nearest")), ([-1, 1], Concat(1)), (-1, C2f(10, 4, 1)),
            (-1, Conv(4, 4, 3, 2)), ([-1, 8], Concat(1)), (-1, C2f(10, 6, 1)),
            (-1, Conv(6, 6, 3, 2)), ([-1, 5], Concat(1)), (-1, C2f(14, 8, 1)),
            ([11, 14, 17], Detect(nc, (4, 6, 8))),
        ]  # fmt: skip
        self.model = nn.Sequential(*(layer for _, layer in layers))
        for index, (origin, layer) in enumerate(layers):
            layer.i, layer.f = index, origin
        self.save = {3, 1, 8, 5, 11, 14, 17}

    def forward(self, x: Any) -> Any:
        y: list[Any] = []
        for m in self.model:
            if m.f != -1:
                x = y[m.f] if isinstance(m.f, int) else [x if j == -1 else y[j] for j in m.f]
            x = m(x)
            y.append(x if m.i in self.save else None)
        return x


class L2Norm(nn.Module):
    """Liu et al. 2016 (ParseNet): the channels at each place divided by their length, times a scale for each channel."""

    def __init__(self, n_channels: int, scale: float) -> None:
        super().__init__()
        self.n_channels = n_channels
        self.gamma = scale or None
        self.eps = 1e-10
        self.weight = nn.Parameter(torch.empty(self.n_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, self.gamma)

    def forward(self, x: Tensor) -> Tensor:
        norm = x.pow(2).sum(dim=1, keepdim=True).sqrt() + self.eps
        x = torch.div(x, norm)
        return self.weight.unsqueeze(0).unsqueeze(2).unsqueeze(3).expand_as(x) * x


class SSD(nn.Module):
    """Liu et al. 2016: heads on two maps, the first normalized; places and confidences as (N, boxes, 4) and (N, boxes, classes)."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.vgg = nn.ModuleList([
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2, 2), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, padding=1), nn.Conv2d(6, 8, 3, padding=2, dilation=2), nn.ReLU(inplace=True),
        ])  # fmt: skip
        self.L2Norm = L2Norm(6, 2)
        self.extras = nn.ModuleList([nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 3, stride=2, padding=1)])
        self.loc = nn.ModuleList([nn.Conv2d(6, 2 * 4, 3, padding=1), nn.Conv2d(8, 2 * 4, 3, padding=1)])
        self.conf = nn.ModuleList([nn.Conv2d(6, 2 * num_classes, 3, padding=1), nn.Conv2d(8, 2 * num_classes, 3, padding=1)])
        nn.init.constant_(self.vgg[3].bias, 0.5)  # as in a trained network, hardly a place where all channels are 0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        sources, loc, conf = [], [], []
        for k in range(5):
            x = self.vgg[k](x)
        s = self.L2Norm(x)
        sources.append(s)
        for k in range(5, len(self.vgg)):
            x = self.vgg[k](x)
        for k, v in enumerate(self.extras):
            x = F.relu(v(x), inplace=True)
            if k % 2 == 1:
                sources.append(x)
        for x, l, c in zip(sources, self.loc, self.conf, strict=True):  # noqa: E741
            loc.append(l(x).permute(0, 2, 3, 1).contiguous())
            conf.append(c(x).permute(0, 2, 3, 1).contiguous())
        all_loc = torch.cat([o.view(o.size(0), -1) for o in loc], 1)
        all_conf = torch.cat([o.view(o.size(0), -1) for o in conf], 1)
        return all_loc.view(all_loc.size(0), -1, 4), all_conf.view(all_conf.size(0), -1, self.num_classes)


class Encoder(nn.Module):
    """A VAE's encoder (Kingma and Welling 2014): mean and logarithm of the variance."""

    def __init__(self, in_channels: int = 1, latent_dim: int = 4, hidden_dims: list[int] | None = None) -> None:
        super().__init__()
        modules = []
        if hidden_dims is None:
            hidden_dims = [4, 8]
        for h_dim in hidden_dims:
            modules.append(
                nn.Sequential(nn.Conv2d(in_channels, out_channels=h_dim, kernel_size=3, stride=2, padding=1), nn.BatchNorm2d(h_dim), nn.LeakyReLU())
            )
            in_channels = h_dim
        self.encoder = nn.Sequential(*modules)
        self.fc_mu = nn.Linear(hidden_dims[-1] * 4, latent_dim)
        self.fc_var = nn.Linear(hidden_dims[-1] * 4, latent_dim)

    def forward(self, input: Tensor) -> list[Tensor]:
        result = self.encoder(input)
        result = torch.flatten(result, start_dim=1)
        mu = self.fc_mu(result)
        log_var = self.fc_var(result)
        return [mu, log_var]


class ESPCN(nn.Module):
    """Shi et al. 2016: tanh and the pixel shuffle."""

    def __init__(self, upscale_factor: int = 2) -> None:
        super().__init__()
        self.feature_maps = nn.Sequential(nn.Conv2d(1, 6, kernel_size=5, padding=2), nn.Tanh(), nn.Conv2d(6, 4, kernel_size=3, padding=1), nn.Tanh())
        self.sub_pixel = nn.Sequential(nn.Conv2d(4, 1 * (upscale_factor**2), kernel_size=3, padding=1), nn.PixelShuffle(upscale_factor))

    def forward(self, x: Tensor) -> Tensor:
        x = self.feature_maps(x)
        return self.sub_pixel(x)


class MeanShift(nn.Conv2d):
    """The mean of the data taken off or put back, as a 1x1 convolution that is not trained."""

    def __init__(
        self, rgb_range: float, rgb_mean: tuple[float, ...] = (0.45, 0.44, 0.40), rgb_std: tuple[float, ...] = (1.0, 1.0, 1.0), sign: int = -1
    ):
        super().__init__(3, 3, kernel_size=1)
        std = torch.Tensor(rgb_std)
        self.weight.data = torch.eye(3).view(3, 3, 1, 1) / std.view(3, 1, 1, 1)
        self.bias.data = sign * rgb_range * torch.Tensor(rgb_mean) / std  # type: ignore[union-attr]
        for p in self.parameters():
            p.requires_grad = False


class ResBlock(nn.Module):
    """Two convolutions, scaled before the sum."""

    def __init__(self, n_feats: int, kernel_size: int, res_scale: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(n_feats, n_feats, kernel_size, padding=kernel_size // 2), nn.ReLU(True),
            nn.Conv2d(n_feats, n_feats, kernel_size, padding=kernel_size // 2),
        )  # fmt: skip
        self.res_scale = res_scale

    def forward(self, x: Tensor) -> Tensor:
        res = self.body(x).mul(self.res_scale)
        res += x
        return res


class Upsampler(nn.Sequential):
    def __init__(self, scale: int, n_feats: int) -> None:
        m: list[nn.Module] = []
        for _ in range(int(math.log(scale, 2))):
            m.append(nn.Conv2d(n_feats, 4 * n_feats, 3, padding=1))
            m.append(nn.PixelShuffle(2))
        super().__init__(*m)


class EDSR(nn.Module):
    """Lim et al. 2017."""

    def __init__(self, n_feats: int = 4, n_resblocks: int = 2, scale: int = 2) -> None:
        super().__init__()
        self.sub_mean = MeanShift(1.0)
        self.add_mean = MeanShift(1.0, sign=1)
        m_body: list[nn.Module] = [ResBlock(n_feats, 3, res_scale=0.1) for _ in range(n_resblocks)]
        m_body.append(nn.Conv2d(n_feats, n_feats, 3, padding=1))
        self.head = nn.Sequential(nn.Conv2d(3, n_feats, 3, padding=1))
        self.body = nn.Sequential(*m_body)
        self.tail = nn.Sequential(Upsampler(scale, n_feats), nn.Conv2d(n_feats, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.sub_mean(x)
        x = self.head(x)
        res = self.body(x)
        res += x
        x = self.tail(res)
        return self.add_mean(x)
