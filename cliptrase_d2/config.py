"""Every configuration key of this project: meaning, unit or range, and source.

Section numbers are those of the CLIPtrase supplement. The project also reads these keys of Detectron2:
MODEL.{META_ARCHITECTURE,DEVICE,WEIGHTS}, INPUT.FORMAT, DATASETS.TEST, DATALOADER.NUM_WORKERS, OUTPUT_DIR, SEED;
INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST: the short side and the limit of the long side, in pixels. With TEST.PROTOCOL
"tiles" a short side of 0 keeps the size of the image.
TEST.EXPECTED_RESULTS: a list of [task, metric, percent, tolerance]. The run fails if a number differs by more than the
tolerance or is NaN. The task is "[<data set>/][<method>/]sem_seg". A part in brackets can be left out if there is only
one. Metrics are pAcc, mAcc, fwIoU, mIoU, mAcc_all_classes, mIoU_all_classes, for every group of classes of the data set
mIoU-<group> and pAcc-<group>, by size of object mIoU_<size>, mAcc_<size>, mIoU_<size>-<group> and mAcc_<size>-<group>
with the sizes small, medium and large, and Detectron2's pACC, mACC, IoU-<class> and ACC-<class>.
TEST.AUG: test-time augmentation of evaluations. With ENABLED, the class shares of several views of an image are
averaged at each pixel of the result. There is a view for every short side in MIN_SIZES, in pixels, with a long side of
at most MAX_SIZE; with FLIP each view is also mirrored. Views are made from the original image, where Detectron2 resizes
the resized one. MIN_SIZES replaces INPUT.MIN_SIZE_TEST, except in pictures. Detectron2's default, 400 to 1200, is for
models of 800 pixels; for a CLIP at 336 pixels (280, 336, 392) is an example. DBSCAN's parameters must fit every size,
as those of MODEL.CLIPTRASE.ADAPTIVE_DBSCAN do. Needs TEST.PROTOCOL "whole" or "slide", and no TEST.UNSUPERVISED_GROUPS.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from cliptrase_d2.d2 import CfgNode, get_cfg, merge_config_file, merge_config_options
from cliptrase_d2.d2.config_merge import register_renamed_keys
from cliptrase_d2.data.images import MAX_PIXELS

# Settings whose argument has the name of the key in small letters, by section.
_SETTINGS = {
    "MODEL.CLIP": "name pretrained precision templates",
    "MODEL.CLIPTRASE": "method method_options correlation_layer correlation heads clustering eps min_samples "
    "min_cluster_size mask_upsample median_filter classification cls_logit_weight cls_logit_bias refinement "
    "refinement_steps",
    "MODEL.MASKS": "backbone backbone_weights sam sam_prompt sam_points_per_side sam_min_iou sam_min_stability "
    "sam_duplicate_iou sam_merge sam_masks_per_point sam_large_on_top",
    "INPUT": "max_pixels bands stretch",
    "TEST": "window stride protocol on_error",
    "TEST.PUBLISHED": "logit_scale prob_thd area_thd average resize_twice pad_to min_max pamr_steps pamr_dilations "
    "experts region_vote sam_refinement",
}
# Keys of arguments, for errors of functions that know no configuration.
ARGUMENT_KEYS = {name: f"{section}.{name.upper()}" for section, names in _SETTINGS.items() for name in names.split()}
ARGUMENT_KEYS |= {
    "vision_model": "MODEL.VISION.NAME",
    "vision_model_weights": "MODEL.VISION.WEIGHTS",
    "position_resize": "MODEL.CLIP.POS_EMBED_RESIZE",
    "mask_source": "MODEL.MASKS.SOURCE",
    "short_side": "INPUT.MIN_SIZE_TEST",
    "max_size": "INPUT.MAX_SIZE_TEST",
    "dataset_name": "DATASETS.TEST",
}


def load_config(file: str | os.PathLike[str] | None = None, options: Sequence[str] = ()) -> CfgNode:
    """Return Detectron2's and the project's defaults, changed by a YAML file and then by KEY VALUE pairs.

    Keys of the published SAN are read as well (`d2/published_keys.py`).

    Args:
        file: YAML file, or the name of a configuration of the package, such as "cliptrase/vit_b16_whole".
        options: KEY, VALUE, KEY, VALUE, …
    Raises:
        InputError: the file cannot be read, a key is unknown, or a value has the wrong type.
    """
    from cliptrase_d2.registration import register_architectures  # imports the models

    register_architectures()
    cfg = get_cfg()
    add_keys(cfg)
    if file:
        merge_config_file(cfg, file)
    merge_config_options(cfg, options)
    return cfg


def add_cliptrase_config(cfg: CfgNode) -> None:
    """Add the project's keys to Detectron2's defaults, in place, and register its architectures and data sets."""
    from cliptrase_d2.registration import register_all  # imports the models

    register_all()
    add_keys(cfg)


def add_keys(cfg: CfgNode) -> None:
    """Add the project's keys to Detectron2's defaults, in place.

    Keys of the published `add_san_config`, if it was called before, stay, and common keys keep their values.
    """
    earlier = cfg.clone()
    _add_input(cfg)
    _add_clip(cfg)
    _add_method(cfg)
    _add_vision(cfg)
    _add_masks(cfg)
    _add_san(cfg)
    _add_training(cfg)
    _add_evaluation(cfg)
    for section, target in ((earlier, cfg), (earlier.MODEL, cfg.MODEL)):
        for name in section.keys() & {"SAN", "SIDE_ADAPTER", "SOLVER", "INPUT"}:
            target[name].update(section[name])
    cfg.MODEL.META_ARCHITECTURE = "CLIPtrase"
    cfg.INPUT.FORMAT = "RGB"
    register_renamed_keys(cfg)


def _add_input(cfg: CfgNode) -> None:
    # Largest image or video frame that is decoded, in pixels by its header; 0 for no limit. 2^27, 134 megapixels, is
    # larger than cameras of 100 megapixels need. Decoded and labelled, it takes about 2 GB in every loader process.
    cfg.INPUT.MAX_PIXELS = MAX_PIXELS
    # Bands of rasters for red, green and blue, counted from 1, or one band for grey; empty for the file's own colours.
    # The keys `bands` and `stretch` of a data set take precedence over this key and the next one.
    cfg.INPUT.BANDS = ()
    # The values that become black and white: raw values such as (0, 3000), or percentiles of each image over its bands
    # together, such as ("2%", "98%"); empty for the full range of 8 or 16 bits. Other types need it.
    cfg.INPUT.STRETCH = ()


def _add_clip(cfg: CfgNode) -> None:
    clip = cfg.MODEL.CLIP = CfgNode()
    # A plain ViT of open_clip: ViT-B-16, ViT-L-14-336, ViT-H-14, … A SigLIP 2, such as ViT-B-16-SigLIP2, works with
    # the method "textregion" only.
    clip.NAME = "ViT-B-16"
    # An open_clip tag, a file or folder of OpenAI, open_clip or transformers (.pt, .bin, .ckpt, .safetensors), a
    # repository "hf-hub:owner/name" or "hf-hub:owner/name@revision", or "" for seeded random weights.
    clip.PRETRAINED = "openai"
    # Seed of random weights.
    clip.SEED = 0
    # Resizing of the position embedding to another grid: "scale_factor" (n + 0.1)/n0, as for the published numbers;
    # "output_size", plain bicubic resizing; or "antialias", bicubic resizing with antialiasing, as in open_clip. The
    # method "gem" has its own (MODEL.CLIPTRASE.METHOD_OPTIONS).
    clip.POS_EMBED_RESIZE = "scale_factor"
    # Precision of the image tower: "fp32", "bf16" or "fp16" (autocast). Distances are always float64.
    clip.PRECISION = "fp32"
    # Prompt templates: "imagenet" (80, A.3), "vild" (14), "simple" (1), or a text file with a template per line, each
    # with one "{}" for the word. A relative path starts at the working directory.
    clip.TEMPLATES = "imagenet"
    # Folder of the text feature cache; "" for no cache.
    clip.TEXT_CACHE = "~/.cache/cliptrase_d2"


def _add_method(cfg: CfgNode) -> None:
    method = cfg.MODEL.CLIPTRASE = CfgNode()
    # Class names of inputs that have no vocabulary and come from no registered data set; empty for those of
    # DATASETS.TRAIN in training and of DATASETS.TEST otherwise.
    method.VOCABULARY = []
    # Prompts of a last class "background" besides VOCABULARY, "@voc" for a ready list; empty for no such class.
    method.BACKGROUND = []
    # Method that reads dense features out of CLIP (methods/): "cliptrase" (A.2), "sclip", "maskclip", "clip" (as
    # trained), "clearclip", "naclip", "gem", "sc_clip", "sfp", "dih_clip", "resclip"; "proxyclip", with a second vision
    # model (MODEL.VISION); "corrclip", with this model and the masks of MODEL.MASKS; "cliptrase_plus", with these masks
    # alone (not in a paper); "own_patch", "cosine" and "cosine_oracle" of Table 1, the last of which reads the labels;
    # "textregion", "lposs" and "trident", which label whole images and need TEST.PROTOCOL "published"; or a method of
    # your own.
    method.METHOD = "cliptrase"
    # Options of this method by name, such as {deviation: 3} for "naclip": the arguments of its class. The value null
    # removes an option of a base. The methods of TEST.METHODS have their own.
    method.METHOD_OPTIONS = CfgNode(new_allowed=True)
    # Block whose q, k, v are correlated (A.2), counted from the end: -2 is the last but one.
    method.CORRELATION_LAYER = -2
    # Similarity of two tokens: "cosine" (Eq. 1-6), or "inner_product" (Table 1).
    method.CORRELATION = "cosine"
    # "separate": a cosine for every head (Eq. 1-3); "concatenated": one over all heads (Eq. 4-6).
    method.HEADS = "separate"
    # Subtract the class token's row from every patch's row (A.1).
    method.SUPPRESS_GLOBAL_PATCHES = True
    # "dbscan", "hdbscan", or "none" for per-pixel results without masks.
    method.CLUSTERING = "dbscan"
    # Radius of DBSCAN, > 0, and size of a dense neighbourhood, >= 1: 0.7 and 3 at 224 pixels, 1.1 and 7 at 336 (C).
    method.EPS = 0.7
    method.MIN_SAMPLES = 3
    # Derive both from the number of patches N instead, 0.05·√N and N/65, for images of any size.
    method.ADAPTIVE_DBSCAN = False
    # Smallest cluster of HDBSCAN, in patches, >= 2.
    method.MIN_CLUSTER_SIZE = 5
    # Upsampling factor of the cluster maps before the median filter, and side of the filter (odd; 1 for none).
    method.MASK_UPSAMPLE = 4
    method.MEDIAN_FILTER = 7
    # Class of a mask (A.3): "vote", its most frequent pixel label, or "mean", its highest mean logit.
    method.CLASSIFICATION = "vote"
    # Refine the label map by the colours of the image: "none", or "pamr" (arXiv 2005.08104; not part of CLIPtrase) with
    # this many iterations, >= 1. pred_masks and pred_logits stay unrefined. sem_seg becomes refined shares in [0,1].
    method.REFINEMENT = "none"
    method.REFINEMENT_STEPS = 10
    # Multiply patch logits by those of the class token, word by word, as for the published VOC20 numbers.
    method.CLS_LOGIT_WEIGHT = False
    # Add the logits of the class token times this number to those of every patch, word by word. -0.3 subtracts what the
    # patches have in common with the whole image, as SegEarth-OV does (arXiv 2410.01768).
    method.CLS_LOGIT_BIAS = 0.0
    # Return sem_seg [C,H,W], the class scores that Detectron2's evaluator, predictor and demo read, up to this size in
    # gibibytes, 4·C·H·W / 2^30; 0 for never. The key 'output_sem_seg' of an input overrides the limit.
    method.MAX_SEM_SEG = 2.0


def _add_vision(cfg: CfgNode) -> None:
    """Add the keys of the second vision model, which some methods read besides CLIP."""
    vision = cfg.MODEL.VISION = CfgNode()
    # A ViT of timm with a class token, such as vit_base_patch8_224.dino; a SAM on the Hugging Face hub or its folder,
    # such as facebook/sam-vit-base; "" for the default of the method. The grid of a ViT is its own at the pixels of
    # CLIP's input: with patches of 8 pixels twice as fine as that of ViT-B/16. That of SAM is 64×64.
    vision.NAME = ""
    # Its weights: "pretrained" for those of the name; for a ViT also a file (.safetensors or a state dict), or "" for
    # random ones.
    vision.WEIGHTS = "pretrained"


def _add_masks(cfg: CfgNode) -> None:
    masks = cfg.MODEL.MASKS = CfgNode()
    # Source of masks: "scr", clusters of CLIP's own correlation; "backbone", those of another ViT's tokens (Table 2);
    # "sam", SAM's masks of CLIP's clusters; "sam_automatic", SAM's masks of a grid of points; or a source of your own
    # (mask_sources/base.py). With MODEL.CLIPTRASE.CLUSTERING "none" no source is used.
    masks.SOURCE = "scr"
    # "backbone": a ViT of timm with a class token, such as vit_base_patch16_224.dino. Cosines are over all heads.
    masks.BACKBONE = "vit_base_patch14_dinov2.lvd142m"
    # Its weights: "pretrained" for those of the tag; a file (.safetensors or a state dict); "" for random ones.
    masks.BACKBONE_WEIGHTS = "pretrained"
    # "sam", "sam_automatic": a SAM or SAM 2 on the Hugging Face hub, or a folder with such a model. The method
    # "trident" and TEST.PUBLISHED.SAM_REFINEMENT read it too, and need a SAM.
    masks.SAM = "facebook/sam-vit-base"
    # "sam": prompt for a cluster: "points", its most typical patches, or "box", around its pixels.
    masks.SAM_PROMPT = "points"
    # "sam_automatic": points per side of the grid, >= 1. The number of prompts is its square.
    masks.SAM_POINTS_PER_SIDE = 32
    # Masks are kept above both thresholds, in [0,1]: of the IoU that SAM predicts (0.8 in SAM 2's own generator) and of
    # the IoU of a mask with itself when its threshold changes by 1.
    masks.SAM_MIN_IOU = 0.88
    masks.SAM_MIN_STABILITY = 0.95
    # IoU of the boxes of two masks above which the worse one is dropped, in [0,1].
    masks.SAM_DUPLICATE_IOU = 0.7
    # For methods that read overlapping masks, such as "textregion": containment, in [0,1], above which a mask is merged
    # into one before it. Whole objects come first, then parts, and better masks before worse ones. 0 for no merging.
    masks.SAM_MERGE = 0.0
    # Masks that SAM predicts for a point: 3, of a part, an object and the whole, or 1.
    masks.SAM_MASKS_PER_POINT = 3
    # Draw large masks over small ones (CorrCLIP) instead of under them. The pixels in no mask fall to CLIPtrase's
    # clusters. As regions of a method and in TEST.PUBLISHED.REGION_VOTE, they are in none.
    masks.SAM_LARGE_ON_TOP = False


def _add_san(cfg: CfgNode) -> None:
    """Add the keys of MODEL.META_ARCHITECTURE "SAN" (arXiv 2302.12242), with the published values."""
    san = cfg.MODEL.SAN = CfgNode()
    # Predict with an untrained side network too, whose results are meaningless; otherwise that is an error.
    san.ALLOW_UNTRAINED = False
    # CLIP's blocks before this one encode the image. This block and the later ones recognise masks.
    san.FEATURE_LAST_LAYER_IDX = 9
    # Size of CLIP's input relative to the image, in (0,1].
    san.CLIP_RESOLUTION = 0.5
    # Images are padded to multiples of this many pixels, which fit the patches of the side network and of CLIP.
    san.SIZE_DIVISIBILITY = 32
    # Weights of the three losses and matching costs, and of the class "no object" in the first loss.
    san.CLASS_WEIGHT = 2.0
    san.MASK_WEIGHT = 5.0
    san.DICE_WEIGHT = 5.0
    san.NO_OBJECT_WEIGHT = 0.1
    # Points at which masks are compared (PointRend): their number, the ratio of candidates to points, and the share of
    # points, in [0,1], where the mask is most uncertain.
    san.TRAIN_NUM_POINTS = 112 * 112
    san.OVERSAMPLE_RATIO = 3.0
    san.IMPORTANCE_SAMPLE_RATIO = 0.75
    # Warm start by CLIPtrase's masks (B.3): "none"; "prototypes", the queries start as k-means centres of the mask
    # features of training images; "closed_form", all of the side network starts so that masks are inner products of
    # prototypes and CLIP's features.
    san.QUERY_INIT = "none"
    # Number of training images that a warm start reads, evenly spread over the data set.
    san.QUERY_INIT_IMAGES = 1000
    # Configuration of CLIPtrase, a file or a name of the package, that labels the images of SOLVER.UNLABELLED_ITER.
    san.TEACHER = ""
    side = cfg.MODEL.SIDE_ADAPTER = CfgNode()
    # The ViT: channels, blocks, heads, and the sides of a patch and of the images of its position embedding, in pixels.
    side.WIDTH = 240
    side.DEPTH = 8
    side.HEADS = 6
    side.PATCH_SIZE = 16
    side.IMAGE_SIZE = 640
    side.NUM_QUERIES = 100
    # "C->S": add CLIP's features after C blocks to the ViT's after S blocks.
    side.FUSION_MAP = ["0->0", "3->1", "6->2", "9->3"]
    # Blocks whose masks are supervised, counted from 1. The masks of the last block are the result.
    side.DEEP_SUPERVISION_IDXS = [7, 8]
    # Perceptrons that decode masks and attention biases.
    side.DECODER_CHANNELS = 256
    side.DECODER_LAYERS = 3


def _add_training(cfg: CfgNode) -> None:
    """Add keys of training. SOLVER.CLIP_GRADIENTS.CLIP_TYPE also takes the value "full_model"."""
    # Random brightness, contrast, saturation and hue, as in SSD.
    cfg.INPUT.COLOR_AUG_SSD = False
    # "ADAMW", or "SGD" with SOLVER.MOMENTUM.
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    # Factors of SOLVER.BASE_LR for the side network, and for the parameters of CLIP that are trained.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0
    cfg.SOLVER.CLIP_MULTIPLIER = 1.0
    # Weight decay of position and query embeddings.
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.0
    # Power of the schedule "WarmupPolyLR".
    cfg.SOLVER.POLY_LR_POWER = 0.9
    # Split the IMS_PER_BATCH images of a step into this many parts to save memory. The step is the same except for its
    # random points.
    cfg.SOLVER.ACCUMULATION_STEPS = 1
    # Iterations before the training, with a schedule of their own, on label maps that MODEL.SAN.TEACHER predicts for
    # the images of DATASETS.UNLABELLED, or of DATASETS.TRAIN if that is empty. The classes are those of DATASETS.TRAIN.
    cfg.SOLVER.UNLABELLED_ITER = 0
    cfg.DATASETS.UNLABELLED = ()
    # Number of checkpoints to keep, the newest ones; 0 for all.
    cfg.SOLVER.MAX_TO_KEEP = 3


def _add_evaluation(cfg: CfgNode) -> None:
    # Evaluate these compositions and compare them in one table: METHOD[+MASKS][+RULE][+REFINEMENT][@PROTOCOL], such as
    # "sclip", "sclip+clusters" or "naclip+sam+mean+pamr@slide". METHOD is a name of methods/catalog.py, such as "clip",
    # "cliptrase_scr" or "cliptrase", or any registered method. MASKS is "clusters", CLIPtrase's clusters, or a value of
    # MODEL.MASKS.SOURCE; without it, all but "cliptrase" and "textregion" label pixels. RULE, REFINEMENT and PROTOCOL
    # are values of MODEL.CLIPTRASE.CLASSIFICATION, MODEL.CLIPTRASE.REFINEMENT and TEST.PROTOCOL. All other keys
    # are those of the configuration. The results are in OUTPUT_DIR/<composition>/inference/. Empty to evaluate the
    # configuration as it is.
    cfg.TEST.METHODS = ()
    # Leave out compositions whose parts cannot be combined, and list them with the reasons in the table and the report.
    # Otherwise they are an error.
    cfg.TEST.SKIP_IMPOSSIBLE = False
    # "center_crop": a square of MIN_SIZE_TEST, labels cropped too (the paper's numbers); "whole": the whole image, with
    # the result at its original size; "slide": windows whose patches are averaged, with the result at the original
    # size; "tiles": windows that are images of their own, for images of any size; "published": windows whose pixel
    # logits are averaged, with the decision of SCLIP, NACLIP and their successors (TEST.PUBLISHED).
    cfg.TEST.PROTOCOL = "whole"
    # Unsupervised segmentation (Table 5): cluster the mask features of the whole data set into this many groups, at
    # most the number of classes, and match groups to classes once, after the last image. 0 to classify by words.
    cfg.TEST.UNSUPERVISED_GROUPS = 0
    # Side and stride of the windows of "slide" and "tiles", in pixels, multiples of the patch size; of "published" in
    # pixels of any number. With "published" a window of 0 is the whole image. "textregion" has crops of its own.
    cfg.TEST.WINDOW = 224
    cfg.TEST.STRIDE = 112
    _add_published_protocol(cfg)
    # Images per step. The result of an image does not depend on the rest of the batch.
    cfg.TEST.BATCH_SIZE = 1
    # Least probability of a pixel's class, 0 to 1; 0 for none. A pixel below it is unknown. It counts as the class that
    # the file of the data set names as `unknown` or, without one, as wrong for its true class.
    cfg.TEST.THRESHOLD = 0.0
    # On a broken image or label: "stop" at once, or "skip" it and list it in the report.
    cfg.TEST.ON_ERROR = "stop"
    # Write predictions/<image stem>.png. Images of one stem in several folders keep their folders.
    cfg.TEST.SAVE_PREDICTIONS = False
    # Values of these files. "classes": class indices, 16-bit above 255 classes. "files": those of the data set's label
    # files, by the inverse of its label_map, label_colors or reduce_zero_label, for a benchmark server.
    cfg.TEST.PREDICTION_VALUES = "classes"
    # Draw this many images of every data set, evenly spread, to overlays/<image stem>.jpg: the model's input under the
    # colours of the classes, with the ground truth on its left if there is one. 0 for none.
    cfg.TEST.SAVE_OVERLAYS = 0


def _add_published_protocol(cfg: CfgNode) -> None:
    """Add the keys of TEST.PROTOCOL "published", the protocol of SCLIP, NACLIP and their successors.

    It needs MODEL.CLIPTRASE.CLUSTERING "none", unless the method or REGION_VOTE reads masks. Images are resized by
    OpenCV, bilinearly, to INPUT.MIN_SIZE_TEST, unless SQUARE is set.
    """
    published = cfg.TEST.PUBLISHED = CfgNode()
    # Factor of the cosines before the softmax over all words, > 0. It is not CLIP's own, 100. A class has the
    # probability of its best word.
    published.LOGIT_SCALE = 40.0
    # A pixel whose class has a probability below this gets the class "background" or, without one, the first class.
    # 0 to 1; 0 for none, as in all data sets without background.
    published.PROB_THD = 0.0
    # Remove a class, and give its pixels their second class, unless its share in the pixels of all classes but the
    # background is larger than this. 0 to 1; 0 for none.
    published.AREA_THD = 0.0
    # Average the "logits" of windows (all published numbers) or their "probabilities", after a softmax in each window.
    published.AVERAGE = "logits"
    # Resize the logits of whole images to the resized image and then to the original size (NACLIP, ResCLIP) instead of
    # directly (SCLIP, SC-CLIP, SFP). Windows are always resized twice.
    published.RESIZE_TWICE = False
    # Resize images to a square of INPUT.MIN_SIZE_TEST pixels, bicubically with antialiasing, instead of keeping their
    # aspect ratio (GEM: 448).
    published.SQUARE = False
    # Pad each window with zeros to a multiple of this many pixels (16 in ClearCLIP, 56 in ProxyCLIP) and cut the
    # padding off again; 0 to leave out the pixels behind the last whole patch (the others).
    published.PAD_TO = 0
    # Scale the map of each word to 0 to 1 over the resized image before the softmax (GEM).
    published.MIN_MAX = False
    # Iterations of PAMR on the logits at the original size (NACLIP: 10), 0 for none, and the distances of its
    # neighbours in pixels.
    published.PAMR_STEPS = 0
    published.PAMR_DILATIONS = (8, 16)
    # File of templates for each class, as `cliptrase choose-templates` writes it; "" for none. The expert of a class
    # encodes all words with the templates of this class. It labels the pixels where a word of its class wins, the most
    # confident expert where several do. MODEL.CLIP.TEMPLATES label the other pixels (FLOSS, arXiv 2504.10487, with
    # LOGIT_SCALE 100.0). AVERAGE is then "probabilities". A relative path starts at the working directory.
    published.EXPERTS = ""
    # In the end, give each mask of MODEL.MASKS its most frequent label (CorrCLIP). The pixels in no mask keep theirs.
    # Needs MODEL.CLIPTRASE.CLUSTERING "dbscan" or "hdbscan", also for masks that are not clusters. The masks are made
    # from the photograph at its original size.
    published.REGION_VOTE = False
    # After the vote, let the decoder of MODEL.MASKS.SAM, a SAM, redraw the labels (Trident: 0.05 to 0.25). Every
    # connected region of a class of at least 900 pixels is a prompt, and the mask of SAM replaces it. Pixels whose best
    # class has a probability below this are in no region. 0 to 1; 0 for no refinement. The photograph at its original
    # size is encoded once. Memory holds 4·C·H·W bytes of probabilities.
    published.SAM_REFINEMENT = 0.0
