"""The configuration keys that the published SAN's `add_san_config` adds, with their values."""

from __future__ import annotations

from typing import Any

from cliptrase_d2.d2 import CfgNode

EMBEDDINGS = ["absolute_pos_embed", "positional_embedding", "pos_embed", "query_embed", "relative_position_bias_table"]
PUBLISHED_DEFAULTS: dict[str, Any] = {
    "INPUT.DATASET_MAPPER_NAME": "mask_former_semantic", "INPUT.COLOR_AUG_SSD": False,
    "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": 1.0, "INPUT.SIZE_DIVISIBILITY": -1,
    "SOLVER.WEIGHT_DECAY_EMBED": 0.0, "SOLVER.WEIGHT_DECAY_EMBED_GROUP": EMBEDDINGS, "SOLVER.OPTIMIZER": "ADAMW",
    "SOLVER.BACKBONE_MULTIPLIER": 1.0, "SOLVER.CLIP_MULTIPLIER": 1.0, "SOLVER.TEST_IMS_PER_BATCH": 1,
    "MODEL.SAN.NO_OBJECT_WEIGHT": 0.1, "MODEL.SAN.CLASS_WEIGHT": 2.0, "MODEL.SAN.DICE_WEIGHT": 5.0,
    "MODEL.SAN.MASK_WEIGHT": 5.0, "MODEL.SAN.TRAIN_NUM_POINTS": 12544, "MODEL.SAN.NUM_CLASSES": 171,
    "MODEL.SAN.OVERSAMPLE_RATIO": 3.0, "MODEL.SAN.IMPORTANCE_SAMPLE_RATIO": 0.75,
    "MODEL.SAN.CLIP_MODEL_NAME": "ViT-B/16", "MODEL.SAN.CLIP_PRETRAINED_NAME": "openai",
    "MODEL.SAN.CLIP_TEMPLATE_SET": "vild", "MODEL.SAN.FEATURE_LAST_LAYER_IDX": 9,
    "MODEL.SAN.CLIP_FROZEN_EXCLUDE": ["positional_embedding"], "MODEL.SAN.CLIP_DEEPER_FROZEN_EXCLUDE": [],
    "MODEL.SAN.REC_CROSS_ATTN": False, "MODEL.SAN.REC_DOWNSAMPLE_METHOD": "max",
    "MODEL.SAN.SOS_TOKEN_FORMAT": "cls_token", "MODEL.SAN.SIZE_DIVISIBILITY": 32, "MODEL.SAN.ASYMETRIC_INPUT": True,
    "MODEL.SAN.CLIP_RESOLUTION": 0.5, "MODEL.SAN.SEM_SEG_POSTPROCESS_BEFORE_INFERENCE": True,
    "MODEL.SIDE_ADAPTER.NAME": "RegionwiseSideAdapterNetwork", "MODEL.SIDE_ADAPTER.VIT_NAME": "vit_w240n6d8_patch16",
    "MODEL.SIDE_ADAPTER.PRETRAINED": False, "MODEL.SIDE_ADAPTER.IMAGE_SIZE": 640,
    "MODEL.SIDE_ADAPTER.DROP_PATH_RATE": 0.0, "MODEL.SIDE_ADAPTER.NUM_QUERIES": 100,
    "MODEL.SIDE_ADAPTER.FUSION_TYPE": "add", "MODEL.SIDE_ADAPTER.FUSION_MAP": ["0->0", "3->1", "6->2", "9->3"],
    "MODEL.SIDE_ADAPTER.DEEP_SUPERVISION_IDXS": [7, 8], "MODEL.SIDE_ADAPTER.ATTN_BIAS.NUM_HEADS": 12,
    "MODEL.SIDE_ADAPTER.ATTN_BIAS.NUM_LAYERS": 1, "MODEL.SIDE_ADAPTER.ATTN_BIAS.EMBED_CHANNELS": 256,
    "MODEL.SIDE_ADAPTER.ATTN_BIAS.MLP_CHANNELS": 256, "MODEL.SIDE_ADAPTER.ATTN_BIAS.MLP_NUM_LAYERS": 3,
    "MODEL.SIDE_ADAPTER.ATTN_BIAS.RESCALE_ATTN_BIAS": True, "WANDB.PROJECT": "san", "WANDB.NAME": None,
    "MODEL.FLASH": False,
}  # fmt: skip


def nest(values: dict[str, Any]) -> dict[str, Any]:
    """Return a tree of dotted keys."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return tree


def add_san_config(cfg: CfgNode) -> None:
    """Change `cfg` as the published function does: three new sections replace any of these names."""
    cfg.MODEL.SAN, cfg.MODEL.SIDE_ADAPTER, cfg.WANDB = CfgNode(), CfgNode(), CfgNode()
    cfg.MODEL.SIDE_ADAPTER.ATTN_BIAS = CfgNode()
    for key, value in PUBLISHED_DEFAULTS.items():
        *sections, name = key.split(".")
        node = cfg
        for section in sections:
            node = node[section]
        node[name] = value
