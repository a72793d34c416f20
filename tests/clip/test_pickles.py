"""Pickles: harmless types are read as placeholders, all others are refused, and no code runs."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from cliptrase_d2.clip.pickles import Placeholder, load_pickle
from cliptrase_d2.utils.errors import InputError
from tests.clip.tiny import tiny_clip


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function: object, *arguments: object):
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call  # type: ignore[return-value]


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "value", [np.float64(0.1), np.int64(3), np.bool_(True), np.arange(4), np.dtype("f4"), Path("a"), np.array(["a"])]
)
def test_harmless_value_becomes_a_placeholder(tmp_path: Path, value: object) -> None:
    content = load_pickle(save(tmp_path / "a.pt", {"w": torch.ones(2), "x": value}))
    assert isinstance(content, dict)
    assert torch.equal(content["w"], torch.ones(2))
    assert isinstance(content["x"], Placeholder)
    assert vars(content["x"]) == {}


@pytest.mark.parametrize(
    "value",
    [
        Call(os.system, "true"),
        Call(eval, "1"),
        Call(getattr, "a", "upper"),
        Call(np.load, "a.npy"),
        Call(__import__, "os"),
        timedelta(1),
        tiny_clip,
        np.random.default_rng(0),
    ],
    ids=["system", "eval", "getattr", "numpy.load", "import", "timedelta", "function", "generator"],
)
def test_another_name_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(InputError, match=r"a\.pt: a pickle that names \S+, which could run code"):
        load_pickle(save(tmp_path / "a.pt", {"x": value}))


def test_forged_data_type_reaches_no_code_of_numpy(tmp_path: Path) -> None:
    """A scalar of a type whose flags claim objects would make NumPy follow its bytes as a pointer."""
    forged = Call(np.dtype, "V8", False, True)
    content = load_pickle(save(tmp_path / "a.pt", {"x": Call(np._core.multiarray.scalar, forged, b"\1" * 8)}))
    assert isinstance(content, dict)
    assert isinstance(content["x"], Placeholder)


def test_arguments_of_a_harmless_type_are_checked(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    content = {"x": Call(Path, Call(os.mkdir, str(victim)))}
    with pytest.raises(InputError, match="mkdir"):
        load_pickle(save(tmp_path / "a.pt", content))
    assert not victim.exists()


def test_allowed_types_of_the_process_are_restored(tmp_path: Path) -> None:
    before = torch.serialization.get_safe_globals()
    load_pickle(save(tmp_path / "a.pt", {"x": np.float64(1)}))
    with pytest.raises(InputError):
        load_pickle(save(tmp_path / "b.pt", {"x": timedelta(1)}))
    assert torch.serialization.get_safe_globals() == before


@pytest.mark.parametrize("kind", ["state dict", "training checkpoint", "model"])
def test_command_of_the_message_keeps_the_tensors(tmp_path: Path, kind: str) -> None:
    model = torch.nn.Linear(2, 3)
    contents = {
        "state dict": {**model.state_dict(), "x": timedelta(1)},
        "training checkpoint": {"state_dict": {**model.state_dict(), "tied": model.weight.data}, "x": timedelta(1)},
        "model": model,
    }
    path = save(tmp_path / "it's a file.pt", contents[kind])
    with pytest.raises(InputError) as raised:
        load_pickle(path)
    message = str(raised.value)
    command = shlex.split(message[message.index("python -c") :])
    subprocess.run([sys.executable, *command[1:]], check=True)
    saved = safetensors.torch.load_file(command[-1])
    assert torch.equal(saved["weight"], model.weight)
    assert torch.equal(saved["bias"], model.bias)
