"""Training data: augmentation, the order of images, and reading in workers."""

from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.san.training_data import Augmentation, TrainingDataset, change_colours, load_batches, sample_records
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary
from tests.drawn_scenes import CLASSES, write_scenes

# Each pixel encodes its position: red is the column, green the row, the label the quadrant.
COLUMNS, ROWS = np.meshgrid(np.arange(60), np.arange(40))
IMAGE = np.stack([COLUMNS * 4, ROWS * 4, np.zeros_like(ROWS)], axis=2).astype(np.uint8)
LABELS = (COLUMNS >= 30).astype(np.int64) + 2 * (ROWS >= 20)


def augment(seed: int = 0, labels: np.ndarray = LABELS, **changes: Any) -> tuple[np.ndarray, np.ndarray]:
    arguments = {
        "short_sides": (40,), "sampling": "choice", "max_size": 100, "crop": None, "colours": False, "flip": False,
    }  # fmt: skip
    return Augmentation(**{**arguments, **changes})(IMAGE, labels, np.random.default_rng(seed), 255)


def test_view_without_augmentation_is_the_image() -> None:
    image, labels = augment()
    assert np.array_equal(image, IMAGE)
    assert np.array_equal(labels, LABELS)


@pytest.mark.parametrize(("sampling", "expected"), [("choice", {20, 23}), ("range", {20, 21, 22, 23})])
def test_short_side_is_drawn(sampling: str, expected: set[int]) -> None:
    shapes = [augment(seed, short_sides=(20, 23), sampling=sampling)[0].shape for seed in range(60)]
    assert {shape[0] for shape in shapes} == expected
    assert all(shape[1] == round(shape[0] * 1.5 + 0.1) for shape in shapes)  # of 40x60, halves rounded up


def test_long_side_is_limited() -> None:
    assert augment(short_sides=(80,), max_size=90)[0].shape[:2] == (60, 90)


def test_crop_has_image_and_labels_of_the_same_place() -> None:
    starts = set()
    for seed in range(30):
        image, labels = augment(seed, crop=(16, 24))
        assert labels.shape == (16, 24)
        column, row = image[0, 0, 0] // 4, image[0, 0, 1] // 4
        assert np.array_equal(labels, LABELS[row : row + 16, column : column + 24])
        starts.add((row, column))
    assert len(starts) > 20
    assert max(row for row, _ in starts) > 18
    assert max(column for _, column in starts) > 28


def test_small_images_are_padded_with_grey_and_the_ignore_label() -> None:
    image, labels = augment(crop=(50, 64))
    assert image.shape == (50, 64, 3)
    assert (image[40:] == 128).all()
    assert (image[:, 60:] == 128).all()
    assert (labels[40:] == 255).all()
    assert np.array_equal(labels[:40, :60], LABELS)


def test_half_of_the_views_are_mirrored_with_their_labels() -> None:
    mirrored = 0
    for seed in range(40):
        image, labels = augment(seed, flip=True)
        is_mirrored = image[0, 0, 0] > 100
        assert np.array_equal(labels, LABELS[:, ::-1] if is_mirrored else LABELS)
        mirrored += is_mirrored
    assert 10 < mirrored < 30


def test_each_colour_change_has_probability_one_half() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    same = sum(np.array_equal(change_colours(image, np.random.default_rng(seed)), image) for seed in range(400))
    assert 10 < same < 45  # 1/16 of 400 is 25: none of the four changes applies


def test_changed_colours_stay_in_range() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    for seed in range(50):
        changed = change_colours(image, np.random.default_rng(seed))
        assert changed.dtype == np.uint8
        before, after = (cv2.cvtColor(view, cv2.COLOR_RGB2GRAY).mean() for view in (image, changed))
        assert 0.2 * before < after < 2 * before


def test_labels_above_255_are_kept() -> None:
    labels = augment(labels=LABELS + 40_000, short_sides=(20,), crop=(32, 32))[1]
    assert set(np.unique(labels)) == {40_000, 40_001, 40_002, 40_003, 255}


def order(records: int, count: int, **arguments: int) -> list[tuple[int, int]]:
    """The first (index, position) of a stream."""
    defaults = {"seed": 0, "start": 0, "batch": 4}
    stream = sample_records(records, **{**defaults, **arguments})
    return [(index, position) for index, (_, _, position) in islice(stream, count)]


def test_each_epoch_has_each_record_once() -> None:
    stream = order(5, 15, batch=3)
    for start in (0, 5, 10):
        assert sorted(index for index, _ in stream[start : start + 5]) == list(range(5))
    assert [position for _, position in stream] == list(range(15))


def test_epochs_and_seeds_have_different_orders() -> None:
    first, second = (order(20, 40, seed=seed) for seed in (0, 1))
    assert [index for index, _ in first[:20]] != [index for index, _ in first[20:]]
    assert first != second


def test_later_start_continues_the_stream() -> None:
    assert order(7, 28, seed=3, start=12) == order(7, 40, seed=3)[12:]


def test_processes_share_each_step() -> None:
    shares = [order(7, 20, seed=3, rank=rank, processes=2) for rank in (0, 1)]
    joined = [item for step in range(10) for share in shares for item in share[2 * step : 2 * step + 2]]
    assert joined == order(7, 40, seed=3)


@pytest.fixture
def records(tmp_path: Path) -> list[dict[str, str]]:
    write_scenes(tmp_path, 3)
    images = sorted((tmp_path / "images").iterdir())
    labels = sorted((tmp_path / "annotations").iterdir())
    return [{"file_name": str(i), "sem_seg_file_name": str(t)} for i, t in zip(images, labels, strict=True)]


def dataset(records: list[dict[str, str]], **arguments: int) -> TrainingDataset:
    augmentation = Augmentation((48, 64), "choice", 200, (48, 48), True, True)
    return TrainingDataset(records, augmentation, Vocabulary.parse(CLASSES), LabelRule(len(CLASSES)), **arguments)


def batches(records: list[dict[str, str]], start: int = 0, workers: int = 0, count: int = 4) -> list[list[dict]]:
    stream = load_batches(dataset(records), seed=0, start=start, batch=2, num_workers=workers)
    return list(islice(stream, count))


def equal(first: list[list[dict]], second: list[list[dict]]) -> bool:
    return all(
        torch.equal(a[name], b[name])
        for one, other in zip(first, second, strict=True)
        for a, b in zip(one, other, strict=True)
        for name in ("image", "sem_seg")
    )


def test_view_has_the_inputs_of_training(records: list[dict[str, str]]) -> None:
    view = dataset(records).read_view(records[0], np.random.default_rng(0))
    assert view["image"].shape == (3, 48, 48)
    assert view["image"].dtype == torch.uint8
    assert view["sem_seg"].dtype == torch.int64
    present = set(view["sem_seg"].unique().tolist()) - {255}
    assert view["num_masks"] == len(present) > 0
    assert view["vocabulary"].classes == tuple(CLASSES)


def test_views_do_not_depend_on_workers_or_start(records: list[dict[str, str]]) -> None:
    expected = batches(records)
    assert equal(expected, batches(records, workers=2))
    assert equal(expected[2:], batches(records, start=4, count=2))


def test_loading_does_not_change_the_random_numbers_of_training(records: list[dict[str, str]]) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    batches(records, count=1)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_error_of_a_damaged_file_names_it(records: list[dict[str, str]], workers: int) -> None:
    Path(records[0]["file_name"]).write_bytes(b"no image")
    with pytest.raises(InputError, match=Path(records[0]["file_name"]).name):
        batches(records, workers=workers)


def test_images_above_the_pixel_limit_are_rejected(records: list[dict[str, str]]) -> None:
    with pytest.raises(InputError, match="1,000"):
        dataset(records, max_pixels=1000).read_view(records[0], np.random.default_rng(0))
