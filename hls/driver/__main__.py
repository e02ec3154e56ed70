"""``python3 -m driver``: the self-test, or arrays through the accelerator. Exits with 0 for success, 1 for a difference, 2 for an error."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .accelerator import Accelerator
from .description import Description, load_description
from .errors import DataError, QfxError
from .selftest import bench, load_golden, selftest
from .simulation import SimulatedBoard


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except (QfxError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m driver", description="Run the accelerator on the board, or on a software model of it.")
    parser.add_argument("--bitfile", type=Path, help="the bitstream (default: the one beside the folder driver/)")
    parser.add_argument("--simulate", type=Path, metavar="TB", help="use the model of the board with this test bench (build/tb) instead of a board")
    parser.add_argument("--weights", type=Path, help="constants to load, as qfx weights packs them (default: those of the project's own model)")
    parser.add_argument("--memory", type=Path, help="the folder with what lies in memory (default: memory/ beside these modules, or tb/memory/)")
    parser.add_argument("--selftest", action="store_true", help="run the stored golden vectors and compare raw integers")
    parser.add_argument("--bench", type=int, metavar="FRAMES", help="run so many frames of the golden vectors and tell how long they take")
    parser.add_argument(
        "--data",
        "--input",
        dest="input",
        type=Path,
        help=".npy of floats (N, *input shape), or of integers, which are taken as raws; of several inputs .npz, by their names",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help=".npy to write (of several outputs .npz, by their names): float64 values, or int64 raws if the input is raws or with --raw",
    )
    parser.add_argument("--raw", action="store_true", help="write raws")
    parser.add_argument("--batch", type=int, help="frames per transfer, or laid out for memory at a time (default: as many as 8 MiB hold)")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds that a transfer, or a frame of a layer engine, may take (default: 10)")
    return parser


def _run(options: argparse.Namespace) -> int:
    asked = (options.selftest, options.bench is not None, options.input is not None)
    if sum(asked) != 1 or (options.input is None) != (options.output is None):
        raise DataError("there is nothing to do, or too much", remedy="give --selftest, or --data and --output, or --bench")
    if options.bench is not None and options.bench < 1:
        raise DataError(f"{options.bench} frames", where="--bench", remedy="give at least 1")
    description = load_description()
    device = None if options.simulate is None else SimulatedBoard(options.simulate, description)
    with Accelerator(
        options.bitfile, device=device, description=description, timeout_s=options.timeout, weights=options.weights, memory=options.memory
    ) as accelerator:
        if options.selftest:
            golden = load_golden(description=description)
            complaints = selftest(accelerator, golden)
            for line in complaints:
                print(line)
            print(f"{description.top}: {'FAILED' if complaints else 'passed'}, {golden.frames} golden vectors")
            return 1 if complaints else 0
        if options.bench is not None:
            print(bench(accelerator, load_golden(description=description), options.bench, options.batch))
            return 0
        x = _load(options.input, description)
        kinds = {array.dtype.kind in "iu" for array in (x.values() if isinstance(x, dict) else [x])}
        if len(kinds) > 1:
            raise DataError("holds floats for some inputs, and raws for others", where=str(options.input), remedy="give floats, or raws, for all")
        if kinds == {True}:
            raws = {name: array.astype(np.int64) for name, array in x.items()} if isinstance(x, dict) else x.astype(np.int64)
            y = accelerator.run_raw(raws, batch=options.batch)
        elif options.raw:
            y = accelerator.run_raw(accelerator.quantize(x), batch=options.batch)
        else:
            y = accelerator.run(x, batch=options.batch)
        if isinstance(y, dict):
            with options.output.open("wb") as stream:  # a path without .npz stays as it is
                np.savez(stream, **y)
        else:
            np.save(options.output, y, allow_pickle=False)
        print(accelerator.timing)
    return 0


def _load(path: Path, description: Description) -> Any:
    """The array in the file, or of several inputs those by name."""
    if len(description.inputs) == 1:
        return _array(path)
    try:
        with np.load(path, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError) as error:
        names = ", ".join(end.name for end in description.inputs)
        raise DataError(f"cannot be read as arrays by name: {error}", where=str(path), remedy=f"give a .npz file with {names}") from error
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu":
            raise DataError(f"{name} is no array of numbers", where=str(path), remedy="give a .npz file of numbers")
    return arrays


def _array(path: Path) -> np.ndarray:
    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot be read: {error}", where=str(path), remedy="give a .npy file of numbers") from error
    if not isinstance(loaded, np.ndarray) or loaded.dtype.kind not in "fiu":
        raise DataError("is not one array of numbers", where=str(path), remedy="give a .npy file of numbers")
    return loaded


if __name__ == "__main__":
    sys.exit(main())
