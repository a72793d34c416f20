"""Checkpoints that are whole or not there."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cliptrase_d2.d2 import DetectionCheckpointer
from cliptrase_d2.utils.atomic_files import atomic_write, atomic_write_text

logger = logging.getLogger(__name__)
_LAST = "last_checkpoint"  # Detectron2's name of the file that names the newest one


class AtomicCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, except that a process that is killed leaves no half-written file behind."""

    def save(self, name: str, **kwargs: Any) -> None:
        """Write SAVE_DIR/name.pth, and then that it is the newest.

        Args:
            name: without its suffix.
            **kwargs: plain values to keep beside the weights.
        Raises:
            WriteError: the folder cannot be written, or the disk is full; earlier checkpoints are as they were.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        content = {"model": self.model.state_dict()}
        content |= {key: part.state_dict() for key, part in self.checkpointables.items()} | kwargs
        path = Path(self.save_dir) / f"{name}.pth"
        atomic_write(path, lambda file: torch.save(content, file))
        self.tag_last_checkpoint(path.name)
        logger.info("Saved %s", path)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Note which checkpoint is the newest."""
        atomic_write_text(Path(self.save_dir) / _LAST, last_filename_basename)


def load_report(model: nn.Module, given: dict[str, Any]) -> str:
    """What becomes of every weight of a checkpoint, in some lines.

    Args:
        model: that it is loaded into.
        given: the checkpoint's weights by name.
    """
    own = model.state_dict()
    other = [name for name in given if name in own and given[name].shape != own[name].shape]
    loaded = sum(name in own for name in given) - len(other)
    kinds = {
        "missing, so as they were": [name for name in own if name not in given],
        "unexpected": [name for name in given if name not in own],
        "of another shape, so as they were": other,
    }
    lines = [f"{loaded} of the model's {len(own)} tensors are loaded"]
    for kind, names in kinds.items():
        lines.append(f"  {kind}: {len(names)}" + (f" ({_by_part(names)})" if names else ""))
    return "\n".join(lines)


def _by_part(names: list[str]) -> str:
    """Names one by one where they are few, else how many of each part of the model."""
    if len(names) <= 8:
        return ", ".join(names)
    parts: dict[str, int] = {}
    for name in names:
        part = name.partition(".")[0]
        parts[part] = parts.get(part, 0) + 1
    return ", ".join(f"{count} of {part}.*" for part, count in parts.items())
