"""A segmenter that is small enough to build in a test, images in which it finds clusters, and its configuration."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from cliptrase_d2.clip.text import TextEncoder
from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.clip.visual import VisualTower
from cliptrase_d2.config import load_config
from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.methods import get_method
from cliptrase_d2.pipeline.input_vocabulary import InputVocabulary
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.vocabulary import Vocabulary
from tests.clip.tiny import TINY_CONFIG, register_tiny, tiny_clip
from tests.drawn_scenes import draw_scene

VOCABULARY = Vocabulary.parse(["sky;blue", "grass", "brick wall", "circle", "star"], ["wall", "floor"])


def tiny_segmenter(*, settings: CLIPtraseSettings | None = None, layers: int = 3, **arguments: Any) -> CLIPtrase:
    """Build CLIPtrase around the tiny model, in evaluation mode. `arguments` are those of its `__init__`."""
    clip = tiny_clip(vision_cfg={**TINY_CONFIG["vision_cfg"], "layers": layers})
    return CLIPtrase(
        clip=clip,
        text_encoder=TextEncoder(clip, SimpleTokenizer(), templates="simple"),
        settings=settings or CLIPtraseSettings(),
        **{"tower": VisualTower(clip.visual), "vocabularies": InputVocabulary(VOCABULARY), **arguments},
    ).eval()


def scene(index: int = 0, height: int = 96, width: int = 128) -> Tensor:
    """Return a drawn scene, [3,H,W] uint8."""
    image = torch.from_numpy(draw_scene(index)[0]).permute(2, 0, 1)
    return F.interpolate(image[None], (height, width), mode="nearest")[0]


def telling_words(model: CLIPtrase, image: Tensor) -> TextFeatures:
    """Return four words that separate the parts of an image, which those of random weights hardly do.

    Each points from the mean of all patches to one of them.
    """
    tokens = model.tower(model.tower.normalise(image)[None])
    patches = get_method("cliptrase")(tokens).patches[0]  # [N,D]
    chosen = patches[:: len(patches) // 4][:4] - patches.mean(0)
    return TextFeatures(F.normalize(chosen, dim=-1), torch.arange(4), ("north", "upper", "lower", "south"))


def tiny_options(folder: Path) -> list[str]:
    """Return the KEY VALUE pairs of a run with the tiny model on the CPU; `folder` keeps its description."""
    options = {
        "MODEL.CLIP.NAME": register_tiny(folder),
        "MODEL.CLIP.PRETRAINED": "",
        "MODEL.CLIP.TEMPLATES": "simple",
        "MODEL.CLIP.TEXT_CACHE": "",
        "MODEL.VISION.NAME": "test_vit",
        "MODEL.VISION.WEIGHTS": "",
        "MODEL.DEVICE": "cpu",
        "INPUT.MIN_SIZE_TEST": "64",
        "INPUT.MAX_SIZE_TEST": "128",
        "TEST.WINDOW": "64",
        "TEST.STRIDE": "32",
        "DATALOADER.NUM_WORKERS": "0",
        "OUTPUT_DIR": str(folder / "output"),
    }
    return [word for pair in options.items() for word in pair]


def tiny_config(folder: Path, *options: str) -> CfgNode:
    """Return the configuration of such a run, changed by `options`."""
    return load_config(options=[*tiny_options(folder), *options])
