"""Atomic checkpoints, and a report of what was loaded from one."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cliptrase_d2.d2 import DetectionCheckpointer
from cliptrase_d2.d2.safe_checkpoint import QUICK_GELU
from cliptrase_d2.san.model import SAN
from cliptrase_d2.utils.atomic_files import atomic_write, atomic_write_text

logger = logging.getLogger(__name__)


class AtomicCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with atomic writes: a killed process leaves no partial file."""

    def save(self, name: str, **kwargs: Any) -> None:
        """Write SAVE_DIR/name.pth and mark it as the newest checkpoint.

        Args:
            name: without the suffix.
            **kwargs: plain values to store with the weights.
        Raises:
            WriteError: the folder is not writable or the disk is full; earlier checkpoints are unchanged.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        content: dict[str, Any] = {"model": self.model.state_dict()}
        content |= {key: part.state_dict() for key, part in self.checkpointables.items()} | kwargs
        if isinstance(self.model, SAN):
            content[QUICK_GELU] = self.model.quick_gelu
        path = Path(self.save_dir) / f"{name}.pth"
        atomic_write(path, lambda file: torch.save(content, file))
        self.tag_last_checkpoint(path.name)
        logger.info("Saved %s", path)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Record the newest checkpoint."""
        atomic_write_text(Path(self.save_dir) / "last_checkpoint", last_filename_basename)  # Detectron2's file name


def find_last_checkpoint(folder: str) -> str:
    """Return the newest checkpoint of a training in a folder; "" if there is none."""
    checkpointer = DetectionCheckpointer(nn.Module(), folder)
    return str(checkpointer.get_checkpoint_file()) if checkpointer.has_checkpoint() else ""


def describe_loading(model: nn.Module, weights: dict[str, Any]) -> str:
    """Return a report of loaded, missing, unexpected and mismatched tensors, in several lines.

    Args:
        model: to load into.
        weights: of the checkpoint, by name.
    """
    own = model.state_dict()
    mismatched = [name for name in weights if name in own and weights[name].shape != own[name].shape]
    groups = {
        "missing in the checkpoint, left unchanged": [name for name in own if name not in weights],
        "unknown to the model, ignored": [name for name in weights if name not in own],
        "different shape, left unchanged": mismatched,
    }
    lines = [f"loaded {len(own.keys() & weights.keys()) - len(mismatched)} of the model's {len(own)} tensors"]
    for title, names in groups.items():
        lines.append(f"  {title}: {len(names)}" + (f" ({_summarize(names)})" if names else ""))
    return "\n".join(lines)


def _summarize(names: list[str]) -> str:
    """List a few names, or count many by their first part."""
    if len(names) <= 8:
        return ", ".join(names)
    return ", ".join(f"{count} {part}.*" for part, count in Counter(name.partition(".")[0] for name in names).items())
