"""Networks on sequences: WaveNet, a keyword network with TensorFlow's padding, CRNN, LSTM and GRU classifiers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CausalConv1d(nn.Conv1d):
    """A convolution that sees the past alone: padded at the left."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, kernel_size, dilation=dilation, bias=bias)
        self.__padding = (kernel_size - 1) * dilation

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.pad(input, (self.__padding, 0)))


class ResidualBlock(nn.Module):
    """The gate of van den Oord et al. 2016."""

    def __init__(self, res_channels: int, skip_channels: int, dilation: int) -> None:
        super().__init__()
        self.dilated = nn.Conv1d(res_channels, 2 * res_channels, kernel_size=2, padding=dilation, dilation=dilation)
        self.conv_res = nn.Conv1d(res_channels, res_channels, 1)
        self.conv_skip = nn.Conv1d(res_channels, skip_channels, 1)
        self.dilation = dilation

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        output = self.dilated(x)
        output = output[:, :, : -self.dilation]
        filtered, gate = torch.split(output, output.size(1) // 2, dim=1)
        gated = torch.tanh(filtered) * torch.sigmoid(gate)
        output = self.conv_res(gated)
        output = output + x
        return output, self.conv_skip(gated)


class WaveNet(nn.Module):
    """Dilated causal convolutions, one cycle of dilations, the skips summed."""

    def __init__(self, layers: int = 3, in_channels: int = 2, res_channels: int = 4, classes: int = 4) -> None:
        super().__init__()
        self.causal = CausalConv1d(in_channels, res_channels, 2)
        self.blocks = nn.ModuleList(ResidualBlock(res_channels, res_channels, 2**i) for i in range(layers))
        self.conv1 = nn.Conv1d(res_channels, res_channels, 1)
        self.conv2 = nn.Conv1d(res_channels, classes, 1)
        self.relu = nn.ReLU()
        nn.init.constant_(self.conv1.bias, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        output = self.causal(x)
        skip_connections = []
        for block in self.blocks:
            output, skip = block(output)
            skip_connections.append(skip)
        output = torch.sum(torch.stack(skip_connections), dim=0)
        output = self.relu(output)
        output = self.conv1(output)
        output = self.relu(output)
        return self.conv2(output)


class Conv2dSame(nn.Conv2d):
    """TensorFlow's SAME: what is odd goes to the bottom and the right."""

    def calc_same_pad(self, i: int, k: int, s: int, d: int) -> int:
        return max((math.ceil(i / s) - 1) * s + (k - 1) * d + 1 - i, 0)

    def forward(self, x: Tensor) -> Tensor:
        ih, iw = x.size()[-2:]
        pad_h = self.calc_same_pad(i=ih, k=self.kernel_size[0], s=self.stride[0], d=self.dilation[0])
        pad_w = self.calc_same_pad(i=iw, k=self.kernel_size[1], s=self.stride[1], d=self.dilation[1])
        if pad_h > 0 or pad_w > 0:
            x = F.pad(x, [pad_w // 2, pad_w - pad_w // 2, pad_h // 2, pad_h - pad_h // 2])
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class KeywordNet(nn.Module):
    """DS-CNN (Zhang et al. 2017) on cepstra, as converted from Keras: a 10x4 filter at stride 2, then depthwise-separable blocks."""

    def __init__(self, filters: int = 4, blocks: int = 2, classes: int = 6) -> None:
        super().__init__()
        self.conv = Conv2dSame(1, filters, (10, 4), stride=(2, 2))
        self.bn = nn.BatchNorm2d(filters, eps=1e-3)
        self.dropout = nn.Dropout(0.2)
        self.depthwise = nn.ModuleList(Conv2dSame(filters, filters, 3, groups=filters) for _ in range(blocks))
        self.pointwise = nn.ModuleList(Conv2dSame(filters, filters, 1) for _ in range(blocks))
        self.norms = nn.ModuleList(nn.BatchNorm2d(filters, eps=1e-3) for _ in range(2 * blocks))
        self.fc = nn.Linear(filters, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.unsqueeze(x, 1)
        x = self.dropout(F.relu(self.bn(self.conv(x))))
        for i, (depthwise, pointwise) in enumerate(zip(self.depthwise, self.pointwise, strict=True)):
            x = F.relu(self.norms[2 * i](depthwise(x)))
            x = F.relu(self.norms[2 * i + 1](pointwise(x)))
        x = F.avg_pool2d(x, x.shape[-2:])
        return self.fc(x.squeeze(-1).squeeze(-1))


class BidirectionalLSTM(nn.Module):
    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(inputs, hidden, bidirectional=True, batch_first=True)
        self.embedding = nn.Linear(hidden * 2, outputs)

    def forward(self, input: Tensor) -> Tensor:
        recurrent, _ = self.rnn(input)
        return self.embedding(recurrent)


class CRNN(nn.Module):
    """Shi et al. 2015: convolutions that leave one row, then a recurrent network along the columns."""

    def __init__(self, recurrent: str = "LSTM", classes: int = 5) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 4, 3, 1, 1), nn.ReLU(True), nn.MaxPool2d(2, 2), nn.Conv2d(4, 6, 3, 1, 1), nn.BatchNorm2d(6), nn.ReLU(True),
            nn.MaxPool2d((2, 2), (2, 1), (0, 1)), nn.Conv2d(6, 6, 2, 1, 0), nn.ReLU(True),
        )  # fmt: skip
        self.rnn: nn.Module
        if recurrent == "LSTM":
            self.rnn = BidirectionalLSTM(6, 4, classes)
        else:
            self.rnn, self.out = nn.GRU(6, 4, batch_first=True), nn.Linear(4, classes)

    def forward(self, input: Tensor) -> Tensor:
        conv = self.cnn(input)
        _, _, h, _ = conv.size()
        assert h == 1, "the height of conv must be 1"
        conv = conv.squeeze(2)
        conv = conv.permute(0, 2, 1)
        if isinstance(self.rnn, nn.GRU):
            return self.out(self.rnn(conv)[0])
        return self.rnn(conv)


class LSTMClassifier(nn.Module):
    """Two layers, the last state classified."""

    def __init__(self, input_size: int = 3, hidden_size: int = 4, num_layers: int = 2, num_classes: int = 4) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.lstm = nn.LSTM(input_size, hidden_size, num_layers, batch_first=True, dropout=0.1)
        self.fc = nn.Linear(hidden_size, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        h0 = torch.zeros(self.num_layers, x.size(0), self.hidden_size).to(x.device)
        c0 = torch.zeros(self.num_layers, x.size(0), self.hidden_size).to(x.device)
        out, _ = self.lstm(x, (h0, c0))
        return self.fc(out[:, -1, :])


class GRUClassifier(nn.Module):
    """Both directions, the mean over time classified."""

    def __init__(self, input_size: int = 3, hidden_size: int = 4, num_classes: int = 4) -> None:
        super().__init__()
        self.gru = nn.GRU(input_size, hidden_size, batch_first=True, bidirectional=True)
        self.head = nn.Sequential(nn.Linear(2 * hidden_size, 6), nn.ReLU(), nn.Linear(6, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        output, _hidden = self.gru(x)
        return self.head(output.mean(dim=1))
