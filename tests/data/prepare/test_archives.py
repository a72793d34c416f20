import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cliptrase_d2.data.prepare import archives
from cliptrase_d2.data.prepare.archives import Archive, check_md5, pick_below, unpack
from cliptrase_d2.utils.atomic_files import remove_unfinished
from cliptrase_d2.utils.errors import InputError, WriteError
from tests.faults import kill_at_file, limit_file_size

FILES = {"set/a.jpg": b"first", "set/deep/b.jpg": b"second", "set/c.txt": b"third", "other/d.jpg": b"fourth"}
TO_NEW = pick_below("set", "new")


def make(path: Path, files: dict[str, bytes]) -> Path:
    """Write an archive in the format of its suffix."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def read_files(root: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(params=["a.zip", "a.tar", "a.tar.gz"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make(tmp_path / request.param, FILES)


def test_selected_files_are_extracted(archive: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    files = unpack(archive, root, pick_below("set", "new/place", ".jpg"))
    assert files == [root / "new/place/a.jpg", root / "new/place/deep/b.jpg"]
    assert read_files(root) == {"new/place/a.jpg": b"first", "new/place/deep/b.jpg": b"second"}


def test_existing_files_are_kept_and_truncated_ones_are_extracted_again(archive: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "deep").mkdir(parents=True)
    (root / "a.jpg").write_bytes(b"FIRST")  # has the right size
    (root / "deep/b.jpg").write_bytes(b"sec")
    assert len(unpack(archive, root, pick_below("set", ".", ".jpg"))) == 2
    assert read_files(root) == {"a.jpg": b"FIRST", "deep/b.jpg": b"second"}


def test_names_may_start_with_a_dot_and_a_slash(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.tar", {"./set/a.jpg": b"first"})
    assert unpack(archive, tmp_path, pick_below("set", "set")) == [tmp_path / "set/a.jpg"]


@pytest.mark.parametrize(
    "place", ["set/../../a", "set//a/../../../x", "set/..\\a", "/set/a", "//set/a", "", ".", "./", "/"]
)
@pytest.mark.parametrize("kind", ["a.zip", "a.tar"])
def test_paths_outside_the_root_are_rejected(tmp_path: Path, kind: str, place: str) -> None:
    archive = make(tmp_path / kind, {"set/a.jpg": b"evil"})
    with pytest.raises(InputError, match=rf"{kind}: .*Do not use this archive"):
        unpack(archive, tmp_path / "root", lambda name: place)
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_devices_and_pipes_in_a_zip_are_not_extracted(tmp_path: Path, kind: int) -> None:
    info = zipfile.ZipInfo("set/a.jpg")
    info.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "../../../secret")
    with pytest.raises(InputError, match="none of the expected files"):
        unpack(tmp_path / "a.zip", tmp_path / "root", TO_NEW)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_devices_and_pipes_in_a_tar_are_not_extracted(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("set/a.jpg")
        member.type, member.linkname = kind, "../../../secret"
        archive.addfile(member)
    with pytest.raises(InputError, match="none of the expected files"):
        unpack(tmp_path / "a.tar", tmp_path / "root", TO_NEW)


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a")])
@pytest.mark.parametrize("kind", ["a.zip", "a.tar"])
def test_file_that_is_also_a_folder_is_rejected(tmp_path: Path, kind: str, names: tuple[str, str]) -> None:
    archive = make(tmp_path / kind, dict.fromkeys(names, b"x"))
    with pytest.raises(InputError, match=r"a broken archive|cannot be written"):
        unpack(archive, tmp_path / "root", lambda name: name)


def test_name_that_is_too_long_is_rejected(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.zip", {f"set/{'a' * 300}": b"x"})
    with pytest.raises(InputError, match="'new/aaa"):
        unpack(archive, tmp_path / "root", TO_NEW)


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_bomb_is_not_extracted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(archives, "_FREE_BYTES", 1000)
    archive = make(tmp_path / kind, {"set/a.jpg": b"x", "set/b.jpg": bytes(10**6)})
    with pytest.raises(InputError, match="100 times its size"):
        unpack(archive, tmp_path / "root", TO_NEW)
    assert read_files(tmp_path / "root") == {"new/a.jpg": b"x"}


def set_password_flags(content: bytes) -> bytes:
    changed = bytearray(content)
    for start, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        changed[changed.index(start) + flags] |= 1
    return bytes(changed)


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        *((kind, lambda content: content[: len(content) // 2]) for kind in ("a.zip", "a.tar", "a.tar.gz")),
        ("a.zip", lambda content: content[:100] + bytes([content[100] ^ 1]) + content[101:]),
        ("a.zip", lambda content: content.replace((76800).to_bytes(4, "little"), (50).to_bytes(4, "little"))),
        ("a.zip", set_password_flags),
    ],
    ids=["truncated zip", "truncated tar", "truncated tar.gz", "flipped bit", "wrong size in the header", "password"],
)
def test_damaged_archive_is_rejected(tmp_path: Path, kind: str, damage: Callable[[bytes], bytes]) -> None:
    archive = make(tmp_path / kind, {"set/a.jpg": bytes(range(256)) * 300})
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(InputError, match=rf"{kind}: a broken archive"):
        unpack(archive, tmp_path / "root", TO_NEW)
    assert read_files(tmp_path / "root") == {}


def test_error_of_a_missing_archive_has_its_source(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.zip: no such archive.*example\.org"):
        Archive("a.zip", "example.org").find(tmp_path)


def test_checksum(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"abc")
    check_md5(path, "900150983cd24fb0d6963f7d28e17f72")  # RFC 1321, A.5
    with pytest.raises(InputError, match=r"9001.*--no-checksum"):
        check_md5(path, "0" * 32)


def test_killed_extraction_can_be_continued(archive: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    pick = pick_below("set", ".", ".jpg")
    kill_at_file(2, lambda: unpack(archive, root, pick))
    assert read_files(root).pop("a.jpg") == b"first"
    assert not (root / "deep/b.jpg").exists()
    remove_unfinished(root)  # every script starts with it
    unpack(archive, root, pick)
    assert read_files(root) == {"a.jpg": b"first", "deep/b.jpg": b"second"}


def test_full_disk_is_not_reported_as_a_broken_archive(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.zip", {"set/a.jpg": b"first", "set/b.jpg": bytes(5000)})
    root = tmp_path / "root"
    with limit_file_size(1000), pytest.raises(WriteError, match=r"b\.jpg: cannot be written"):
        unpack(archive, root, pick_below("set", "."))
    assert read_files(root) == {"a.jpg": b"first"}
