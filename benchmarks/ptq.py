"""``python -m benchmarks.ptq``: post-training quantization of ResNet-20 on CIFAR-10, beside Brevitas, in one run.

Real weights and images from ``../shared/data`` (or ``$QFX_DATA``). All layers are fixed point with power-of-two scales, the first and the last one
too; weights have a binary point per channel. Each row runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import qfx
from benchmarks.models import Layers, ResNet
from benchmarks.timing import machine
from qfx import Recipe, Spec
from qfx.ir.interpret import run_raw
from qfx.ptq import adaround, calibrate, comq, correct_bias, float_reference, fold_batch_norm, gptq, tune
from qfx.verify import compare, onnx_runtime, raw_of

DATA = Path(os.environ.get("QFX_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
CHECKPOINT = "models/resnet20-12fca82f.th"
CALIBRATION, EXAMPLE, BATCH, TUNED_ON = 1024, 256, 250, 10_000
COMPARED = 200
"""Images on which PyTorch, the integer interpreter and ONNX Runtime are compared bit by bit."""

WIDTHS = ((8, 8), (6, 6), (4, 8), (4, 4))
AIMS = {(8, 8): 0.2, (6, 6): 0.8, (4, 8): 1.2, (4, 4): 6.0}
"""Of the best qfx row: how many points of accuracy below float."""

_MEAN, _DEVIATION = (torch.tensor(values).reshape(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


@dataclass(frozen=True)
class Result:
    """One row: top-1 in percent, seconds of quantization without judging, peak MiB of the process meanwhile, and how many raw bits differ between
    PyTorch and the exported file (None: it has none)."""

    method: str
    weight: int
    activation: int
    accuracy: float
    seconds: float
    peak_mib: int
    differing_bits: int | None


def images(name: str, count: int | None = None) -> Tensor:
    """The first images of ``cifar10/NAME.npy.xz``, normalized as the checkpoint wants them."""
    with lzma.open(DATA / "cifar10" / f"{name}.npy.xz") as file:
        pixels = np.load(io.BytesIO(file.read()))[:count]
    return normalized(torch.from_numpy(pixels))


def normalized(pixels: Tensor) -> Tensor:
    """Pixels (N, H, W, 3) of 0..255 as the checkpoint wants them, (N, 3, H, W)."""
    return (pixels.permute(0, 3, 1, 2).contiguous().float() / 255 - _MEAN) / _DEVIATION


def calibration_images(count: int = CALIBRATION) -> Tensor:
    """Unlabelled images of the training part."""
    first = min(path.name for path in (DATA / "cifar10").glob("train_x*.npy.xz"))
    return images(first.removesuffix(".npy.xz"), count)


def judged_images(count: int | None = None) -> tuple[Tensor, Tensor]:
    """Images of the test part, and their labels."""
    labels = torch.from_numpy(np.load(DATA / "cifar10" / "test_y.npy").astype(np.int64))
    return images("test_x", count), labels[:count]


@lru_cache(maxsize=1)
def float_model() -> nn.Module:
    """ResNet-20 with the published weights, in evaluation mode."""
    state = torch.load(DATA / CHECKPOINT, weights_only=True, map_location="cpu")["state_dict"]

    def name(key: str) -> str:
        key = key.removeprefix("module.").replace("linear.", "fc.")
        return re.sub(r"^layer(\d)\.(\d)\.", lambda place: f"blocks.{3 * int(place[1]) - 3 + int(place[2])}.", key)

    model = ResNet(Layers())
    model.load_state_dict({name(key): value for key, value in state.items()})
    return model.eval()


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Top-1 in percent."""
    with torch.no_grad():
        right = sum(int((model(a).argmax(1) == b).sum()) for a, b in zip(torch.split(x, BATCH), torch.split(y, BATCH), strict=True))
    return 100 * right / len(y)


def recipe(weight: int, activation: int, observer: str = "mse", *, image: int = 0, stream: int = 0) -> Recipe:
    """Word lengths of weights and of activations, the input's too; biases and the result have 16 bits. ``image``: bits of the input, ``stream``: of
    what blocks give and shortcuts add, where products read ``activation`` bits of it; 0: as activations."""
    casts = {"observer": observer}
    return Recipe(
        input=Spec(image or activation, **casts),  # type: ignore[arg-type]
        weight=Spec(weight, granularity="channel", **casts),  # type: ignore[arg-type]
        bias=Spec(16, granularity="channel", **casts),  # type: ignore[arg-type]
        activation=Spec(stream or activation, **casts),  # type: ignore[arg-type]
        operand=Spec(activation, **casts) if stream else None,  # type: ignore[arg-type]
        output=Spec(16, **casts),  # type: ignore[arg-type]
    )


def nearest(data: Tensor, weight: int, activation: int, observer: str = "mse", **longer: int) -> nn.Module:
    """BatchNorm folded, binary points from data, everything rounded to nearest. ``longer``: of ``recipe``."""
    model = qfx.quantize(fold_batch_norm(float_model(), data[:4]), data[:EXAMPLE], recipe(weight, activation, observer, **longer)).eval()
    calibrate(model, torch.split(data, BATCH))
    return model


def _nearest_min_max(data: Tensor, weight: int, activation: int) -> nn.Module:
    return nearest(data, weight, activation, "minmax")


def _then(*passes: Callable[..., object]) -> Callable[[Tensor, int, int], nn.Module]:
    def quantized(data: Tensor, weight: int, activation: int) -> nn.Module:
        model = nearest(data, weight, activation)
        reference = float_reference(model)  # of the float weights: what every pass aims at
        for run in passes:
            run(model, data, reference=reference)
        return model

    return quantized


def _tuned(**longer: int) -> Callable[[Tensor, int, int], nn.Module]:
    """GPTQ on the calibration data, then ``tune`` on more of the training part, still without labels."""

    def quantized(data: Tensor, weight: int, activation: int) -> nn.Module:
        model = nearest(data, weight, activation, "mse", **longer)
        reference = float_reference(model)
        gptq(model, data, reference=reference)
        tune(model, calibration_images(TUNED_ON), reference=reference, epochs=4, reach=3.0)
        return model

    return quantized


def _image_of_8(data: Tensor, weight: int, activation: int) -> nn.Module:
    model = nearest(data, weight, activation, image=8)
    gptq(model, data)
    return model


def _brevitas(**options: Any) -> Callable[[Tensor, int, int], nn.Module]:
    def quantized(data: Tensor, weight: int, activation: int) -> nn.Module:
        from benchmarks.brevitas_ptq import post_training

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return post_training(float_model(), data, weight, activation, **options)

    return quantized


METHODS: Mapping[str, Callable[[Tensor, int, int], nn.Module]] = {
    "nearest, min-max": _nearest_min_max,
    "nearest": nearest,
    "bias correction": _then(correct_bias),
    "COMQ": _then(comq),
    "GPTQ": _then(gptq),
    "AdaRound": _then(adaround),
    "GPTQ, tuned": _then(gptq, tune),
    "GPTQ, image of 8 bits": _image_of_8,
    "GPTQ, tuned on 10,000, stream of 8": _tuned(stream=8),
    "GPTQ, tuned on 10,000, image and stream of 8": _tuned(image=8, stream=8),
    "Brevitas, nearest": _brevitas(equalize=False, gptq=False, correct_bias=False),
    "Brevitas": _brevitas(),
    "Brevitas, MSE": _brevitas(least_error=True),
    "Brevitas, learned round": _brevitas(least_error=True, gptq=False, learn_rounding=True),
    "Brevitas, learned round, 10,000 steps": _brevitas(least_error=True, gptq=False, learn_rounding=True, steps=10_000),
}
"""From (calibration images, bits of weights, bits of activations) to a quantized model."""

ONLY_4_4 = ("GPTQ, image of 8 bits", "GPTQ, tuned on 10,000, stream of 8", "GPTQ, tuned on 10,000, image and stream of 8")
"""What has longer words in places, to say what these are worth."""

SKIPPED = {
    *(("bias correction", 4), ("COMQ", 8), ("GPTQ", 8), ("AdaRound", 8), ("AdaRound", 6), ("GPTQ, tuned", 8)),
    *((f"Brevitas, learned round{steps}", width) for steps in ("", ", 10,000 steps") for width in (8, 6)),
}
"""(method, bits of weights) that say nothing new: the cheaper methods leave nothing to gain."""


def differing_bits(model: nn.Module, x: Tensor) -> int:
    """Raw bits in which PyTorch and ONNX Runtime on the exported file differ from the integer interpreter, over all outputs of ``x``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        qfx.export_onnx(model, path)
        graph = qfx.load_graph(path)
        inputs = x.numpy()
        expected = run_raw(graph, inputs)
        with torch.no_grad():
            emulated = raw_of(model(x).numpy(), graph, "PyTorch")
        others = {"PyTorch": emulated, "ONNX Runtime": onnx_runtime(path, graph)(inputs)}
    return sum(compare(graph, expected, raw, name).differing_bits for name, raw in others.items())


def measure(method: str, weight: int, activation: int, *, test: int | None, calibration: int, compared: int = COMPARED) -> Result:
    """Quantize, then judge."""
    data = calibration_images(calibration)
    began = time.perf_counter()
    model = METHODS[method](data, weight, activation)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    x, y = judged_images(test)
    bits = None if method.startswith("Brevitas") else differing_bits(model, x[:compared])
    return Result(method, weight, activation, accuracy(model, x, y), seconds, peak, bits)


def verdicts(results: list[Result], float_accuracy: float) -> list[str]:
    """The aims, and whether they are reached."""
    lines = []
    for widths, aim in AIMS.items():
        rows = [result for result in results if (result.weight, result.activation) == widths]
        ours = [result for result in rows if not result.method.startswith("Brevitas")]
        theirs = [result for result in rows if result.method.startswith("Brevitas")]
        if not ours:
            continue
        best = max(ours, key=lambda result: result.accuracy)
        drop = float_accuracy - best.accuracy
        line = f"{widths[0]}/{widths[1]}: {best.method} is {drop:.2f} below float (aim {aim}: {'reached' if drop <= aim else 'missed'})"
        plain = [result for result in ours if result.method == "nearest, min-max"]
        if plain and plain[0] is not best:
            line += f", {best.accuracy - plain[0].accuracy:.2f} above nearest with min-max"
        if theirs:
            line += f", {best.accuracy - max(result.accuracy for result in theirs):+.2f} to the best row of Brevitas"
        lines.append(line)
    return lines


def main() -> None:
    """Print a table, row by row, and the aims."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--test", type=int, default=None, help="judge on so many test images (default: all 10,000)")
    parser.add_argument("--calibration", type=int, default=CALIBRATION, help=f"calibrate on so many training images (default: {CALIBRATION})")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--widths", default=None, help="only these, as in 4/8,4/4")
    parser.add_argument("--methods", default=None, help="only the rows whose name contains one of these, comma-separated")
    parser.add_argument("--row", nargs=3, default=None, help=argparse.SUPPRESS)  # one row, as JSON
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if not (DATA / CHECKPOINT).is_file():
        sys.exit(f"{DATA} has no {CHECKPOINT}: set QFX_DATA to the folder with the real data")
    if asked.row:
        method, weight, activation = asked.row
        print(json.dumps(asdict(measure(method, int(weight), int(activation), test=asked.test, calibration=asked.calibration))))
        return
    chosen = [tuple(map(int, pair.split("/"))) for pair in asked.widths.split(",")] if asked.widths else WIDTHS
    wanted = asked.methods.split(",") if asked.methods else [""]
    float_accuracy = accuracy(float_model(), *judged_images(asked.test))
    print(machine())
    print(f"ResNet-20, {asked.test or 10000} test images, {asked.calibration} calibration images; float: {float_accuracy:.2f} %\n")
    print(
        "| weights/activations | method | top-1 (%) | below float | seconds | peak MiB | differing bits |\n|---|---|---|---|---|---|---|", flush=True
    )
    results = []
    for weight, activation in chosen:
        for method in METHODS:
            if (method, weight) in SKIPPED or (method in ONLY_4_4 and (weight, activation) != (4, 4)):
                continue
            if not any(part in method for part in wanted):
                continue
            results.append(row := _in_a_process(method, weight, activation, asked))
            bits = "" if row.differing_bits is None else row.differing_bits
            below = float_accuracy - row.accuracy
            print(
                f"| {weight}/{activation} | {method} | {row.accuracy:.2f} | {below:.2f} | {row.seconds:.0f} | {row.peak_mib} | {bits} |", flush=True
            )
    print()
    print("\n".join(verdicts(results, float_accuracy)))
    if any(result.differing_bits for result in results):
        sys.exit("PyTorch and the exported file differ")


def _in_a_process(method: str, weight: int, activation: int, asked: argparse.Namespace) -> Result:
    options = ["--calibration", str(asked.calibration), "--threads", str(asked.threads)]
    options += [] if asked.test is None else ["--test", str(asked.test)]
    command = [sys.executable, "-m", "benchmarks.ptq", "--row", method, str(weight), str(activation), *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{method} at {weight}/{activation} failed:\n{done.stderr}")
    return Result(**json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
