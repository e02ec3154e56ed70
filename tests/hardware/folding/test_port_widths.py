"""The widths of several ports: by name in folding.toml, through the search, the command and C simulation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hardware_models import classifier
from test_several_ports import apart, crossed, data, detector, siamese, sums

from qfx.cli import main
from qfx.errors import ProjectError
from qfx.export.onnx_file import save
from qfx.hardware.board import board
from qfx.hardware.design.schedule import OUT, Request, Schedule
from qfx.hardware.folding import file as folding_file
from qfx.hardware.folding import search as fold
from qfx.hardware.folding.widths import fixed_schedule
from qfx.hardware.project import csim
from qfx.hardware.project.project import write_project
from qfx.ir.graph import Graph
from qfx.ir.interpret import quantize_inputs, run_from_raws

ZCU = board("zcu102")


def names(graph: Graph) -> tuple[list[str], tuple[str, ...]]:
    return [node.name for node in graph.inputs], graph.output_names


def test_a_file_names_ports(tmp_path: Path) -> None:
    path = tmp_path / "folding.toml"
    path.write_text('[ports.input]\na = 2\n\n[ports.output]\n"map 1" = 4\n', encoding="utf-8")
    request = folding_file.read(path)
    assert request.ports == (("a", 2), (OUT + "map 1", 4))
    assert fixed_schedule(siamese(), request) == Schedule.of({}, ports={"a": 2, OUT + "near": 4})
    for fit in (False, True):
        made = fold.resolve(siamese(), ZCU, folding_file.read(path, fit=fit), clock_ns=5)
        assert (made.design.inputs[0].parallel, made.design.outputs[1].parallel) == (2, 4)


@pytest.mark.parametrize("make", [sums, siamese, detector, crossed, apart])
@pytest.mark.parametrize("fit", [False, True])
def test_a_file_gives_the_widths_back(make: type[Graph], fit: bool, tmp_path: Path) -> None:
    graph = make()
    made = fold.resolve(graph, ZCU, Request(fit=fit), clock_ns=5)
    path = tmp_path / "folding.toml"
    path.write_text(folding_file.text(made, "m", names(graph)), encoding="utf-8")
    again = fold.resolve(graph, ZCU, folding_file.read(path), clock_ns=5)
    assert [port.parallel for port in again.design.inputs] == [port.parallel for port in made.design.inputs]
    assert [port.parallel for port in again.design.outputs] == [port.parallel for port in made.design.outputs]
    assert again.design.streams == made.design.streams
    assert folding_file.text(again, "m", names(graph)) == folding_file.text(made, "m", names(graph))


@pytest.mark.parametrize(
    ("text", "complaint", "remedy"),
    [
        ("[ports.input]\nc = 2", "the model has no input 'c'", "there are a, b"),
        ("[ports.input]\nclass = 2", "the model has no input 'class'", "there are a, b"),
        ("[ports.output]\nclas = 2", "the model has no output 'clas'", "did you mean 'class'"),
        ("[ports.input]\na = 3", "3 numbers per input word", "divisor of the "),
        ("[ports.output]\n'map 1' = 3", "3 numbers per output word", "divisor of the "),
    ],
)
@pytest.mark.parametrize("fit", [False, True])
def test_ports_that_the_model_does_not_have(text: str, complaint: str, remedy: str, fit: bool, tmp_path: Path) -> None:
    path = tmp_path / "folding.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ProjectError, match=complaint) as caught:
        fold.resolve(siamese(), ZCU, folding_file.read(path, fit=fit), clock_ns=5)
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[ports.inputs]\na = 2", "'inputs' is not a port"),
        ("[ports.input]\na = 0", "a is 0"),
        ("[ports.input]\na = 1.5", "a is 1.5"),
        ('[ports]\ninput = "a"', "input is 'a'"),
    ],
)
def test_files_that_cannot_be_read(text: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "folding.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ProjectError, match=complaint):
        folding_file.read(path)


def test_one_port_has_a_name_too() -> None:
    graph = classifier()
    request = Request(ports=((graph.input.name, 3), (OUT + graph.output_names[0], 5)))
    made = fold.resolve(graph, ZCU, request, clock_ns=5)
    assert (made.schedule.input_parallel, made.schedule.output_parallel, made.schedule.ports) == (3, 5, ())
    made = fold.resolve(graph, ZCU, Request(fit=True, ports=request.ports), clock_ns=5)
    assert (made.schedule.input_parallel, made.schedule.output_parallel) == (3, 5)
    with pytest.raises(ProjectError, match="one width is asked for") as caught:
        fold.resolve(siamese(), ZCU, Request(fit=True, input_parallel=2), clock_ns=5)
    assert "[ports.input]" in caught.value.remedy


def test_the_command_takes_its_own_file_back(tmp_path: Path) -> None:
    """And the C++ computes the same with other widths."""
    graph = siamese()
    save(graph, tmp_path / "net.onnx")
    (tmp_path / "f.toml").write_text('[ports.input]\nb = 2\n[ports.output]\n"map 1" = 2\n', encoding="utf-8")
    for folding, out in ((tmp_path / "f.toml", "p"), (tmp_path / "p" / "folding.toml", "q")):
        arguments = ["hls", str(tmp_path / "net.onnx"), "--board", "zcu102", "--folding", str(folding), "-o", str(tmp_path / out)]
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, done.output
    text = (tmp_path / "q" / "folding.toml").read_text()
    assert text == (tmp_path / "p" / "folding.toml").read_text()
    assert '[ports.input]\n"a" = 1\n"b" = 2\n\n[ports.output]\n"class" = 1\n"map 1" = 2\n' in text
    x = data(graph)
    want = run_from_raws(graph, quantize_inputs(graph, x))
    assert all(np.array_equal(*pair) for pair in zip(csim.run_raw(tmp_path / "q", x), want, strict=True))
    (tmp_path / "f.toml").write_text("[ports.output]\nnear = 2\n", encoding="utf-8")
    done = CliRunner().invoke(main, ["estimate", str(tmp_path / "net.onnx"), "--board", "zcu102", "--folding", str(tmp_path / "f.toml")])
    assert (done.exit_code, "the model has no output 'near'" in done.output) == (2, True)
    assert write_project(graph, tmp_path / "r", board="zcu102").path.joinpath("folding.toml").read_text().count("= 1\n") >= 4
