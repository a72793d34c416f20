from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from cliptrase_d2.data.prepare import archives
from cliptrase_d2.data.prepare.archives import Archive, below, check_md5, unpack
from cliptrase_d2.utils.atomic_files import remove_unfinished
from cliptrase_d2.utils.errors import InputError, WriteError
from tests.faults import kill_at_file, room_for

FILES = {"set/a.jpg": b"first", "set/deep/b.jpg": b"second", "set/c.txt": b"third", "other/d.jpg": b"fourth"}


def make(path: Path, files: dict[str, bytes]) -> Path:
    """An archive of the kind that its name says."""
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


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(params=["a.zip", "a.tar", "a.tar.gz"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make(tmp_path / request.param, FILES)


def test_wanted_files_are_taken(archive: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    files = unpack(archive, root, below("set", "new/place", ".jpg"))
    assert files == [root / "new/place/a.jpg", root / "new/place/deep/b.jpg"]
    assert contents(root) == {"new/place/a.jpg": b"first", "new/place/deep/b.jpg": b"second"}


def test_what_is_there_stays_and_what_was_cut_short_is_taken_again(archive: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.jpg").write_bytes(b"FIRST")  # of the right size
    (root / "deep").mkdir()
    (root / "deep/b.jpg").write_bytes(b"sec")
    assert len(unpack(archive, root, below("set", ".", ".jpg"))) == 2
    assert contents(root) == {"a.jpg": b"FIRST", "deep/b.jpg": b"second"}


def test_names_may_begin_with_a_dot_and_a_slash(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.tar", {"./set/a.jpg": b"first"})
    assert unpack(archive, tmp_path, below("set", "set")) == [tmp_path / "set/a.jpg"]


@pytest.mark.parametrize("name", ["set/../../evil.jpg", "set//evil/../../../x", "set/..\\evil"])
@pytest.mark.parametrize("kind", ["a.zip", "a.tar"])
def test_file_that_would_leave_the_root_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    archive = make(tmp_path / kind, {name: b"evil"})
    with pytest.raises(InputError, match="files below its folders"):
        unpack(archive, tmp_path / "root", below("set", "new"))
    assert not (tmp_path / "root").exists()


def test_links_are_not_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("set/link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "../../../secret"
        archive.addfile(link)
    with pytest.raises(InputError, match="nothing that is wanted"):
        unpack(tmp_path / "a.tar", tmp_path / "root", below("set", "new"))


LINK, DEVICE, PIPE = stat.S_IFLNK | 0o777, stat.S_IFCHR | 0o666, stat.S_IFIFO | 0o666


@pytest.mark.parametrize("mode", [LINK, DEVICE, PIPE])
def test_links_devices_and_pipes_of_a_zip_are_no_files(tmp_path: Path, mode: int) -> None:
    info = zipfile.ZipInfo("set/a.jpg")
    info.external_attr = mode << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "../../../secret")
    with pytest.raises(InputError, match="nothing that is wanted"):
        unpack(tmp_path / "a.zip", tmp_path / "root", below("set", "new"))


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_hard_links_devices_and_pipes_of_a_tar_are_no_files(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("set/a.jpg")
        member.type, member.linkname = kind, "../../../secret"
        archive.addfile(member)
    with pytest.raises(InputError, match="nothing that is wanted"):
        unpack(tmp_path / "a.tar", tmp_path / "root", below("set", "new"))


@pytest.mark.parametrize("name", ["/set/a.jpg", "//set/a.jpg"])
def test_an_absolute_name_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    archive = make(tmp_path / "a.tar", {name: b"evil"})
    with pytest.raises(InputError, match="files below its folders"):
        unpack(archive, tmp_path / "root", lambda name: name)
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("place", ["", ".", "./", "/"])
def test_no_name_is_not_that_of_the_root(tmp_path: Path, place: str) -> None:
    archive = make(tmp_path / "a.zip", {"set/a.jpg": b"evil"})
    with pytest.raises(InputError, match="files below its folders"):
        unpack(archive, tmp_path / "root", lambda name: place)
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a")])
@pytest.mark.parametrize("kind", ["a.zip", "a.tar"])
def test_a_file_that_is_a_folder_too(tmp_path: Path, kind: str, names: tuple[str, str]) -> None:
    archive = make(tmp_path / kind, dict.fromkeys(names, b"x"))
    with pytest.raises(InputError, match=r"a broken archive|cannot be written"):
        unpack(archive, tmp_path / "root", lambda name: name)


def test_a_name_that_no_disk_has(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.zip", {f"set/{'a' * 300}": b"x"})
    with pytest.raises(InputError, match="a file whose name is"):
        unpack(archive, tmp_path / "root", below("set", "new"))


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(archives, "_SMALL", 1000)
    archive = make(tmp_path / kind, {"set/a.jpg": b"x", "set/b.jpg": bytes(10**6)})
    with pytest.raises(InputError, match=r"files of more than .* bytes, 100 times the archive"):
        unpack(archive, tmp_path / "root", below("set", "new"))
    assert contents(tmp_path / "root") == {"new/a.jpg": b"x"}


def test_a_part_that_is_larger_than_it_says(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.zip", {"set/a.jpg": bytes(5000)})
    whole, size = archive.read_bytes(), (5000).to_bytes(4, "little")
    archive.write_bytes(whole.replace(size, (50).to_bytes(4, "little")))
    with pytest.raises(InputError, match="a broken archive"):
        unpack(archive, tmp_path / "root", below("set", "new"))
    assert contents(tmp_path / "root") == {}


def test_an_archive_with_a_password(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.zip", {"set/a.jpg": b"first"})
    whole = bytearray(archive.read_bytes())
    for start, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        whole[whole.index(start) + flags] |= 1
    archive.write_bytes(whole)
    with pytest.raises(InputError, match=r"a broken archive .*password"):
        unpack(archive, tmp_path / "root", below("set", "new"))


@pytest.mark.parametrize("kind", ["a.zip", "a.tar", "a.tar.gz"])
def test_archive_that_was_cut_short(tmp_path: Path, kind: str) -> None:
    archive = make(tmp_path / kind, {"set/a.jpg": bytes(range(256)) * 300})
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    with pytest.raises(InputError, match=r"a broken archive .*Download it again\."):
        unpack(archive, tmp_path / "root", below("set", "new"))
    assert contents(tmp_path / "root") == {}


def test_damage_inside_a_zip_is_found(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("set/a.jpg", b"first")
    damaged = (tmp_path / "a.zip").read_bytes().replace(b"first", b"thief")
    (tmp_path / "a.zip").write_bytes(damaged)
    with pytest.raises(InputError, match="Bad CRC-32"):
        unpack(tmp_path / "a.zip", tmp_path / "root", below("set", "new"))


def test_missing_archive_says_where_it_can_be_had(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.zip: no such archive\. Allowed: a\.zip from example\.org"):
        Archive("a.zip", "example.org").find(tmp_path)


def test_checksum(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"abc")
    check_md5(path, "900150983cd24fb0d6963f7d28e17f72")  # RFC 1321, A.5
    with pytest.raises(InputError, match=r"the MD5 sum 9001.*--no-checksum"):
        check_md5(path, "0" * 32)


def test_unpacking_that_was_killed_goes_on(archive: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    kill_at_file(2, lambda: unpack(archive, root, below("set", ".", ".jpg")))
    assert contents(root).pop("a.jpg") == b"first"
    assert not (root / "deep/b.jpg").exists()
    remove_unfinished(root)  # with which every script begins
    unpack(archive, root, below("set", ".", ".jpg"))
    assert contents(root) == {"a.jpg": b"first", "deep/b.jpg": b"second"}


def test_a_disk_without_room_is_no_broken_archive(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.zip", {"set/a.jpg": b"first", "set/b.jpg": bytes(5000)})
    root = tmp_path / "root"
    with room_for(1000), pytest.raises(WriteError, match=r"b\.jpg: cannot be written"):
        unpack(archive, root, below("set", "."))
    assert contents(root) == {"a.jpg": b"first"}
