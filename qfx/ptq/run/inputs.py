"""What ``qfx ptq`` is given to work on: calibration data, or none, and labelled data."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from qfx.capture.source import check_runs
from qfx.data import load_array
from qfx.errors import DataError
from qfx.ptq.measure import Labelled
from qfx.ptq.run.mapped import mapped_inputs

MOST_NUMBERS = 1 << 26
"""Of one sample that is made up: more are a slip of the pen."""

LOOKED_AT = 256
"""Samples at a time, where all are looked through."""


def calibration_data(path: Path, samples: int | None) -> Tensor:
    """The first ``samples`` inputs in a file, a folder or shards (``mapped_inputs``), batch first; mapped into memory where they can be. Raises
    DataError for none, for NaN and infinity, and for numbers without a batch axis."""
    x = mapped_inputs(path, samples)
    if x.ndim < 2:
        raise DataError(f"has shape {x.shape}", where=str(path), remedy="save the samples as 'x', batch first, in the model's layout")
    if x.size == 0:
        raise DataError(f"holds no samples: its shape is {x.shape}", where=str(path), remedy="save a few hundred real inputs as 'x'")
    parts = (x[start : start + LOOKED_AT] for start in range(0, len(x), LOOKED_AT))
    bad = np.flatnonzero(~np.concatenate([np.isfinite(part.reshape(len(part), -1)).all(1) for part in parts]))
    if len(bad):
        raise DataError(f"{len(bad)} of {len(x)} samples hold NaN or infinity, first sample {bad[0]}", where=str(path), remedy="clean the data")
    return torch.from_numpy(np.ascontiguousarray(x))


def labelled_data(path: Path, model: nn.Module, dtype: torch.dtype = torch.float32) -> Labelled:
    """Inputs ``x``, as the model takes them, and class numbers ``y`` from a ``.npz`` file. Raises DataError if either is missing or unusable."""
    x = calibration_data(path, None).to(dtype)
    if path.suffix != ".npz":
        raise DataError("holds no labels", where=str(path), remedy="save them beside the inputs: numpy.savez(path, x=inputs, y=class_numbers)")
    with np.load(path, allow_pickle=False) as stored:
        names = list(stored.files)
    if "y" not in names or "x" not in names:
        raise DataError(
            f"holds {', '.join(names)}, but not both 'x' and 'y'", where=str(path), remedy="numpy.savez(path, x=inputs, y=class_numbers) saves both"
        )
    y = load_array(path, "y")
    if y.dtype.kind not in "iu":
        raise DataError(f"its labels are {y.dtype}", where=str(path), remedy="save class numbers, as integers (for one-hot labels: y.argmax(1))")
    if len(y) != len(x):
        raise DataError(f"has {len(x)} samples and {len(y)} labels", where=str(path), remedy="save one label for each sample")
    check_runs(model, x[:2], where=str(path))
    return Labelled(x, torch.from_numpy(y.astype(np.int64)))


def shape_of(text: str) -> tuple[int, ...]:
    """The shape of one sample from "3x32x32". Raises DataError."""
    parts = text.lower().split("x")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise DataError(f"{text!r} is no shape", where="--data-free", remedy="write the shape of one sample, without the batch: 3x32x32")
    shape = tuple(int(part) for part in parts)
    if math.prod(shape) > MOST_NUMBERS:
        raise DataError(f"{text!r} has more than {MOST_NUMBERS} numbers", where="--data-free", remedy="write the shape of one sample: 3x32x32")
    return shape


def made_up(shape: tuple[int, ...], input_range: tuple[float, float] | None, seed: int) -> Tensor:
    """Random samples to try a model on when there are no real ones: normal, limited to ``input_range`` (None: not)."""
    if input_range is not None and not input_range[0] < input_range[1]:
        raise DataError(f"goes from {input_range[0]} to {input_range[1]}", where="--input-range", remedy="give the least and the greatest input")
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed))
    return x if input_range is None else x.clamp(*input_range)
