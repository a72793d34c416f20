"""The embedded model recognizes the things it was trained on, without any download."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cliptrase_d2.clip.embedded import NAME, TAG, WEIGHTS
from cliptrase_d2.clip.load import load_clip
from cliptrase_d2.clip.open_clip_modules import pixel_statistics
from cliptrase_d2.clip.tokenizer import get_tokenizer
from cliptrase_d2.data.emoji_scenes.names import HELD_OUT, SEEN_THINGS, STUFF, THINGS
from cliptrase_d2.data.emoji_scenes.scene import Layout, Thing, draw


@pytest.fixture(scope="module", autouse=True)
def no_download() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cliptrase_d2.clip.weights_source.fetch_weights", lambda _: pytest.fail("tried to download"))
        yield


def _draw_thing(name: str, index: int) -> Tensor:
    """Draw a thing that nearly fills a picture, on any stuff: [3,112,112] in 0 to 1."""
    layout = Layout((STUFF[index % len(STUFF)],), (Thing(name, (0.5, 0.5), 0.8, 0, False),), 1.0, index)
    return torch.from_numpy(draw(layout, 112).image.copy()).permute(2, 0, 1) / 255


@pytest.mark.parametrize(
    ("names", "pictures", "top1"),
    [(SEEN_THINGS, 208, 0.75), (HELD_OUT, 60, 0.15)],  # chance is 1 in 57
    ids=["things of training", "things that training never showed"],
)
def test_things_are_recognized_by_the_text_of_their_names(names: tuple[str, ...], pictures: int, top1: float) -> None:
    model, _ = load_clip(NAME, TAG)
    shown = [names[index % len(names)] for index in range(pictures)]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in pixel_statistics(model.visual))
    images = (torch.stack([_draw_thing(name, index) for index, name in enumerate(shown)]) - mean) / std
    texts = get_tokenizer(NAME)([f"a photo of a {name}." for name in THINGS])
    similarity = model.encode_image(images, normalize=True) @ model.encode_text(texts, normalize=True).T
    nearest = np.array(THINGS)[similarity.argmax(1).numpy()]
    assert (nearest == np.array(shown)).mean() > top1


def test_weights_are_small_enough_for_a_repository() -> None:
    assert WEIGHTS.stat().st_size < 12e6
