"""Import shim for Detectron2: re-exports its names where it is installed, and the fallback's otherwise.

No other module of the project imports `detectron2`. The environment variable CLIPTRASE_D2 (`detectron2` or `fallback`)
selects the backend; `describe()` names the one in use. Six names are the project's own and work the same on both
backends: `merge_config_file`, `merge_config_options`, `DetectionCheckpointer` (loads data only), `launch` (also works
under `torchrun`), `default_argument_parser` and `describe`.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING

from cliptrase_d2.d2 import processes
from cliptrase_d2.d2.arguments import default_argument_parser
from cliptrase_d2.d2.backend import choose_backend, describe_backend, explain_import_error
from cliptrase_d2.d2.config_merge import merge_config_file, merge_config_options
from cliptrase_d2.d2.safe_checkpoint import DataOnly

BACKEND = choose_backend()

if TYPE_CHECKING or BACKEND == "fallback":
    from fvcore.common.checkpoint import Checkpointer as _BaseCheckpointer
    from fvcore.common.config import CfgNode

    from cliptrase_d2.d2.fallback import comm, hooks
    from cliptrase_d2.d2.fallback.catalog import DatasetCatalog, MetadataCatalog
    from cliptrase_d2.d2.fallback.config import configurable, get_cfg
    from cliptrase_d2.d2.fallback.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
    from cliptrase_d2.d2.fallback.hooks import HookBase, TrainerBase
    from cliptrase_d2.d2.fallback.modeling import META_ARCH_REGISTRY, DatasetEvaluator, build_model
    from cliptrase_d2.d2.fallback.setup import create_ddp_model, default_setup, setup_logger
    from cliptrase_d2.d2.fallback.solver import LRMultiplier, WarmupParamScheduler, build_lr_scheduler
    from cliptrase_d2.d2.fallback.structures import Boxes, ImageList, Instances

    _VERSION = ""
else:
    try:
        with warnings.catch_warnings():
            # Detectron2 and fvcore use torch.jit.script, and users cannot change that.
            warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)
            warnings.filterwarnings("ignore", message=".*torch.jit.script", category=DeprecationWarning)
            from detectron2 import __version__ as _VERSION
            from detectron2.checkpoint import DetectionCheckpointer as _BaseCheckpointer
            from detectron2.config import CfgNode, configurable, get_cfg
            from detectron2.data import DatasetCatalog, MetadataCatalog
            from detectron2.engine import HookBase, TrainerBase, create_ddp_model, hooks
            from detectron2.engine.defaults import default_setup
            from detectron2.evaluation import DatasetEvaluator
            from detectron2.modeling import META_ARCH_REGISTRY, build_model
            from detectron2.solver import LRMultiplier, WarmupParamScheduler, build_lr_scheduler
            from detectron2.structures import Boxes, ImageList, Instances
            from detectron2.utils import comm
            from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
            from detectron2.utils.logger import setup_logger
    except Exception as error:  # built for another PyTorch, or a dependency is missing or too new
        raise explain_import_error(error) from error

__all__ = [
    "BACKEND", "META_ARCH_REGISTRY", "Boxes", "CfgNode", "CommonMetricPrinter", "DatasetCatalog", "DatasetEvaluator",
    "DetectionCheckpointer", "EventWriter", "HookBase", "ImageList", "Instances", "JSONWriter", "LRMultiplier",
    "MetadataCatalog", "TensorboardXWriter", "TrainerBase", "WarmupParamScheduler", "build_lr_scheduler",
    "build_model", "comm", "configurable", "create_ddp_model", "default_argument_parser", "default_setup", "describe",
    "get_cfg", "hooks", "launch", "merge_config_file", "merge_config_options", "setup_logger",
]  # fmt: skip

describe = partial(describe_backend, BACKEND, _VERSION)
launch = partial(processes.launch, comm)


class DetectionCheckpointer(DataOnly, _BaseCheckpointer):
    """Detectron2's checkpointer, restricted to data: pickles that could run code are rejected."""
