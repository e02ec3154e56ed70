"""Reading and writing the arrays that commands take: ``.npy`` and ``.npz``, never pickled."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qfx.errors import DataError
from qfx.files import FORCE, check_target, writing, writing_all

Array = npt.NDArray[np.generic]
FloatArray = npt.NDArray[np.float32]


def load_inputs(path: str | os.PathLike[str], key: str = "x") -> FloatArray:
    """A batch of inputs as float32, the dtype that models take; wider numbers are rounded to it, as ``tensor.float()`` does. Raises as
    ``load_array``."""
    with np.errstate(over="ignore"):  # a number beyond float32 becomes infinity, which every executor refuses
        return load_array(path, key).astype(np.float32)


def load_feed(path: str | os.PathLike[str], names: Sequence[str]) -> FloatArray | dict[str, Array]:
    """The inputs of a model that calls them ``names``: of one as ``load_inputs``; of several the arrays of a ``.npz`` file by these names, or x0, x1,
    ... in this order. Floats become float32 and integers stay as they are. Raises DataError, naming the file."""
    if len(names) == 1:
        return load_inputs(path, names[0] if names[0] in _listed(path) else "x")
    held = _listed(path)
    numbered = [f"x{position}" for position in range(len(names))]
    keys = list(names) if set(names) <= held else numbered
    if not set(keys) <= held:
        what = f"holds {', '.join(sorted(held)) or 'one array'}, and the model has the inputs {', '.join(names)}"
        raise DataError(what, where=str(path), remedy="save an .npz file with an array for each input, by its name, or x0, x1, ... in this order")
    loaded = {name: load_array(path, key) for name, key in zip(names, keys, strict=True)}
    with np.errstate(over="ignore"):
        return {name: array.astype(np.float32) if array.dtype.kind in "fb" else array for name, array in loaded.items()}


def _listed(path: str | os.PathLike[str]) -> set[str]:
    """The names of the arrays in a ``.npz`` file; none for any other file, and for one that ``load_array`` will complain about."""
    try:
        with np.load(path, allow_pickle=False) as loaded:
            return set(loaded.files) if isinstance(loaded, np.lib.npyio.NpzFile) else set()
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile):
        return set()


def load_array(path: str | os.PathLike[str], key: str = "x") -> Array:
    """The array in a ``.npy`` file, or the one called ``key`` (or the only one) in a ``.npz`` file. Raises DataError, naming the file."""
    source = Path(path)
    try:
        stream = source.open("rb")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(source), remedy="check the path") from error
    with stream:
        try:
            loaded = np.load(stream, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return _numbers(loaded, source)
            with loaded:
                return _numbers(loaded[_entry(loaded.files, key, source)], source)
        except DataError:
            raise
        except Exception as error:  # numpy, zipfile and zlib raise a dozen kinds on damaged files
            raise DataError(
                "is not a .npy or .npz file of plain numbers", where=str(source), remedy="write it with numpy.save or numpy.savez"
            ) from error


def _entry(names: list[str], key: str, source: Path) -> str:
    if key in names:
        return key
    if len(names) != 1:
        raise DataError(f"holds {', '.join(names) or 'nothing'}, but no {key!r}", where=str(source), remedy=f"save the inputs as {key!r}")
    return names[0]


def save_array(path: str | os.PathLike[str], array: Array, *, force: bool = False) -> None:
    """Write ``array`` as ``.npy``, as ``qfx.files.writing`` writes."""
    with writing(path, force=force) as staged, staged.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)


def check_arrays_target(path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Raise DataError if ``save_arrays`` would refuse the path."""
    target = Path(path)
    if target.suffix == ".npz":
        check_target(target, force=force)
    elif target.exists() and not target.is_dir():
        raise DataError("exists, and is not a folder", where=str(target), remedy="choose another name, or end it with .npz")
    elif target.exists() and not force and any(target.iterdir()):
        raise DataError("the folder exists", where=str(target), remedy=FORCE)


def save_arrays(path: str | os.PathLike[str], arrays: Mapping[str, Array], *, force: bool = False) -> None:
    """Write the arrays into one ``.npz`` file if the path ends so, else into a folder, ``<name>.npy`` each (a ``/`` in a name makes a folder).

    All of them are written, or none. Raises DataError if the path exists (unless ``force``, which adds to a folder) or cannot be written.
    """
    check_arrays_target(path, force=force)
    target = Path(path)
    if target.suffix == ".npz":
        with writing(target, force=force) as staged, staged.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)
        return
    with writing_all([target / f"{name}.npy" for name in arrays], force=force) as places:
        for place, array in zip(places, arrays.values(), strict=True):
            with place.open("wb") as stream:
                np.save(stream, array, allow_pickle=False)


def _numbers(array: Array, source: Path) -> Array:
    if array.dtype.kind not in "fiub":
        raise DataError(f"holds {array.dtype}, not numbers", where=str(source), remedy="save float32 or integers")
    if array.ndim == 0:
        raise DataError("holds a single number, not samples", where=str(source), remedy="save the samples in an array, batch first")
    if array.size == 0:
        remedy = "save at least one sample; for calibration a few hundred"
        raise DataError(f"holds no samples: its shape is {array.shape}", where=str(source), remedy=remedy)
    return array


def load_labels(path: str | os.PathLike[str], key: str = "y") -> Array | None:
    """The class numbers that a ``.npz`` file holds as ``key`` beside its inputs; None where there are none. Raises as ``load_array``."""
    return load_array(path, key) if key in _listed(path) else None
