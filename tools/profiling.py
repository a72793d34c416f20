"""Clock, memory meter and random inputs of the benchmarks.

Speed does not depend on the weights, but clusters of random weights are meaningless. So rectangles of patches replace
the clusters, and random unit vectors replace the text features.
"""

from __future__ import annotations

import ctypes
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.evaluation.provenance import versions
from cliptrase_d2.mask_sources import MaskInputs, MaskSource
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.proposals import MaskProposals
from cliptrase_d2.pipeline.stages import cluster, propose
from cliptrase_d2.utils.atomic_files import atomic_write_text
from cliptrase_d2.utils.profiling import listeners
from cliptrase_d2.vocabulary import Vocabulary

STAGES = ("image tower", "correlation", "clustering", "proposals", "classification", "refinement")
Result = TypeVar("Result")


class Clock:
    """Adds up the seconds of named stages. It waits for the device before and after each."""

    def __init__(self, device: str):
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    def __call__(self, stage: str, job: Callable[..., Result], *args: Any) -> Result:
        self.mark(stage, True)
        result = job(*args)
        self.mark(stage, False)
        return result

    def mark(self, stage: str, begins: bool) -> None:
        """Note the beginning or the end of a stage."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        self.seconds[stage] += -time.perf_counter() if begins else time.perf_counter()

    def take(self) -> dict[str, float]:
        """Return the seconds since the last call."""
        seconds, self.seconds = self.seconds, defaultdict(float)
        return seconds


class RectangleClusters(MaskSource):
    """Clusters the correlation, and then continues with rectangles of patches instead.

    Args:
        count: approximate number of rectangles.
    """

    needs_pixels = False

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def propose(self, inputs: MaskInputs) -> list[MaskProposals]:
        """Propose the rectangles."""
        assert inputs.correlation is not None
        cluster(inputs.correlation, inputs.settings)
        labels = make_rectangles(inputs.grid, self.count).expand(len(inputs.sizes), -1).to(inputs.device)
        return propose(inputs.correlation, labels, inputs.grid, inputs.sizes, inputs.settings)


@contextmanager
def measure_stages(model: CLIPtrase, clock: Clock, rectangles: int | None) -> Iterator[None]:
    """Run the stages of a model under a clock.

    Args:
        model: unchanged afterwards.
        clock: measures the stages.
        rectangles: number of rectangles in place of the clusters; None to keep the clusters.
    """
    source = model.mask_source
    if rectangles is not None:
        model.mask_source = RectangleClusters(rectangles)
    listeners.append(clock.mark)
    try:
        yield
    finally:
        listeners.remove(clock.mark)
        model.mask_source = source


def make_random_text(vocabulary: Vocabulary, width: int, device: str) -> TextFeatures:
    """Return random unit vectors as text features. Encoding text is not part of an image's time."""
    generator = torch.Generator().manual_seed(1)
    features = normalize(torch.randn(len(vocabulary.prompts), width, generator=generator), dim=-1)
    index = torch.tensor(vocabulary.class_index, device=device)
    return TextFeatures(features.to(device), index, vocabulary.classes)


def make_rectangles(grid: tuple[int, int], count: int) -> Tensor:
    """Return [1,N] int64 labels of about `count` rectangles on a grid (h, w)."""
    rows = max(1, int(count**0.5))
    columns = -(-count // rows)
    row, column = (torch.arange(side) * parts // side for side, parts in zip(grid, (rows, columns), strict=True))
    labels = row[:, None] * columns + column[None, :]  # [h,w]
    return labels.flatten().unique(return_inverse=True)[1][None]


def measure_peak_megabytes(device: str, job: Callable[[], object]) -> float | None:
    """Return the peak memory of a job above the memory before it; None if the system does not report it."""
    if device.startswith("cuda"):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        job()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    process = Path("/proc/self")
    if not (process / "clear_refs").exists():  # only Linux has a high-water mark that can be reset
        return None
    if hasattr(ctypes.CDLL(None), "malloc_trim"):  # of glibc
        ctypes.CDLL(None).malloc_trim(0)  # else the job reuses freed memory and seems to need none
    (process / "clear_refs").write_text("5")
    before = _read_resident("VmRSS")
    job()
    return (_read_resident("VmHWM") - before) / 2**10


def get_device_title(device: str) -> str:
    """Return the name of the hardware for the report."""
    return torch.cuda.get_device_name() if device.startswith("cuda") else f"cpu, {torch.get_num_threads()} threads"


def write_report(path: Path | None, device: str, settings: Mapping[str, object], **results: object) -> None:
    """Write results with device, settings and versions as JSON; None to write nothing."""
    if path is None:
        return
    texts = {key: str(value) for key, value in settings.items() if value is not path}
    report = {"device": get_device_title(device), "settings": texts, "versions": versions(), **results}
    atomic_write_text(path, json.dumps(report, indent=1))


def _read_resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
