"""Weights that were changed, are none, or would take more than they give."""

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
from cliptrase_d2.clip.torchscript import _view, read_torchscript
from cliptrase_d2.d2 import DetectionCheckpointer
from cliptrase_d2.d2 import safe_checkpoint as whole_model
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.weights_files import check_zip
from tests.clip.tiny import register_tiny, tiny_clip

READERS = [read_checkpoint, lambda path: whole_model.read_checkpoint(str(path))]


def _archive(path: Path, list_of_modules: bytes, **parts: bytes) -> Path:
    """A TorchScript archive with a pickle of one's own."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/constants.pkl", b"")
        archive.writestr("a/data.pkl", list_of_modules)
        for name, content in parts.items():
            archive.writestr(f"a/{name}", content)
    return path


@pytest.mark.parametrize("read", READERS, ids=["clip", "whole model"])
def test_a_bit_that_fell_over_in_a_file_of_pytorch_is_noticed(tmp_path: Path, read: Callable[[Path], object]) -> None:
    torch.save({"weight": torch.full((64,), 0.5)}, tmp_path / "a.pt")
    whole = bytearray((tmp_path / "a.pt").read_bytes())
    whole[whole.index(struct.pack("<f", 0.5) * 8)] ^= 1
    (tmp_path / "a.pt").write_bytes(whole)
    assert torch.load(tmp_path / "a.pt", weights_only=True)["weight"][0] != 0.5  # PyTorch does not ask
    with pytest.raises(InputError, match="another checksum"):
        read(tmp_path / "a.pt")


def test_numbers_in_what_is_marked_as_a_folder_are_not_whatever_the_memory_held(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(4)}, tmp_path / "a.pt")
    whole = bytearray((tmp_path / "a.pt").read_bytes())
    entry = whole.rindex(b"a/data/0") - 46  # the list at the end has 46 bytes before each name
    whole[entry + 38] |= 0x10  # its external attributes
    (tmp_path / "a.pt").write_bytes(whole)
    for read in READERS:
        with pytest.raises(InputError, match="data/0 is marked as a folder"):
            read(tmp_path / "a.pt")


def test_parts_that_unpack_to_many_times_the_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data/0", bytes(100 * 2**20))
    with pytest.raises(zipfile.BadZipFile, match=r"unpack to 104,857,600 bytes, many times"):
        check_zip(tmp_path / "a.pt")
    for read in READERS:
        with pytest.raises(InputError, match="many times its own size"):
            read(tmp_path / "a.pt")


def test_no_archive_has_no_checksums(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"text")
    assert not zipfile.is_zipfile(tmp_path / "a.pt")
    check_zip(tmp_path / "a.pt")  # which leaves it to the one that reads it


BAD: dict[str, tuple[dict[object, Tensor], str]] = {
    "no number": ({"w": torch.tensor([1.0, float("nan")])}, "w, which has numbers that are infinite or none"),
    "infinite": ({"w": torch.tensor([1.0, float("-inf")])}, "w, which has numbers that are infinite or none"),
    "no text": ({3: torch.ones(2)}, r"a tensor whose name is 3 \(int\)"),
    "sparse": ({"w": torch.eye(3).to_sparse()}, "w, which is no plain tensor"),
    "without data": ({"w": torch.ones(2, device="meta")}, "w, which is no plain tensor"),
    "a view of one number": ({"w": torch.ones(1).expand(10**9)}, r"w of shape \[1000000000\], but with fewer numbers"),
    "complex": ({"w": torch.ones(2, dtype=torch.complex64)}, "w, which has complex numbers"),
}


@pytest.mark.parametrize("read", READERS, ids=["clip", "whole model"])
@pytest.mark.parametrize("kind", BAD)
def test_weights_that_no_model_can_calculate_with(tmp_path: Path, read: Callable[[Path], object], kind: str) -> None:
    weights, got = BAD[kind]
    torch.save(weights, tmp_path / "a.pt")
    with pytest.raises(InputError, match=got):
        read(tmp_path / "a.pt")


def test_a_mask_of_attention_is_infinite_on_purpose(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), "text.attn_mask": torch.full((2, 2), float("-inf"))}, tmp_path / "a.pt")
    assert set(whole_model.read_checkpoint(str(tmp_path / "a.pt"))["model"]) == {"w", "text.attn_mask"}
    assert set(read_checkpoint(tmp_path / "a.pt").tensors) == {"w"}


def test_whole_numbers_are_not_taken_for_weights_of_clip(tmp_path: Path) -> None:
    state = {name: value.contiguous() for name, value in tiny_clip().state_dict().items()}
    state["visual.proj"] = state["visual.proj"].mul(100).to(torch.int8)
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"of another kind of numbers: visual.proj int8"):
        load_clip(register_tiny(tmp_path), str(tmp_path / "a.safetensors"))


def test_whole_numbers_are_not_taken_for_weights_of_a_model(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(3, 2, dtype=torch.int8), "bias": torch.zeros(3)}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="weight of whole numbers"):
        DetectionCheckpointer(nn.Linear(2, 3)).load(str(tmp_path / "a.pth"))


def test_modules_that_hold_each_other_twice(tmp_path: Path) -> None:
    # Forty modules, each of which is held twice by the next: 2^40 ways to the first.
    content = b"\x80\x02c__torch__\nM\n)\x81}(X\x01\x00\x00\x00wNub"
    for number in range(40):
        memo = bytes([number])
        content += b"q" + memo + b"0c__torch__\nM\n)\x81}(X\x01\x00\x00\x00ah" + memo
        content += b"X\x01\x00\x00\x00bh" + memo + b"ub"
    path = _archive(tmp_path / "a.pt", content + b".")
    with pytest.raises(pickle.UnpicklingError, match="more than 10000 modules"):
        read_torchscript(path)
    with pytest.raises(InputError, match="more than 10000 modules"):
        read_checkpoint(path)


def test_a_pickle_cannot_change_the_functions_of_this_program(tmp_path: Path) -> None:
    # It sets an attribute of the function that makes tensors: state (None, {"__doc__": "changed"}).
    state = pickle.dumps((None, {"changed": True}), protocol=2)[2:-1]
    path = _archive(tmp_path / "a.pt", b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + state + b"b.")
    with pytest.raises(InputError, match="cannot be read"):
        read_checkpoint(path)
    assert not hasattr(_view, "changed")


def test_a_pickle_that_asks_for_room_for_all_its_objects(tmp_path: Path) -> None:
    # "Remember this as object 2^31": the unpickler in C would make a table of as many places.
    path = _archive(tmp_path / "a.pt", b"\x80\x02}r\xff\xff\xff\x7f.")
    with pytest.raises(InputError, match="cannot be read"):  # a dict is no module
        read_checkpoint(path)


def test_a_view_beyond_its_numbers_is_refused(tmp_path: Path) -> None:
    # A module whose w is nine numbers of a storage of two.
    content = (
        b"\x80\x02c__torch__\nM\n)\x81}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n"
        b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQ"
        b"K\x00K\x09\x85K\x01\x85tRsb."
    )
    path = _archive(tmp_path / "a.pt", content, **{"data/0": bytes(8)})
    with pytest.raises(InputError, match="out of bounds"):
        read_checkpoint(path)
    path = _archive(path, content.replace(b"K\x09", b"K\x02"), **{"data/0": struct.pack("<2f", 1.5, 2.5)})
    assert read_checkpoint(path).tensors["w"].tolist() == [1.5, 2.5]
