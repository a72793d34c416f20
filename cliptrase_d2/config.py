"""Every configuration key of this project, once: meaning, unit or range, source.

Sections are those of the CLIPtrase supplement. Detectron2's own keys that the project reads as they are:
MODEL.{META_ARCHITECTURE,DEVICE,WEIGHTS}, INPUT.FORMAT, DATASETS.TEST, DATALOADER.NUM_WORKERS, OUTPUT_DIR, SEED;
INPUT.MIN_SIZE_TEST, MAX_SIZE_TEST: the short side, and the limit of the long side, in pixels; with TEST.PROTOCOL
"tiles" a short side of 0 leaves images as large as they are;
and TEST.EXPECTED_RESULTS: a list of [task, metric, percent, tolerance]; the run fails where a number differs by more
than the tolerance, or is NaN. The task is "[<data set>/][<system>/]sem_seg"; a part in brackets can be left out where
there is but one. Metrics are pAcc, mAcc, fwIoU, mIoU, mAcc_all_classes, mIoU_all_classes and, for every group of
classes that the data set names, mIoU-<group> and pAcc-<group>.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from cliptrase_d2.d2 import CfgNode, get_cfg, merge_config_file, merge_config_options
from cliptrase_d2.data.image_files import MAX_PIXELS


def load_config(file: str | os.PathLike[str] | None = None, options: Sequence[str] = ()) -> CfgNode:
    """Detectron2's defaults and ours, then a YAML file, then KEY VALUE pairs.

    Raises:
        InputError: an unreadable file, an unknown key, or a value of another type than the key has.
    """
    cfg = get_cfg()
    add_cliptrase_config(cfg)
    if file:
        merge_config_file(cfg, file)
    merge_config_options(cfg, options)
    return cfg


def add_cliptrase_config(cfg: CfgNode) -> None:
    """Add the project's keys to Detectron2's defaults, in place."""
    cfg.MODEL.META_ARCHITECTURE = "CLIPtrase"
    cfg.INPUT.FORMAT = "RGB"
    _add_input(cfg)
    _add_clip(cfg)
    _add_method(cfg)
    _add_masks(cfg)
    _add_san(cfg)
    _add_training(cfg)
    _add_evaluation(cfg)


def _add_input(cfg: CfgNode) -> None:
    # Most pixels of an image or video frame, as its header says, that is decoded; 0: no bound. 2^27, 134 megapixels, is
    # beyond cameras of 100. Decoded and labelled they take some 2 GB for every reading process.
    cfg.INPUT.MAX_PIXELS = MAX_PIXELS


def _add_clip(cfg: CfgNode) -> None:
    clip = cfg.MODEL.CLIP = CfgNode()
    # Any plain ViT that open_clip names: ViT-B-16, ViT-L-14-336, ViT-H-14, …
    clip.NAME = "ViT-B-16"
    # An open_clip tag, a file (OpenAI archive, .pt, .bin, .safetensors), or "" for seeded random weights.
    clip.PRETRAINED = "openai"
    # Seed of the random weights, where there are any.
    clip.SEED = 0
    # Positional embedding of another grid than the trained one: "scale_factor" (n + 0.1)/n0, as the published
    # numbers have it, or "output_size", plain bicubic resizing.
    clip.POS_EMBED_RESIZE = "scale_factor"
    # Arithmetic of the image tower: "fp32", "bf16" or "fp16" (autocast). Distances are float64 in any case.
    clip.PRECISION = "fp32"
    # Prompt templates: "imagenet" (80, A.3), "vild" (14), "simple" (1).
    clip.TEMPLATES = "imagenet"
    # Folder for the text features of vocabularies seen before; "" computes them every time.
    clip.TEXT_CACHE = "~/.cache/cliptrase_d2"


def _add_method(cfg: CfgNode) -> None:
    method = cfg.MODEL.CLIPTRASE = CfgNode()
    # Class names where the input brings none; empty: those of the first data set in DATASETS.TEST.
    method.VOCABULARY = []
    # Prompts of a last class "background" beside VOCABULARY; empty: no such class.
    method.BACKGROUND = []
    # Last block's attention (A.2): "qq_kk_vv" (CLIPtrase), "qq_kk" (SCLIP), "v" (MaskCLIP), "qk" (plain CLIP);
    # "clearclip" and "naclip", which also drop the block's residual and MLP; "gem", beside the last seven blocks;
    # "own_patch", "cosine" and "cosine_oracle" of Table 1, the last of which looks at the labels.
    method.ATTENTION = "qq_kk_vv"
    # Block whose q, k, v are correlated (A.2), counted from the end: -2 is the last but one.
    method.CORRELATION_LAYER = -2
    # Similarity of two tokens: "cosine" (Eq. 1-6), or "inner_product" (Table 1).
    method.CORRELATION = "cosine"
    # "separate": a cosine for every head (Eq. 1-3); "concatenated": one over all heads (Eq. 4-6).
    method.HEADS = "separate"
    # Subtract the class token's row from every patch's row (A.1).
    method.SUPPRESS_GLOBAL_PATCHES = True
    # "dbscan", "hdbscan", or "none": no masks, the per-pixel result stands.
    method.CLUSTERING = "dbscan"
    # DBSCAN's radius, > 0, and least neighbourhood, >= 1: 0.7 and 3 at 224 pixels, 1.1 and 7 at 336 (C).
    method.EPS = 0.7
    method.MIN_SAMPLES = 3
    # Derive both from the number of patches N instead: 0.05·√N and N/65. For images of any size.
    method.ADAPTIVE_DBSCAN = False
    # HDBSCAN's smallest cluster, in patches, >= 2.
    method.MIN_CLUSTER_SIZE = 5
    # Enlargement of the cluster maps before the median filter, and the filter's side (odd; 1: none).
    method.MASK_UPSAMPLE = 4
    method.MEDIAN_FILTER = 7
    # A mask's name (A.3): "vote", its most frequent pixel label, or "mean", its highest mean logit.
    method.CLASSIFICATION = "vote"
    # Refine the label map by the image's colours: "none", or "pamr" (arXiv 2005.08104; no part of CLIPtrase), with this
    # many rounds, >= 1. pred_masks and pred_logits stay those before it; sem_seg becomes the refined shares in [0,1].
    method.REFINEMENT = "none"
    method.REFINEMENT_STEPS = 10
    # Multiply patch logits by the class token's, word by word. The published VOC20 numbers do.
    method.CLS_LOGIT_WEIGHT = False
    # Also return sem_seg [C,H,W], which Detectron2's own evaluator wants: gigabytes at many classes.
    method.OUTPUT_SEM_SEG = False


def _add_masks(cfg: CfgNode) -> None:
    masks = cfg.MODEL.MASKS = CfgNode()
    # Where masks come from: "scr", clusters of CLIP's own correlation; "backbone", those of another ViT's tokens
    # (Table 2); "sam", SAM's masks of these clusters; "sam_automatic", SAM's masks of a grid of points; or a source of
    # your own (mask_sources/base.py). With MODEL.CLIPTRASE.CLUSTERING "none" there are no masks from anywhere.
    masks.SOURCE = "scr"
    # "backbone": a ViT of timm with a class token, such as vit_base_patch16_224.dino; its cosines, without heads.
    masks.BACKBONE = "vit_base_patch14_dinov2.lvd142m"
    # Its weights: "pretrained", those of the name's tag; a file (.safetensors or a state dict); "" for random ones.
    masks.BACKBONE_WEIGHTS = "pretrained"
    # "sam", "sam_automatic": a SAM or SAM 2 of the Hugging Face hub, or a folder of such a model.
    masks.SAM = "facebook/sam-vit-base"
    # "sam": what stands for a cluster, "points", its most typical patches, or "box", that of its pixels.
    masks.SAM_PROMPT = "points"
    # "sam_automatic": points on a side of the grid, >= 1; the number of prompts is its square.
    masks.SAM_POINTS_PER_SIDE = 32
    # Which of their masks stay: those above both bounds, in [0,1], of the IoU that SAM expects (SAM 2's own generator
    # has 0.8) and of the IoU of a mask with itself when its threshold moves by 1.
    masks.SAM_MIN_IOU = 0.88
    masks.SAM_MIN_STABILITY = 0.95


def _add_san(cfg: CfgNode) -> None:
    """MODEL.META_ARCHITECTURE "SAN" (arXiv 2302.12242): a side network beside a frozen CLIP. Values as published."""
    san = cfg.MODEL.SAN = CfgNode()
    # CLIP's blocks before this one see the image, this one and those after it recognise masks.
    san.FEATURE_LAST_LAYER_IDX = 9
    # Size of CLIP's input in parts of the image's, in (0,1].
    san.CLIP_RESOLUTION = 0.5
    # Images are padded to multiples of this many pixels: the side network's patches, and CLIP's at its resolution.
    san.SIZE_DIVISIBILITY = 32
    # What the three losses, and costs of matching, count; and the class "no object" in the first of them.
    san.CLASS_WEIGHT = 2.0
    san.MASK_WEIGHT = 5.0
    san.DICE_WEIGHT = 5.0
    san.NO_OBJECT_WEIGHT = 0.1
    # Points at which masks are compared (PointRend): how many, out of how many times as many candidates, and the
    # share, in [0,1], that is where the mask is least sure.
    san.TRAIN_NUM_POINTS = 112 * 112
    san.OVERSAMPLE_RATIO = 3.0
    san.IMPORTANCE_SAMPLE_RATIO = 0.75
    # Warm start by CLIPtrase's masks (B.3): "none"; "prototypes", k-means of the mask features of training images
    # become the queries; "per_image", every image's own mask features are added to its first queries.
    san.QUERY_INIT = "none"
    # Training images that a warm start looks at, evenly spread over the data set.
    san.QUERY_INIT_IMAGES = 1000
    side = cfg.MODEL.SIDE_ADAPTER = CfgNode()
    # The ViT: channels, blocks, heads, side of a patch, and of the images that its positions are made for, in pixels.
    side.WIDTH = 240
    side.DEPTH = 8
    side.HEADS = 6
    side.PATCH_SIZE = 16
    side.IMAGE_SIZE = 640
    side.NUM_QUERIES = 100
    # "C->S": CLIP's features after C blocks are added after S blocks of the ViT.
    side.FUSION_MAP = ["0->0", "3->1", "6->2", "9->3"]
    # Blocks whose masks are trained, counted from 1; the last one's are the result.
    side.DEEP_SUPERVISION_IDXS = [7, 8]
    # The perceptrons that decode masks and attention biases.
    side.DECODER_CHANNELS = 256
    side.DECODER_LAYERS = 3


def _add_training(cfg: CfgNode) -> None:
    """Beside Detectron2's keys; of SOLVER.CLIP_GRADIENTS.CLIP_TYPE there is a further value, "full_model"."""
    # Random brightness, contrast, saturation and hue, as SSD has them.
    cfg.INPUT.COLOR_AUG_SSD = False
    # Weight decay of position and query embeddings.
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.0
    # Power of the schedule "WarmupPolyLR".
    cfg.SOLVER.POLY_LR_POWER = 0.9
    # Take a step's IMS_PER_BATCH images in this many parts, one after the other, where memory is short. The step is
    # the same but for its random points.
    cfg.SOLVER.ACCUMULATION_STEPS = 1
    # Checkpoints that are kept, the newest; 0: all.
    cfg.SOLVER.MAX_TO_KEEP = 3


def _add_evaluation(cfg: CfgNode) -> None:
    # Evaluate these systems, one after the other, and compare them in one table: names of evaluation/runs.py, such as
    # "clip", "sclip", "cliptrase_scr", "cliptrase"; one without clusters gets them by "+clusters", as in
    # "sclip+clusters". Each sets some keys of MODEL.CLIPTRASE, no other. Its results are in
    # OUTPUT_DIR/<system>/inference/. Empty: the configuration as it stands.
    cfg.TEST.METHODS = ()
    # "center_crop": a square of MIN_SIZE_TEST, labels cropped too (the paper's numbers); "whole": the whole image,
    # result at its original size; "slide": windows, result at original size (SCLIP's protocol); "tiles": windows that
    # are images of their own, for images of any size.
    cfg.TEST.PROTOCOL = "whole"
    # Unsupervised segmentation (Table 5): put the masks of the whole data set into this many groups by their features,
    # and match groups to classes once, after the last image; at most as many as there are classes. 0: classes are named
    # by their words.
    cfg.TEST.UNSUPERVISED_GROUPS = 0
    # Side and stride of the windows of "slide" and "tiles", in pixels; multiples of the patch size.
    cfg.TEST.WINDOW = 224
    cfg.TEST.STRIDE = 112
    # Images per step. The result of an image does not depend on its company.
    cfg.TEST.BATCH_SIZE = 1
    # A broken image or label: "stop" at once, or "skip" it and report all of them at the end.
    cfg.TEST.ON_ERROR = "stop"
    # Write predictions/<image stem>.png: class index, 16-bit above 255 classes.
    cfg.TEST.SAVE_PREDICTIONS = False
    # Draw this many images of every data set, evenly spread over it, to overlays/<image stem>.jpg: what the model saw
    # under the colours of its classes, the ground truth on its left where there is one. 0: none.
    cfg.TEST.SAVE_OVERLAYS = 0
