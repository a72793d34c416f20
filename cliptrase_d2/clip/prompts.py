"""Prompt templates for class names."""

from __future__ import annotations

from open_clip import OPENAI_IMAGENET_TEMPLATES

from cliptrase_d2.utils.errors import check_choice

SLOT = "{}"

TEMPLATE_SETS: dict[str, tuple[str, ...]] = {
    # The 80 templates of CLIP's ImageNet notebook; open_clip stores them as functions.
    "imagenet": tuple(template(SLOT) for template in OPENAI_IMAGENET_TEMPLATES),
    # The 14 templates of ViLD (https://arxiv.org/abs/2104.13921), with the punctuation of SAN and later classifiers.
    "vild": (
        "a photo of a {}.", "This is a photo of a {}", "There is a {} in the scene", "There is the {} in the scene",
        "a photo of a {} in the scene", "a photo of a small {}.", "a photo of a medium {}.", "a photo of a large {}.",
        "This is a photo of a small {}.", "This is a photo of a medium {}.", "This is a photo of a large {}.",
        "There is a small {} in the scene.", "There is a medium {} in the scene.", "There is a large {} in the scene.",
    ),
    "simple": ("a photo of a {}.",),
}  # fmt: skip


def get_templates(name: str) -> tuple[str, ...]:
    """Return the templates of a set. Each contains `SLOT` once.

    Raises:
        InputError: unknown set.
    """
    check_choice("templates", name, TEMPLATE_SETS)
    return TEMPLATE_SETS[name]


def fill(name: str, word: str) -> list[str]:
    """Return the prompts of a word, one for each template of the set `name`, in the set's order.

    Raises:
        InputError: unknown set.
    """
    # replace, not format: a word may contain braces.
    return [template.replace(SLOT, word) for template in get_templates(name)]
