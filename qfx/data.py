"""Reading and writing the arrays that commands take: ``.npy`` and ``.npz``, never pickled."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qfx.errors import DataError

Array = npt.NDArray[np.generic]
FloatArray = npt.NDArray[np.float32]


def load_inputs(path: str | os.PathLike[str], key: str = "x") -> FloatArray:
    """A batch of inputs as float32, the dtype that models take; wider numbers are rounded to it, as ``tensor.float()`` does. Raises as
    ``load_array``."""
    with np.errstate(over="ignore"):  # a number beyond float32 becomes infinity, which every executor refuses
        return load_array(path, key).astype(np.float32)


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
    """Write ``array`` as ``.npy``, whole or not at all. Raises DataError if the file exists (unless ``force``) or cannot be written."""
    target = Path(path)
    if target.exists() and not force:
        raise DataError("the file exists", where=str(target), remedy="choose another name, or pass --force")
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    except OSError as error:
        raise DataError(f"cannot be written: {error.strerror}", where=str(target), remedy="create the folder first") from error
    try:
        with os.fdopen(handle, "wb") as stream:
            np.save(stream, array, allow_pickle=False)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(target)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise DataError(f"cannot be written: {error.strerror}", where=str(target), remedy="choose another place") from error
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def save_arrays(path: str | os.PathLike[str], arrays: Mapping[str, Array], *, force: bool = False) -> None:
    """Write the arrays into one ``.npz`` file if the path ends so, else into a folder, ``<name>.npy`` each (a ``/`` in a name makes a folder).

    No file is left half written. Raises DataError if the path exists (unless ``force``, which adds to a folder) or cannot be written.
    """
    target = Path(path)
    if target.exists() and not force:
        raise DataError("exists", where=str(target), remedy="choose another name, or pass --force")
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            if target.suffix == ".npz":
                staged = Path(folder) / "arrays.npz"
                np.savez(staged, allow_pickle=False, **arrays)
                staged.replace(target)
                return
            for name, array in arrays.items():
                place, staged = target / f"{name}.npy", Path(folder) / "array.npy"
                place.parent.mkdir(parents=True, exist_ok=True)
                np.save(staged, array, allow_pickle=False)
                staged.replace(place)
    except OSError as error:
        raise DataError(f"cannot be written: {error.strerror}", where=str(target), remedy="choose another place") from error


def _numbers(array: Array, source: Path) -> Array:
    if array.dtype.kind not in "fiub":
        raise DataError(f"holds {array.dtype}, not numbers", where=str(source), remedy="save float32 or integers")
    return array
