"""Models that this package does not run, by name or by the names of their tensors, and the nearest that it runs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import open_clip

from cliptrase_d2.utils.errors import InputError

_TAGS = 3  # in a message
_LATER = "Support comes with a later version. "
# Pattern of a name in lower case, and the nearest model with weights in open_clip. The first match counts.
_NEAREST = (
    (r"xlm|nllb|mt5|i18n|multilingual|altclip|chinese", "ViT-H-14-worldwide"),
    (r"bigg|(\b|-)e-14", "ViT-bigG-14"),
    (r"\bg(-|$)|-g-|gopt|giant", "ViT-g-14"),
    (r"(\b|-)h(-|$)|huge|xxlarge|so400m|-xl-|xl\b", "ViT-H-14"),
    (r"(\b|-)l2?-.*(336|378|384|448|512)", "ViT-L-14-336"),
    (r"(\b|-)l2?(-|$)|large|rn50x(16|64)|s4$", "ViT-L-14"),
    (r"32$|patch32|(^|/)rn", "ViT-B-32"),
)
_PLAIN_CLIP = "Choose a plain CLIP, such as ViT-B-16 with 'openai'."
_UNTIL = f"{_LATER}Until then, choose a plain CLIP, such as ViT-B-16 with 'openai'."
# Pattern of a tensor's name, the model, and what to do.
_FAMILIES = (
    (r"visual\.trunk\.", "a CLIP with an image tower of timm, such as SigLIP, PE, ConvNeXt or MobileCLIP", _UNTIL),
    (r"vision_model\.head\.(probe|attention)", "SigLIP", _UNTIL),
    (r"visual\.(blocks|patch_embed)\.", "EVA-CLIP", _UNTIL),
    (r"visual\.attn_pool\.|text_decoder\.", "a CLIP with attentional pooling, such as CoCa or PE", _UNTIL),
    (r"visual\.(layer1|stem)\.", "a CLIP whose image tower is no ViT, such as RN50", _PLAIN_CLIP),
    (
        r"text\.transformer\.(encoder|embeddings|shared)\.|bert\.|text_model\.(encoder\.layer\.|embeddings\.word)",
        "a CLIP with a language model as text tower",
        _UNTIL,
    ),
    (r"prompt_learner\.", "learned prompts (CoOp, MaPLe), which only run in their own code", _PLAIN_CLIP),
    (
        r"(clip_visual_extractor|side_adapter_network)\.",
        "a SAN",
        "Pass it as MODEL.WEIGHTS, with a configuration of configs/san.",
    ),
    (
        r"(sam_)?mask_decoder\.",
        "SAM",
        "CLIP is a model of its own. For SAM's masks, set MODEL.MASKS.SOURCE sam and MODEL.MASKS.SAM.",
    ),
    (
        r"(mask_token$|register_tokens$|blocks\.0\.ls1\.gamma|(dinov2\.)?embeddings\.mask_token)",
        "DINOv2",
        "It has no text tower. For its masks, set MODEL.MASKS.SOURCE backbone and MODEL.MASKS.BACKBONE_WEIGHTS.",
    ),
    (r"visual_encoder\.|qformer\.|query_tokens$", "BLIP or ALBEF", _PLAIN_CLIP),
    (
        r"(vit\.)?(embeddings\.)?(patch_embed|patch_embeddings)\.",
        "a ViT without a text tower, such as DINO, MAE or one of timm",
        "For its masks, set MODEL.MASKS.SOURCE backbone and MODEL.MASKS.BACKBONE_WEIGHTS.",
    ),
    (r"(model\.)?layers\.\d+\.self_attn|language_model\.", "a language model", _PLAIN_CLIP),
    (r"layer1\.0\.conv1\.", "a ResNet", _PLAIN_CLIP),
)
MERGE_ADAPTER = (
    'Merge it into its base model: peft.PeftModel.from_pretrained(base, "ADAPTER").merge_and_unload()'
    '.save_pretrained("merged"), and pass the folder "merged".'
)
_ADAPTER = re.compile(r"(^|\.)(lora_\w+|base_layer|modules_to_save|original_module)(\.|$)")


def nearest_model(name: str) -> str:
    """Return the name of a supported model with weights that resembles a model that is not supported."""
    lower = name.lower().rpartition("/")[2]
    return next((near for pattern, near in _NEAREST if re.search(pattern, lower)), "ViT-B-16")


def suggest_supported(name: str, *, later: bool = False) -> str:
    """Return the fix for a model that is not supported: the nearest one that is, and some of its tags.

    Args:
        later: whether a later version will support it.
    """
    near = nearest_model(name)
    tags = ", ".join(map(repr, open_clip.list_pretrained_tags_by_model(near)[:_TAGS]))
    return f"{_LATER if later else ''}The nearest model that works is {near}, with {tags}."


def check_adapter(path: Path, names: Iterable[str]) -> None:
    """Raise if weights contain an adapter that is not merged.

    Raises:
        InputError: naming an entry of the adapter.
    """
    if found := next((name for name in names if _ADAPTER.search(name)), None):
        raise InputError(path, f"an adapter (LoRA) that is not merged; it has {found[:100]}", MERGE_ADAPTER)


def check_family(path: Path, names: Iterable[str]) -> None:
    """Raise if the names of tensors are those of a known model that is not supported.

    Raises:
        InputError: naming the model.
    """
    names = list(names)
    for pattern, family, fix in _FAMILIES:
        if any(re.match(pattern, name) for name in names):
            listed = ", ".join(islice(names, 2))
            raise InputError(path, f"weights of another model: {family}, with {listed}", fix)
