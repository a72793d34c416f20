from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cliptrase_d2.d2 import DetectionCheckpointer
from cliptrase_d2.d2.safe_checkpoint import read_checkpoint
from cliptrase_d2.utils.errors import InputError


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(2, 3)


def test_model_and_optimizer_come_back_on_resume(model: nn.Module, tmp_path: Path) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    DetectionCheckpointer(model, str(tmp_path), optimizer=optimizer).save("model_0000004", iteration=4)

    other = nn.Linear(2, 3)
    fresh = torch.optim.AdamW(other.parameters(), lr=0.1)
    checkpointer = DetectionCheckpointer(other, str(tmp_path), optimizer=fresh)
    rest = checkpointer.resume_or_load("", resume=True)
    assert rest["iteration"] == 4
    assert torch.equal(other.weight, model.weight)
    assert fresh.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    assert torch.equal(fresh.state_dict()["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])


def test_without_resume_only_the_given_weights_are_loaded(model: nn.Module, tmp_path: Path) -> None:
    DetectionCheckpointer(model, str(tmp_path)).save("last")
    given = {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}
    torch.save(given, tmp_path / "given.pth")
    DetectionCheckpointer(model, str(tmp_path)).resume_or_load(str(tmp_path / "given.pth"), resume=False)
    assert torch.equal(model.weight, torch.ones(3, 2))


def test_no_path_loads_nothing(model: nn.Module) -> None:
    before = model.weight.clone()
    assert DetectionCheckpointer(model).load("") == {}
    assert torch.equal(model.weight, before)


def test_safetensors_are_read(model: nn.Module, tmp_path: Path) -> None:
    save_file({"weight": torch.ones(3, 2), "bias": torch.zeros(3)}, tmp_path / "model.safetensors")
    DetectionCheckpointer(model).load(str(tmp_path / "model.safetensors"))
    assert torch.equal(model.weight, torch.ones(3, 2))


def test_weights_of_a_data_parallel_model_fit(model: nn.Module, tmp_path: Path) -> None:
    torch.save({"module.weight": torch.ones(3, 2), "module.bias": torch.zeros(3)}, tmp_path / "ddp.pth")
    DetectionCheckpointer(model).load(str(tmp_path / "ddp.pth"))
    assert torch.equal(model.weight, torch.ones(3, 2))


@pytest.mark.parametrize("name", ["model.pth", "model.pkl", "model.pyth"])
@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_that_runs_code_is_refused_and_not_run(save: Any, name: str, model: nn.Module, tmp_path: Path) -> None:
    target = tmp_path / "was_here"
    save({"model": {"weight": Evil(target)}}, tmp_path / name)
    with pytest.raises(InputError, match=rf"{name}: it cannot be read as data"):
        DetectionCheckpointer(model).load(str(tmp_path / name))
    assert not target.exists()


def test_a_truncated_checkpoint_is_named(model: nn.Module, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 30):
        (tmp_path / "part.pth").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"part.pth: it cannot be read as data \(.+\)"):
            DetectionCheckpointer(model).load(str(tmp_path / "part.pth"))


def test_a_truncated_safetensors_file_is_named(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(30, 20)}, tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-8])
    with pytest.raises(InputError, match=r"a.safetensors: it cannot be read as data"):
        read_checkpoint(str(tmp_path / "a.safetensors"))


@pytest.mark.parametrize(
    ("content", "got"),
    [
        ([torch.ones(1)], "a list"),
        ({"model": 3}, "a table with the keys model"),
        ({"epoch": 3, "state_dict": {"weight": torch.ones(1)}}, "a table with the keys epoch, state_dict"),
    ],
)
def test_a_file_without_a_table_of_tensors_says_what_it_holds(content: Any, got: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(InputError, match=f"a.pth: no table of tensors but {got}"):
        read_checkpoint(str(tmp_path / "a.pth"))


def test_a_missing_file_is_named(model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.pth: no such file"):
        DetectionCheckpointer(model).load(str(tmp_path / "nowhere.pth"))


def test_weights_of_another_model_are_refused(model: nn.Module, tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(7, 7), "head": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other.pth: none of its 2 tensors has the name and shape"):
        DetectionCheckpointer(model).load(str(tmp_path / "other.pth"))


def test_weights_that_fit_in_part_are_loaded_with_a_warning(
    model: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save({"weight": torch.ones(3, 2), "bias": torch.zeros(9)}, tmp_path / "part.pth")
    with caplog.at_level(logging.WARNING):
        DetectionCheckpointer(model).load(str(tmp_path / "part.pth"))
    assert torch.equal(model.weight, torch.ones(3, 2))
    assert "bias" in caplog.text
