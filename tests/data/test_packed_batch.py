from __future__ import annotations

import pickle

import torch

from cliptrase_d2.data.packed_batch import BadRecord, PackedBatch
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary


def handed_over(batch: list) -> list:
    """As if it came from another process."""
    return pickle.loads(pickle.dumps(PackedBatch.of(batch))).unpack()


def test_inputs_arrive_as_they_were() -> None:
    vocabulary = Vocabulary.parse(["cat", "dog"])
    batch = [
        {"image": torch.arange(36, dtype=torch.uint8).view(3, 3, 4), "height": 7, "vocabulary": vocabulary},
        {"image": torch.zeros(3, 1, 1, dtype=torch.uint8), "sem_seg": torch.tensor([[5, -1]]), "file_name": "a.png"},
    ]
    found = handed_over(batch)
    assert [list(item) for item in found] == [list(item) for item in batch]
    for item, expected in zip(found, batch, strict=True):
        for key, value in expected.items():
            same = torch.equal(item[key], value) if isinstance(value, torch.Tensor) else item[key] == value
            assert same, key
            assert not isinstance(value, torch.Tensor) or item[key].dtype == value.dtype


def test_a_turned_view_and_an_empty_tensor_arrive() -> None:
    turned, empty = torch.rand(4, 5, 3).permute(2, 0, 1), torch.zeros(0, 3)
    (found,) = handed_over([{"turned": turned, "empty": empty}])
    assert torch.equal(found["turned"], turned)
    assert found["empty"].shape == (0, 3)


def test_what_arrives_can_be_written_to_and_is_its_own() -> None:
    image = torch.zeros(3, 2, 2)
    (found,) = handed_over([{"image": image}])
    found["image"] += 1
    assert found["image"].sum() == 12
    assert image.sum() == 0


def test_a_record_that_could_not_be_read_arrives_with_its_error() -> None:
    error = InputError("a.png", "nothing", "Give one.", allowed="an image")
    found, image = handed_over([BadRecord("a.png", error), {"image": torch.ones(3, 1, 1)}])
    assert (found.file_name, str(found.error)) == ("a.png", str(error))
    assert image["image"].tolist() == [[[1.0]], [[1.0]], [[1.0]]]


def test_tensors_share_one_piece_of_memory() -> None:
    packed = PackedBatch.of([{"image": torch.rand(3, 5, 5), "sem_seg": torch.ones(5, 5)} for _ in range(4)])
    storages = {value.untyped_storage().data_ptr() for item in packed.unpack() for value in item.values()}
    first, last = packed.values.data_ptr(), packed.values.data_ptr() + len(packed.values)
    assert len(storages) == 8
    assert all(first <= pointer < last and pointer % 16 == first % 16 for pointer in storages)
