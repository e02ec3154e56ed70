"""Files appear whole, where they were asked for, and never over what a user has."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from qfx.errors import DataError, ModelFileError
from qfx.files import check_target, writing, writing_all


def write(path: Path, text: str = "new", *, force: bool = False) -> None:
    with writing(path, force=force) as staged:
        staged.write_text(text)


def listed(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_parents_are_made(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "file")
    assert listed(tmp_path) == ["a", "a/b", "a/b/file"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_of_what_fails(tmp_path: Path, failure: type[BaseException]) -> None:
    (tmp_path / "old").write_text("old")

    def half(path: Path) -> None:
        with writing(path, force=True) as staged:
            staged.write_text("half")
            raise failure

    for path in (tmp_path / "a" / "b" / "file", tmp_path / "old"):
        with pytest.raises(failure):
            half(path)
    assert listed(tmp_path) == ["old"]
    assert (tmp_path / "old").read_text() == "old"


def test_only_force_replaces(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o640)
    for refuse in (check_target, write):
        with pytest.raises(DataError, match="the file exists"):
            refuse(path)
    assert path.read_text() == "old"
    write(path, force=True)
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert listed(tmp_path) == ["file"]


def test_a_file_that_appears_meanwhile_stays(tmp_path: Path) -> None:
    def overtaken() -> None:
        with writing(tmp_path / "file") as staged:
            staged.write_text("new")
            (tmp_path / "file").write_text("somebody else's")

    with pytest.raises(DataError, match="the file exists"):
        overtaken()
    assert (tmp_path / "file").read_text() == "somebody else's"
    assert listed(tmp_path) == ["file"]


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    write(tmp_path / "ours")
    (tmp_path / "theirs").touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "theirs").stat().st_mode


def test_links_are_followed_and_stay(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "real").write_text("old")
    (tmp_path / "link").symlink_to("disk/real")
    (tmp_path / "dangling").symlink_to("disk/sub/other")
    (tmp_path / "folder").symlink_to("disk")
    with pytest.raises(DataError, match="the file exists"):
        write(tmp_path / "link")
    write(tmp_path / "link", "through a link", force=True)
    write(tmp_path / "dangling", "made")
    write(tmp_path / "folder" / "third", "in a linked folder")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "real").read_text() == "through a link"
    assert (tmp_path / "disk" / "sub" / "other").read_text() == "made"
    assert (tmp_path / "disk" / "third").read_text() == "in a linked folder"


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for name, complaint in (
        ("folder", "folder"),
        ("link", "folder"),
        ("file/below", "is not a folder|Not a directory"),
        ("a", "circle|symbolic links|loop"),
    ):
        for force in (False, True):
            with (
                pytest.raises(ModelFileError, match=f"cannot be written.*({complaint})"),
                writing(tmp_path / name, force=force, error=ModelFileError),
            ):
                raise AssertionError
    assert (tmp_path / "file").read_text() == "mine"
    assert listed(tmp_path) == ["a", "b", "file", "folder", "link"]


def test_devices_and_pipes_are_written_into(tmp_path: Path) -> None:
    write(Path("/dev/null"))
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write(pipe, "through the pipe")
    reader.join()
    assert read == ["through the pipe"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_all_or_none(tmp_path: Path) -> None:
    (tmp_path / "first").write_text("old")
    with pytest.raises(DataError, match="first: the file exists"), writing_all((tmp_path / "second", tmp_path / "first")):
        raise AssertionError  # the first exists
    assert listed(tmp_path) == ["first"]


def test_what_was_replaced_comes_back_if_the_next_cannot_be_placed(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    first.write_text("old")

    def blocked() -> None:
        with writing_all((first, second, third), force=True) as staged:
            for file in staged:
                file.write_text("new")
            third.mkdir()

    with pytest.raises(DataError, match="third: cannot be written"):
        blocked()
    assert first.read_text() == "old"
    assert listed(tmp_path) == ["first", "third"]
