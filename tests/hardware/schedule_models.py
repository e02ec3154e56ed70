"""Networks whose branches meet again, small, for the tests of the schedule."""

from __future__ import annotations

from hardware_models import conv, residual, scalar

from qfx.hardware.design.schedule import Folding, Schedule
from qfx.ir.graph import Graph, Node
from qfx.operators import Add, Cast, Concat, Input, MaxPool, Mul, Operator, Relu, Stretch, Upsample

ACT = "ap_ufixed<6,3,AP_RND,AP_SAT>"


class Net:
    """A graph under construction: ``add`` returns the node's name."""

    def __init__(self, name: str, channels: int, size: int) -> None:
        self.name, self.nodes, self.seed = name, [Node("x", Input((channels, size, size), scalar("ap_fixed<6,3,AP_RND,AP_SAT>")))], 400

    def add(self, name: str, op: Operator, *sources: str) -> str:
        self.nodes.append(Node(name, op, sources))
        return name

    def conv(self, name: str, source: str, cin: int, cout: int, kernel: int = 3, stride: int = 1) -> str:
        """Convolution with same padding, ReLU, cast."""
        self.seed += 2
        self.add(name, conv(self.seed, cout, cin, kernel, kernel, stride=stride, pads=(kernel // 2, kernel // 2)), source)
        return self.add(f"{name}_q", Cast(scalar(ACT)), self.add(f"{name}_r", Relu(), name))

    def join(self, name: str, a: str, b: str) -> str:
        return self.add(f"{name}_q", Cast(scalar(ACT)), self.add(f"{name}_r", Relu(), self.add(name, Add(), a, b)))

    def graph(self, output: str) -> Graph:
        return Graph(self.name, tuple(self.nodes), output)


def resnet() -> Graph:
    """A stem, a block with an identity shortcut and one with a strided projection."""
    net = Net("resnet", 2, 8)
    stem = net.conv("stem", "x", 2, 4)
    first = net.join("add1", net.conv("b", net.conv("a", stem, 4, 4), 4, 4), stem)
    second = net.join("add2", net.conv("d", net.conv("c", first, 4, 8, stride=2), 8, 8), net.conv("p", first, 4, 8, 1, 2))
    return net.graph(second)


def unet() -> Graph:
    """Two levels down, up by repetition, joined along the channels: branches within branches."""
    net = Net("unet", 2, 8)
    pool = MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1))
    high = net.conv("high", "x", 2, 4)
    low = net.conv("low", net.add("pool1", pool, high), 4, 4)
    deep = net.conv("deep", net.add("pool2", pool, low), 4, 8)
    up = net.conv("mid", net.add("cat2", Concat(), net.add("up2", Upsample((2, 2)), deep), low), 12, 4)
    return net.graph(net.conv("last", net.add("cat1", Concat(), net.add("up1", Upsample((2, 2)), up), high), 8, 4))


def crossing() -> Graph:
    """Two values, each read by both of two joins: components that are no nest of branches."""
    net = Net("crossing", 2, 6)
    a, b = net.conv("a", "x", 2, 4), net.conv("b", "x", 2, 4, 1)
    left, right = net.join("left", a, b), net.join("right", net.conv("c", a, 4, 4), b)
    return net.graph(net.add("product", Mul(), left, right))


def upsampling() -> Graph:
    """A repetition and a stretch: the two movers that no directed graph has."""
    nodes = (
        Node("x", Input((4, 3, 4), scalar("ap_fixed<6,3>"))),
        Node("up", Upsample((2, 3)), ("x",)),
        Node("stretch", Stretch((3, 2)), ("up",)),
        Node("conv", conv(50, 2, 4, 3, 3), ("stretch",)),
    )
    return Graph("upsampling", nodes, "conv")


BRANCHED = (residual, resnet, unet, crossing)


def folded(graph: Graph, pe: int = 2, simd: int = 2) -> Schedule:
    """The same folding for all convolutions and joins; channels are multiples of four but for the input's two."""
    return Schedule.of({node.name: Folding(pe, simd) for node in graph.nodes[1:] if node.inputs and graph.infos[node.name].shape[0] % pe == 0})
