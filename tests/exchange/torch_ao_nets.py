"""Networks quantized by PyTorch's own tools, by scales that are powers of two, or any."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, fx, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch.ao.quantization as eager
    import torchao.quantization.pt2e as pt2e  # type: ignore[import-untyped, unused-ignore]
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e  # type: ignore[import-untyped, unused-ignore]
    from torchao.quantization.pt2e.quantizer import QuantizationSpec  # type: ignore[import-untyped, unused-ignore]


def powers(kind: Any) -> Any:
    """An observer whose scales are the next powers of two, and whose zero points are as they were."""

    class Powers(kind):  # type: ignore[misc]
        def calculate_qparams(self, *args: Any) -> Any:
            scale, zero = super().calculate_qparams(*args)
            return torch.exp2(torch.ceil(torch.log2(scale))), zero + (zero == 127)  # the middle of 0 to 255

    return Powers


class Net(nn.Module):
    """A convolution, BatchNorm, ReLU, a pool, a residual convolution and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.again = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(72, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        x = torch.max_pool2d(torch.relu(self.again(x) + x), 2)
        return self.fc(x.flatten(1))  # type: ignore[no-any-return]


def spec(observer: Any, dtype: torch.dtype, low: int, high: int, scheme: Any, *, qat: bool = False, axis: int | None = None, po2: bool = True) -> Any:
    kind = powers(observer) if po2 else observer
    args: dict[str, Any] = {"eps": 2**-12}
    made = pt2e.FakeQuantize.with_args(observer=kind, **args) if qat else kind.with_args(**args)
    return QuantizationSpec(
        dtype=dtype, quant_min=low, quant_max=high, qscheme=scheme, ch_axis=axis, is_dynamic=False, observer_or_fake_quant_ctr=made
    )


class Everywhere(pt2e.quantizer.Quantizer):  # type: ignore[misc]
    """Activations of ``bits`` bits in front of and behind each convolution, linear layer and sum, and at the output; weights per channel."""

    def __init__(self, *, bits: int = 8, qat: bool = False, po2: bool = True, scheme: Any = torch.per_tensor_symmetric) -> None:
        super().__init__()
        half, kind = 2 ** (bits - 1), pt2e.MovingAverageMinMaxObserver if qat else pt2e.MinMaxObserver
        self.act = spec(kind, torch.int8, -half, half - 1, scheme, qat=qat, po2=po2)
        each = pt2e.MovingAveragePerChannelMinMaxObserver if qat else pt2e.PerChannelMinMaxObserver
        self.weight = spec(each, torch.int8, 1 - half, half - 1, torch.per_channel_symmetric, qat=qat, axis=0, po2=po2)

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        made = pt2e.quantizer.QuantizationAnnotation
        aten = torch.ops.aten
        for node in model.graph.nodes:
            inputs: dict[fx.Node, Any] = {}
            if node.target in (aten.conv2d.default, aten.linear.default):
                inputs = {node.args[0]: self.act, node.args[1]: self.weight}
            elif node.target in (aten.add.Tensor, aten.add_.Tensor) and all(isinstance(part, fx.Node) for part in node.args[:2]):
                inputs = dict.fromkeys(node.args[:2], self.act)
            if inputs:
                (user,) = [*node.users][:1]
                fused = user.target in (aten.relu.default, aten.relu_.default, aten.batch_norm.default) and len(node.users) == 1
                node.meta["quantization_annotation"] = made(input_qspec_map=inputs, output_qspec=None if fused else self.act, _annotated=True)
            elif node.target is aten.relu.default:
                node.meta["quantization_annotation"] = made(output_qspec=self.act, _annotated=True)
        return model

    def validate(self, model: fx.GraphModule) -> None:
        pass


def rounded(net: nn.Module, bits: int = 6) -> nn.Module:
    """The network with biases on a grid."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("bias"):
                parameter.copy_((parameter * 2**bits).round() * 2.0**-bits)
    return net


def trained(scheme: Any = torch.per_tensor_symmetric, *, bits: int = 4, po2: bool = True, dtype: torch.dtype = torch.qint8) -> Any:
    """The configuration of ``torch.ao.quantization`` for quantization-aware training."""
    half, unsigned = 2 ** (bits - 1), dtype is torch.quint8
    act, weight = eager.MovingAverageMinMaxObserver, eager.MovingAveragePerChannelMinMaxObserver
    ends = {"quant_min": 0, "quant_max": 2 * half - 1} if unsigned else {"quant_min": -half, "quant_max": half - 1}
    each = {"dtype": torch.qint8, "qscheme": torch.per_channel_symmetric, "ch_axis": 0, "quant_min": 1 - half, "quant_max": half - 1}
    kinds = [powers(kind) if po2 else kind for kind in (act, weight)]
    made = eager.FakeQuantize.with_args
    return eager.QConfig(made(observer=kinds[0], dtype=dtype, qscheme=scheme, **ends), made(observer=kinds[1], **each))


class Stubs(nn.Module):
    """A network for eager mode: a convolution with BatchNorm and ReLU in one, a sum, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = eager.QuantStub(), eager.DeQuantStub()
        self.conv, self.norm, self.relu = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU()
        self.add = torch.ao.nn.quantized.FloatFunctional()
        self.fc = nn.Linear(288, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.conv(self.quant(x))))
        return self.dequant(self.fc(self.add.add(x, x).flatten(1)))  # type: ignore[no-any-return]


def trained_eagerly(x: Tensor, config: Any) -> nn.Module:
    net = Stubs().train()
    net.qconfig = config
    net = eager.prepare_qat(eager.fuse_modules_qat(net, [["conv", "norm", "relu"]]))
    net(x), net(x * 0.5)
    return net.eval()  # type: ignore[no-any-return]


def prepared(net: nn.Module, x: Tensor, quantizer: Any, *, qat: bool = False, steps: int = 3) -> fx.GraphModule:
    """The network prepared by PT2E, and run."""
    exported: Any = torch.export.export(net.train() if qat else net.eval(), (x,)).module()
    found = (prepare_qat_pt2e if qat else prepare_pt2e)(exported, quantizer)
    for step in range(steps):
        found(x * 0.5**step)
    return found  # type: ignore[no-any-return]


def converted(model: fx.GraphModule, *, fold: bool = True) -> fx.GraphModule:
    found: fx.GraphModule = convert_pt2e(copy.deepcopy(model), fold_quantize=fold)
    pt2e.move_exported_model_to_eval(found)
    return found
