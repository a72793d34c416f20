import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch

from cliptrase_d2.clip.checkpoint import read_checkpoint
from cliptrase_d2.utils.errors import InputError
from tests.clip.tiny import openai_state, save_openai_archive, tiny_clip

STATE = {"visual.proj": torch.ones(2, 3), "ln_final.weight": torch.zeros(4)}


def assert_state(path: Path) -> None:
    read = read_checkpoint(path).tensors
    assert read.keys() == STATE.keys()
    assert all(torch.equal(read[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".pth"])
@pytest.mark.parametrize("new_format", [True, False])
def test_plain_state_dict(tmp_path: Path, suffix: str, new_format: bool) -> None:
    torch.save(STATE, tmp_path / f"clip{suffix}", _use_new_zipfile_serialization=new_format)
    assert_state(tmp_path / f"clip{suffix}")


def test_safetensors(tmp_path: Path) -> None:
    safetensors.torch.save_file(STATE, tmp_path / "clip.safetensors")
    assert_state(tmp_path / "clip.safetensors")


def test_training_checkpoint_of_several_gpus(tmp_path: Path) -> None:
    wrapped = {f"module.{name}": value for name, value in STATE.items()}
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]}
    torch.save({"epoch": 32, "name": "run", "state_dict": wrapped, "optimizer": optimizer}, tmp_path / "epoch_32.pt")
    assert_state(tmp_path / "epoch_32.pt")
    assert read_checkpoint(tmp_path / "epoch_32.pt").ignored == ()


def test_entries_that_are_no_tensors_are_named(tmp_path: Path) -> None:
    torch.save({**STATE, "epoch": 3}, tmp_path / "clip.pt")
    assert_state(tmp_path / "clip.pt")
    assert read_checkpoint(tmp_path / "clip.pt").ignored == ("epoch",)


def test_causal_masks_are_left_out(tmp_path: Path) -> None:
    torch.save({**STATE, "attn_mask": torch.zeros(77, 77)}, tmp_path / "clip.pt")
    assert_state(tmp_path / "clip.pt")


def test_openai_archive_and_openai_state_dict_are_recognised(tmp_path: Path) -> None:
    save_openai_archive(tiny_clip(), tmp_path / "archive.pt")
    torch.save(openai_state(tiny_clip()), tmp_path / "state.pt")
    torch.save(tiny_clip().state_dict(), tmp_path / "open_clip.pt")
    archive, state, other = (read_checkpoint(tmp_path / f"{n}.pt") for n in ("archive", "state", "open_clip"))
    assert (archive.quick_gelu, state.quick_gelu, other.quick_gelu) == (True, True, None)
    assert archive.format == "TorchScript archive"
    assert archive.tensors.keys() == state.tensors.keys() == other.tensors.keys()


class Malicious:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("name", ["bad.pt", "bad.bin"])
@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_a_pickle_is_refused_and_does_not_run(tmp_path: Path, name: str, new_format: bool) -> None:
    victim = tmp_path / "victim"
    content = {**STATE, "extra": Malicious(f"touch {victim}")}
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=new_format)
    with pytest.raises(InputError, match=r"names \w+\.system, which could run code.*not executed"):
        read_checkpoint(tmp_path / name)
    assert not victim.exists()


def test_bare_malicious_pickle_is_refused(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (tmp_path / "bad.pt").write_bytes(pickle.dumps(Malicious(f"touch {victim}"), protocol=2))
    with pytest.raises(InputError, match=r"bad\.pt"):
        read_checkpoint(tmp_path / "bad.pt")
    assert not victim.exists()


def test_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(tiny_clip(), tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"names open_clip\.model\.CLIP.*state dict"):
        read_checkpoint(tmp_path / "model.pt")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95])
@pytest.mark.parametrize("kind", ["archive.pt", "state.pt", "legacy.pt", "state.safetensors"])
def test_truncated_file_is_refused(tmp_path: Path, kind: str, share: float) -> None:
    path = tmp_path / kind
    if kind == "archive.pt":
        save_openai_archive(tiny_clip(), path)
    elif kind == "state.safetensors":
        safetensors.torch.save_file(tiny_clip().state_dict(), path)
    else:
        torch.save(tiny_clip().state_dict(), path, _use_new_zipfile_serialization=kind == "state.pt")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=rf"{kind}: a file that cannot be read.*truncated"):
        read_checkpoint(path)


def test_damaged_archive_is_refused(tmp_path: Path) -> None:
    save_openai_archive(tiny_clip(), tmp_path / "clip.pt")
    content = bytearray((tmp_path / "clip.pt").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "clip.pt").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        read_checkpoint(tmp_path / "clip.pt")


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "page.pt").write_text("<html>Sign in to download</html>")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"epoch": 1}, tmp_path / "numbers.pt")
    with pytest.raises(InputError, match="cannot be read"):
        read_checkpoint(tmp_path / "page.pt")
    with pytest.raises(InputError, match=r"no tensors.*list"):
        read_checkpoint(tmp_path / "list.pt")
    with pytest.raises(InputError, match=r"no tensors.*dict"):
        read_checkpoint(tmp_path / "numbers.pt")
    with pytest.raises(InputError, match="no such file"):
        read_checkpoint(tmp_path / "absent.pt")
    with pytest.raises(InputError, match="a folder"):
        read_checkpoint(tmp_path)
