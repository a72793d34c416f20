"""Weights files that were altered, are unusable, or would exhaust memory."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cliptrase_d2.clip.checkpoint import read_checkpoint
from cliptrase_d2.clip.load import load_clip
from cliptrase_d2.clip.torchscript import _view
from cliptrase_d2.d2 import DetectionCheckpointer, safe_checkpoint
from cliptrase_d2.utils.errors import InputError
from tests.clip.tiny import register_tiny, tiny_clip

both_readers = pytest.mark.parametrize(
    "read", [read_checkpoint, lambda path: safe_checkpoint.read_checkpoint(str(path))], ids=["clip", "d2"]
)
Read = Callable[[Path], object]


def _write_torchscript(path: Path, modules: bytes, **parts: bytes) -> Path:
    """Write a TorchScript archive with a handmade pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/constants.pkl", b"")
        archive.writestr("a/data.pkl", modules)
        for name, content in parts.items():
            archive.writestr(f"a/{name}", content)
    return path


def _flip_a_bit(path: Path) -> None:
    torch.save({"weight": torch.full((64,), 0.5)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<f", 0.5) * 8)] ^= 1
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["weight"][0] != 0.5  # PyTorch does not check


def _mark_as_folder(path: Path) -> None:
    torch.save({"weight": torch.ones(4)}, path)
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"a/data/0") - 46  # the central directory has 46 bytes before each name
    content[entry + 38] |= 0x10  # its external attributes
    path.write_bytes(content)


def _compress(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data/0", bytes(100 * 2**20))


@both_readers
@pytest.mark.parametrize(
    ("write", "problem"),
    [(_flip_a_bit, "data/0.*checksum"), (_mark_as_folder, "data/0.*folder"), (_compress, "104,857,600")],
)
def test_a_faulty_archive_is_rejected(tmp_path: Path, read: Read, write: Read, problem: str) -> None:
    write(tmp_path / "a.pt")
    with pytest.raises(InputError, match=rf"a\.pt: .*{problem}"):
        read(tmp_path / "a.pt")


FAULTS: dict[str, dict[object, Tensor]] = {
    "NaN": {"w": torch.tensor([1.0, float("nan")])},
    "infinite": {"w": torch.tensor([1.0, float("-inf")])},
    "name that is not a string": {3: torch.ones(2)},
    "sparse": {"w": torch.eye(3).to_sparse()},
    "without data": {"w": torch.ones(2, device="meta")},
    "view of a single number": {"w": torch.ones(1).expand(10**9)},
    "complex": {"w": torch.ones(2, dtype=torch.complex64)},
}


@both_readers
@pytest.mark.parametrize("fault", FAULTS)
def test_unusable_tensors_are_named(tmp_path: Path, read: Read, fault: str) -> None:
    torch.save(FAULTS[fault], tmp_path / "a.pt")
    (name,) = FAULTS[fault]
    with pytest.raises(InputError, match=rf"a\.pt: {name} "):
        read(tmp_path / "a.pt")


def test_an_attention_mask_may_be_infinite(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), "text.attn_mask": torch.full((2, 2), float("-inf"))}, tmp_path / "a.pt")
    assert set(safe_checkpoint.read_checkpoint(str(tmp_path / "a.pt"))["model"]) == {"w", "text.attn_mask"}
    assert set(read_checkpoint(tmp_path / "a.pt").tensors) == {"w"}


def test_integer_weights_are_rejected(tmp_path: Path) -> None:
    state = {name: value.contiguous() for name, value in tiny_clip().state_dict().items()}
    state["visual.proj"] = state["visual.proj"].mul(100).to(torch.int8)
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"visual\.proj"):
        load_clip(register_tiny(tmp_path), str(tmp_path / "a.safetensors"))
    torch.save({"weight": torch.ones(3, 2, dtype=torch.int8), "bias": torch.zeros(3)}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="weight of integers"):
        DetectionCheckpointer(nn.Linear(2, 3)).load(str(tmp_path / "a.pth"))


def _nest_modules(depth: int) -> bytes:
    """Pickle modules each of which contains the previous one twice: 2^depth paths to the first."""
    content = b"\x80\x02c__torch__\nM\n)\x81}(X\x01\x00\x00\x00wNub"
    for number in range(depth):
        memo = bytes([number])
        content += b"q" + memo + b"0c__torch__\nM\n)\x81}(X\x01\x00\x00\x00ah" + memo
        content += b"X\x01\x00\x00\x00bh" + memo + b"ub"
    return content + b"."


# A module whose w has nine numbers in a storage of two.
VIEW = (
    b"\x80\x02c__torch__\nM\n)\x81}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n"
    b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQ"
    b"K\x00K\x09\x85K\x01\x85tRsb."
)
PICKLES = {
    "2^40 paths to a module": (_nest_modules(40), "10000"),
    # Sets an attribute of the function that makes tensors: state (None, {"changed": True}).
    "change of a function": (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + pickle.dumps((None, {"changed": True}), 2)[2:-1] + b"b.", "",
    ),
    # "Store this as object 2^31": the unpickler in C would allocate a table of that size.
    "table of 2^31 objects": (b"\x80\x02}r\xff\xff\xff\x7f.", ""),
    "view beyond its storage": (VIEW, "bounds"),
}  # fmt: skip


@pytest.mark.parametrize("kind", PICKLES)
def test_malicious_pickles_in_torchscript_are_rejected(tmp_path: Path, kind: str) -> None:
    content, problem = PICKLES[kind]
    path = _write_torchscript(tmp_path / "a.pt", content, **{"data/0": bytes(8)})
    with pytest.raises(InputError, match=rf"a\.pt: .*{problem}"):
        read_checkpoint(path)
    assert not hasattr(_view, "changed")


def test_a_view_within_its_storage_is_read(tmp_path: Path) -> None:
    numbers = struct.pack("<2f", 1.5, 2.5)
    path = _write_torchscript(tmp_path / "a.pt", VIEW.replace(b"K\x09", b"K\x02"), **{"data/0": numbers})
    assert read_checkpoint(path).tensors["w"].tolist() == [1.5, 2.5]
