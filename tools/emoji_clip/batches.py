"""Batches of pictures with captions: windows of canvases that are drawn once and kept in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from tools.emoji_clip.pairs import caption, cut_window, draw_canvas

# Things are many and small, stuff is little and everywhere. Training first looks at things and speaks of them, or it
# would learn to tell pictures by their stuff alone; from this share of the steps on it looks at and names both alike,
# or it would see things everywhere.
BALANCED_FROM = 0.4


@dataclass(frozen=True)
class Window:
    """One size of picture.

    Attributes:
        grid: patches a side.
        batch: pictures of a step and process.
        brief: share of captions that name one thing or stuff only.
        kept: share of the patches that are not left out.
        start, end: relative frequency at the start and at the end of training. Small windows teach words quickly
            and what a few patches mean, whole pictures then that it means the same among many others.
    """

    grid: int
    batch: int
    brief: float
    kept: float
    start: float
    end: float


@dataclass(frozen=True)
class Batch:
    """Pictures [B,3,H,W] uint8, their U different captions, and the number of each picture's caption [B]."""

    images: Tensor
    captions: list[str]
    caption_of: Tensor
    window: Window


class Canvases:
    """A process's share of the canvases, drawn once and kept in memory; batches are cut from them."""

    def __init__(
        self, count: int, seed: int, windows: Sequence[Window], templates: Sequence[str], rank: int = 0, world: int = 1
    ):
        self.seed, self.rank, self.windows, self.templates = seed, rank, windows, templates
        numbers = range(rank, count, world)
        scenes = [draw_canvas(index, seed) for index in tqdm(numbers, desc="Drawing", disable=rank > 0, mininterval=5)]
        self.images = np.stack([scene.image for scene in scenes])  # [M,S,S,3]
        self.labels = np.stack([scene.label for scene in scenes])  # [M,S,S]

    def batch(self, step: int, progress: float, patch: int) -> Batch:
        """The batch of a step; a function of the seed, the step and the process alone."""
        rng = np.random.default_rng((self.seed, self.rank, step))
        frequency = np.array([window.start + progress * (window.end - window.start) for window in self.windows])
        window = self.windows[rng.choice(len(self.windows), p=frequency / frequency.sum())]
        template = str(rng.choice(self.templates))
        early = progress < BALANCED_FROM
        pictures: list[NDArray[np.uint8]] = []
        captions: list[str] = []
        for index in rng.integers(0, len(self.images), window.batch):
            image, label = cut_window(
                self.images[index], self.labels[index], window.grid * patch, rng, 0.7 if early else 0.5
            )
            pictures.append(image)
            captions.append(template.format(caption(label, rng, window.brief, early)))
        different = list(dict.fromkeys(captions))
        caption_of = torch.tensor([different.index(text) for text in captions])
        return Batch(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2), different, caption_of, window)
