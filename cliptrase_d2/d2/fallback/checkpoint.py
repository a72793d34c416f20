"""Serves `detectron2.checkpoint.DetectionCheckpointer`, without the conversions of detection models."""

from __future__ import annotations

from typing import Any

from fvcore.common.checkpoint import Checkpointer
from torch import nn

from cliptrase_d2.d2.fallback import comm
from cliptrase_d2.d2.safe_checkpoint import read_checkpoint


class DetectionCheckpointer(Checkpointer):
    """fvcore's checkpointer that saves on the main process only and reads data only."""

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, save_to_disk: bool | None = None, **checkpointables: Any
    ):
        save_to_disk = comm.is_main_process() if save_to_disk is None else save_to_disk
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)

    def _load_file(self, f: str) -> dict[str, Any]:
        return read_checkpoint(f)
