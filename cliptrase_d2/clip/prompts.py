"""Prompt templates for class names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from open_clip import OPENAI_IMAGENET_TEMPLATES

from cliptrase_d2.utils.errors import InputError, check_choice
from cliptrase_d2.utils.user_files import CONTROL_CHARACTER, check_readable, read_text

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


def get_templates(name: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return the templates of a set. Each contains `SLOT` once.

    Args:
        name: of `TEMPLATE_SETS`, or the path of a text file with one template per line, or the templates themselves.
    Raises:
        InputError: neither a set nor a file, there is no template, or one is invalid.
    """
    if isinstance(name, tuple):
        check_templates(name, "templates", "template")
        return name
    if name in TEMPLATE_SETS:
        return TEMPLATE_SETS[name]
    path = Path(name).expanduser()
    if not (path.suffix or len(path.parts) > 1 or path.exists()):
        check_choice("templates", name, [*TEMPLATE_SETS, "FILE.txt"])
    check_readable(path)
    return _read_templates(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _read_templates(path: Path, modified: int) -> tuple[str, ...]:
    """Read a file of templates. Its time of change in nanoseconds only tells calls apart."""
    templates = tuple(line.strip() for line in read_text(path).rstrip().splitlines())
    check_templates(templates, path, "line")
    return templates


def check_templates(templates: Sequence[object], where: object, place: str) -> None:
    """Check that there are templates, and that each is text with `SLOT` once and without control characters.

    Args:
        templates: to check.
        where: file or argument, for the message.
        place: of one template in it, such as "line", to which its number is added.
    Raises:
        InputError: they are not.
    """
    if not templates:
        raise InputError(where, "no templates", f"Write at least one, such as 'a photo of a {SLOT}.'.")
    for number, template in enumerate(templates, start=1):
        if not isinstance(template, str) or template.count(SLOT) != 1 or CONTROL_CHARACTER.search(template):
            got = f"{place} {number}, {str(template)[:60]!r}, is not a template"
            raise InputError(where, got, f"Write {SLOT!r} once in each template, where the word belongs.")


def fill(name: str | tuple[str, ...], word: str) -> list[str]:
    """Return the prompts of a word, one for each template of the set `name`, in the set's order.

    Raises:
        InputError: as `get_templates`.
    """
    # replace, not format: a word may contain braces.
    return [template.replace(SLOT, word) for template in get_templates(name)]
