"""A long evaluation of a trivial model, which measures its own memory."""

import logging
import resource
import sys
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


class ConstantModel(nn.Module):
    """Predicts class 0 everywhere, and records the memory of the process after a tenth of the images and at the end."""

    def __init__(self, num_images: int) -> None:
        super().__init__()
        self.measured_at = (num_images // 10, num_images)
        self.num_seen = 0
        self.memory: list[int] = []  # bytes

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        self.num_seen += len(batched_inputs)
        if self.num_seen in self.measured_at:
            pages = int(Path("/proc/self/statm").read_text().split()[1])  # Linux
            self.memory.append(pages * resource.getpagesize())
        return [{"label_map": torch.zeros_like(image["sem_seg"])} for image in batched_inputs]


def _make_image(record: dict[str, Any]) -> dict[str, Any]:
    truth = torch.full((4, 4), int(record["file_name"][:12]) % CLASSES)
    return {**record, "image": torch.zeros(3, 4, 4, dtype=torch.uint8), "sem_seg": truth}


def measure_growth(folder: Path, num_images: int) -> float:
    """Return the megabytes by which the process grows between a tenth of an evaluation and its end."""
    logging.disable()
    records = [{"file_name": f"{index:012d}.jpg"} for index in range(num_images)]
    name = register_dataset("long", folder, [f"class {index}" for index in range(CLASSES)], folder / "labels")
    loader = build_evaluation_loader(records, _make_image, batch_size=10, num_workers=0, on_error="stop")
    model = ConstantModel(num_images)
    writer = Progress(folder / "progress", "", num_images, CLASSES).writer(1, 0)
    done = np.zeros(num_images, dtype=bool)
    evaluate(model, loader, SegmentationEvaluator(name, folder), done=done, writer=writer)
    before, after = model.memory
    return (after - before) / 2**20


if __name__ == "__main__":
    print(measure_growth(Path(sys.argv[1]), int(sys.argv[2])))
