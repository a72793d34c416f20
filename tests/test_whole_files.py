from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import pytest

from cliptrase_d2.whole_files import remove_unfinished, write_whole


def test_file_and_its_folder_are_made(tmp_path: Path) -> None:
    write_whole(tmp_path / "a" / "b.txt", lambda file: file.write(b"new"))
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"new"


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    def half(file: BinaryIO) -> None:
        file.write(b"ha")
        raise OSError(28, "No space left on device")

    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, half)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    names_while_writing: list[str] = []
    write_whole(
        tmp_path / "sub" / "a.txt",
        lambda _: names_while_writing.extend(path.name for path in (tmp_path / "sub").iterdir()),
    )
    for name in (*names_while_writing, "users.tmp", "c.txt"):
        (tmp_path / "sub" / name).touch()
    remove_unfinished(tmp_path)
    assert len(names_while_writing) == 1
    assert sorted(path.name for path in (tmp_path / "sub").iterdir()) == ["a.txt", "c.txt", "users.tmp"]
