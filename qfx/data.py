"""Reading and writing the arrays that commands take: ``.npy`` and ``.npz``, never pickled."""

from __future__ import annotations

import os
import tempfile
import zipfile
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
        loaded = np.load(source, allow_pickle=False)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(source), remedy="check the path") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError("is not a .npy or .npz file of plain numbers", where=str(source), remedy="write it with numpy.save or numpy.savez") from error
    if isinstance(loaded, np.ndarray):
        return _numbers(loaded, source)
    with loaded:
        names = loaded.files
        name = key if key in names else names[0] if len(names) == 1 else None
        if name is None:
            raise DataError(f"holds {', '.join(names) or 'nothing'}, but no {key!r}", where=str(source), remedy=f"save the inputs as {key!r}")
        try:
            return _numbers(loaded[name], source)
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{name!r} cannot be read as plain numbers", where=str(source), remedy="write it with numpy.savez") from error


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
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _numbers(array: Array, source: Path) -> Array:
    if array.dtype.kind not in "fiub":
        raise DataError(f"holds {array.dtype}, not numbers", where=str(source), remedy="save float32 or integers")
    return array
