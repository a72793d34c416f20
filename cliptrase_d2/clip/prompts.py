"""Sentences that a word is put into before CLIP reads it."""

from __future__ import annotations

from open_clip import OPENAI_IMAGENET_TEMPLATES

from cliptrase_d2.utils.errors import InputError

SLOT = "{}"

TEMPLATE_SETS: dict[str, tuple[str, ...]] = {
    # The 80 of CLIP's ImageNet notebook; open_clip has them as functions of the word.
    "imagenet": tuple(template(SLOT) for template in OPENAI_IMAGENET_TEMPLATES),
    # The 14 of ViLD (https://arxiv.org/abs/2104.13921), punctuated as SAN and the mask classifiers after it do.
    "vild": (
        "a photo of a {}.",
        "This is a photo of a {}",
        "There is a {} in the scene",
        "There is the {} in the scene",
        "a photo of a {} in the scene",
        "a photo of a small {}.",
        "a photo of a medium {}.",
        "a photo of a large {}.",
        "This is a photo of a small {}.",
        "This is a photo of a medium {}.",
        "This is a photo of a large {}.",
        "There is a small {} in the scene.",
        "There is a medium {} in the scene.",
        "There is a large {} in the scene.",
    ),
    "simple": ("a photo of a {}.",),
}


def get_templates(name: str) -> tuple[str, ...]:
    """Look up a template set.

    Raises:
        InputError: there is none of this name.
    """
    if name not in TEMPLATE_SETS:
        raise InputError(
            "MODEL.CLIP.TEMPLATES",
            f"the set {name!r}",
            "Use one of these names.",
            allowed=f"one of {', '.join(TEMPLATE_SETS)}",
        )
    return TEMPLATE_SETS[name]


def fill(name: str, word: str) -> list[str]:
    """One prompt per template of the set `name`, in the set's order.

    Raises:
        InputError: there is no set of this name.
    """
    # replace, not format: a word may hold braces.
    return [template.replace(SLOT, word) for template in get_templates(name)]
