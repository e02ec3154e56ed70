"""The benchmarks run, at tiny sizes, and time what they say they time. No test here looks at a clock."""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import nn

import qfx

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import csim, executors, fronts, memory, train_step, unrolled
from benchmarks.models import Layers, ResNet, mlp
from benchmarks.resnet8_front import __main__ as resnet8_front
from benchmarks.resnet8_front import point as resnet8
from benchmarks.task_data import Data
from benchmarks.timing import Timing, alternate

needs_hgq = pytest.mark.skipif(importlib.util.find_spec("hgq") is None, reason="HGQ2 is no dependency")
needs_brevitas = pytest.mark.skipif(importlib.util.find_spec("brevitas") is None, reason="Brevitas is in the extra 'bench'")


def test_turns_alternate_and_ratios_are_taken_within_a_turn() -> None:
    calls: list[str] = []
    timings = alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, turns=3, calls=2, warm_up=1)
    assert "".join(calls) == "aabb" * 4
    assert timings["a"].ratios == (1.0, 1.0, 1.0)
    assert timings["b"].ratios == tuple(b / a for a, b in zip(timings["a"].seconds, timings["b"].seconds, strict=True))


def test_medians() -> None:
    timing = Timing((0.001, 0.004, 0.002), (1.0, 4.0, 2.5))
    assert timing.median_ms == 2.0
    assert timing.median_ratio == 2.5


def test_resnet20_is_resnet20() -> None:
    model = ResNet(Layers())
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules()) == 20
    assert sum(parameter.numel() for parameter in model.parameters()) == 269_722
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_every_binary_point_of_the_timed_models_is_learned() -> None:
    for model, x in ((mlp(Layers()), torch.randn(8, 16)), (ResNet(Layers(), depth=1), torch.randn(2, 3, 32, 32))):
        qmodel = qfx.quantize(model, x)
        frozen = [name for name, quantizer in qfx.quantizers(qmodel) if not quantizer.frac_bits.requires_grad]
        assert all(name.endswith(".reciprocal") for name in frozen)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_step_trains_everything(bits: int) -> None:
    torch.manual_seed(0)
    x, labels = torch.randn(32, 16), torch.randint(5, (32,))
    steps = train_step.contestants(mlp, x, labels, bits=(bits,))
    for name in ("float32", f"qfx, {bits} bits", "qfx, a width per weight"):
        first = float(steps[name]())
        for _ in range(300):
            last = float(steps[name]())
        assert last < first, name


@needs_brevitas
def test_brevitas_quantizes_the_same_layers() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Brevitas' own, at import
        from benchmarks.brevitas_layers import BrevitasLayers

        model = ResNet(BrevitasLayers(), depth=1)
        model(torch.randn(2, 3, 32, 32))
    casts = [module for module in model.modules() if type(module).__name__ in ("QuantConv2d", "QuantLinear", "QuantReLU", "QuantIdentity")]
    assert len(casts) == 8 + 7 + 3  # 7 convolutions and a linear layer; 7 activations; input, average, output
    scales = [name for name, _ in model.named_parameters() if "scaling_impl" in name]
    assert len(scales) == 8 + 1 + 7 + 3  # every weight, the bias, every activation, and the three


@needs_brevitas
def test_brevitas_is_timed_after_it_has_collected_statistics() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from benchmarks.brevitas_layers import STEPS, BrevitasLayers, collecting, settle

        model = mlp(BrevitasLayers(3)).train()
        x = torch.randn(8, 16)
        assert collecting(model) == 5  # the input, three activations, the output
        for _ in range(3):
            model(x)
        assert collecting(model) == 5  # the parameters are made in the step after
        model(x)
        assert collecting(model) == 0
        other = mlp(BrevitasLayers(3)).train()
        with pytest.raises(RuntimeError, match="5 casts of Brevitas still collect"):
            settle(other, lambda: other(x), 2)
        default = {module.collect_stats_steps for module in mlp(BrevitasLayers()).modules() if hasattr(module, "collect_stats_steps")}
    assert default == {STEPS}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train_step.main(["--quick", "--device", "cuda"])
    assert "finds no GPU" in capsys.readouterr().err


@needs_brevitas
def test_the_command_runs(capsys: pytest.CaptureFixture[str], thorough: bool) -> None:
    if not thorough:
        pytest.skip("a minute of training steps, most of it the JIT compiler: with --thorough")
    train_step.main(["--quick", "--threads", "1"])
    shown = capsys.readouterr().out
    rows = ("float32 ", "float32, channels last", "qfx, 8 bits", "qfx, 4 bits", "Brevitas, 8 bits ", "Brevitas, 8 bits, JIT")
    for expected in ("ResNet-20, batch 4, 1 thread", "MLP 16-64-32-32-5, batch 8, 1 thread", "load at the end", *rows):
        assert expected in shown
    assert shown.count("channels last") == 1
    assert shown.count("JIT") == 2


def test_executors_agree_and_are_timed(tmp_path: Path, gxx: str) -> None:
    rates = executors.rates(mlp(Layers()), torch.randn(32, 16), 4, tmp_path)
    assert [rate.executor for rate in rates] == ["PyTorch emulator", "ONNX Runtime", "integer interpreter", "C simulation"]
    assert [rate.images for rate in rates] == [32, 32, 32, 4]
    assert all(rate.per_second > 0 for rate in rates)


def test_both_builds_of_c_simulation_are_timed(tmp_path: Path, gxx: str) -> None:
    found = csim.speeds(mlp(Layers()), torch.randn(32, 16), 4, tmp_path)
    assert [speed.images for speed in found] == [4, 4, 32]
    assert {speed.macs for speed in found} == {16 * 64 + 64 * 32 + 32 * 32 + 32 * 5}
    assert all(speed.per_second > 0 and speed.compiling > 0 for speed in found)


def test_a_wrong_executor_stops_the_benchmark(tmp_path: Path, gxx: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = qfx.run

    def off_by_one_lsb(graph: qfx.Graph, x: object) -> object:
        values = right(graph, x)  # type: ignore[arg-type]
        values[-1, -1] += 2.0 ** -graph.infos[graph.output].type.frac_bits
        return values

    monkeypatch.setattr(qfx, "run", off_by_one_lsb)
    with pytest.raises(AssertionError, match="integer interpreter has"):
        executors.rates(mlp(Layers()), torch.randn(32, 16), 4, tmp_path)


def test_adder_graphs_are_compared() -> None:
    rows = list(unrolled.rows(((4, 5, 4),)))
    adders = {name: count for _, name, count, *_ in rows}
    assert set(adders) >= {"not shared", "qfx"}
    assert adders["qfx"] < adders["not shared"]
    assert all(lut > 0 for *_, lut, _ in rows)


def made_up(epochs: int) -> fronts.Task:
    """Vectors of 6 numbers, classes that a plane divides."""

    def data() -> fronts.Judged:
        x = torch.randn(96, 6, generator=torch.Generator().manual_seed(0))
        y = (x[:, 0] + x[:, 1] > 0).long()
        return fronts.judged(Data(x[:80], y[:80], x[80:], y[80:]), 16)

    return fronts.Task("made up", (6, 8, 4, 2), data, epochs, 16, ((0.4, 300.0, 60.0),))


def test_a_run_gives_a_front_of_networks_that_are_built() -> None:
    task = made_up(6)
    found = fronts.qfx_front(task, task.data(), fronts.Settings(), *task.levels)
    assert found == fronts.front(found)
    assert all(point.luts > 0 and point.latency > 0 and 1 <= point.epoch <= 6 for point in found)
    assert len({point.operations for point in found}) == len(found)


def test_bit_operations_leave_signs_out() -> None:
    torch.manual_seed(0)
    x = torch.randn(32, 6)
    model = qfx.quantize(fronts.mlp((6, 4)), x, fronts.RECIPE)
    lengths = {name: cast.word_lengths().flatten() for name, cast in qfx.quantizers(model)}
    weight = dict(model.named_parameters())["0.weight"].detach()
    points = dict(qfx.quantizers(model))["0.weight"].points()
    raw = torch.floor(weight * torch.exp2(points) + 0.5).abs().int()
    bias = (
        torch.floor(dict(model.named_parameters())["0.bias"].detach() * torch.exp2(dict(qfx.quantizers(model))["0.bias"].points()) + 0.5).abs().int()
    )
    wanted = sum(int(raw[row, column]).bit_length() * (int(lengths["input"][column]) - 1) for row in range(4) for column in range(6))
    assert fronts.operations(model) == wanted + sum(int(number).bit_length() for number in bias)


@needs_hgq
def test_a_network_of_hgq_is_rebuilt_to_the_same_numbers() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras' own
        from benchmarks import fronts_hgq

        task = made_up(4)
        found, differing = fronts_hgq.hgq_front(task, task.data(), fronts_hgq.HgqSettings(rate=1e-2))
    assert differing == 0
    assert min(point.luts for point in found) > 0


def test_the_command_of_fronts_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "hgq" else find(name))
    points = fronts.run("made", made_up(3), tmp_path, reuse=False)
    assert list(points) == ["qfx"]
    assert (tmp_path / "made.md").read_text(encoding="utf-8") == capsys.readouterr().out
    assert fronts.run("made", made_up(3), tmp_path, reuse=True) == points
    if find("matplotlib"):
        assert {path.name for path in tmp_path.glob("*.png")} == {"made-operations.png", "made-luts.png"}


def test_gains_are_taken_at_the_cost_of_each_point() -> None:
    ours = [fronts.Found(1, 10, 50.0, 51.0, 5), fronts.Found(2, 30, 80.0, 79.0, 9), fronts.Found(3, 30, 70.0, 99.0, 9)]
    theirs = [fronts.Found(1, 5, 40.0, 40.0, 4), fronts.Found(1, 30, 75.0, 74.0, 20)]
    gains = [line.split("|")[-2].strip() for line in fronts.compare(ours, theirs)[2:]]
    assert gains == ["none as cheap", "+5.00", "none as cheap", "+5.00"]


def test_points_of_resnet8_are_kept_told_and_compared(tmp_path: Path) -> None:
    """A point that was kept is found by the same plan alone; the learned one counts where it is no dearer than the uniform one."""
    plan, point = resnet8.Plan(), resnet8.Point(4)
    uniform = resnet8.Found("uniform-4", "uniform", 7056, 36, 3, 0.1, 1.0, 85.0, 10, 0, 5, 1.0, {"fc.weight": 4})
    (tmp_path / "uniform-4.json").write_text(json.dumps({"plan": point.follows(plan), "found": asdict(uniform)}))
    assert resnet8.kept(point, replace(plan, length_rate=1.0), tmp_path) == uniform
    assert resnet8.kept(resnet8.Point(4, "learned"), plan, tmp_path) is None
    with pytest.raises(ValueError, match=r"uniform-4\.json is of another run: epochs 1.0 there, 2 here"):
        resnet8.kept(point, replace(plan, epochs=2), tmp_path)
    cheap, dear = (replace(uniform, name="searched-4", kind="searched", share=share, accuracy=86.5) for share in (0.1, 0.2))
    assert resnet8_front.compare([uniform, cheap]) == ["at 10.0 % of the board (uniform-4): searched +1.50, no learned point is as cheap"]
    assert resnet8_front.compare([uniform, dear]) == [
        "at 10.0 % of the board (uniform-4): no searched point is as cheap, no learned point is as cheap"
    ]
    assert "| 4 bits | 7,056 | 36 | 10.0 | 85.00 | 0 |" in resnet8_front.table([uniform, cheap])


def test_memory_is_what_tensors_take() -> None:
    base, other = memory.compared(lambda: nn.Linear(512, 512), torch.randn(8, 512), 512)
    assert 1.0 <= base < 1.5  # MiB: the gradient of the weight, and little besides
    assert base < other < 4 * base
