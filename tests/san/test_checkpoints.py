"""Checkpoints that are whole or not there, and the report of what a checkpoint brings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from cliptrase_d2.san.checkpoints import AtomicCheckpointer, load_report
from cliptrase_d2.utils.errors import WriteError
from tests.faults import room_for


def test_a_checkpoint_comes_back_with_what_stood_beside_it(tmp_path: Path) -> None:
    model, other = nn.Linear(2, 3), nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    AtomicCheckpointer(model, str(tmp_path), optimizer=optimizer).save("model_1", iteration=7)
    found = AtomicCheckpointer(other, str(tmp_path)).resume_or_load("", resume=True)
    assert torch.equal(model.weight, other.weight)
    assert found["iteration"] == 7
    assert (tmp_path / "last_checkpoint").read_text() == "model_1.pth"


def test_a_disk_that_is_full_costs_no_earlier_checkpoint(tmp_path: Path) -> None:
    model = nn.Linear(100, 100)
    checkpointer = AtomicCheckpointer(model, str(tmp_path))
    checkpointer.save("model_1")
    for name in ("model_1", "model_2"):
        with room_for(20_000), pytest.raises(WriteError, match=rf"{name}\.pth: cannot be written .*Free some space"):
            checkpointer.save(name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "model_1.pth"]
    assert AtomicCheckpointer(nn.Linear(100, 100), str(tmp_path)).resume_or_load("", resume=True) == {}


def test_a_process_that_does_not_save_writes_nothing(tmp_path: Path) -> None:
    AtomicCheckpointer(nn.Linear(2, 3), str(tmp_path), save_to_disk=False).save("model_1")
    assert not list(tmp_path.iterdir())


def test_the_report_tells_of_every_weight() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    shapes = {"0.weight": (3, 2), "0.bias": (5,), "1.weight": (4, 3), "more": (1,)}
    given = {name: torch.zeros(shape) for name, shape in shapes.items()}
    assert load_report(model, given).splitlines() == [
        "2 of the model's 4 tensors are loaded",
        "  missing, so as they were: 1 (1.bias)",
        "  unexpected: 1 (more)",
        "  of another shape, so as they were: 1 (0.bias)",
    ]


def test_many_names_are_counted_by_their_part() -> None:
    given = {f"{part}.{index}": torch.zeros(1) for part in ("clip", "side") for index in range(9)}
    assert "unexpected: 18 (9 of clip.*, 9 of side.*)" in load_report(nn.Linear(1, 1), given)
