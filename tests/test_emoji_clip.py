"""The embedded model knows what it was trained on: words for pictures, without a file from anywhere else."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
from torch import Tensor

from cliptrase_d2.clip.embedded import NAME, TAG, WEIGHTS
from cliptrase_d2.clip.load import get_tokenizer, load_clip
from cliptrase_d2.clip.open_clip_modules import pixel_statistics
from cliptrase_d2.data.emoji_scenes.names import HELD_OUT, SEEN_THINGS, STUFF, THINGS
from cliptrase_d2.data.emoji_scenes.scene import Layout, Thing, draw


@pytest.fixture(scope="module", autouse=True)
def no_download() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_clip, "download_pretrained", lambda *_: pytest.fail("tried to download"))
        yield


def _one_thing(name: str, index: int) -> Tensor:
    """A thing that nearly fills a picture, on any stuff: [3,112,112] in 0 to 1."""
    layout = Layout((STUFF[index % len(STUFF)],), (Thing(name, (0.5, 0.5), 0.8, 0, False),), 1.0, index)
    return torch.from_numpy(draw(layout, 112).image.copy()).permute(2, 0, 1) / 255


def _top1(names: tuple[str, ...], pictures: int) -> float:
    """How often encode_image is nearest to the right one of all things' names."""
    model, _ = load_clip(NAME, TAG)
    shown = [names[index % len(names)] for index in range(pictures)]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in pixel_statistics(model.visual))
    images = (torch.stack([_one_thing(name, index) for index, name in enumerate(shown)]) - mean) / std
    texts = get_tokenizer(NAME)([f"a photo of a {name}." for name in THINGS])
    similarity = model.encode_image(images, normalize=True) @ model.encode_text(texts, normalize=True).T
    return float(
        np.mean([THINGS[best] == name for best, name in zip(similarity.argmax(1).tolist(), shown, strict=True)])
    )


def test_things_of_training_are_named() -> None:
    assert _top1(SEEN_THINGS, 208) > 0.75


def test_things_that_training_never_showed_are_named_far_above_chance() -> None:
    """Each is a known colour of a known shape; chance is one in 57."""
    assert _top1(HELD_OUT, 60) > 0.15


def test_weights_are_small_enough_for_a_repository() -> None:
    assert WEIGHTS.stat().st_size < 12e6
