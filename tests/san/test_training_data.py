"""The stream of training images: what comes when, whoever reads it and wherever it begins."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.san.augment import Augmentation
from cliptrase_d2.san.training_data import TrainingLoader, TrainingMapper, TrainingOrder
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary
from tests.drawn_scenes import CLASSES, write_scenes

AUGMENTATION = Augmentation((48, 64), "choice", 200, (48, 48), True, True)


def places(order: TrainingOrder, count: int) -> list[tuple[int, int]]:
    return list(islice(order, count))


def test_every_record_comes_once_in_every_round() -> None:
    order = places(TrainingOrder(5, seed=0, start=0, batch=3), 15)
    for start in (0, 5, 10):
        assert sorted(index for _, index in order[start : start + 5]) == list(range(5))
    assert [place for place, _ in order] == list(range(15))


def test_rounds_and_seeds_differ() -> None:
    first, second = (places(TrainingOrder(20, seed=seed, start=0, batch=4), 40) for seed in (0, 1))
    assert [index for _, index in first[:20]] != [index for _, index in first[20:]]
    assert first != second


def test_a_later_start_goes_on() -> None:
    whole = places(TrainingOrder(7, seed=3, start=0, batch=4), 40)
    assert places(TrainingOrder(7, seed=3, start=12, batch=4), 28) == whole[12:]


def test_processes_share_every_step() -> None:
    whole = places(TrainingOrder(7, seed=3, start=0, batch=4), 40)
    shares = [places(TrainingOrder(7, seed=3, start=0, batch=4, rank=rank, processes=2), 20) for rank in (0, 1)]
    together = [place for step in range(10) for share in shares for place in share[2 * step : 2 * step + 2]]
    assert together == whole


@pytest.fixture
def records(tmp_path: Path) -> list[dict[str, str]]:
    write_scenes(tmp_path, 3)
    images = sorted((tmp_path / "images").iterdir())
    labels = sorted((tmp_path / "annotations").iterdir())
    return [{"file_name": str(i), "sem_seg_file_name": str(t)} for i, t in zip(images, labels, strict=True)]


def mapper() -> TrainingMapper:
    return TrainingMapper(AUGMENTATION, Vocabulary.parse(CLASSES), LabelRule(len(CLASSES)))


def test_images_of_more_pixels_than_allowed_are_refused(records: list[dict[str, str]]) -> None:
    bounded = TrainingMapper(AUGMENTATION, Vocabulary.parse(CLASSES), LabelRule(len(CLASSES)), max_pixels=1000)
    with pytest.raises(InputError, match="at most 1,000 pixels"):
        bounded(records[0], np.random.default_rng(0))


def batches(records: list[dict[str, str]], start: int = 0, workers: int = 0, count: int = 4) -> list[list[dict]]:
    order = TrainingOrder(len(records), seed=0, start=start, batch=2)
    return list(islice(TrainingLoader(records, mapper(), order, num_workers=workers), count))


def equal(first: list[list[dict]], second: list[list[dict]]) -> bool:
    return all(
        torch.equal(a[name], b[name])
        for one, other in zip(first, second, strict=True)
        for a, b in zip(one, other, strict=True)
        for name in ("image", "sem_seg")
    )


def test_a_view_has_what_the_model_is_trained_with(records: list[dict[str, str]]) -> None:
    given = mapper()(records[0], np.random.default_rng(0))
    assert given["image"].shape == (3, 48, 48)
    assert given["image"].dtype == torch.uint8
    assert given["sem_seg"].dtype == torch.int64
    present = set(given["sem_seg"].unique().tolist()) - {255}
    assert given["num_masks"] == len(present) > 0
    assert given["vocabulary"].classes == tuple(CLASSES)


def test_views_do_not_depend_on_workers_or_on_the_start(records: list[dict[str, str]]) -> None:
    whole = batches(records)
    assert equal(whole, batches(records, workers=2))
    assert equal(whole[2:], batches(records, start=4, count=2))


def test_reading_moves_no_random_number_of_the_training(records: list[dict[str, str]]) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    batches(records, count=1)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_file_is_named(records: list[dict[str, str]], workers: int) -> None:
    Path(records[0]["file_name"]).write_bytes(b"no image")
    with pytest.raises(InputError, match=Path(records[0]["file_name"]).name):
        batches(records, workers=workers)
