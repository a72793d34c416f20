"""A long evaluation of nothing much, which measures its own memory."""

from __future__ import annotations

import logging
import resource
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cliptrase_d2.data.loader import build_evaluation_loader
from cliptrase_d2.data.register import register_dataset
from cliptrase_d2.evaluation.evaluate import evaluate
from cliptrase_d2.evaluation.evaluator import SegmentationEvaluator
from cliptrase_d2.evaluation.progress import Progress

CLASSES = 171


class Constant(nn.Module):
    """Calls every pixel class 0, and notes the memory of the process after a tenth of the images and at the end."""

    def __init__(self, images: int) -> None:
        super().__init__()
        self.images, self.seen = images, 0
        self.memory: list[int] = []

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        self.seen += len(batched_inputs)
        if self.seen in (self.images // 10, self.images):
            self.memory.append(_resident())
        return [{"label_map": torch.zeros_like(inputs["sem_seg"])} for inputs in batched_inputs]


def _resident() -> int:
    """Bytes of memory in use by this process (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _mapper(record: dict[str, Any]) -> dict[str, Any]:
    truth = torch.full((4, 4), int(record["file_name"][:12]) % CLASSES)
    return {**record, "image": torch.zeros(3, 4, 4, dtype=torch.uint8), "sem_seg": truth}


def growth(folder: Path, images: int) -> float:
    """Megabytes by which the process grows between a tenth of an evaluation and its end, progress files included."""
    logging.disable()
    records = [{"file_name": f"{index:012d}.jpg"} for index in range(images)]
    name = register_dataset("long", folder, [f"class {index}" for index in range(CLASSES)], folder / "labels")
    loader = build_evaluation_loader(records, _mapper, batch_size=10, num_workers=0, on_error="stop")
    model = Constant(images)
    writer = Progress(folder / "progress", "", images, CLASSES).writer(1, 0)
    done = np.zeros(images, dtype=bool)
    evaluate(model, loader, SegmentationEvaluator(name, folder), "long", done=done, writer=writer)
    before, after = model.memory
    return (after - before) / 2**20
