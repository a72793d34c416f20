"""Where the time of a model goes: a clock of its stages, and what takes the place of trained weights.

Speed does not depend on what weights are worth, but random ones cluster photographs into something that says nothing.
So blocks of patches take the place of the clusters that are found, and random unit vectors that of words.
"""

from __future__ import annotations

import ctypes
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.evaluation.provenance import versions
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.settings import Method
from cliptrase_d2.utils.atomic_files import atomic_write_text
from cliptrase_d2.vocabulary import Vocabulary

STAGES = ("image tower", "correlation", "clustering", "proposals", "classification", "refinement")
STAGE_OF = {  # which of them a step of the method belongs to
    "correlate": "correlation",
    "cluster": "clustering",
    "propose": "proposals",
    "word_logits": "classification",
    "classify": "classification",
    "refine": "refinement",
}
Result = TypeVar("Result")


class Clock:
    """Adds up the seconds of named stages, waiting for the device before and after each."""

    def __init__(self, device: str):
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    def __call__(self, stage: str, job: Callable[..., Result], *args: Any) -> Result:
        self.add(stage, -1)
        result = job(*args)
        self.add(stage, 1)
        return result

    def add(self, stage: str, sign: int) -> None:
        """Count the time of now into a stage: -1 at its beginning, 1 at its end."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        self.seconds[stage] += sign * time.perf_counter()

    def take(self) -> dict[str, float]:
        """The seconds since the last call."""
        seconds, self.seconds = self.seconds, defaultdict(float)
        return seconds


class TimedMethod:
    """A method whose stages run under a clock; clusters may be replaced before they go on.

    Args:
        method: whose stages run.
        clock: that times them.
        clusters: a number of images -> [B,N], in place of those that are found; None to go on with what is found.
    """

    def __init__(self, method: Method, clock: Clock, clusters: Callable[[int], Tensor] | None):
        self.method, self.clock, self.clusters = method, clock, clusters

    def __getattr__(self, name: str) -> Any:
        if name not in STAGE_OF:  # a setting
            return getattr(self.method, name)
        job = partial(self.clock, STAGE_OF[name], getattr(self.method, name))
        if name != "cluster" or self.clusters is None:
            return job
        clusters = self.clusters
        return lambda rows: (job(rows), clusters(len(rows)).to(rows.device))[1]


@contextmanager
def timed(model: CLIPtrase, clock: Clock, clusters: Callable[[int], Tensor] | None) -> Iterator[None]:
    """The tower and the stages of a model's method run under a clock.

    Args:
        model: as it was before, afterwards.
        clock: that times them.
        clusters: a number of images -> [B,N], in place of those that are found; None to go on with what is found.
    """
    method = model.method
    hooks = [
        model.tower.register_forward_pre_hook(lambda *_: clock.add("image tower", -1)),
        model.tower.register_forward_hook(lambda *_: clock.add("image tower", 1)),
    ]
    model.method = TimedMethod(method, clock, clusters)  # type: ignore[assignment]
    try:
        yield
    finally:
        model.method = method
        for hook in hooks:
            hook.remove()


def random_text(vocabulary: Vocabulary, width: int, device: str) -> TextFeatures:
    """Random unit vectors in the place of words: encoding text is no part of an image's time."""
    generator = torch.Generator().manual_seed(1)
    features = normalize(torch.randn(len(vocabulary.prompts), width, generator=generator), dim=-1)
    index = torch.tensor(vocabulary.class_index, device=device)
    return TextFeatures(features.to(device), index, vocabulary.classes)


def blocks(batch: int, side: int, count: int) -> Tensor:
    """[B,N] labels of about `count` rectangles on a grid of side×side patches."""
    rows = max(1, int(count**0.5))
    columns = -(-count // rows)
    line = torch.arange(side)
    labels = (line * rows // side)[:, None] * columns + (line * columns // side)[None, :]  # [side,side]
    return labels.flatten().unique(return_inverse=True)[1].expand(batch, -1)


def peak_megabytes(device: str, job: Callable[[], object]) -> float | None:
    """Most memory that a job holds beyond what is held before it; None where the system does not tell."""
    if device.startswith("cuda"):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        job()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    process = Path("/proc/self")
    if not (process / "clear_refs").exists():  # Linux alone keeps a high-water mark that can be set back
        return None
    if hasattr(ctypes.CDLL(None), "malloc_trim"):  # of glibc
        ctypes.CDLL(None).malloc_trim(0)  # else the job is given what was freed before it, and seems to need nothing
    (process / "clear_refs").write_text("5")
    before = _resident("VmRSS")
    job()
    return (_resident("VmHWM") - before) / 2**10


def device_title(device: str) -> str:
    """What a benchmark ran on, for its reader."""
    return torch.cuda.get_device_name() if device.startswith("cuda") else f"cpu, {torch.get_num_threads()} threads"


def write_report(path: Path | None, device: str, settings: Mapping[str, object], **found: object) -> None:
    """Write what a benchmark found, and of which device, settings and versions, as JSON; None for nowhere."""
    if path is None:
        return
    texts = {key: str(value) for key, value in settings.items() if value is not path}
    report = {"device": device_title(device), "settings": texts, "versions": versions(), **found}
    atomic_write_text(path, json.dumps(report, indent=1))


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
