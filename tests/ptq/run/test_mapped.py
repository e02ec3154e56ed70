"""Calibration data out of files, folders and shards: the same numbers, and refusals that name the sample."""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ptq_user import BASE, qfx_command, user_folder

from qfx.errors import DataError
from qfx.ptq.run.inputs import calibration_data
from qfx.ptq.run.mapped import mapped_inputs
from qfx.ptq.run.state import hash_of_array

X = np.random.default_rng(0).normal(size=(23, 2, 3)).astype(np.float32)


def npy(array: object) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.asarray(array))
    return stream.getvalue()


def shard(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def one_file(folder: Path) -> Path:
    np.save(folder / "x.npy", X)
    return folder / "x.npy"


def other_dtype(folder: Path) -> Path:
    np.save(folder / "x.npy", X.astype(np.float64))
    return folder / "x.npy"


def by_columns(folder: Path) -> Path:
    np.save(folder / "x.npy", np.asfortranarray(X))
    return folder / "x.npy"


def files(folder: Path) -> Path:
    np.save(folder / "a.npy", X[:9])
    np.savez(folder / "b.npz", x=X[9:10], y=np.zeros(1))
    np.save(folder / "c.npy", X[10:].astype(np.float64))
    (folder / "README").write_text("nothing to read")
    return folder


def one_shard(folder: Path) -> Path:
    return shard(folder / "x.tar", {f"train/{number:04}.npy": npy(x) for number, x in enumerate(X)})


def compressed(folder: Path) -> Path:
    return shard(folder / "x.tar.gz", {f"{number:04}.npy": npy(x) for number, x in enumerate(X)}, "w:gz")


def shards(folder: Path) -> Path:
    for part in range(3):
        there = range(len(X))[8 * part : 8 * part + 8]
        members = {}
        for number in there:
            members |= {f"{number:04}.cls": b"3", f"{number:04}.x.npy": npy(X[number]), f"{number:04}.y.npy": npy(3)}
        shard(folder / f"calib-{part:03}.tar", members)
    return folder


def pattern(folder: Path) -> Path:
    return shards(folder) / "calib-{000..002}.tar"


@pytest.mark.parametrize("write", [one_file, other_dtype, by_columns, files, one_shard, compressed, shards, pattern])
@pytest.mark.parametrize("samples", [None, 1, 9, 20, 100])
def test_the_same_numbers(write: Callable[[Path], Path], samples: int | None, tmp_path: Path) -> None:
    found = mapped_inputs(write(tmp_path), samples)
    np.testing.assert_array_equal(found, X[:samples])
    assert found.dtype == np.float32
    assert isinstance(found, np.memmap) == (write not in (other_dtype, by_columns))


def test_what_is_written_to_stays_in_memory(tmp_path: Path) -> None:
    path = one_file(tmp_path)
    data = calibration_data(path, None)
    data.zero_()
    np.testing.assert_array_equal(np.load(path), X)


def test_the_hash_of_a_state_is_that_of_the_numbers(tmp_path: Path) -> None:
    assert hash_of_array(mapped_inputs(one_file(tmp_path), None)) == hash_of_array(X)
    changed = X.copy()
    changed[22, 1, 2] = np.nextafter(changed[22, 1, 2], 9)
    assert hash_of_array(changed) != hash_of_array(X)


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "an empty folder": (lambda folder: folder, "holds no .npy, .npz or .tar files"),
    "arrays and shards": (lambda folder: one_shard(files(folder)).parent, "both arrays and shards"),
    "another shape": (
        lambda folder: (np.save(folder / "a.npy", X), np.save(folder / "b.npy", X[:, :1]), folder)[-1],
        r"b\.npy: samples of shape \(1, 3\)",
    ),
    "another shape in a shard": (lambda folder: shard(folder / "x.tar", {"a.npy": npy(X[0]), "b.npy": npy(X[0][0])}), r"sample b: samples of shape"),
    "images": (lambda folder: shard(folder / "x.tar", {"a.jpg": b"..", "a.cls": b"1"}), r"sample a: holds \.cls, \.jpg(.|\n)*images are not decoded"),
    "two inputs": (lambda folder: shard(folder / "x.tar", {"a.npy": npy(X), "a.x.npy": npy(X)}), r"holds \.npy, \.x\.npy"),
    "pickles": (lambda folder: shard(folder / "x.tar", {"a.npy": npy(np.array([{}], dtype=object))}), "no plain numbers"),
    "words": (lambda folder: shard(folder / "x.tar", {"a.npy": npy(["a"])}), "no plain numbers"),
    "no tar": (lambda folder: ((folder / "x.tar").write_bytes(b"x" * 2000), folder / "x.tar")[-1], "is no archive, or is damaged"),
    "a damaged tar": (
        lambda folder: ((folder / "x.tar").write_bytes(one_shard(folder).read_bytes()[:5000]), folder / "x.tar")[-1],
        "is no archive, or is damaged",
    ),
    "a missing shard": (lambda folder: shards(folder) / "calib-{000..003}.tar", r"calib-003\.tar: cannot be read"),
    "a pattern of nothing": (lambda folder: folder / "x-{3..1}.tar", "stands for no files"),
    "no members": (lambda folder: shard(folder / "x.tar", {}), "holds no samples"),
    "no numbers": (lambda folder: (np.save(folder / "a.npy", X[:0]), folder / "a.npy")[-1], "holds no samples"),
    "a number": (lambda folder: (np.save(folder / "a.npy", X[0, 0, 0]), folder / "a.npy")[-1], "a single number"),
    "nothing": (lambda folder: folder / "a.npy", "cannot be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_told(case: str, tmp_path: Path) -> None:
    write, complaint = BAD[case]
    path = write(tmp_path)
    with pytest.raises(DataError, match=complaint):
        calibration_data(path, None)


def test_nan_is_found_past_the_first_part(tmp_path: Path) -> None:
    x = np.zeros((600, 2), dtype=np.float32)
    x[599, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(DataError, match="first sample 599"):
        calibration_data(tmp_path / "x.npy", None)


def test_the_command_gives_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = user_folder(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(folder)
    with np.load("calib.npz") as stored:
        x = stored["x"]
    half = len(x) // 2
    for name, part in (("a", x[:half]), ("b", x[half:])):
        shard(tmp_path / f"{name}.tar", {f"{number:04}.npy": npy(one) for number, one in enumerate(part)})
    (tmp_path / "shards").mkdir()
    for name in "ab":
        (tmp_path / f"{name}.tar").rename(tmp_path / "shards" / f"{name}.tar")
    given = [option if option != "calib.npz" else "shards" for option in BASE]
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    assert qfx_command(*BASE, "-o", "one/net.onnx").exit_code == 0
    assert qfx_command(*given, "-o", "other/net.onnx").exit_code == 0
    assert (tmp_path / "one" / "net.onnx").read_bytes() == (tmp_path / "other" / "net.onnx").read_bytes()


def test_tuning_does_not_copy_the_data() -> None:
    from qfx.ptq.tuning.tune import _of_one_shape

    data = torch.zeros(4, 2)
    assert _of_one_shape(data) is data
