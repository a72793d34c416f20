"""Parts of Detectron2's training and loading that the fallback does not have."""

from cliptrase_d2.d2 import BACKEND
from cliptrase_d2.utils.errors import InputError

if BACKEND != "detectron2":
    FIX = "Install Detectron2 (docs/install.md), or train with train_net.py, which does not need it."
    raise InputError("cliptrase_d2.Trainer", "a subclass of Detectron2's DefaultTrainer, without Detectron2", FIX)

from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer
from detectron2.solver.build import maybe_add_gradient_clipping

__all__ = ["DefaultTrainer", "build_detection_test_loader", "maybe_add_gradient_clipping"]
