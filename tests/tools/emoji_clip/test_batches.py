"""Batches depend on their number alone, and show what the schedule asks for."""

from __future__ import annotations

import numpy as np
import torch

from cliptrase_d2.data.emoji_scenes.names import SEEN_THINGS
from tools.emoji_clip.batches import BALANCED_FROM, Canvases, Window

SMALL = (Window(14, 4, 0.5, 0.5, 1, 0), Window(4, 16, 0.8, 1, 1, 1))


def canvases_of(count: int, rank: int = 0, world: int = 1) -> Canvases:
    return Canvases(count, 0, SMALL, ("{}", "a {}"), rank, world)


def test_batches_are_a_function_of_their_number() -> None:
    canvases = canvases_of(6)
    first, again, other = canvases.batch(3, 0.5, 8), canvases.batch(3, 0.5, 8), canvases.batch(4, 0.5, 8)
    assert torch.equal(first.images, again.images)
    assert first.captions == again.captions
    assert first.captions != other.captions
    assert first.images.shape[-1] == 8 * first.window.grid
    assert sorted(set(first.caption_of.tolist())) == list(range(len(first.captions)))


def test_early_captions_name_more_things_than_later_ones() -> None:
    canvases = Canvases(6, 0, (Window(4, 300, 1.0, 1, 1, 1),), ("{}",))

    def share_of_things(progress: float) -> float:
        batch = canvases.batch(0, progress, 8)
        named = [batch.captions[index] in SEEN_THINGS for index in batch.caption_of.tolist()]
        return sum(named) / len(named)

    assert share_of_things(0.39) > share_of_things(BALANCED_FROM) + 0.1


def test_processes_share_the_canvases_without_a_common_one() -> None:
    zero, one = (canvases_of(5, rank, 2).images for rank in range(2))
    whole = canvases_of(5).images
    assert np.array_equal(zero, whole[::2])
    assert np.array_equal(one, whole[1::2])


def test_sizes_come_as_often_as_the_schedule_says() -> None:
    canvases = canvases_of(2)
    start = [canvases.batch(step, 0.0, 8).window.grid for step in range(60)]
    end = [canvases.batch(step, 1.0, 8).window.grid for step in range(60)]
    assert 15 < start.count(14) < 45
    assert end.count(14) == 0
