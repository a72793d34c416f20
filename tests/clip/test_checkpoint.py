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


def assert_state(path: Path, ignored: tuple[str, ...] = ()) -> None:
    checkpoint = read_checkpoint(path)
    assert checkpoint.tensors.keys() == STATE.keys()
    assert all(torch.equal(checkpoint.tensors[name], STATE[name]) for name in STATE)
    assert checkpoint.ignored == ignored


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".pth"])
@pytest.mark.parametrize("is_zip", [True, False])
def test_plain_state_dict(tmp_path: Path, suffix: str, is_zip: bool) -> None:
    torch.save(STATE, tmp_path / f"clip{suffix}", _use_new_zipfile_serialization=is_zip)
    assert_state(tmp_path / f"clip{suffix}")


def test_training_checkpoint_of_several_gpus(tmp_path: Path) -> None:
    wrapped = {f"module.{name}": value for name, value in STATE.items()}
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]}
    torch.save({"epoch": 32, "name": "run", "state_dict": wrapped, "optimizer": optimizer}, tmp_path / "epoch_32.pt")
    assert_state(tmp_path / "epoch_32.pt")


def test_entries_without_weights_are_left_out(tmp_path: Path) -> None:
    torch.save({**STATE, "epoch": 3, "attn_mask": torch.zeros(77, 77)}, tmp_path / "clip.pt")
    assert_state(tmp_path / "clip.pt", ignored=("epoch",))


def test_openai_files_are_recognised(tmp_path: Path) -> None:
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
@pytest.mark.parametrize("kind", ["zip", "legacy", "bare pickle"])
def test_code_in_a_pickle_is_rejected_and_does_not_run(tmp_path: Path, name: str, kind: str) -> None:
    path, victim = tmp_path / name, tmp_path / "victim"
    command = Malicious(f"touch {victim}")
    if kind == "bare pickle":
        path.write_bytes(pickle.dumps(command, protocol=2))
    else:
        torch.save({**STATE, "extra": command}, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(InputError, match=rf"{name}: .*" if kind == "bare pickle" else r"\w+\.system"):
        read_checkpoint(path)
    assert not victim.exists()


def test_pickled_model_is_rejected(tmp_path: Path) -> None:
    torch.save(tiny_clip(), tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"model\.pt: .*open_clip\.model\.CLIP"):
        read_checkpoint(tmp_path / "model.pt")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95])
@pytest.mark.parametrize("kind", ["archive.pt", "state.pt", "legacy.pt", "state.safetensors"])
def test_truncated_file_is_rejected(tmp_path: Path, kind: str, share: float) -> None:
    path = tmp_path / kind
    if kind == "archive.pt":
        save_openai_archive(tiny_clip(), path)
    elif kind == "state.safetensors":
        safetensors.torch.save_file(tiny_clip().state_dict(), path)
    else:
        torch.save(tiny_clip().state_dict(), path, _use_new_zipfile_serialization=kind == "state.pt")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=rf"{kind}: .*truncated"):
        read_checkpoint(path)


def test_files_without_weights_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "page.pt").write_text("<html>Sign in to download</html>")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"epoch": 1}, tmp_path / "numbers.pt")
    (tmp_path / "folder.pt").mkdir()
    for name, got in {
        "page": "web page",
        "list": "list",
        "numbers": "dict",
        "absent": "file",
        "folder": "folder",
    }.items():
        with pytest.raises(InputError, match=rf"{name}\.pt: .*{got}"):
            read_checkpoint(tmp_path / f"{name}.pt")
