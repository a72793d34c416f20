import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cliptrase_d2.d2 import DatasetCatalog, comm
from cliptrase_d2.data.loader import (
    BadRecord,
    PackedBatch,
    build_evaluation_loader,
    list_records,
    sample_evenly,
)
from cliptrase_d2.data.mapper import EvaluationMapper
from cliptrase_d2.data.register import register_dataset
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    """Return the name of a data set with five images of different sizes."""
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    for index in range(5):
        Image.new("RGB", (20 + index, 20), (index, 0, 0)).save(images / f"{index}.png")
        Image.new("L", (20 + index, 20), index % 2).save(labels / f"{index}.png")
    return register_dataset(f"loader_{tmp_path.name}", images, ["sky", "tree"], labels)


def load(name: str, *, num_workers: int = 0, on_error: str = "stop", **options: Any) -> list[list[Any]]:
    mapper = EvaluationMapper.for_dataset(name, protocol="whole", short_side=16, max_size=64, patch_size=16)
    options = {"mapper": mapper, "batch_size": 2, **options}
    records = list_records(name, on_error)
    loader = build_evaluation_loader(records, num_workers=num_workers, on_error=on_error, **options)
    batches = list(loader)
    assert len(loader) == len(batches)
    return batches


def stems(batches: list[list[Any]]) -> str:
    """Return the stems of a data set's images, digits, in one string."""
    items = [item for batch in batches for item in batch]
    return "".join(Path(item.file_name if isinstance(item, BadRecord) else item["file_name"]).stem for item in items)


def send(batch: list[Any]) -> list[Any]:
    """Return a batch as another process receives it."""
    return pickle.loads(pickle.dumps(PackedBatch.pack(batch))).unpack()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_have_the_order_and_sizes_of_the_images(dataset: str, num_workers: int) -> None:
    batches = load(dataset, num_workers=num_workers)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert stems(batches) == "01234"
    assert [item["width"] for batch in batches for item in batch] == [20, 21, 22, 23, 24]
    assert torch.equal(batches[1][1]["sem_seg"], torch.ones(20, 23, dtype=torch.int64))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_broken_image_stops_or_is_skipped(dataset: str, tmp_path: Path, num_workers: int) -> None:
    (tmp_path / "images" / "3.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"3\.png: unreadable") as caught:
        load(dataset, num_workers=num_workers)
    assert "Traceback" not in str(caught.value)
    batches = load(dataset, num_workers=num_workers, on_error="skip")
    image, bad = batches[1]
    assert (image["width"], Path(bad.file_name).stem) == (22, "3")
    assert "unreadable" in str(bad.error)
    assert stems(batches) == "01234"


@pytest.mark.parametrize(("missing", "partner"), [("images/1.png", "labels/1.png"), ("labels/1.png", "images/1.png")])
def test_file_without_a_partner_stops_or_is_skipped(dataset: str, tmp_path: Path, missing: str, partner: str) -> None:
    (tmp_path / missing).unlink()
    with pytest.raises(InputError, match=partner):
        load(dataset)
    items = [item for batch in load(dataset, on_error="skip") for item in batch]
    assert len(items) == 5
    (bad,) = (item for item in items if isinstance(item, BadRecord))
    assert bad.file_name == str(tmp_path / partner)
    assert str(tmp_path / partner) in str(bad.error)


def test_errors_other_than_input_errors_are_not_skipped(dataset: str) -> None:
    def fail(record: Mapping[str, Any]) -> dict[str, Any]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        load(dataset, on_error="skip", mapper=fail)


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
@pytest.mark.parametrize("done", ["", "0", "13", "01234"])
def test_processes_share_the_remaining_records(
    dataset: str, monkeypatch: pytest.MonkeyPatch, processes: int, done: str
) -> None:
    loaded = done
    is_done = np.array([str(index) in done for index in range(5)])
    for rank in range(processes):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(comm, "get_world_size", lambda: processes)
        loaded += stems(load(dataset, done=is_done))
    assert sorted(loaded) == list("01234")


def test_unknown_name_and_reaction_are_rejected(dataset: str) -> None:
    with pytest.raises(InputError, match=rf"dataset_name: .*'nothing'.*{dataset}"):
        list_records("nothing", "stop")
    with pytest.raises(InputError, match=r"on_error: 'ignore'.*'stop' or 'skip'"):
        list_records(dataset, "ignore")


def test_missing_files_of_another_packages_data_set_are_its_own_fault(tmp_path: Path) -> None:
    name = f"of_detectron2_{tmp_path.name}"
    DatasetCatalog.register(name, lambda: list((tmp_path / "absent").iterdir()))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=rf"^dataset_name: '{name}' .*absent"):
        list_records(name, "stop")


@pytest.mark.parametrize(("count", "expected"), [(0, ""), (1, "2"), (2, "13"), (3, "024"), (5, "01234"), (9, "01234")])
def test_sampled_images_are_evenly_spaced(dataset: str, count: int, expected: str) -> None:
    assert [Path(name).stem for name in sample_evenly(list_records(dataset, "stop"), count)] == list(expected)


def test_bad_records_are_not_sampled(dataset: str, tmp_path: Path) -> None:
    (tmp_path / "labels" / "2.png").unlink()
    assert [Path(name).stem for name in sample_evenly(list_records(dataset, "skip"), 1)] == ["3"]


def test_records_are_kept_as_bytes() -> None:
    records = [{"file_name": f"images/{index:012d}.jpg"} for index in range(20_000)]
    loader = build_evaluation_loader(records, dict, batch_size=1, num_workers=0, on_error="stop")
    assert len(pickle.dumps(loader.dataset)) < 80 * len(records)
    assert next(iter(loader)) == [records[0]]


def test_packed_batch_is_unchanged() -> None:
    vocabulary = Vocabulary.parse(["cat", "dog"])
    transposed = torch.rand(4, 5, 3).permute(2, 0, 1)
    batch = [
        {"image": torch.arange(36, dtype=torch.uint8).view(3, 3, 4), "height": 7, "vocabulary": vocabulary},
        {"image": torch.zeros(3, 1, 1, dtype=torch.uint8), "sem_seg": torch.tensor([[5, -1]]), "file_name": "a.png"},
        {"transposed": transposed, "empty": torch.zeros(0, 3)},
    ]
    received = send(batch)
    assert [list(item) for item in received] == [list(item) for item in batch]
    for item, expected in zip(received, batch, strict=True):
        for key, value in expected.items():
            if isinstance(value, torch.Tensor):
                assert (item[key].dtype, item[key].shape) == (value.dtype, value.shape), key
                assert torch.equal(item[key], value), key
                item[key] += 1  # writable
            else:
                assert item[key] == value, key


def test_tensors_in_lists_are_packed() -> None:
    views = [torch.rand(3, 2, 2), torch.rand(3, 4, 4)]
    packed = PackedBatch.pack([{"views": views, "names": ["a", ["b"]]}])
    assert len(packed.spans) == 2
    (item,) = packed.unpack()
    assert all(torch.equal(*pair) for pair in zip(item["views"], views, strict=True))
    assert item["names"] == ["a", ["b"]]


def test_tensors_of_a_packed_batch_share_one_piece_of_memory() -> None:
    packed = PackedBatch.pack([{"image": torch.rand(3, 5, 5), "sem_seg": torch.ones(5, 5)} for _ in range(4)])
    pointers = {value.untyped_storage().data_ptr() for item in packed.unpack() for value in item.values()}
    first, last = packed.values.data_ptr(), packed.values.data_ptr() + len(packed.values)
    assert len(pointers) == 8
    assert all(first <= pointer < last and pointer % 16 == first % 16 for pointer in pointers)
