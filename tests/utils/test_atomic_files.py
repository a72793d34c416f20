from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from PIL import Image

from cliptrase_d2.utils import atomic_files as whole_files
from cliptrase_d2.utils.atomic_files import atomic_write, remove_abandoned, remove_unfinished, require_writable
from cliptrase_d2.utils.errors import InputError, WriteError
from tests.faults import room_for

NOISE = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
WRITERS: dict[str, Callable[[BinaryIO], object]] = {
    "bytes": lambda file: file.write(NOISE.tobytes()),
    "numpy": lambda file: np.savez_compressed(file, noise=NOISE),
    "torch": lambda file: torch.save({"noise": torch.from_numpy(NOISE)}, file),
    **{
        kind: lambda file, kind=kind: Image.fromarray(NOISE).save(file, format=kind)  # type: ignore[misc]
        for kind in ("PNG", "JPEG", "WEBP", "TIFF")
    },
}


def test_file_and_its_folder_are_made(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a" / "b.txt", lambda file: file.write(b"new"))
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"new"


@pytest.mark.parametrize("kind", WRITERS)
def test_a_disk_without_room_leaves_the_old_file_and_nothing_else(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with (
        room_for(5000),
        pytest.raises(WriteError, match=r"a\.bin: cannot be written \(File too large\).*Free"),
    ):
        atomic_write(path, WRITERS[kind])
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    atomic_write(path, WRITERS[kind])
    assert path.stat().st_size > 5000


def test_an_error_of_ones_own_comes_through_as_it_is(tmp_path: Path) -> None:
    def fail(file: BinaryIO) -> None:
        file.write(b"a part")
        raise ValueError("no such colour")

    with pytest.raises(ValueError, match=r"^no such colour$"):
        atomic_write(tmp_path / "a.png", fail)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["unlink", "mkdir"])
def test_an_error_that_comes_from_outside_is_not_the_disks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """PyTorch's handler of signals raises at any line, also where a file that is gone already is nothing to tell of."""

    def disturbed(*_: object, **__: object) -> None:
        try:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        except FileNotFoundError:
            raise RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")  # noqa: B904

    monkeypatch.setattr(Path, method, disturbed)
    with pytest.raises(RuntimeError, match=r"^DataLoader worker"):
        atomic_write(tmp_path / "a.txt", lambda file: file.write(b"new"))


@pytest.mark.parametrize("kind", WRITERS)
def test_an_interruption_comes_out_of_any_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(whole_files._Disk, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "a.bin", WRITERS[kind])
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(WriteError, match=r"a/b\.txt: cannot be written"):
        atomic_write(tmp_path / "a" / "b.txt", lambda file: file.write(b"new"))


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    names_while_writing: list[str] = []
    atomic_write(
        tmp_path / "sub" / "a.txt",
        lambda _: names_while_writing.extend(path.name for path in (tmp_path / "sub").iterdir()),
    )
    for name in (*names_while_writing, "users.tmp", ".users.tmp", "c.txt"):
        (tmp_path / "sub" / name).touch()
    remove_unfinished(tmp_path)
    assert len(names_while_writing) == 1
    left = sorted(path.name for path in (tmp_path / "sub").iterdir())
    assert left == [".users.tmp", "a.txt", "c.txt", "users.tmp"]


def test_what_may_still_be_written_stays(tmp_path: Path) -> None:
    names = [f".{name}.{digit * 32}.tmp" for name, digit in (("a.txt", "0"), ("a.txt", "1"), ("b.txt", "2"))]
    for name in names:
        (tmp_path / name).touch()
    for name in names[1:]:
        os.utime(tmp_path / name, (0, 0))
    remove_abandoned(tmp_path, "a.*")
    assert sorted(path.name for path in tmp_path.iterdir()) == [names[0], names[2]]


def test_a_folder_is_tried_before_the_work(tmp_path: Path) -> None:
    require_writable(tmp_path / "new" / "output", "OUTPUT_DIR")
    assert not list((tmp_path / "new" / "output").iterdir())


def _a_file_in_its_place(folder: Path, _: pytest.MonkeyPatch) -> None:
    folder.touch()


def _read_only(folder: Path, patch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    folder.mkdir()
    patch.setattr(Path, "write_bytes", refuse)


@pytest.mark.parametrize(("spoil", "said"), [(_a_file_in_its_place, "File exists"), (_read_only, "Read-only")])
def test_a_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path, pytest.MonkeyPatch], None], said: str
) -> None:
    spoil(tmp_path / "output", monkeypatch)
    with pytest.raises(InputError, match=rf"^OUTPUT_DIR: '.*output', which cannot be written \({said}.*Choose another"):
        require_writable(tmp_path / "output", "OUTPUT_DIR")


def test_a_folder_on_a_full_disk_is_refused(tmp_path: Path) -> None:
    with room_for(100), pytest.raises(InputError, match=r"OUTPUT_DIR.*File too large"):
        require_writable(tmp_path / "output", "OUTPUT_DIR")
    assert not list((tmp_path / "output").iterdir())
