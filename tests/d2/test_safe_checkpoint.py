from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cliptrase_d2.d2 import DetectionCheckpointer
from cliptrase_d2.d2.safe_checkpoint import read_checkpoint
from cliptrase_d2.utils.errors import InputError


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(2, 3)


def test_model_and_optimizer_are_restored_on_resume(model: nn.Module, tmp_path: Path) -> None:
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


def test_without_resume_only_the_named_weights_are_loaded(model: nn.Module, tmp_path: Path) -> None:
    DetectionCheckpointer(model, str(tmp_path)).save("last")
    before = model.weight.clone()
    assert DetectionCheckpointer(model).load("") == {}
    assert torch.equal(model.weight, before)
    torch.save({"weight": torch.ones(3, 2), "bias": torch.zeros(3)}, tmp_path / "named.pth")
    DetectionCheckpointer(model, str(tmp_path)).resume_or_load(str(tmp_path / "named.pth"), resume=False)
    assert torch.equal(model.weight, torch.ones(3, 2))


@pytest.mark.parametrize(
    ("name", "save", "prefix"),
    [("model.safetensors", save_file, ""), ("ddp.pth", torch.save, "module.")],
    ids=["safetensors", "data parallel"],
)
def test_formats_that_are_read(name: str, save: Any, prefix: str, model: nn.Module, tmp_path: Path) -> None:
    save({f"{prefix}weight": torch.ones(3, 2), f"{prefix}bias": torch.zeros(3)}, tmp_path / name)
    DetectionCheckpointer(model).load(str(tmp_path / name))
    assert torch.equal(model.weight, torch.ones(3, 2))


@pytest.mark.parametrize(("name", "save"), [("a.pth", torch.save), ("a.safetensors", save_file)])
def test_a_truncated_checkpoint_is_named(name: str, save: Any, tmp_path: Path) -> None:
    save({"weight": torch.ones(30, 20)}, tmp_path / name)
    content = (tmp_path / name).read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 30):
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(InputError, match=rf"{name}: .*\(.+\)"):
            read_checkpoint(str(tmp_path / name))


@pytest.mark.parametrize(
    ("content", "outline"),
    [
        ([torch.ones(1)], "list"),
        ({"model": 3}, "keys model"),
        ({"epoch": 3, "state_dict": {"weight": torch.ones(1)}}, "keys epoch, state_dict"),
    ],
)
def test_content_other_than_a_table_of_tensors_is_outlined(content: Any, outline: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(InputError, match=rf"a.pth: .*{outline}"):
        read_checkpoint(str(tmp_path / "a.pth"))


def test_a_missing_file_and_weights_of_another_model_are_named(model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.pth: .*MODEL.WEIGHTS"):
        DetectionCheckpointer(model).load(str(tmp_path / "nowhere.pth"))
    torch.save({"weight": torch.ones(7, 7), "head": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other.pth: none of its 2 tensors"):
        DetectionCheckpointer(model).load(str(tmp_path / "other.pth"))


def test_weights_that_fit_in_part_are_loaded_with_a_warning(
    model: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save({"weight": torch.ones(3, 2), "bias": torch.zeros(9)}, tmp_path / "part.pth")
    with caplog.at_level(logging.WARNING):
        DetectionCheckpointer(model).load(str(tmp_path / "part.pth"))
    assert torch.equal(model.weight, torch.ones(3, 2))
    assert "bias" in caplog.text
