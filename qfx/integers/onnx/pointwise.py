"""Functions of one number and of two: measured with ONNX Runtime for every integer, and for every pair."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qfx import operators as ops
from qfx.errors import ExactnessError, UnsupportedError
from qfx.integers.growing import Function
from qfx.integers.onnx.file import Array, Fused
from qfx.integers.onnx.network import Network, View
from qfx.integers.onnx.products import FRACTIONS
from qfx.integers.plane import plane
from qfx.integers.steps import Ints
from qfx.ir.values import Const


def on_floats(network: Network, node: Fused) -> None:
    """A function of one float: what it makes of each float that the tensor can hold. Beside it stand single constants."""
    view, name = _only(network, node)
    if view.floats is None:
        raise UnsupportedError("reads integers", where=network.where(node), remedy="let it read floats")
    for other in node.inputs:
        if other and other != name and network.constant(other, node).size != 1:
            raise UnsupportedError(f"has the constant {other} of several numbers", where=network.where(node), remedy="quantize it as an operand")
    made = network.model.measured(node, {name: view.floats})
    network.hold(node, view.node, view.signed, made.astype(np.float32))


def quantize(network: Network, node: Fused) -> None:
    view, name = _only(network, node)
    if view.floats is None:
        raise UnsupportedError("reads integers", where=network.where(node), remedy="let it read floats")
    _one(network, node)
    network.tabled(node, view, network.model.measured(node, {name: view.floats}))


def dequantize(network: Network, node: Fused) -> None:
    view = network.integers(node.inputs[0], node)
    _one(network, node)
    made = network.model.measured(node, {node.inputs[0]: view.stored})
    network.hold(node, view.node, view.signed, made.astype(np.float32))


def on_integers(network: Network, node: Fused) -> None:
    """A kernel of one tensor of integers, with scales of its own: QLinearSigmoid, QLinearLeakyRelu."""
    view = network.integers(node.inputs[0], node)
    network.tabled(node, view, network.model.measured(node, {node.inputs[0]: view.stored}))


def qlinear_add(network: Network, node: Fused) -> None:
    """A plane that gives what the kernel gives for every pair."""
    a, b, views, table = _pairs(network, node)
    result = network.result(node, node.inputs[7])
    scales = [float(network.scale(node.inputs[place], node)) for place in (1, 4, 6)]
    zeros = [network.zero(node.inputs[place], node)[0] for place in (2, 5)]
    one, two = (view.numbers - zero for view, zero in zip(views, zeros, strict=True))
    found = plane(one, two, table - result.zero, (scales[0] / scales[2], scales[1] / scales[2]), result.centered)
    if found is None:
        remedy = "its halves are decided by the last bits of floats; give operands and result other scales"
        raise ExactnessError("no fixed-point plane gives what the kernel gives for every pair", where=result.where, remedy=remedy)
    first, second = _operands(network, node, a, b, zeros)
    if isinstance(first, Const):  # only one can be
        first, second = second, first
        found = replace(found, factors=found.factors[::-1])
    assert isinstance(first, str)
    network.hold(node, network.on_plane(result, found, first, second), result.signed)


def qlinear_mul(network: Network, node: Fused) -> None:
    """A line over the products, which are sums too."""
    a, b, views, table = _pairs(network, node)
    result = network.result(node, node.inputs[7])
    zeros = [network.zero(node.inputs[place], node)[0] for place in (2, 5)]
    one, two = (view.numbers - zero for view, zero in zip(views, zeros, strict=True))
    products, given = (one[:, None] * two[None, :]).reshape(-1), (table - result.zero).reshape(-1)
    order = np.argsort(products, kind="stable")
    function = _falling_never(network, node, products[order], given[order])
    first, second = _operands(network, node, a, b, zeros)
    if isinstance(first, Const):
        first, second = second, first
    assert isinstance(first, str)
    name = f"{result.name}.product"
    product = network.emit(name, ops.Affine(second, None), first) if isinstance(second, Const) else network.emit(name, ops.Mul(), first, second)
    network.hold(node, network.stepped(result, product, [function]), result.signed)


def _falling_never(network: Network, node: Fused, points: Ints, values: Ints) -> Function:
    """The function through points in order. ExactnessError where one point has two values, or a value falls."""
    unique, firsts = np.unique(points, return_index=True)
    same = np.repeat(values[firsts], np.diff(np.append(firsts, points.size)))
    if (same != values).any() or (np.diff(values) < 0).any():
        what = "its kernel gives two results for one product"
        raise ExactnessError(what, where=network.where(node), remedy="its halves are decided by the last bits of floats; give it other scales")

    def call(sums: Ints) -> Ints:
        """Between points, that of the point before: no sum lies there."""
        return values[firsts][np.maximum(np.searchsorted(unique, sums, side="right") - 1, 0)]

    return Function(call, FRACTIONS, even=True, points=unique)


def _one(network: Network, node: Fused) -> None:
    if network.constant(node.inputs[1], node).size != 1:
        raise UnsupportedError("has a scale for each channel", where=network.where(node), remedy="give activations one")


def _only(network: Network, node: Fused) -> tuple[View, str]:
    """The only input that is computed."""
    computed = [name for name in dict.fromkeys(node.inputs) if name in network.views]
    if len(computed) != 1:
        remedy = "quantize its operands and its result, so that ONNX Runtime makes an integer kernel of it"
        raise UnsupportedError(f"reads {len(computed)} computed tensors as floats", where=network.where(node), remedy=remedy)
    return network.views[computed[0]], computed[0]


def _pairs(network: Network, node: Fused) -> tuple[str, str, tuple[View, View], Ints]:
    """The names of both operands, views of them (a constant's too), and what the kernel gives for every pair of integers."""
    a, b = node.inputs[0], node.inputs[3]
    views = tuple(
        View("", network.constant(name, node).dtype == np.int8) if name in network.model.constants else network.integers(name, node)
        for name in (a, b)
    )
    grid: list[Array] = [np.repeat(views[0].stored, 256), np.tile(views[1].stored, 256)]
    if a == b:
        raise UnsupportedError("reads one tensor twice", where=network.where(node), remedy="scale it instead")
    made = network.model.measured(node, dict(zip((a, b), grid, strict=True)))
    return a, b, (views[0], views[1]), made.astype(np.int64).reshape(256, 256)


def _operands(network: Network, node: Fused, a: str, b: str, zeros: list[int]) -> tuple[str | Const, str | Const]:
    """Both, less their zero points; constants so that they go with the other one."""
    found: list[str | Const] = []
    for name, other, zero, place in ((a, b, zeros[0], "a"), (b, a, zeros[1], "b")):
        if name not in network.model.constants:
            found.append(network.plus(f"{network.name(node.outputs[0])}.{place}", network.views[name].node, -zero))
            continue
        shape = network.infos[network.view(other, node).node].shape
        numbers = network.model.constants[name].astype(np.int64) - zero
        while numbers.ndim > len(shape):
            if numbers.shape[0] != 1:
                raise UnsupportedError(f"its constant {name} has the batch's axis", where=network.where(node), remedy="leave that axis out")
            numbers = numbers[0]
        numbers = numbers.reshape((1,) * (len(shape) - numbers.ndim) + numbers.shape)
        alone = numbers.size == numbers.shape[0]
        found.append(Const(numbers.reshape(()) if numbers.size == 1 else numbers.reshape(-1) if alone else numbers, 0))
    shapes = [network.infos[one].shape for one in found if isinstance(one, str)]
    if len(shapes) == 2 and shapes[0] != shapes[1]:
        whole = tuple(map(max, *shapes)) if len(shapes[0]) == len(shapes[1]) else ()
        found = [one if network.infos[str(one)].shape == whole else network.emit(f"{one}.wide", ops.Expand(whole), str(one)) for one in found]
    return found[0], found[1]
