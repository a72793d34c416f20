"""Training batches of Emoji CLIP, cut from canvases in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tools.emoji_clip.pairs import cut_window, draw_canvas, make_caption

# There are many small things and few kinds of stuff, which cover most of each image. Early windows and captions favour
# things. Otherwise the model would distinguish images by their stuff alone. After this share of the steps, things and
# stuff are treated equally. Otherwise the model would detect things everywhere.
BALANCED_FROM = 0.4


@dataclass(frozen=True)
class Window:
    """A window size.

    Attributes:
        grid: patches per side.
        batch: images per step and process.
        brief: share of captions with one class.
        patch_share: share of the patches to encode; the others are dropped.
        start, end: relative frequency at the start and the end of the training. Small windows quickly teach words and
            the meaning of a few patches. Large ones teach that this meaning is the same among many other patches.
    """

    grid: int
    batch: int
    brief: float
    patch_share: float
    start: float
    end: float


@dataclass(frozen=True)
class Batch:
    """Images [B,3,H,W] uint8, their U different captions, and the caption index [B] of each image."""

    images: Tensor
    captions: list[str]
    caption_index: Tensor
    window: Window


class Canvases:
    """The canvases of one process, drawn once and stored in memory."""

    def __init__(
        self, count: int, seed: int, windows: Sequence[Window], templates: Sequence[str], rank: int = 0, world: int = 1
    ):
        self.seed, self.rank, self.windows, self.templates = seed, rank, windows, templates
        numbers = range(rank, count, world)
        scenes = [draw_canvas(index, seed) for index in tqdm(numbers, desc="Drawing", disable=rank > 0, mininterval=5)]
        self.images = np.stack([scene.image for scene in scenes])  # [M,S,S,3]
        self.labels = np.stack([scene.label for scene in scenes])  # [M,S,S]

    def batch(self, step: int, progress: float, patch: int) -> Batch:
        """Return the batch of a step. It depends only on the seed, the step and the process."""
        rng = np.random.default_rng((self.seed, self.rank, step))
        frequency = np.array([window.start + progress * (window.end - window.start) for window in self.windows])
        window = self.windows[rng.choice(len(self.windows), p=frequency / frequency.sum())]
        template = str(rng.choice(self.templates))
        is_early = progress < BALANCED_FROM
        images, captions, side, aimed = [], [], window.grid * patch, 0.7 if is_early else 0.5
        for index in rng.integers(0, len(self.images), window.batch):
            image, label = cut_window(self.images[index], self.labels[index], side, rng, aimed)
            images.append(image)
            captions.append(template.format(make_caption(label, rng, window.brief, is_early)))
        different = list(dict.fromkeys(captions))
        caption_index = torch.tensor([different.index(text) for text in captions])
        return Batch(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), different, caption_index, window)
