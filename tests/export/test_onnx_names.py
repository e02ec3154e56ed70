"""Exported files in a viewer such as Netron: every node and value is called after the module of the user that it comes from."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import pytest
import torch
from torch import Tensor, nn

import qfx


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.act(self.norm(self.conv(x))) * 0.3 + x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(1, 2, 3, padding=1), nn.Sequential(Block(), Block())
        self.mix, self.soft = nn.Linear(16, 16), nn.Softmax(-1)
        self.rnn, self.head = nn.GRU(16, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = self.blocks(self.stem(image)).flatten(2)
        return {"classes": self.head(self.rnn(self.soft(self.mix(x)))[0][:, -1])}


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and those inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs(attribute.g)


def strangers(model: onnx.ModelProto, known: set[str]) -> list[str]:
    """Names of nodes and values that begin with none of the known ones, and nodes without a name or an unlike result."""
    found = []
    for graph in graphs(model.graph):
        for node in graph.node:
            found += [] if node.name and all(name.split("#")[0] == node.name.split("#")[0] for name in node.output) else [f"node {node.name!r}"]
        names = [node.name for node in graph.node] + [name for node in graph.node for name in node.output] + [t.name for t in graph.initializer]
        found += [
            name
            for name in names
            if not any(name == start or name.startswith((f"{start}.", f"{start}#", f"{start}:", f"{start}_")) for start in known)
        ]
    return found


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[onnx.ModelProto, set[str]]:
    torch.manual_seed(0)
    model, x = Net(), torch.rand(8, 1, 4, 4)
    path = tmp_path_factory.mktemp("names") / "net.onnx"
    qfx.export_onnx(qfx.quantize(model, x), path)
    functions = {"input", "flatten", "getitem"}  # what the whole model calls itself
    return onnx.load(path), {name for name, _ in model.named_modules() if name} | functions


def test_names(exported: tuple[onnx.ModelProto, set[str]]) -> None:
    model, known = exported
    assert strangers(model, known) == []


def test_the_types_stand_on_the_nodes(exported: tuple[onnx.ModelProto, set[str]]) -> None:
    """What a viewer shows as a node's description."""
    model, _ = exported
    described = {node.name: node.doc_string for node in model.graph.node}
    assert described["stem"].startswith("ap_fixed<")
    assert all(described[name].startswith("ap_") for name in described if "#" not in name and "::" not in name)


def test_a_planted_name_without_a_module_is_seen(exported: tuple[onnx.ModelProto, set[str]]) -> None:
    model = onnx.ModelProto.FromString(exported[0].SerializeToString())
    node = next(node for node in model.graph.node if node.name == "blocks.1.conv")
    node.name, node.output[0] = "n17", "n17"
    assert strangers(model, exported[1]) == ["n17", "n17"]
    node.name = ""
    assert "node ''" in strangers(model, exported[1])
