"""Configuration, as in `detectron2.config`: the keys for segmentation and training, and `configurable`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from fvcore.common.config import CfgNode

# Names and values are Detectron2's, whose documentation explains them.
_DEFAULTS: dict[str, Any] = {
    "VERSION": 2,
    "MODEL": {
        "DEVICE": "cuda",  # get_cfg falls back to "cpu"; Detectron2 does not
        "META_ARCHITECTURE": "GeneralizedRCNN", "WEIGHTS": "",
        "PIXEL_MEAN": [103.530, 116.280, 123.675], "PIXEL_STD": [1.0, 1.0, 1.0],
        "BACKBONE": {"NAME": "build_resnet_backbone", "FREEZE_AT": 2},
        "SEM_SEG_HEAD": {"NAME": "SemSegFPNHead", "IGNORE_VALUE": 255, "NUM_CLASSES": 54},
    },
    "INPUT": {
        "MIN_SIZE_TRAIN": (800,), "MIN_SIZE_TRAIN_SAMPLING": "choice", "MAX_SIZE_TRAIN": 1333,
        "MIN_SIZE_TEST": 800, "MAX_SIZE_TEST": 1333, "RANDOM_FLIP": "horizontal", "FORMAT": "BGR",
        "CROP": {"ENABLED": False, "TYPE": "relative_range", "SIZE": [0.9, 0.9]},
    },
    "DATASETS": {"TRAIN": (), "TEST": ()},
    "DATALOADER": {
        "NUM_WORKERS": 4, "ASPECT_RATIO_GROUPING": True, "SAMPLER_TRAIN": "TrainingSampler",
        "REPEAT_THRESHOLD": 0.0, "FILTER_EMPTY_ANNOTATIONS": True,
    },
    "SOLVER": {
        "IMS_PER_BATCH": 16, "MAX_ITER": 40000, "CHECKPOINT_PERIOD": 5000, "AMP": {"ENABLED": False},
        "LR_SCHEDULER_NAME": "WarmupMultiStepLR", "BASE_LR": 0.001, "BASE_LR_END": 0.0, "GAMMA": 0.1, "STEPS": (30000,),
        "WARMUP_FACTOR": 1.0 / 1000, "WARMUP_ITERS": 1000, "WARMUP_METHOD": "linear",
        "MOMENTUM": 0.9, "NESTEROV": False, "BIAS_LR_FACTOR": 1.0,
        "WEIGHT_DECAY": 0.0001, "WEIGHT_DECAY_NORM": 0.0, "WEIGHT_DECAY_BIAS": None,
        "CLIP_GRADIENTS": {"ENABLED": False, "CLIP_TYPE": "value", "CLIP_VALUE": 1.0, "NORM_TYPE": 2.0},
    },
    "TEST": {
        "EXPECTED_RESULTS": [], "EVAL_PERIOD": 0,
        "AUG": {"ENABLED": False, "MIN_SIZES": tuple(range(400, 1201, 100)), "MAX_SIZE": 4000, "FLIP": True},
    },
    "OUTPUT_DIR": "./output", "SEED": -1, "CUDNN_BENCHMARK": False, "FLOAT32_PRECISION": "", "VIS_PERIOD": 0,
}  # fmt: skip


def get_cfg() -> CfgNode:
    """Return a new config with the default values."""
    cfg = CfgNode(_DEFAULTS)
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    return cfg


def configurable(init_func: Callable[..., None]) -> Callable[..., None]:
    """Decorate an `__init__` to accept a config, for a class with the class method `from_config`.

    If a config is passed first, or as `cfg`, `from_config(cfg, ...)` returns the arguments; keywords that it does not
    take override them. Otherwise nothing changes.
    """

    @functools.wraps(init_func)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        if not isinstance(args[0] if args else kwargs.get("cfg"), CfgNode):
            init_func(self, *args, **kwargs)
            return
        from_config = type(self).from_config
        names = inspect.signature(from_config).parameters
        overrides = {name: kwargs.pop(name) for name in [*kwargs] if name not in names}
        init_func(self, **{**from_config(*args, **kwargs), **overrides})

    return wrapped
