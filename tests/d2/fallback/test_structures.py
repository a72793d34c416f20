from __future__ import annotations

import pytest
import torch

from cliptrase_d2.d2.fallback.structures import Boxes, ImageList, Instances, ShapeSpec


def test_images_are_padded_below_and_to_the_right() -> None:
    low, high = torch.ones(1, 1, 3), 2 * torch.ones(1, 2, 1)
    images = ImageList.from_tensors([low, high], pad_value=-1.0)
    expected = [[[1, 1, 1], [-1, -1, -1]], [[2, -1, -1], [2, -1, -1]]]  # [2,1,2,3]: the larger height and width
    assert images.tensor.squeeze(1).tolist() == expected
    assert images.image_sizes == [(1, 3), (2, 1)]
    assert len(images) == 2
    assert torch.equal(images[0], low)
    assert torch.equal(images[1], high)


@pytest.mark.parametrize(("divisor", "size"), [(0, (5, 7)), (1, (5, 7)), (4, (8, 8)), (5, (5, 10)), (32, (32, 32))])
def test_the_padded_size_is_divisible(divisor: int, size: tuple[int, int]) -> None:
    assert ImageList.from_tensors([torch.zeros(3, 5, 7)], divisor).tensor.shape == (1, 3, *size)


def test_maps_without_channels_and_whole_numbers_keep_their_form() -> None:
    images = ImageList.from_tensors([torch.ones(2, 2, dtype=torch.int64), torch.ones(1, 1, dtype=torch.int64)], 0, 255)
    assert images.tensor.dtype == torch.int64
    assert images.tensor[1].tolist() == [[1, 255], [255, 255]]
    assert images.to(torch.float32).tensor.dtype == torch.float32
    assert images.device == torch.device("cpu")


def test_images_of_different_channels_are_refused() -> None:
    with pytest.raises(AssertionError, match=r"\(3, 2, 2\), \(1, 2, 2\)"):
        ImageList.from_tensors([torch.zeros(3, 2, 2), torch.zeros(1, 2, 2)])


def test_no_images_are_refused() -> None:
    with pytest.raises(AssertionError):
        ImageList.from_tensors([])


def test_a_shape_need_not_be_known_in_full() -> None:
    assert ShapeSpec(channels=3) == ShapeSpec(3, None, None, None)


def test_instances_are_their_fields() -> None:
    instances = Instances((4, 6), scores=torch.tensor([0.2, 0.9, 0.5]))
    instances.pred_boxes = Boxes(torch.arange(12).view(3, 4))
    assert (len(instances), instances.image_size) == (3, (4, 6))
    assert instances.has("pred_boxes")
    assert not instances.has("pred_masks")
    assert instances.get("scores") is instances.scores is instances.get_fields()["scores"]
    assert instances.to("cpu").pred_boxes.tensor.tolist() == instances.pred_boxes.tensor.tolist()


def test_some_instances_have_some_of_every_field() -> None:
    instances = Instances((4, 6), scores=torch.tensor([0.2, 0.9]), pred_boxes=Boxes(torch.arange(8).view(2, 4)))
    sure = instances[instances.scores > 0.5]
    assert len(sure) == 1
    assert sure.pred_boxes.tensor.tolist() == [[4.0, 5.0, 6.0, 7.0]]
    assert len(instances[:0]) == 0


def test_fields_of_another_length_or_name_are_refused() -> None:
    instances = Instances((4, 6), scores=torch.zeros(2))
    with pytest.raises(AssertionError, match="3 entries, for 2"):
        instances.pred_classes = torch.zeros(3)
    with pytest.raises(AttributeError, match="no field 'labels', but scores"):
        _ = instances.labels
    with pytest.raises(NotImplementedError):
        len(Instances((4, 6)))
