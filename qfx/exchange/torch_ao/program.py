"""Walks through an exported program with fake-quantizations: pairs of quantize and dequantize, or PyTorch's fake_quantize, become explicit ones, all
else what it becomes of a float program."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qfx.capture.assemble import Value
from qfx.capture.from_pt2 import _Reader, _tensor_names
from qfx.errors import UnsupportedError
from qfx.exchange.affine import Affine, AffineCast, Float

LIBRARIES = ("quantized_decomposed", "torchao", "pt2e_quant")
"""Of quantizing operators, besides ATen's own."""

_WEIGHTED = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution", "linear", "addmm")

_QUANTIZE = ("quantize_per_tensor", "quantize_per_channel", "quantize_affine")
_DEQUANTIZE = ("dequantize_per_tensor", "dequantize_per_channel", "dequantize_affine")
_FAKE = ("fake_quantize_per_tensor_affine", "fake_quantize_per_channel_affine", "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams")

_RANGES = {torch.uint8: (0, 255), torch.int8: (-128, 127), torch.int16: (-(2**15), 2**15 - 1), torch.int32: (-(2**31), 2**31 - 1)}

_STATIC = "quantize with static scales (is_dynamic=False), by tensor or by channel"


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant that the program fake-quantizes: the numbers that it is made of, what it becomes, and how."""

    source: Tensor
    numbers: Tensor
    affine: Affine


@dataclass(frozen=True, eq=False)
class _Stored:
    """Between quantize and dequantize: what is cast (or integers, ``given``), and how."""

    value: Value | Tensor
    affine: Affine
    path: str


Casting = Callable[[Affine, str], nn.Module]
"""What a fake-quantization of activations becomes, by its label."""


class Program(_Reader):
    """Reads a quantized program. ``constants``: those of weights and biases, by the paths of their layers and their roles."""

    paths: dict[str, str]

    def __init__(self, archive: zipfile.ZipFile, path: Path, example: Tensor, casting: Casting, *, literal: bool = False) -> None:
        super().__init__(archive, path, example, literal=literal)
        self.casting = casting
        self.constants: dict[str, Constant] = {}
        self.cast: dict[str, Constant] = {}
        self.stored: dict[str, _Stored] = {}
        self.paths = {name: "input" for name, value in self.values.items() if isinstance(value, Value)}
        self.labels: list[str] = []

    def _node(self, node: Any) -> None:
        target = str(node["target"])
        library, _, operator = target.removeprefix("torch.ops.").partition(".")
        base = operator.partition(".")[0]
        if library in LIBRARIES or base in _FAKE:
            self._quantizing(node, target, base)
            return
        read = list(_tensor_names([argument["arg"] for argument in node["inputs"]]))
        stored = [name for name in read if name in self.stored]
        if stored:
            where = self.stored[stored[0]].path
            what = f"{base} works on integers between quantize and dequantize"
            raise UnsupportedError(what, where=where, remedy="dequantize in front of it, and quantize behind")
        if base in _WEIGHTED and any(name in self.cast for name in read):
            self._weighted(node, base)
        else:
            super()._node(node)
        path = self._path(node, base)
        for name in [one["as_tensor"]["name"] for one in node["outputs"] if "as_tensor" in one]:
            value = self.values.get(name)
            self.paths[name] = str(value.node.target) if isinstance(value, Value) and value.node.op == "call_module" else path

    # Casts

    def _quantizing(self, node: Any, target: str, base: str) -> None:
        arguments = {argument["name"] or str(place): argument["arg"] for place, argument in enumerate(node["inputs"])}
        name = next(iter(_tensor_names([next(iter(arguments.values()))])), "")
        where = self.paths.get(name) or self.names.get(name) or name
        output = node["outputs"][0]["as_tensor"]["name"]
        if base == "convert_element_type" and self.values.get(name) is not None:
            self.values[output] = self.values[name]
            self.paths[output] = self.paths.get(name, "")
            return
        if base not in (*_QUANTIZE, *_DEQUANTIZE, *_FAKE):
            raise UnsupportedError(f"the operator {target} is none that is read here", where=where, remedy=_STATIC)
        affine = self._affine({key: self._argument(value) for key, value in arguments.items()}, base, where)
        value = self.values[name] if name not in self.stored else None
        if base in _DEQUANTIZE:
            self._dequantize(name, output, affine, where)
            return
        if value is None:
            raise UnsupportedError("quantizes integers", where=where, remedy="dequantize in front of it")
        if base in _FAKE:
            self._becomes(output, value, affine, where, name)
            return
        self.stored[output] = _Stored(value, affine, where)
        self.values[output] = value  # for its shape
        self.names[output] = self.names.get(name, "")

    def _dequantize(self, name: str, output: str, affine: Affine, where: str) -> None:
        found = self.stored.get(name)
        if found is not None:
            if (found.affine.scales, found.affine.zeros, found.affine.axis) != (affine.scales, affine.zeros, affine.axis):
                raise UnsupportedError(
                    "is dequantized by another scale or zero point than it was quantized by", where=where, remedy="give both the same"
                )
            self._becomes(output, found.value, found.affine, found.path, name)
            return
        value = self.values[name]
        if not isinstance(value, Tensor) or value.is_floating_point():
            raise UnsupportedError("dequantizes what no quantize gives", where=where, remedy="quantize in the model, or feed floats")
        if bool((value < affine.low).any() or (value > affine.high).any()):
            what = f"has integers outside of {affine.low} ... {affine.high}, which it says they are in"
            raise UnsupportedError(what, where=where, remedy="export the model again")
        numbers = AffineCast(affine, where).numbers(value.float())
        self._constant_of(output, Constant(numbers, numbers, affine), "")

    def _becomes(self, output: str, value: Value | Tensor, affine: Affine, path: str, name: str) -> None:
        """Let ``output`` be ``value``, cast."""
        if isinstance(value, Value):
            label = path if path == "input" else f"{path}.output"
            count = self.labels.count(label)
            self.labels.append(label)
            label = f"{label}_{count}" if count else label
            self.values[output] = self.assembly.layer(f"{label.replace('.', '_')}_cast", self.casting(affine, label), value)
            self.paths[output] = path
            return
        source = value.float()
        with torch.no_grad():
            self._constant_of(output, Constant(source, AffineCast(affine, path)(source), affine), self.names.get(name, ""))

    def _constant_of(self, output: str, found: Constant, name: str) -> None:
        self.values[output], self.cast[output], self.names[output] = found.numbers, found, name

    def _affine(self, given: dict[str, Any], base: str, where: str) -> Affine:
        scales = _numbers(given.get("scale", given.get("scales")), where)
        zeros = _numbers(next((given[key] for key in ("zero_point", "zero_points") if given.get(key) is not None), 0), where)
        if any(isinstance(part, Value) for part in given.values() if part is not next(iter(given.values()))):
            raise UnsupportedError("has a scale that follows the data", where=where, remedy=_STATIC)
        dtype = given.get("dtype", given.get("output_dtype" if base == "quantize_affine" else "input_dtype"))
        if dtype is not None and dtype not in _RANGES:
            raise UnsupportedError(f"quantizes to {dtype}", where=where, remedy="quantize to integers")
        ends = (0, 255) if dtype is None else _RANGES[dtype]
        low, high = (int(ends[place] if given.get(key) is None else given[key]) for place, key in enumerate(("quant_min", "quant_max")))
        axis = int(given["axis"]) if "axis" in given else self._axis(given, where)
        if any(zero != int(zero) for zero in zeros):
            raise UnsupportedError(f"has the zero point {zeros[0]:g}", where=where, remedy="give whole numbers")
        whole = tuple(int(zero) for zero in zeros)
        if len(scales) == 1 and len(set(whole)) == 1:
            axis, whole = None, whole[:1]
        float_ = Float.WITH_ZERO if base in _FAKE else Float.THEN_ZERO
        return Affine(tuple(scales), whole, low, high, axis, float_).checked(where)

    def _axis(self, given: dict[str, Any], where: str) -> int | None:
        """Along which a block of torchao's is one number."""
        block, value = given.get("block_size"), next(iter(given.values()))
        if block is None:
            return None
        shape = value.data.shape if isinstance(value, Value) else value.shape
        short = [axis for axis, (own, size) in enumerate(zip(block, shape, strict=True)) if own not in (size, -1)]
        if len(short) > 1 or any(block[axis] != 1 for axis in short):
            raise UnsupportedError(
                f"has blocks of {tuple(block)} numbers", where=where, remedy="use one scale for the tensor, or one for each channel"
            )
        return short[0] if short and not (isinstance(value, Value) and short[0] == 0) else None

    # Layers

    def _weighted(self, node: Any, base: str) -> None:
        """A layer with weights: it keeps what is cast, and its quantizers cast."""
        names = {argument["name"]: argument["arg"]["as_tensor"]["name"] for argument in node["inputs"] if "as_tensor" in argument["arg"]}
        first, second, third = ("mat1", "mat2", "self") if base == "addmm" else ("input", "weight", "bias")
        weight = names.get(second, "")
        computes = isinstance(self.values.get(names.get(first, "")), Value) and not isinstance(self.values.get(weight), Value)
        found = (
            {role: self.cast[names[key]] for role, key in (("weight", second), ("bias", third)) if names.get(key) in self.cast} if computes else {}
        )
        plain = {names[key]: self.values[names[key]] for key in (second, third) if names.get(key) in self.cast}
        try:
            for role, key in (("weight", second), ("bias", third)):
                if role in found:
                    self.values[names[key]] = found[role].source
            super()._node(node)
        finally:
            self.values.update(plain)
        result = self.values[node["outputs"][0]["as_tensor"]["name"]]
        if not isinstance(result, Value) or result.node.op != "call_module":
            return
        path = str(result.node.target)
        for role, constant in found.items():
            self.constants[f"{path}.{role}"] = _turned(constant) if base == "addmm" and role == "weight" else constant


def _turned(found: Constant) -> Constant:
    """A matrix's axes exchanged."""
    affine = found.affine
    axis = None if affine.axis is None else 1 - affine.axis
    turned = Affine(affine.scales, affine.zeros, affine.low, affine.high, axis, affine.float_)
    return Constant(found.source.T, found.numbers.T, turned)


def _numbers(given: Any, where: str) -> list[float]:
    if isinstance(given, Value):
        raise UnsupportedError("has a scale that follows the data", where=where, remedy=_STATIC)
    if isinstance(given, Tensor):
        flat = given.reshape(-1).double()
        if given.is_floating_point() and not torch.equal(flat, flat.float().double()):
            raise UnsupportedError("has scales of more digits than float32", where=where, remedy="give scales in float32")
        return [float(number) for number in flat]
    return [float(given)]
