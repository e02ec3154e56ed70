"""What users have of PyTorch's tools, prepared or converted, in memory or in a file, as one exported program with explicit fake-quantizations."""

from __future__ import annotations

import copy
import importlib
import io
import json
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

from qfx import formats
from qfx.errors import DataError, ModelFileError, QfxError, UnsupportedError

_PT2E = "torchao.quantization.pt2e"
_INSTALL = "pip install torchao (0.18 or newer)"
_CONVERT = (
    "convert the model first (convert_pt2e, convert_to_reference_fx), or prepare it for training (prepare_qat), whose fake-quantizations are read"
)

_PLAIN: dict[str, Any] = {f"Conv{rank}d": kind for rank, kind in ((1, nn.Conv1d), (2, nn.Conv2d), (3, nn.Conv3d))}
_KERNELS = ("torch.ao.nn.quantized.modules", "torch.ao.nn.quantized.dynamic", "torch.ao.nn.intrinsic.quantized")


@dataclass(frozen=True, eq=False)
class Source:
    """An exported program (``torch.export.save``), what messages call it, and what it gives for the example, if it could be run."""

    archive: Any
    where: Path
    results: Tensor | None


def source_of(model: Any, example: Tensor) -> Source:
    """``model``: a path, an exported program, or a module. Raises QfxError as ``qfx.from_torchao`` does."""
    if isinstance(model, nn.Module):
        module, name = as_exported(model), type(model).__name__
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about its own tools
            try:
                results = module(example)
            except Exception as error:  # whatever the user's model raises
                message = str(error).strip().split("\n")[0] or type(error).__name__
                remedy = "give what it takes, an exported one with as many samples as it was exported with"
                raise DataError(f"the model does not run on the example: {message}", where="example_input", remedy=remedy) from error
            try:
                program = torch.export.export(module, (example,))
            except Exception as error:  # torch.export has many
                message = str(error).strip().split("\n")[0] or type(error).__name__
                remedy = "convert it by PT2E, which exports it first"
                raise UnsupportedError(f"torch.export does not take it: {message}", where=name, remedy=remedy) from error
            return Source(_saved(program), Path(name), results if isinstance(results, Tensor) else None)
    if isinstance(model, torch.export.ExportedProgram):
        return Source(_saved(model), Path("ExportedProgram"), None)
    path = Path(model)
    kind = formats.kind_of_file(path)
    if not path.is_file():
        raise ModelFileError("cannot be read: there is no such file", where=str(path), remedy="check the path")
    if kind is not formats.EXPORTED:
        formats.refuse(kind, str(path))
        raise ModelFileError("is no exported program", where=str(path), remedy="save one with torch.export.save")
    return Source(path, path, None)


_SAMPLES = 16


def random_example(path: Path) -> Tensor:
    """Random numbers in the shape of the input of the program at ``path``, the same in every run. Raises ModelFileError, DataError."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("models/model.json"))
            graph: Any = json.loads(archive.read(name))["graph_module"]
        (user,) = (spec["user_input"] for spec in graph["signature"]["input_specs"] if "user_input" in spec)
        sizes = [size.get("as_int") for size in graph["graph"]["tensor_values"][user["arg"]["as_tensor"]["name"]]["sizes"]]
    except (OSError, zipfile.BadZipFile, StopIteration, KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"is no exported program with one input: {type(error).__name__}: {error}"
        raise ModelFileError(what, where=str(path), remedy="save one with torch.export.save") from error
    if len(sizes) < 2 or any(size is None for size in sizes[1:]):
        told = " x ".join(str(size or "?") for size in sizes)
        raise DataError(f"its input has the shape {told}", where=str(path), remedy="give an example: --data")
    random = torch.Generator().manual_seed(0)
    shape = (sizes[0] or _SAMPLES, *sizes[1:])
    return torch.randn(shape, generator=random) * torch.exp2(torch.randint(-2, 4, (shape[0], *(1,) * len(sizes[1:])), generator=random))


def _saved(program: torch.export.ExportedProgram) -> io.BytesIO:
    content = io.BytesIO()
    torch.export.save(program, content)
    content.seek(0)
    return content


def as_exported(model: nn.Module) -> nn.Module:
    """A copy that torch.export takes, and whose program says what is fake-quantized: prepared by PT2E, as ``convert_pt2e`` makes it; of
    ``torch.ao.quantization``, with fake-quantizations as they stand, a BatchNorm inside a convolution folded as ``convert`` folds it."""
    tools = [module for module in model.modules() if hasattr(module, "calculate_qparams")]
    if isinstance(model, fx.GraphModule) and any(base.__module__.startswith(_PT2E) for tool in tools for base in type(tool).__mro__):
        return _converted(model)
    try:
        fakes: Any = importlib.import_module("torch.ao.quantization").FakeQuantizeBase
    except (ImportError, AttributeError) as error:
        raise QfxError(f"torch.ao.quantization is not in this PyTorch: {error}", where="from_torchao", remedy="use PT2E: " + _INSTALL) from error
    if tools and not any(isinstance(tool, fakes) for tool in tools):
        what = f"has observers ({type(tools[0]).__name__}), which quantize nothing yet"
        raise UnsupportedError(what, where=type(model).__name__, remedy=_CONVERT)
    for name, part in model.named_modules():
        if type(part).__module__.startswith(_KERNELS) and type(part).__name__ not in ("FloatFunctional", "FXFloatFunctional"):
            what = f"is torch's quantized {type(part).__name__}, whose numbers are those of a backend's kernels"
            raise UnsupportedError(what, where=name, remedy="give the model before convert, or what convert_to_reference_fx makes of it")
    if not tools and isinstance(model, fx.GraphModule) and not any(_is_reference(part) for part in model.modules()):
        return copy.deepcopy(model)  # converted by PT2E, whose modes are not switched
    found = copy.deepcopy(model).cpu().eval()
    for holder in list(found.modules()):
        for name, child in list(holder.named_children()):
            if isinstance(child, fakes):
                setattr(holder, name, _frozen(child, name))
    _replace(found)
    if isinstance(found, fx.GraphModule):
        _decomposed(found)
    return found


def _converted(model: fx.GraphModule) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tool: Any = importlib.import_module(f"{_PT2E}.quantize_pt2e")
            found: nn.Module = tool.convert_pt2e(copy.deepcopy(model), fold_quantize=False)
            importlib.import_module(_PT2E).move_exported_model_to_eval(found)
    except ImportError as error:
        raise QfxError(f"torchao is not installed: {error}", where="from_torchao", remedy=_INSTALL) from error
    return found


class _Frozen(nn.Module):
    """A fake-quantization with the scales that it has now."""

    scale: Tensor
    zero: Tensor

    def __init__(self, scale: Tensor, zero: Tensor, low: int, high: int, axis: int | None) -> None:
        super().__init__()
        self.register_buffer("scale", scale.detach().clone().float())
        self.register_buffer("zero", zero.detach().clone().to(torch.int32))
        self.low, self.high, self.axis = low, high, axis
        self.one = (float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0]))

    def forward(self, x: Tensor) -> Tensor:
        if self.axis is None:
            return torch.fake_quantize_per_tensor_affine(x, *self.one, self.low, self.high)
        return torch.fake_quantize_per_channel_affine(x, self.scale, self.zero, self.axis, self.low, self.high)


def _frozen(fake: Any, where: str) -> nn.Module:
    if not bool(fake.fake_quant_enabled[0]):
        return nn.Identity()
    observer = getattr(fake, "activation_post_process", None)
    seen = getattr(observer, "min_val", None)
    if isinstance(seen, Tensor) and (seen.numel() == 0 or bool(torch.isinf(seen).any())):
        raise UnsupportedError("has seen no data, and has no scale yet", where=where, remedy="train it, or run it on an example in training mode")
    if not hasattr(fake, "scale") or torch.is_floating_point(fake.zero_point):
        raise UnsupportedError(f"is a {type(fake).__name__} without integers", where=where, remedy="use FakeQuantize")
    low, high = (int(getattr(fake if hasattr(fake, key) else observer, key)) for key in ("quant_min", "quant_max"))
    axis = int(fake.ch_axis) if fake.scale.numel() > 1 else None
    return _Frozen(fake.scale, fake.zero_point, low, high, axis)


def _is_reference(module: nn.Module) -> bool:
    return ".nn.quantized.reference." in f"{type(module).__module__}."


def _replace(model: nn.Module) -> None:
    """Layers of torch for those of ``torch.ao.nn``, which carry out their weights' fake-quantization themselves."""
    for holder in list(model.modules()):
        for name, child in list(holder.named_children()):
            kind = type(child).__module__
            if kind.startswith(("torch.ao.nn.qat", "torch.ao.nn.intrinsic.qat")):
                setattr(holder, name, _of_training(child, name))
            elif _is_reference(child):
                setattr(holder, name, _of_reference(child, name))


def _of_training(module: Any, name: str) -> nn.Module:
    """A convolution or linear layer of quantization-aware training."""
    weight, bias = module.weight.detach(), None if module.bias is None else module.bias.detach()
    norm = getattr(module, "bn", None)
    kind = type(module).__name__
    if norm is not None and isinstance(module, nn.Linear):
        raise UnsupportedError(f"is a {kind}, with a BatchNorm inside of it", where=name, remedy="merge it into the layer, or put it behind")
    if norm is not None:
        weight, bias = fuse_conv_bn_weights(weight, bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
    return _plain(module, name, weight, bias, module.weight_fake_quant, relu="ReLU" in kind)


def _of_reference(module: Any, name: str) -> nn.Module:
    """A layer of a reference model: its weight is quantized and dequantized in front."""
    axis = int(module.weight_axis) if module.weight_qscheme in (torch.per_channel_affine, torch.per_channel_symmetric) else None
    ends = torch.iinfo(module.weight_dtype)
    low, high = (getattr(module, f"weight_quant_{key}", None) for key in ("min", "max"))
    fake = _Frozen(module.weight_scale, module.weight_zero_point, ends.min if low is None else low, ends.max if high is None else high, axis)
    bias = None if module.bias is None else module.bias.detach()
    return _plain(module, name, module.weight.detach(), bias, fake, relu=False)


def _plain(module: Any, name: str, weight: Tensor, bias: Tensor | None, fake: nn.Module, *, relu: bool) -> nn.Module:
    if isinstance(module, nn.Linear):
        plain: Any = nn.Linear(module.in_features, module.out_features, bias is not None)
    elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        settings = (module.stride, module.padding, module.dilation, module.groups)
        rank = len(module.kernel_size)
        plain = _PLAIN[f"Conv{rank}d"](module.in_channels, module.out_channels, module.kernel_size, *settings, bias is not None, module.padding_mode)
    else:
        raise UnsupportedError(f"{type(module).__name__} has no counterpart", where=name, remedy="use Conv1d, Conv2d, Conv3d and Linear")
    plain.weight, plain.weight_fake = nn.Parameter(weight), fake
    plain.behind = getattr(module, "activation_post_process", None) or nn.Identity()
    if bias is not None:
        plain.bias = nn.Parameter(bias)

    def forward(self: Any, x: Tensor) -> Tensor:
        cast = self.weight_fake(self.weight)
        y: Tensor = functional.linear(x, cast, self.bias) if isinstance(self, nn.Linear) else self._conv_forward(x, cast, self.bias)
        cast_behind: Tensor = self.behind(functional.relu(y) if relu else y)
        return cast_behind

    plain.forward = MethodType(forward, plain)
    found: nn.Module = plain
    return found


def _decomposed(model: fx.GraphModule) -> None:
    """``quantize_per_tensor`` and ``dequantize`` of a reference model as fake-quantizations, which torch.export takes."""
    for node in list(model.graph.nodes):
        if node.op == "call_function" and node.target in (torch.quantize_per_tensor, torch.quantize_per_channel):
            source, scale, zero, *axis, dtype = node.args
            ends = torch.iinfo(dtype)
            name = f"{node.name}_fake"
            model.add_module(name, _Frozen(_held(model, scale), _held(model, zero), ends.min, ends.max, int(axis[0]) if axis else None))
            with model.graph.inserting_before(node):
                node.replace_all_uses_with(model.graph.call_module(name, (source,)))
            model.graph.erase_node(node)
        elif node.op == "call_method" and node.target == "dequantize":
            node.replace_all_uses_with(node.args[0])
            model.graph.erase_node(node)
    model.graph.eliminate_dead_code()
    model.recompile()


def _held(model: nn.Module, part: Any) -> Tensor:
    if isinstance(part, fx.Node):
        if part.op != "get_attr":
            raise UnsupportedError("has a scale that is computed", where=part.name, remedy="quantize with static scales")
        holder, _, leaf = str(part.target).rpartition(".")
        part = getattr(model.get_submodule(holder), leaf)
    return torch.as_tensor(part)
