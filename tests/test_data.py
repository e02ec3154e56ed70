"""Arrays in files: plain numbers only, whole or not at all, and one clear error for everything else."""

from __future__ import annotations

import contextlib
import io
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qfx import DataError
from qfx.data import load_array, load_inputs, save_array

X = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)


def npy(array: np.ndarray, **options: bool) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)  # type: ignore[arg-type]
    return stream.getvalue()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int64, np.uint8, np.bool_])
def test_there_and_back(tmp_path: Path, dtype: type) -> None:
    array = (X * 3).astype(dtype)
    save_array(tmp_path / "x.npy", array)
    loaded = load_array(tmp_path / "x.npy")
    assert loaded.dtype == dtype
    assert np.array_equal(loaded, array)
    assert stat.S_IMODE((tmp_path / "x.npy").stat().st_mode) == 0o644
    assert [file.name for file in tmp_path.iterdir()] == ["x.npy"]


def test_archives(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, x=X, y=np.arange(5))
    assert np.array_equal(load_array(path), X)
    assert np.array_equal(load_array(path, "y"), np.arange(5))
    np.savez_compressed(path, images=X)
    assert np.array_equal(load_array(path), X)
    np.savez(path, a=X, b=X)
    with pytest.raises(DataError, match="holds a, b, but no 'x'"):
        load_array(path)
    np.savez(path)
    with pytest.raises(DataError, match="holds nothing"):
        load_array(path)


def test_inputs_come_as_float32(tmp_path: Path) -> None:
    exact = X.astype(np.float64) + 1e-12
    np.save(tmp_path / "x.npy", exact)
    loaded = load_inputs(tmp_path / "x.npy")
    assert loaded.dtype == np.float32
    assert np.array_equal(loaded, exact.astype(np.float32))
    np.save(tmp_path / "x.npy", np.array([[1e300]]))
    assert np.isinf(load_inputs(tmp_path / "x.npy")).all()


BAD = {
    "text": b"1, 2, 3\n",
    "empty": b"",
    "a pickle": npy(np.array([{"a": 1}], dtype=object), allow_pickle=True),
    "strings": npy(np.array(["a"])),
    "complex": npy(np.array([1j])),
    "dates": npy(np.array(["2020-01-01"], dtype="datetime64[D]")),
    "records": npy(np.zeros(2, dtype=[("a", "f4")])),
    "cut off": npy(X)[:-7],
    "header alone": npy(X)[:40],
    "magic alone": b"\x93NUMPY",
    "a broken archive": b"PK\x03\x04" + bytes(50),
    "a later version": b"\x93NUMPY\x09\x00" + npy(X)[8:],
    "an absurd shape": npy(X).replace(b"(5, 2, 3)", b"(9, 9**9)"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_an_array_of_numbers(tmp_path: Path, name: str) -> None:
    for suffix in (".npy", ".npz"):
        path = tmp_path / f"bad{suffix}"
        path.write_bytes(BAD[name])
        with pytest.raises(DataError) as caught:
            load_array(path)
        assert caught.value.where == str(path)
        assert caught.value.remedy


def archive() -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, x=X)
    return stream.getvalue()


ARCHIVE = archive()


@settings(max_examples=200)
@given(st.sampled_from([npy(X), ARCHIVE]), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_files_give_numbers_or_one_error(tmp_path_factory: pytest.TempPathFactory, content: bytes, damage: list[tuple[int, int]]) -> None:
    damaged = bytearray(content)
    for at, byte in damage:
        damaged[at % len(damaged)] = byte
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(damaged)
    with contextlib.suppress(DataError):
        assert load_array(path).dtype.kind in "fiub"


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.npy", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            load_array(path)
    with pytest.raises(DataError, match="cannot be written"):
        save_array(tmp_path, X)
    save_array(tmp_path / "missing" / "too" / "x.npy", X)
    assert np.array_equal(load_array(tmp_path / "missing" / "too" / "x.npy"), X)


def test_nothing_is_replaced_unless_asked_and_nothing_half_written_stays(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    save_array(path, X)
    with pytest.raises(DataError, match="the file exists"):
        save_array(path, X * 2)
    assert np.array_equal(load_array(path), X)
    save_array(path, X * 2, force=True)
    assert np.array_equal(load_array(path), X * 2)
    with pytest.raises(ValueError, match=r"pickle|Object arrays"):
        save_array(path, np.array([{}], dtype=object), force=True)
    assert np.array_equal(load_array(path), X * 2)
    (tmp_path / "folder").mkdir()
    for force in (False, True):
        with pytest.raises(DataError):
            save_array(tmp_path / "folder", X, force=force)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder", "x.npy"]
