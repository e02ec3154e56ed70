"""What printing a quantized model shows: one table of formats."""

from __future__ import annotations

import torch
from torch import nn

import qfx
from qfx.recipe import Override, Recipe, Spec


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Sigmoid(), nn.Flatten(), nn.Linear(16, 3))


def test_a_row_for_each_layer_with_casts() -> None:
    recipe = Recipe(weight=Spec(4, granularity="channel"), overrides=(Override("4.weight", {"q": qfx.QMode.TRN}),))
    qmodel = qfx.quantize(model(), torch.randn(32, 1, 4, 4), recipe)
    text = str(qmodel)
    assert text == repr(qmodel)
    title, head, *rows = text.splitlines()
    assert f"{len(list(qfx.quantizers(qmodel)))} casts (RND SAT where nothing else is said)" in title
    assert head.split() == ["layer", "kind", "weight", "bias", "result", "others"]
    by_layer = {row.split()[0]: row for row in rows if "entries" not in row}
    assert list(by_layer) == ["input", "0", "1", "2", "4"]
    assert "Conv" in by_layer["0"]
    assert "x 4" in by_layer["0"]
    assert by_layer["4"].count("TRN SAT") == 1
    assert "scale fixed<16," in by_layer["1"]
    assert rows[-1].startswith("2: sigmoid, 256 entries")
    for name, quantizer in qfx.quantizers(qmodel):
        element, int_bits, _ = quantizer.types()
        kind = "fixed" if element.signed else "ufixed"
        points = f"{min(int_bits)}..{max(int_bits)}" if len(set(int_bits)) > 1 else str(element.int_bits)
        assert f"{kind}<{element.width},{points}>" in by_layer[name.rpartition(".")[0] or name], name


def test_what_is_learned_and_what_is_off() -> None:
    qmodel = qfx.quantize(model(), torch.randn(32, 1, 4, 4), Recipe(weight=Spec(6, learn_width=True)))
    assert "6.00 bits" in str(qmodel)
    qfx.switch(qmodel, on=False)
    assert "switched off: in brackets" in str(qmodel)
    assert "(fixed<6," in str(qmodel)


def test_notebooks_get_a_table() -> None:
    qmodel = qfx.quantize(model(), torch.randn(32, 1, 4, 4))
    for shown in (qmodel._repr_html_(), qfx.to_graph(qmodel.eval())._repr_html_(), qfx.summary(qmodel)._repr_html_()):
        assert shown.startswith("<div")
        assert shown.count("<table>") == shown.count("</table>") == 1
        assert "<script" not in shown
    assert qfx.check(model(), torch.randn(8, 1, 4, 4))._repr_html_().count("<tr>") == 6


def test_a_graph_in_one_line() -> None:
    graph = qfx.to_graph(qfx.quantize(model(), torch.randn(32, 1, 4, 4)).eval())
    assert repr(graph) == f"Graph('model', {len(graph.nodes)} nodes, input 1x4x4 -> 4.output 3)"
