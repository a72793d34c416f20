from __future__ import annotations

import itertools
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cliptrase_d2.d2 import comm
from cliptrase_d2.data.loader import build_evaluation_loader, list_records, split_batch, spread_over
from cliptrase_d2.data.mapper import EvaluationMapper
from cliptrase_d2.data.packed_batch import BadRecord
from cliptrase_d2.data.register import register_dataset
from cliptrase_d2.utils.errors import InputError


@pytest.fixture
def registered(tmp_path: Path) -> str:
    """Five images of different sizes with labels."""
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    for index in range(5):
        Image.new("RGB", (20 + index, 20), (index, 0, 0)).save(images / f"{index}.png")
        Image.new("L", (20 + index, 20), index % 2).save(labels / f"{index}.png")
    return register_dataset(f"loader_{tmp_path.name}", images, ["sky", "tree"], labels)


def load(
    name: str, batch_size: int = 2, num_workers: int = 0, on_error: str = "stop", done: np.ndarray | None = None
) -> list[list[Any]]:
    mapper = EvaluationMapper.for_dataset(name, protocol="whole", short_side=16, max_size=64, patch_size=16)
    loader = build_evaluation_loader(
        list_records(name, on_error),
        mapper,
        batch_size=batch_size,
        num_workers=num_workers,
        on_error=on_error,
        done=done,
    )
    batches = list(loader)
    assert len(loader) == len(batches)
    return batches


def stems(batches: list[list[Any]]) -> list[str]:
    items = [item for batch in batches for item in batch]
    return [Path(item.file_name if isinstance(item, BadRecord) else item["file_name"]).name for item in items]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_keep_the_order_and_the_sizes(registered: str, num_workers: int) -> None:
    batches = load(registered, num_workers=num_workers)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert stems(batches) == [f"{index}.png" for index in range(5)]
    assert [item["width"] for batch in batches for item in batch] == [20, 21, 22, 23, 24]
    assert torch.equal(batches[1][1]["sem_seg"], torch.ones(20, 23, dtype=torch.int64))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_broken_image_stops_with_its_own_error(registered: str, tmp_path: Path, num_workers: int) -> None:
    (tmp_path / "images" / "3.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"3\.png: unreadable") as caught:
        load(registered, num_workers=num_workers)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_broken_image_is_skipped_and_named(registered: str, tmp_path: Path, num_workers: int) -> None:
    (tmp_path / "images" / "3.png").write_bytes(b"broken")
    batches = load(registered, num_workers=num_workers, on_error="skip")
    inputs, bad = split_batch(batches[1])
    assert [Path(item["file_name"]).name for item in inputs] == ["2.png"]
    assert [Path(item.file_name).name for item in bad] == ["3.png"]
    assert "unreadable" in str(bad[0].error)
    assert stems(batches) == [f"{index}.png" for index in range(5)]


@pytest.mark.parametrize(("missing", "kept"), [("images/1.png", "labels/1.png"), ("labels/1.png", "images/1.png")])
def test_file_without_its_partner(registered: str, tmp_path: Path, missing: str, kept: str) -> None:
    (tmp_path / missing).unlink()
    with pytest.raises(InputError, match="of that stem"):
        load(registered)
    items = [item for batch in load(registered, on_error="skip") for item in batch]
    assert len(items) == 5
    (bad,) = split_batch(items)[1]
    assert bad.file_name == str(tmp_path / kept)
    assert "of that stem" in str(bad.error)


def test_image_that_went_missing_after_listing(registered: str) -> None:
    mapper = EvaluationMapper.for_dataset(registered, protocol="whole", short_side=16, max_size=64, patch_size=16)
    loader = build_evaluation_loader([{"file_name": "gone.png"}], mapper, batch_size=1, num_workers=0, on_error="stop")
    with pytest.raises(InputError, match=r"gone\.png: no such file"):
        list(loader)


def test_mistake_of_ours_is_not_skipped(registered: str) -> None:
    def mapper(record: Mapping[str, Any]) -> dict[str, Any]:
        raise ZeroDivisionError

    loader = build_evaluation_loader(
        list_records(registered, "skip"), mapper, batch_size=1, num_workers=0, on_error="skip"
    )
    with pytest.raises(ZeroDivisionError):
        list(loader)


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
@pytest.mark.parametrize("done", ["", "0", "13", "01234"])
def test_processes_share_what_is_left_without_loss_or_repetition(
    registered: str, monkeypatch: pytest.MonkeyPatch, processes: int, done: str
) -> None:
    seen = [f"{index}.png" for index in done]
    is_done = np.array([str(index) in done for index in range(5)])
    for rank in range(processes):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(comm, "get_world_size", lambda: processes)
        seen += stems(load(registered, done=is_done))
    assert sorted(seen) == [f"{index}.png" for index in range(5)]


def test_name_that_is_not_registered(registered: str) -> None:
    with pytest.raises(InputError, match=r"DATASETS\.TEST: the unknown data set 'nothing'") as caught:
        list_records("nothing", "stop")
    assert registered in str(caught.value)


def test_unknown_way_with_errors(registered: str) -> None:
    with pytest.raises(InputError, match="stop or skip"):
        list_records(registered, "ignore")


@pytest.mark.parametrize(("count", "expected"), [(0, ""), (1, "2"), (2, "13"), (3, "024"), (5, "01234"), (9, "01234")])
def test_images_are_evenly_spread_over_the_set(registered: str, count: int, expected: str) -> None:
    assert [Path(name).stem for name in spread_over(list_records(registered, "stop"), count)] == list(expected)


def test_every_process_spreads_over_the_whole_set(registered: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = spread_over(list_records(registered, "stop"), 2)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        assert spread_over(list_records(registered, "stop"), 2) == alone


def test_an_image_without_its_label_is_passed_over(registered: str, tmp_path: Path) -> None:
    (tmp_path / "labels" / "2.png").unlink()
    assert [Path(name).stem for name in spread_over(list_records(registered, "skip"), 1)] == ["3"]
    with pytest.raises(InputError, match=r"2\.png: no label file"):
        spread_over(list_records(registered, "stop"), 1)


def test_long_list_of_records_takes_little_more_than_its_text() -> None:
    records = [{"file_name": f"images/{index:012d}.jpg"} for index in range(20_000)]
    loader = build_evaluation_loader(records, dict, batch_size=1, num_workers=0, on_error="stop")
    assert len(pickle.dumps(loader.dataset)) < 80 * len(records)
    assert [batch[0]["file_name"] for batch in itertools.islice(loader, 2)] == [
        "images/000000000000.jpg",
        "images/000000000001.jpg",
    ]
