"""Metrics by size of object, by hand and against a slow reference."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from cliptrase_d2.evaluation.confusion import batch_confusion_matrix
from cliptrase_d2.evaluation.object_sizes import (
    NO_SIZE,
    SIZES,
    ObjectMapper,
    count_objects,
    find_objects,
    format_sizes,
    measure_sizes,
    size_metric_names,
    size_metrics,
)

IGNORE = 255
SMALL, MEDIUM, LARGE = range(3)


def scene(*boxes: tuple[int, int, int, int, int]) -> Tensor:
    """Return 30x40 pixels of class 0 with boxes (class, top, left, height, width). 4 pixels are a medium object."""
    labels = torch.zeros(30, 40, dtype=torch.int64)
    for index, top, left, height, width in boxes:
        labels[top : top + height, left : left + width] = index
    return labels


def count(truth: Tensor, prediction: Tensor, classes: int = 3) -> Tensor:
    return count_objects([find_objects(truth, IGNORE)], [truth], [prediction], classes)


def measure(truths: list[Tensor], predictions: list[Tensor], classes: int = 3, **groups: tuple[int, ...]) -> dict:
    objects = [find_objects(truth, IGNORE) for truth in truths]
    confusion = batch_confusion_matrix(truths, predictions, classes, IGNORE, ["a"] * len(truths))
    return size_metrics(count_objects(objects, truths, predictions, classes), confusion, groups)


def test_bounds_are_those_of_coco_in_an_image_of_640x480() -> None:
    areas = np.array([1, 32**2 - 1, 32**2, 96**2 - 1, 96**2, 640 * 480])
    assert measure_sizes(areas, 640 * 480).tolist() == [SMALL, SMALL, MEDIUM, MEDIUM, LARGE, LARGE]
    assert measure_sizes(4 * areas, 4 * 640 * 480).tolist() == [SMALL, SMALL, MEDIUM, MEDIUM, LARGE, LARGE]
    assert measure_sizes(np.array([2**31 - 1]), 2**40).tolist() == [SMALL]  # no overflow


def test_objects_are_connected_regions_corners_included() -> None:
    # 1200 pixels: medium from 4, large from 36. The two boxes of class 1 touch at a corner: 4 pixels together.
    truth = scene((1, 0, 0, 2, 1), (1, 2, 1, 2, 1), (1, 10, 10, 1, 3), (2, 20, 20, 6, 6))
    sizes, objects = find_objects(truth, IGNORE)
    assert objects.tolist() == [[0, LARGE], [1, MEDIUM], [1, SMALL], [2, LARGE]]
    assert sizes[0, 0] == sizes[3, 1] == MEDIUM
    assert sizes[10, 10:13].tolist() == [SMALL] * 3
    assert sizes[0, 1] == sizes[20, 20] == LARGE
    assert sizes.dtype == torch.uint8


def test_regions_of_one_class_inside_the_box_of_another_keep_their_size() -> None:
    truth = scene((1, 5, 5, 12, 12), (2, 6, 6, 10, 10), (1, 10, 10, 1, 1))  # a dot of class 1 in a ring of class 1
    sizes, objects = find_objects(truth, IGNORE)
    assert objects.tolist() == [[0, LARGE], [1, LARGE], [1, SMALL], [2, LARGE]]
    assert (sizes[5, 5], sizes[10, 10], sizes[10, 11]) == (LARGE, SMALL, LARGE)


def test_ignored_pixels_separate_objects_and_have_no_size() -> None:
    truth = scene((1, 0, 0, 1, 7), (IGNORE, 0, 3, 1, 1))
    sizes, objects = find_objects(truth, IGNORE)
    assert objects.tolist() == [[0, LARGE], [1, SMALL], [1, SMALL]]
    assert sizes[0, 3] == NO_SIZE
    nothing = find_objects(torch.full((3, 3), -1), -1)
    assert nothing.sizes.unique().tolist() == [NO_SIZE]
    assert nothing.objects.shape == (0, 2)


def test_counts_by_hand() -> None:
    truth = scene((1, 0, 0, 1, 3), (1, 10, 0, 3, 3), (2, 20, 20, 6, 6))
    # Class 1: 2 of 3 pixels of the small object are correct, 6 of 9 of the medium one. 5 other pixels are called 1.
    prediction = scene((1, 0, 0, 1, 2), (1, 10, 0, 2, 3), (1, 20, 20, 1, 5), (2, 21, 20, 5, 6), (2, 20, 25, 1, 1))
    counts = count(truth, prediction)
    # Of the five false positives, 5·3/12 = 1.25 belong to the small object: 1; the medium one has the others.
    assert counts[1].tolist() == [[1, 3, 2, 1], [1, 9, 6, 4], [0, 0, 0, 0]]
    assert counts[2].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 36, 31, 0]]
    assert counts[0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1200 - 48, 1200 - 48, 4]]


def test_metrics_by_hand() -> None:
    first, second = scene((1, 0, 0, 1, 3)), scene((1, 10, 0, 3, 3))
    found, missed = scene((1, 0, 0, 1, 2), (1, 5, 0, 1, 1)), scene((1, 0, 0, 1, 1))
    other = scene()  # without class 1, but with predictions of it
    report = measure([first, second, other], [found, missed, scene((1, 0, 0, 2, 2))], things=(1,), sky=(2,))
    # Small: 2 of 3 pixels, 1 false positive of the image, and 3/12 of the 4 of the third image.
    assert report["mIoU_small"] == report["mIoU_small-things"] == pytest.approx(100 * 2 / (3 + 1 + 1))
    assert report["mIoU_medium"] == pytest.approx(0)
    assert report["mAcc_small"] == pytest.approx(100 * 2 / 3)
    pixels, correct = 3 * 1200 - 12, 3 * 1200 - 12 - 1 - 1 - 4
    assert report["mIoU_large"] == pytest.approx(100 * correct / (pixels + 1 + 9))
    assert [report[f"objects_{size}"] for size in SIZES] == [1, 1, 3]
    assert (report["mIoU_large-things"], report["objects_large-things"]) == (None, 0)
    assert (report["mAcc_small-sky"], report["objects_small-sky"]) == (None, 0)


def test_a_perfect_prediction_has_100_percent() -> None:
    truth = scene((1, 0, 0, 1, 3), (2, 10, 0, 3, 3), (IGNORE, 15, 0, 3, 3))
    report = measure([truth], [truth])
    assert {report[name] for name in size_metric_names()} == {100.0}
    assert format_sizes(report).endswith(
        "small 100.00 (1 objects), medium 100.00 (1 objects), large 100.00 (1 objects)"
    )


def test_iou_of_a_class_is_between_those_of_its_sizes() -> None:
    generator = torch.Generator().manual_seed(0)
    truths, predictions = random_scenes(generator, 6, noise=0.3)
    confusion = batch_confusion_matrix(truths, predictions, 4, IGNORE, ["a"] * 6)
    for index in range(4):
        of_class = measure(truths, predictions, 4, own=(index,))
        values = [of_class[f"mIoU_{size}-own"] for size in SIZES]
        present = [value for value in values if value is not None]
        correct = int(confusion[index, index])
        iou = 100 * correct / int(confusion[index].sum() + confusion[:, index].sum() - correct)
        assert min(present) - 1e-9 <= iou <= max(present) + 1e-9


def test_unknown_pixels_are_wrong_and_false_positives_of_no_class() -> None:
    truth, prediction = scene((1, 0, 0, 2, 2)), scene((1, 0, 0, 1, 2), (-1, 1, 0, 1, 2), (-1, 5, 5, 9, 9))
    counts = count(truth, prediction, 2)
    assert counts[1].tolist() == [[0, 0, 0, 0], [1, 4, 2, 0], [0, 0, 0, 0]]
    assert counts[0, LARGE].tolist() == [1, 1196, 1196 - 81, 0]


def test_predictions_where_the_truth_is_ignored_count_nothing() -> None:
    truth = scene((1, 0, 0, 2, 2), (IGNORE, 10, 10, 5, 5))
    counts = count(truth, scene((1, 0, 0, 2, 2), (1, 10, 10, 5, 5)))
    assert counts[1].tolist() == [[0, 0, 0, 0], [1, 4, 4, 0], [0, 0, 0, 0]]
    nothing = torch.full((3, 3), IGNORE)
    assert not count(nothing, torch.zeros(3, 3, dtype=torch.int64)).any()


def random_scenes(generator: torch.Generator, images: int, noise: float) -> tuple[list[Tensor], list[Tensor]]:
    """Return true and predicted labels of different sizes, 0 to 3, with ignored and unknown pixels."""
    truths, predictions = [], []
    for _ in range(images):
        height, width = torch.randint(20, 50, (2,), generator=generator).tolist()
        field = torch.randn(1, 1, 12, 12, generator=generator)
        smooth = torch.nn.functional.interpolate(field, (height, width), mode="bilinear")[0, 0]
        truth = (smooth * 1.5 + 2).clamp(0, 3).long()
        prediction = torch.where(
            torch.rand(truth.shape, generator=generator) < noise, torch.randint(-1, 4, truth.shape), truth
        )
        truths.append(torch.where(torch.rand(truth.shape, generator=generator) < 0.02, IGNORE, truth))
        predictions.append(prediction)
    return truths, predictions


def slow_counts(truth: Tensor, prediction: Tensor, classes: int) -> list[list[list[Fraction]]]:
    """Count by SciPy's regions and exact fractions, object by object."""
    counts = [[[Fraction(0)] * 4 for _ in SIZES] for _ in range(classes)]
    for index in range(classes):
        regions, number = ndimage.label(truth.numpy() == index, np.ones((3, 3)))
        scored = truth != IGNORE
        false = int(((prediction == index) & (truth != index) & scored).sum())
        total = int((truth == index).sum())
        for region in range(1, number + 1):
            mask = torch.from_numpy(regions == region)
            pixels = int(mask.sum())
            share = Fraction(pixels, truth.numel())
            size = SMALL if share < Fraction(1, 300) else MEDIUM if share < Fraction(3, 100) else LARGE
            row = counts[index][size]
            row[0] += 1
            row[1] += pixels
            row[2] += int((prediction[mask] == index).sum())
            row[3] += Fraction(false * pixels, total)
    return counts


def test_counts_equal_a_slow_reference() -> None:
    truths, predictions = random_scenes(torch.Generator().manual_seed(1), 8, noise=0.4)
    for truth, prediction in zip(truths, predictions, strict=True):
        counts, expected = count(truth, prediction, 4), slow_counts(truth, prediction, 4)
        assert counts[..., :3].tolist() == [[row[:3] for row in rows] for rows in expected]
        # False positives are whole numbers, at most one away from the exact share, and add up.
        for own, rows in zip(counts[..., 3].tolist(), expected, strict=True):
            assert sum(own) == sum(row[3] for row in rows)
            assert all(abs(number - row[3]) < 1 for number, row in zip(own, rows, strict=True))


def test_a_batch_equals_the_sum_of_its_images_on_any_split() -> None:
    truths, predictions = random_scenes(torch.Generator().manual_seed(2), 5, noise=0.5)
    objects = [find_objects(truth, IGNORE) for truth in truths]
    total = count_objects(objects, truths, predictions, 4)
    parts = [count(truth, prediction, 4) for truth, prediction in zip(truths, predictions, strict=True)]
    assert torch.equal(total, sum(parts))
    assert total.dtype == torch.int64


def test_many_classes_of_one_image() -> None:
    truth = torch.arange(847).repeat_interleave(4).view(-1, 4)
    prediction = truth.flip(0)
    counts = count_objects([find_objects(truth, 65535)], [truth], [prediction], 847)
    assert counts[:, SMALL, 0].tolist() == [1] * 847  # 4 of 3388 pixels
    assert counts[:, SMALL, 2].sum() == 4  # the class in the middle


def test_without_counts_everything_is_none() -> None:
    report = size_metrics(None, torch.ones(2, 2, dtype=torch.int64), {"things": (0,)})
    assert set(report.values()) == {None}
    assert report.keys() > set(size_metric_names(["things"]))
    assert "-" in format_sizes(report)


def test_mapper_adds_the_objects_of_labelled_records() -> None:
    truth = scene((1, 0, 0, 1, 2))
    mapper = ObjectMapper(lambda record: dict(record), IGNORE)
    assert mapper({"file_name": "a.jpg"}) == {"file_name": "a.jpg"}
    mapped = mapper({"sem_seg": truth})["label_objects"]
    assert mapped.objects.tolist() == [[0, LARGE], [1, SMALL]]
