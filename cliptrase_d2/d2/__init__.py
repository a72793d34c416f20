"""The one door to Detectron2: the names that this project uses, from Detectron2 where it is installed, else from
the fallback. Nothing else in the project imports `detectron2`.

The environment variable CLIPTRASE_D2 (`detectron2` or `fallback`) forces a side; `describe()` says which one runs.
Five names are the project's own, the same on either side: `merge_config_file` and `merge_config_options`,
`DetectionCheckpointer`, which loads data only, `launch`, which also works under `torchrun`, and `describe`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cliptrase_d2.d2.backend import broken_detectron2, choose_backend, describe_backend
from cliptrase_d2.d2.config_merge import merge_config_file, merge_config_options
from cliptrase_d2.d2.processes import make_launch
from cliptrase_d2.d2.safe_checkpoint import DataOnly

BACKEND = choose_backend()

if TYPE_CHECKING or BACKEND == "fallback":
    from cliptrase_d2.d2.fallback import comm, hooks
    from cliptrase_d2.d2.fallback.catalog import DatasetCatalog, MetadataCatalog
    from cliptrase_d2.d2.fallback.checkpoint import DetectionCheckpointer as _BaseCheckpointer
    from cliptrase_d2.d2.fallback.config import CfgNode, get_cfg
    from cliptrase_d2.d2.fallback.configurable import configurable
    from cliptrase_d2.d2.fallback.evaluator import DatasetEvaluator
    from cliptrase_d2.d2.fallback.events import (
        CommonMetricPrinter,
        EventStorage,
        EventWriter,
        JSONWriter,
        TensorboardXWriter,
        get_event_storage,
    )
    from cliptrase_d2.d2.fallback.launch import launch as _base_launch
    from cliptrase_d2.d2.fallback.logger import setup_logger
    from cliptrase_d2.d2.fallback.modeling import (
        BACKBONE_REGISTRY,
        META_ARCH_REGISTRY,
        SEM_SEG_HEADS_REGISTRY,
        build_model,
    )
    from cliptrase_d2.d2.fallback.setup import create_ddp_model, default_argument_parser, default_setup
    from cliptrase_d2.d2.fallback.solver import LRMultiplier, WarmupParamScheduler, build_lr_scheduler
    from cliptrase_d2.d2.fallback.structures import Boxes, ImageList, Instances, ShapeSpec
    from cliptrase_d2.d2.fallback.train_loop import AMPTrainer, HookBase, SimpleTrainer, TrainerBase

    _VERSION = ""
else:
    try:
        from detectron2 import __version__ as _VERSION
        from detectron2.checkpoint import DetectionCheckpointer as _BaseCheckpointer
        from detectron2.config import CfgNode, configurable, get_cfg
        from detectron2.data import DatasetCatalog, MetadataCatalog
        from detectron2.engine import (
            AMPTrainer,
            HookBase,
            SimpleTrainer,
            TrainerBase,
            create_ddp_model,
            default_argument_parser,
            default_setup,
            hooks,
        )
        from detectron2.engine import launch as _base_launch
        from detectron2.evaluation import DatasetEvaluator
        from detectron2.layers import ShapeSpec
        from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY, build_model
        from detectron2.solver import LRMultiplier, WarmupParamScheduler, build_lr_scheduler
        from detectron2.structures import Boxes, ImageList, Instances
        from detectron2.utils import comm
        from detectron2.utils.events import (
            CommonMetricPrinter,
            EventStorage,
            EventWriter,
            JSONWriter,
            TensorboardXWriter,
            get_event_storage,
        )
        from detectron2.utils.logger import setup_logger
    except Exception as error:  # a binary of another PyTorch, a missing or too new dependency: never hidden
        raise broken_detectron2(error) from error

__all__ = [
    "BACKBONE_REGISTRY",
    "BACKEND",
    "META_ARCH_REGISTRY",
    "SEM_SEG_HEADS_REGISTRY",
    "AMPTrainer",
    "Boxes",
    "CfgNode",
    "CommonMetricPrinter",
    "DatasetCatalog",
    "DatasetEvaluator",
    "DetectionCheckpointer",
    "EventStorage",
    "EventWriter",
    "HookBase",
    "ImageList",
    "Instances",
    "JSONWriter",
    "LRMultiplier",
    "MetadataCatalog",
    "ShapeSpec",
    "SimpleTrainer",
    "TensorboardXWriter",
    "TrainerBase",
    "WarmupParamScheduler",
    "build_lr_scheduler",
    "build_model",
    "comm",
    "configurable",
    "create_ddp_model",
    "default_argument_parser",
    "default_setup",
    "describe",
    "get_cfg",
    "get_event_storage",
    "hooks",
    "launch",
    "merge_config_file",
    "merge_config_options",
    "setup_logger",
]

launch = make_launch(_base_launch, comm)


class DetectionCheckpointer(DataOnly, _BaseCheckpointer):
    """Detectron2's checkpointer, except that it reads data only: pickles that could run code are refused."""


def describe() -> str:
    """One line for the log: which side runs, and why."""
    return describe_backend(BACKEND, _VERSION)
