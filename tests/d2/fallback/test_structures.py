from __future__ import annotations

from types import ModuleType, SimpleNamespace

import pytest
import torch


@pytest.fixture
def structures(backend: SimpleNamespace) -> ModuleType:
    return backend.structures


def test_images_are_padded_at_the_bottom_and_on_the_right(structures: ModuleType) -> None:
    images = structures.ImageList.from_tensors([torch.ones(1, 1, 3), 2 * torch.ones(1, 2, 1)], pad_value=-1.0)
    expected = [[[1, 1, 1], [-1, -1, -1]], [[2, -1, -1], [2, -1, -1]]]  # [2,1,2,3]: the larger height and width
    assert images.tensor.squeeze(1).tolist() == expected
    assert images.image_sizes == [(1, 3), (2, 1)]
    maps = structures.ImageList.from_tensors([torch.ones(2, 2).long(), torch.ones(1, 1).long()], 0, 255)
    assert maps.tensor.dtype == torch.int64
    assert maps.tensor[1].tolist() == [[1, 255], [255, 255]]


@pytest.mark.parametrize(("divisor", "size"), [(0, (5, 7)), (1, (5, 7)), (4, (8, 8)), (5, (5, 10)), (32, (32, 32))])
def test_the_padded_size_is_divisible(structures: ModuleType, divisor: int, size: tuple[int, int]) -> None:
    assert structures.ImageList.from_tensors([torch.zeros(3, 5, 7)], divisor).tensor.shape == (1, 3, *size)


def test_images_of_different_channels_and_no_images_are_rejected(structures: ModuleType) -> None:
    with pytest.raises(AssertionError):
        structures.ImageList.from_tensors([torch.zeros(3, 2, 2), torch.zeros(1, 2, 2)])
    with pytest.raises(AssertionError):
        structures.ImageList.from_tensors([])


def test_instances_hold_fields_as_attributes(structures: ModuleType) -> None:
    instances = structures.Instances((4, 6), scores=torch.tensor([0.2, 0.9, 0.5]))
    instances.pred_boxes = structures.Boxes(torch.arange(12).view(3, 4))
    assert (len(instances), instances.image_size) == (3, (4, 6))
    assert instances.has("pred_boxes")
    assert not instances.has("pred_masks")
    assert instances.scores is instances.get_fields()["scores"]
    assert instances.to("cpu").pred_boxes.tensor.tolist() == instances.pred_boxes.tensor.tolist()


def test_selection_applies_to_every_field(structures: ModuleType) -> None:
    boxes = structures.Boxes(torch.arange(8).view(2, 4))
    instances = structures.Instances((4, 6), scores=torch.tensor([0.2, 0.9]), pred_boxes=boxes)
    sure = instances[instances.scores > 0.5]
    assert len(sure) == 1
    assert sure.pred_boxes.tensor.tolist() == [[4.0, 5.0, 6.0, 7.0]]
    assert len(instances[:0]) == 0


def test_fields_of_another_length_or_name_are_rejected(structures: ModuleType) -> None:
    instances = structures.Instances((4, 6), scores=torch.zeros(2))
    with pytest.raises(AssertionError, match=r" 3 .* 2\b"):
        instances.pred_classes = torch.zeros(3)
    with pytest.raises(AttributeError, match="'labels'"):
        _ = instances.labels
    with pytest.raises(NotImplementedError):
        len(structures.Instances((4, 6)))
