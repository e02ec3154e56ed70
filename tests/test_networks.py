"""Eight kinds of network the whole way: PyTorch, quantize, ONNX, interpreter, ONNX Runtime and the generated C++ give the same raw integers."""

from __future__ import annotations

import copy
import io
import lzma
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from networks import NETWORKS, make
from support.bundles import Bundle, build_bundle
from test_real_models import needed
from torch import Tensor, nn

import qfx
from qfx import Graph, Recipe, Spec
from qfx import operators as ops
from qfx.hardware.design.schedule import Schedule
from qfx.ir.interpret import quantize_input, run_raw, trace
from qfx.ir.passes.pipeline import optimize
from qfx.testing import adversarial_inputs, assert_bit_exact
from qfx.verify import onnx_runtime, raw_of

RECIPES = {
    "8 bits": Recipe(),
    "4 bits": Recipe(weight=Spec(4, granularity="channel"), activation=Spec(4), batch_norm="fold"),
}
WIDE = Recipe(**{role: Spec(16) for role in ("input", "weight", "bias", "scale", "shift", "activation", "output")})
SIMULATED = 3  # samples of data and as many adversarial ones


@dataclass(frozen=True)
class Case:
    """A network in float and in fixed point, its graph, and inputs: data first, then what looks for mistakes."""

    model: nn.Module
    qmodel: nn.Module
    graph: Graph
    data: Tensor
    x: npt.NDArray[np.float32]


def case(model: nn.Module, data: Tensor, recipe: Recipe, name: str, compared: int) -> Case:
    qmodel = qfx.quantize(model, data, recipe).eval()
    graph = qfx.to_graph(qmodel, name)
    x = np.concatenate([data[:compared].numpy(), adversarial_inputs(graph, np.random.default_rng(0), compared)])
    return Case(model, qmodel, graph, data, x)


@cache
def small(name: str, recipe: str) -> Case:
    return case(*make(name), RECIPES[recipe], f"{name}_{recipe[0]}", 8)


def emulate(qmodel: nn.Module, graph: Graph, x: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The raws that torch computes."""
    with torch.no_grad():
        return raw_of(qmodel(torch.from_numpy(x)).numpy(), graph, "torch")


def check_software(c: Case, folder: Path) -> None:
    """Torch in both modes, the interpreter and ONNX Runtime on the file."""
    expected = run_raw(c.graph, c.x, check_ranges=True)
    assert len(np.unique(expected)) > len(c.x)  # not all zero or saturated
    assert_bit_exact(emulate(c.qmodel, c.graph, c.x), expected, names=("torch", "interpreter"))
    assert_bit_exact(emulate(copy.deepcopy(c.qmodel).train().apply(_keep_all), c.graph, c.x), expected, names=("torch in training", "interpreter"))
    path = folder / f"{c.graph.name}.onnx"
    qfx.export_onnx(c.qmodel, path)
    graph = qfx.load_graph(path)
    assert graph == c.graph
    assert_bit_exact(onnx_runtime(path, graph)(c.x), expected, names=("ONNX Runtime", "interpreter"))
    assert_bit_exact(run_raw(optimize(graph), c.x), expected, names=("the optimized graph", "the graph"))


def _keep_all(module: nn.Module) -> None:
    """Dropout is meant to change what training computes: leave it out there."""
    if type(module).__name__ == "QDropout":
        module.eval()


def compiled(graphs: list[Graph], folder: Path) -> Bundle:
    """The C++ of all graphs in one executable."""
    return build_bundle([(optimize(graph), Schedule()) for graph in graphs], folder)


def check_simulation(bundle: Bundle, index: int, c: Case, compared: int) -> None:
    """Some data and as many adversarial inputs."""
    x = np.concatenate([c.x[:compared], c.x[-compared:]])
    simulated = bundle.run_from_raw(index, quantize_input(c.graph, x))
    assert_bit_exact(simulated, run_raw(c.graph, x), names=(f"C simulation of {c.graph.name}", "interpreter"))


@pytest.mark.parametrize("name", NETWORKS)
def test_16_bits_compute_what_the_float_network_computes(name: str) -> None:
    """The noise is that of rounding: a layer converted into something else would show, even if all executors agreed on it."""
    model, data = make(name)
    with torch.no_grad():
        expected, actual = model(data).double(), qfx.quantize(model, data, WIDE).eval()(data)
    signal, noise = (expected - expected.mean(0)).square().sum(), (actual - expected).square().sum()  # without what is the same for every sample
    assert 10 * torch.log10(signal / noise) > 30


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_executors_agree(name: str, recipe: str, tmp_path: Path) -> None:
    check_software(small(name, recipe), tmp_path)


@pytest.fixture(scope="module")
def bundle(gxx: str, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """All networks at 8 bits, in order, and ``one_lsb_off`` behind them."""
    graphs = [small(name, "8 bits").graph for name in NETWORKS]
    return compiled([*graphs, one_lsb_off()], tmp_path_factory.mktemp("networks"))


@pytest.mark.parametrize("name", NETWORKS)
def test_c_simulation_agrees(name: str, bundle: Bundle) -> None:
    check_simulation(bundle, list(NETWORKS).index(name), small(name, "8 bits"), SIMULATED)


def one_lsb_off() -> Graph:
    """The autoencoder with one LSB more in one weight of its last transposed convolution: one that meets the greatest input."""
    c = small("autoencoder", "8 bits")
    busiest = int(trace(c.graph, c.x[:SIMULATED])["decoder.5.output"].max((0, 2, 3)).argmax())
    wrong = copy.deepcopy(c.qmodel)
    with torch.no_grad():
        lsb = 2.0 ** -round(float(wrong.get_parameter("decoder.6.weight_cast.frac_bits")))
        kernel = wrong.get_parameter("decoder.6.weight")[busiest, 1]
        kernel.view(-1)[int(kernel.abs().argmin())] += lsb  # far from saturation
    return qfx.to_graph(wrong, "autoencoder_one_lsb_off")


def test_one_lsb_in_a_transposed_convolution_is_seen(bundle: Bundle) -> None:
    """Planted between torch and the C++: C simulation of the wrong network differs from the right one."""
    with pytest.raises(AssertionError, match="numbers differ"):
        check_simulation(bundle, len(NETWORKS), small("autoencoder", "8 bits"), SIMULATED)


@pytest.mark.usefixtures("gxx")
def test_c_simulation_agrees_at_4_bits(tmp_path: Path) -> None:
    """But for three networks that resemble others; g++ takes most of the time."""
    cases = [small(name, "4 bits") for name in NETWORKS if name not in ("resnet20", "keyword", "jet")]
    bundle = compiled([c.graph for c in cases], tmp_path)
    for index, c in enumerate(cases):
        check_simulation(bundle, index, c, SIMULATED)


def test_together_they_use_every_way_up_and_every_shortcut() -> None:
    """What the networks are here for is in them."""
    used = {name: {type(node.op) for node in small(name, "8 bits").graph.nodes} for name in NETWORKS}
    assert ops.Upsample in used["unet_nearest"]
    assert ops.Stretch in used["unet_transposed"] & used["autoencoder"]
    assert ops.Concat in used["unet_nearest"] & used["unet_transposed"]
    assert ops.Pad in used["unet_nearest"] & used["resnet20"]
    assert ops.Clip in used["mobilenet"]
    assert {ops.LeakyRelu, ops.MaxPool, ops.SumPool} <= used["ecg"] & used["keyword"]
    assert ops.Affine in used["jet_norm"]
    assert ops.Affine not in used["jet"]
    assert all(ops.Add in used[name] for name in ("resnet8", "resnet20", "mobilenet"))
    depthwise = [node.op for node in small("mobilenet", "4 bits").graph.nodes if isinstance(node.op, ops.Conv) and node.op.groups > 1]
    assert len(depthwise) == 5


def test_layers_keep_their_names() -> None:
    names = {node.name for node in small("unet_transposed", "8 bits").graph.nodes}
    assert {"inc.0", "inc.2.output", "up1.up.stretch", "up1.up", "up1.cat", "up2.conv.3", "outc.output"} <= names


# --- real data, full size -------------------------------------------------------------------------------------------------------------


def cifar_images(count: int) -> Tensor:
    """The first test images, normalized as usual."""
    with lzma.open(needed("cifar10/test_x.npy.xz")) as stream:
        head = io.BytesIO(stream.read(4096 + count * 3072))
    assert np.lib.format.read_magic(head) == (1, 0)
    np.lib.format.read_array_header_1_0(head)
    pixels = np.frombuffer(head.read(count * 3072), np.uint8).reshape(count, 32, 32, 3).transpose(0, 3, 1, 2)
    mean, deviation = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    return (torch.tensor(pixels) / 255 - mean) / deviation


def heartbeats(count: int) -> Tensor:
    """Windows of 256 samples of both leads around the first beats."""
    signal = np.load(needed("ecg/signal_int16.npy"), mmap_mode="r")
    windows = np.stack([signal[start : start + 256] for start in range(0, 300 * count, 300)]).transpose(0, 2, 1).astype(np.float32)
    return torch.tensor((windows - windows.mean((0, 2), keepdims=True)) / windows.std((0, 2), keepdims=True))


def spoken_digits(count: int) -> Tensor:
    """Half a second from the start of the first recordings, padded with silence."""
    offsets = np.load(needed("fsdd/index.npz"))["offset"][: count + 1]
    with lzma.open(needed("fsdd/audio_int16_8khz.npy.xz")) as stream:
        head = io.BytesIO(stream.read(4096 + 2 * int(offsets[-1])))
    np.lib.format.read_magic(head)
    np.lib.format.read_array_header_1_0(head)
    audio = np.frombuffer(head.read(2 * int(offsets[-1])), np.int16).astype(np.float32)
    clips = np.zeros((count, 1, 4000), np.float32)
    for clip, start, stop in zip(clips, offsets[:-1], offsets[1:], strict=True):
        part = audio[start:stop][:4000]
        clip[0, : len(part)] = part
    return torch.tensor(clips / 8192)


REAL = {"mobilenet": cifar_images, "ecg": heartbeats, "keyword": spoken_digits}


@cache
def real(name: str) -> Case:
    model, data = make(name, small=False, data=REAL[name](64))
    return case(model, data, RECIPES["8 bits"], f"{name}_real", 4)


@pytest.mark.parametrize("name", REAL)
def test_executors_agree_on_real_data(name: str, tmp_path: Path) -> None:
    check_software(real(name), tmp_path)


@pytest.mark.usefixtures("gxx")
def test_c_simulation_agrees_on_real_data(tmp_path: Path) -> None:
    bundle = compiled([real(name).graph for name in REAL], tmp_path)
    for index, name in enumerate(REAL):
        check_simulation(bundle, index, real(name), 1)
