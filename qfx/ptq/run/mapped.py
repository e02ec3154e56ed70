"""Calibration data of any size as one array: mapped into memory, so that what is read of it is what is there of it.

A ``.npy`` file is mapped where it lies. What lies in several files (a folder, WebDataset shards) is written one after another into a file without a
name, which is mapped as well and goes when the array goes: the passes want samples more than once, and in an order of their own.
"""

from __future__ import annotations

import io
import re
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from qfx.data import FloatArray, load_inputs
from qfx.errors import DataError

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
"""``shard-{000..017}.tar``, as WebDataset writes it."""

MOST_FILES = 1_000_000
"""That a pattern may stand for: more are a slip of the pen."""

INPUT = ("npy", "x.npy", "input.npy", "inputs.npy")
"""What a sample's input is called in a shard, behind the sample's key and a dot."""


def mapped_inputs(path: Path, samples: int | None) -> FloatArray:
    """The first ``samples`` inputs (None: all), float32, batch first; written to, they change in memory alone.

    ``path``: a ``.npy`` file, or a ``.npz`` file with inputs ``x``; a folder of such files, taken in the order of their names; a WebDataset shard
    (``.tar``, compressed or not), a folder of shards, or a pattern ``name-{000..017}.tar``. A file holds a batch of samples; in a shard each sample
    has a member ``KEY.npy`` (or ``KEY.x.npy``, ``KEY.input.npy``) without a batch axis, and other members are left alone. Nothing is unpickled.

    Raises DataError, naming the file: what cannot be read, holds no numbers, or has another shape than the samples before it.
    """
    if path.is_dir() or _shards(path):
        return _gathered(_pieces(path), path, samples)
    if path.suffix == ".npy":
        try:
            with path.open("rb"):
                array = np.load(path, mmap_mode="c", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return load_inputs(path)[:samples]  # which says what is wrong
        if array.dtype == np.float32 and array.ndim and array.size and array.flags.c_contiguous:
            found: FloatArray = array[:samples]
            return found
    return load_inputs(path)[:samples]


def _shards(path: Path) -> bool:
    return (not path.is_file() and RANGE.search(path.name) is not None) or ".tar" in path.suffixes


def _pieces(path: Path) -> Iterator[tuple[str, FloatArray]]:
    """Batches of samples, each with the place where it was found."""
    if not path.is_dir():
        for shard in _expanded(path):
            yield from _samples(shard)
        return
    files = [part for part in sorted(path.iterdir()) if part.suffix in (".npy", ".npz")]
    shards = [part for part in sorted(path.iterdir()) if ".tar" in part.suffixes]
    if bool(files) == bool(shards):
        what = "holds both arrays and shards" if files else "holds no .npy, .npz or .tar files"
        raise DataError(what, where=str(path), remedy="give a folder of .npy files, each a batch of inputs, or of WebDataset shards")
    for file in files:
        yield str(file), mapped_inputs(file, None)
    for shard in shards:
        yield from _samples(shard)


def _expanded(path: Path) -> list[Path]:
    """The files that a pattern stands for; a name without one is itself."""
    found = RANGE.search(path.name)
    if path.exists() or found is None:
        return [path]
    first, last = (int(end) for end in found.groups())
    if not 0 <= last - first < MOST_FILES:
        raise DataError(f"{found[0]} stands for no files", where=str(path), remedy="write the first and the last number: {000..017}")
    width = len(found[1])
    return [path.with_name(f"{path.name[: found.start()]}{number:0{width}}{path.name[found.end() :]}") for number in range(first, last + 1)]


def _samples(shard: Path) -> Iterator[tuple[str, FloatArray]]:
    """The samples of a shard in its order, each as a batch of one."""
    key, members = "", dict[str, bytes | None]()
    try:
        with tarfile.open(shard, "r|*") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                stem, _, kind = name.name.partition(".")
                if not member.isfile() or not kind or not stem:
                    continue
                if (own := str(name.parent / stem)) != key:
                    yield from _sample(shard, key, members)
                    key, members = own, {}
                content = archive.extractfile(member) if kind in INPUT else None
                members[kind] = content.read() if content is not None else None
            yield from _sample(shard, key, members)
    except (tarfile.TarError, EOFError) as error:
        raise DataError("is no archive, or is damaged", where=str(shard), remedy="write it with tar, or with webdataset.TarWriter") from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(shard), remedy="check the path") from error


def _sample(shard: Path, key: str, members: dict[str, bytes | None]) -> Iterator[tuple[str, FloatArray]]:
    if not key:
        return
    where = f"{shard}, sample {key}"
    held = {kind: content for kind, content in members.items() if content is not None}
    if len(held) != 1:
        what = f"holds {', '.join(f'.{kind}' for kind in sorted(held or members))}, and an input is one .npy"
        raise DataError(what, where=where, remedy=f"save what the model is to see, normalized, as {key}.npy: images are not decoded")
    (content,) = held.values()
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # numpy raises a dozen kinds on damaged files
        raise DataError("its .npy holds no plain numbers", where=where, remedy="write it with numpy.save") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub" or not array.size:
        raise DataError("its .npy holds no plain numbers", where=where, remedy="write it with numpy.save, float32 or integers")
    with np.errstate(over="ignore"):
        yield where, array.astype(np.float32)[None]


def _gathered(pieces: Iterator[tuple[str, FloatArray]], path: Path, samples: int | None) -> FloatArray:
    shape: tuple[int, ...] | None = None
    count = 0
    with tempfile.TemporaryFile(prefix="qfx-inputs-") as file:
        for where, piece in pieces:
            if shape is None:
                shape = piece.shape[1:]
            if piece.shape[1:] != shape:
                told = f"samples of shape {piece.shape[1:]}, and those before it {shape}"
                raise DataError(told, where=where, remedy="give inputs of one shape; a file of a folder is a batch of them")
            wanted = piece if samples is None else piece[: samples - count]
            _write(file, wanted, path)
            count += len(wanted)
            if count == samples:
                break
        if shape is None or not count:
            raise DataError("holds no samples", where=str(path), remedy="save a few hundred real inputs")
        file.flush()
        return np.memmap(file, dtype=np.float32, mode="c", shape=(count, *shape))


def _write(file: IO[bytes], piece: FloatArray, path: Path) -> None:
    try:
        file.write(np.ascontiguousarray(piece).data)
    except OSError as error:
        told = f"does not fit into {tempfile.gettempdir()}: {error.strerror or error}"
        raise DataError(told, where=str(path), remedy="set TMPDIR to a folder with room for all samples, or take --samples") from error
