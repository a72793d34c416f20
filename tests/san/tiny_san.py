"""A SAN around the tiny CLIP, and its training on drawn scenes in seconds."""

from pathlib import Path

import torch
from torch import Tensor

from cliptrase_d2.d2 import CfgNode, build_model
from cliptrase_d2.data.register import register_dataset
from cliptrase_d2.san.model import SAN
from tests.drawn_scenes import CLASSES, write_scenes
from tests.pipeline.tiny_segmenter import tiny_config

# One of the tiny CLIP's three blocks encodes the image, two recognise masks.
TINY_SAN = (
    "MODEL.META_ARCHITECTURE", "SAN", "MODEL.SAN.ALLOW_UNTRAINED", "True",
    "MODEL.SAN.FEATURE_LAST_LAYER_IDX", "1", "MODEL.SAN.TRAIN_NUM_POINTS", "64",
    "MODEL.SIDE_ADAPTER.FUSION_MAP", "['0->0', '1->1']", "MODEL.SIDE_ADAPTER.DEEP_SUPERVISION_IDXS", "[1, 2]",
    "MODEL.SIDE_ADAPTER.WIDTH", "24", "MODEL.SIDE_ADAPTER.DEPTH", "2", "MODEL.SIDE_ADAPTER.HEADS", "2",
    "MODEL.SIDE_ADAPTER.NUM_QUERIES", "6", "MODEL.SIDE_ADAPTER.IMAGE_SIZE", "64",
    "MODEL.SIDE_ADAPTER.DECODER_CHANNELS", "16", "MODEL.CLIPTRASE.VOCABULARY", "['sky;blue', 'grass', 'star']",
    "MODEL.CLIP.POS_EMBED_RESIZE", "output_size",
)  # fmt: skip
TRAINING_OPTIONS = (
    "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MAX_SIZE_TRAIN", "128", "INPUT.CROP.ENABLED", "True",
    "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", "[64, 64]", "INPUT.COLOR_AUG_SSD", "True",
    "SOLVER.IMS_PER_BATCH", "4", "SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2",
    "SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR", "SOLVER.WARMUP_ITERS", "0", "SOLVER.CLIP_GRADIENTS.ENABLED", "True",
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.01",
    "MODEL.CLIPTRASE.VOCABULARY", "[]", "MODEL.CLIPTRASE.EPS", "1.5", "MODEL.CLIPTRASE.MIN_SAMPLES", "2", "SEED", "0",
)  # fmt: skip


def tiny_san_config(folder: Path, *options: str) -> CfgNode:
    """Return the configuration of the tiny SAN, `options` last."""
    return tiny_config(folder, *TINY_SAN, *options)


def tiny_san(folder: Path, *options: str, seed: int = 0) -> SAN:
    """Build the tiny SAN with seeded weights, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(tiny_san_config(folder, *options)).eval()


def picture(height: int = 64, width: int = 96, seed: int = 0) -> Tensor:
    """Return a smooth image of random colours, [3,H,W] in 0 to 255."""
    colours = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 255
    return torch.nn.functional.interpolate(colours, (height, width), mode="bilinear", align_corners=False)[0]


def training_config(folder: Path, *options: str) -> CfgNode:
    """Return the configuration, `options` last, with five scenes for training and evaluation."""
    name = f"training_{folder.name}"
    if not (folder / "scenes").is_dir():
        write_scenes(folder / "scenes", 5)
    register_dataset(name, folder / "scenes" / "images", CLASSES, folder / "scenes" / "annotations")
    data = ("DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", f"('{name}',)")
    return tiny_san_config(folder, *TRAINING_OPTIONS, *data, *options)


def weights(path: Path) -> dict[str, torch.Tensor]:
    """Read the model's tensors of a checkpoint."""
    return torch.load(path, weights_only=True)["model"]
