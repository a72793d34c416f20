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

from cliptrase_d2.utils import atomic_files
from cliptrase_d2.utils.atomic_files import atomic_write, remove_abandoned, remove_unfinished, require_writable
from cliptrase_d2.utils.errors import InputError, WriteError
from tests.faults import limit_file_size

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


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with limit_file_size(5000), pytest.raises(WriteError, match=r"a\.bin: .*\(File too large\)"):
        atomic_write(path, WRITERS[kind])
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    atomic_write(path, WRITERS[kind])
    assert path.stat().st_size > 5000


@pytest.mark.parametrize("kind", WRITERS)
def test_an_interruption_passes_through_every_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic_files._Disk, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "a.bin", WRITERS[kind])
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_writer_passes_unchanged(tmp_path: Path) -> None:
    def fail(file: BinaryIO) -> None:
        file.write(b"a part")
        raise ValueError("no such colour")

    with pytest.raises(ValueError, match=r"^no such colour$"):
        atomic_write(tmp_path / "a.png", fail)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["unlink", "mkdir"])
def test_an_error_of_a_signal_handler_is_not_a_write_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """PyTorch's signal handler raises at any line, even where a harmless FileNotFoundError is being handled."""

    def interrupt(*_: object, **__: object) -> None:
        try:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        except FileNotFoundError:
            raise RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")  # noqa: B904

    monkeypatch.setattr(Path, method, interrupt)
    with pytest.raises(RuntimeError, match=r"^DataLoader worker"):
        atomic_write(tmp_path / "a.txt", lambda file: file.write(b"new"))


def test_the_folder_is_created_unless_a_file_is_in_its_place(tmp_path: Path) -> None:
    for path in (tmp_path / "a" / "b.txt", tmp_path / "a" / "b.txt"):  # the second replaces the first
        atomic_write(path, lambda file: file.write(b"new"))
        assert path.read_bytes() == b"new"
    with pytest.raises(WriteError, match=r"b\.txt/c\.txt: "):
        atomic_write(tmp_path / "a" / "b.txt" / "c.txt", lambda file: file.write(b"new"))


def test_unfinished_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    unfinished: list[str] = []
    folder = tmp_path / "sub"
    atomic_write(folder / "a.txt", lambda _: unfinished.extend(path.name for path in folder.iterdir()))
    for name in (*unfinished, "users.tmp", ".users.tmp", "c.txt"):
        (folder / name).touch()
    remove_unfinished(tmp_path)
    assert len(unfinished) == 1
    assert sorted(path.name for path in folder.iterdir()) == [".users.tmp", "a.txt", "c.txt", "users.tmp"]


def test_only_old_unfinished_files_of_the_pattern_are_abandoned(tmp_path: Path) -> None:
    names = [f".{name}.{digit * 32}.tmp" for name, digit in (("a.txt", "0"), ("a.txt", "1"), ("b.txt", "2"))]
    for name in names:
        (tmp_path / name).touch()
    for name in names[1:]:
        os.utime(tmp_path / name, (0, 0))
    remove_abandoned(tmp_path, "a.*")
    assert sorted(path.name for path in tmp_path.iterdir()) == [names[0], names[2]]


def test_a_folder_is_created_and_rejected_if_it_is_not_writable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_writable(tmp_path / "new" / "output", "OUTPUT_DIR")
    assert not list((tmp_path / "new" / "output").iterdir())
    with limit_file_size(100), pytest.raises(InputError, match=r"OUTPUT_DIR: .*full.*File too large"):
        require_writable(tmp_path / "full", "OUTPUT_DIR")
    assert not list((tmp_path / "full").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"OUTPUT_DIR: .*file.*File exists"):
        require_writable(tmp_path / "file", "OUTPUT_DIR")

    def refuse(**_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(atomic_files, "TemporaryFile", refuse)
    with pytest.raises(InputError, match=r"OUTPUT_DIR: .*read_only.*Read-only"):
        require_writable(tmp_path / "read_only", "OUTPUT_DIR")
