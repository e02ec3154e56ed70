"""Operations that move numbers by constant indices: torch's own result, moved raw by raw, in all executors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from support.bundles import build_bundle
from torch import Tensor, nn

import qfx
from qfx import operators as ops
from qfx.fixed.arith import Interval, channelwise
from qfx.hardware.design.schedule import Schedule
from qfx.ir.graph import Graph
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.nn.clipped import Clipped
from qfx.nn.layers.moving.take import QTake
from qfx.nn.qtensor import QTensor
from qfx.testing import assert_bit_exact

Form = Callable[[Tensor], Tensor]
FORMS: dict[str, Form] = {
    "flip": lambda x: x.flip(1),
    "flip two": lambda x: torch.flip(x, [-1, 2]),
    "fliplr": torch.fliplr,
    "roll": lambda x: x.roll(1, 2),
    "roll two": lambda x: torch.roll(x, (1, -2), (1, 3)),
    "select": lambda x: x.select(1, -1),
    "narrow": lambda x: x.narrow(2, -4, 3),
    "repeat_interleave": lambda x: x.repeat_interleave(2, dim=1),
    "repeat": lambda x: x.repeat(1, 2, 1, 2),
    "tile": lambda x: torch.tile(x, (1, 1, 2)),
    "expand": lambda x: x[:, :, :1].expand(-1, -1, 5, -1),
    "channel shuffle": lambda x: torch.channel_shuffle(x, 2),
    "list": lambda x: x[:, [2, 0, 2]],
    "list of a later axis": lambda x: x[:, :, [3, -1]],
    "swapaxes": lambda x: torch.swapaxes(x, 1, 3),
    "movedim": lambda x: x.movedim(1, -1),
    "pixel shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pixel unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "unfold": lambda x: F.unfold(x, (3, 2), 1, (1, 0), 2),
    "nearest": lambda x: F.interpolate(x, (7, 3), mode="nearest"),
    "nearest by a factor": lambda x: F.interpolate(x, scale_factor=1.5, mode="nearest"),
    "nearest-exact": lambda x: F.interpolate(x, (4, 9), mode="nearest-exact"),
    "reflect": lambda x: F.pad(x, (2, 1, 0, 3), mode="reflect"),
    "replicate": lambda x: F.pad(x, (2, 1, 0, 3), mode="replicate"),
    "circular": lambda x: F.pad(x, (2, 1, 0, 3), mode="circular"),
    "crop by negative padding": lambda x: F.pad(x, (-1, 2, -2, -1, 0, -1)),
    "ceil_mode": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "partial windows": lambda x: F.max_pool2d(x, 4, ceil_mode=True),
    "adaptive maximum": lambda x: F.adaptive_max_pool2d(x, (4, 3)),
    "stack": lambda x: torch.stack([x, x.flip(2)], 2),
    "stack in front": lambda x: torch.stack([x, x.flip(2)], 1),
    "concat of rows": lambda x: torch.cat([x, x.flip(2)], 2),
}


class Net(nn.Module):
    """The form behind a convolution, whose result is cast: what comes is what went, moved."""

    def __init__(self, form: Form | nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 1)
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        return self.form(self.conv(x))


MODULES: dict[str, nn.Module] = {
    "PixelShuffle": nn.PixelShuffle(2),
    "PixelUnshuffle": nn.PixelUnshuffle(3),
    "ChannelShuffle": nn.ChannelShuffle(2),
    "Unfold": nn.Unfold(2, stride=2),
    "ReflectionPad2d": nn.ReflectionPad2d(2),
    "ReplicationPad2d": nn.ReplicationPad2d((1, 0, 2, 3)),
    "CircularPad2d": nn.CircularPad2d(1),
    "MaxPool2d": nn.MaxPool2d(3, 2, ceil_mode=True),
    "AdaptiveMaxPool2d": nn.AdaptiveMaxPool2d((5, 4)),
    "Upsample": nn.Upsample((5, 8)),
}
ALL: dict[str, Form | nn.Module] = {**FORMS, **MODULES}


@pytest.fixture(scope="module")
def made() -> dict[str, tuple[nn.Module, Tensor]]:
    """A quantized network of every form, and an input."""
    torch.manual_seed(0)
    x = torch.randn(3, 2, 6, 6)
    return {name: (qfx.quantize(Net(form).eval(), x).eval(), x) for name, form in ALL.items()}


@pytest.mark.parametrize("name", ALL)
def test_torch_moves_the_same_numbers(name: str, made: dict[str, tuple[nn.Module, Tensor]]) -> None:
    q, x = made[name]
    seen: list[QTensor] = []
    handle = q.get_submodule("conv.output_cast").register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.no_grad():
        found = q(x)
        handle.remove()
        assert torch.equal(found, ALL[name](seen[0].tensor()).to(found.dtype))


@pytest.mark.parametrize("name", ALL)
def test_the_graph_and_the_file_move_the_same_numbers(name: str, made: dict[str, tuple[nn.Module, Tensor]], tmp_path: Path) -> None:
    q, x = made[name]
    graph = qfx.to_graph(q)
    raw = run_from_raw(graph, quantize_input(graph, x.numpy()))
    with torch.no_grad():
        found = q(x).double().numpy()
    assert np.array_equal(found, np.ldexp(raw.astype(np.float64), -graph.infos[graph.output].grids))
    path = tmp_path / "net.onnx"
    qfx.export_onnx(q, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (ran,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert np.array_equal(np.asarray(ran, dtype=np.float64), found)


@pytest.mark.usefixtures("gxx")
def test_the_hardware_moves_the_same_numbers(made: dict[str, tuple[nn.Module, Tensor]], tmp_path: Path) -> None:
    graphs: list[Graph] = [qfx.to_graph(q) for q, _ in made.values()]
    bundle = build_bundle([(graph, Schedule()) for graph in graphs], tmp_path)
    for number, (name, graph) in enumerate(zip(made, graphs, strict=True)):
        raw = quantize_input(graph, made[name][1].numpy())
        assert_bit_exact(bundle.run_from_raw(number, raw), run_from_raw(graph, raw), names=(f"C simulation of {name}", "interpreter"))


def test_a_wrong_index_is_seen(made: dict[str, tuple[nn.Module, Tensor]]) -> None:
    q, x = made["flip"]
    graph = qfx.to_graph(q)
    (node,) = (node for node in graph.nodes if isinstance(node.op, ops.Take))
    wrong = replace(node, op=ops.Take(node.op.axis, (*node.op.indices[:-1], 1)))
    planted = graph.with_nodes(tuple(wrong if one is node else one for one in graph.nodes))
    raw = quantize_input(graph, x.numpy())
    with pytest.raises(AssertionError):
        assert_bit_exact(run_from_raw(planted, raw), run_from_raw(graph, raw), names=("planted", "interpreter"))


def test_the_gradient_is_summed_over_all_that_took_a_slice() -> None:
    x = torch.arange(3.0)[None].requires_grad_()
    QTake(0, (2, 0, 2))(QTensor(x, Interval(0, 2, 0))).tensor().sum().backward()
    assert torch.equal(x.grad, torch.tensor([[1.0, 0.0, 2.0]]))


def test_channels_keep_what_is_known_of_them() -> None:
    far = (Interval(0, 1, 0), Interval(0, 3, 40))
    moved = QTake(0, (1, 0, 1))(QTensor(torch.zeros(1, 2), channelwise(far)))
    assert moved.interval.spread(3) == (far[1], far[0], far[1])
    vectors = torch.arange(2, dtype=torch.float64)
    known = Clipped(vectors, vectors + 1, vectors, vectors + 2)
    assert QTake(0, (1, 0, 1)).distribution([known]).mean.tolist() == [1, 0, 1]
    assert QTake(1, (1, 0, 1)).distribution([known]) is known
    assert (QTake(0, (1, 0)).scales_channels(2), QTake(1, (1, 0)).scales_channels(2)) == (False, True)


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
def test_a_convolution_pads_as_its_mode_says(mode: str) -> None:
    """As the same convolution behind a layer that pads."""
    torch.manual_seed(0)
    x = torch.randn(3, 2, 5, 6)
    layer = nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode=mode)
    plain = nn.Conv2d(2, 3, 3)
    plain.load_state_dict(layer.state_dict())
    pad = {"circular": nn.CircularPad2d, "reflect": nn.ReflectionPad2d, "replicate": nn.ReplicationPad2d}[mode]((2, 2, 1, 1))
    with torch.no_grad():
        assert torch.equal(qfx.quantize(nn.Sequential(layer).eval(), x)(x), qfx.quantize(nn.Sequential(pad, plain).eval(), x)(x))


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (lambda x: x.flip(0), "along the batch"),
        (lambda x: x.roll(1), "roll without dims"),
        (lambda x: x.repeat(2, 1, 1, 1), "for a batch of 2"),
        (lambda x: torch.stack([x, x], 0), "for a batch of 2"),
    ],
)
def test_the_batch_stays(form: Form, words: str) -> None:
    with pytest.raises(qfx.UnsupportedError, match=words):
        qfx.quantize(Net(form).eval(), torch.randn(3, 2, 6, 6))
