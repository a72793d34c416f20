"""Training batches: reproducibility, captions and the schedule of window sizes."""

import numpy as np
import torch

from cliptrase_d2.data.emoji_scenes.names import SEEN_THINGS
from tools.emoji_clip.batches import BALANCED_FROM, Canvases, Window

SMALL = (Window(14, 4, 0.5, 0.5, 1, 0), Window(4, 16, 0.8, 1, 1, 1))


def build_canvases(count: int, rank: int = 0, world: int = 1) -> Canvases:
    return Canvases(count, 0, SMALL, ("{}", "a {}"), rank, world)


def test_batches_depend_on_their_number_only() -> None:
    canvases = build_canvases(6)
    first, again, other = canvases.batch(3, 0.5, 8), canvases.batch(3, 0.5, 8), canvases.batch(4, 0.5, 8)
    assert torch.equal(first.images, again.images)
    assert first.captions == again.captions
    assert first.captions != other.captions
    assert first.images.shape[-1] == 8 * first.window.grid
    assert sorted(set(first.caption_index.tolist())) == list(range(len(first.captions)))


def test_early_captions_name_more_things() -> None:
    canvases = Canvases(6, 0, (Window(4, 300, 1.0, 1, 1, 1),), ("{}",))

    def share_of_things(progress: float) -> float:
        batch = canvases.batch(0, progress, 8)
        return np.mean([batch.captions[index] in SEEN_THINGS for index in batch.caption_index.tolist()])

    assert share_of_things(0.39) > share_of_things(BALANCED_FROM) + 0.1


def test_processes_divide_the_canvases() -> None:
    zero, one = (build_canvases(5, rank, 2).images for rank in range(2))
    images = build_canvases(5).images
    assert np.array_equal(zero, images[::2])
    assert np.array_equal(one, images[1::2])


def test_window_sizes_follow_the_schedule() -> None:
    canvases = build_canvases(2)
    start = [canvases.batch(step, 0.0, 8).window.grid for step in range(60)]
    end = [canvases.batch(step, 1.0, 8).window.grid for step in range(60)]
    assert 15 < start.count(14) < 45
    assert end.count(14) == 0
