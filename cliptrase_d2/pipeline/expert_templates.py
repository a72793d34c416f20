"""Files of templates for each class, in YAML: a mapping of class names to lists of templates."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cliptrase_d2.clip.prompts import check_templates
from cliptrase_d2.utils.errors import InputError, suggest
from cliptrase_d2.utils.plain_yaml import load_plain_yaml
from cliptrase_d2.utils.user_files import read_text


def read_expert_templates(path: str | os.PathLike[str]) -> dict[str, tuple[str, ...]]:
    """Read the templates of each class; an empty tuple for a class without an expert.

    Raises:
        InputError: the file cannot be read, or has something else than lists of templates.
    """
    path = Path(path).expanduser()
    content = load_plain_yaml(read_text(path), path)
    if not isinstance(content, dict) or not content:
        got = f"{str(content)[:60]!r}, which is no mapping of classes to templates"
        raise InputError(path, got, "Write a line such as 'sky: [\"a photo of the {}.\"]' for each class.")
    for name, templates in content.items():
        if not isinstance(name, str) or not name:
            raise InputError(path, f"the class {name!r:.60}, which is no text", "Write the name in quotes.")
        if not isinstance(templates, list):
            got = f"the class {name[:60]!r} with {templates!r:.60}, which is no list of templates"
            raise InputError(path, got, "Write a list in brackets, [] for a class without an expert.")
        if templates:
            check_templates(templates, path, f"class {name[:60]!r}, template")
        if len(set(templates)) < len(templates):
            got = f"the class {name[:60]!r} with a template that is listed twice"
            raise InputError(path, got, "Remove one: it would count twice in the mean.")
    if not any(content.values()):
        raise InputError(path, "no templates of any class", "Write some, or use no experts.")
    return {name: tuple(templates) for name, templates in content.items()}


def format_expert_templates(templates: Mapping[str, Sequence[str]], settings: Mapping[str, Any]) -> str:
    """Return the content of a file.

    Args:
        templates: of each class.
        settings: that the templates were chosen with, plain values for the comment at the head of the file.
    """
    head = "".join(f"# {line}\n" for line in _dump(settings).splitlines())
    return head + _dump({name: list(own) for name, own in templates.items()})


def _dump(content: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(dict(content), allow_unicode=True, sort_keys=False, width=10**6)
    return text


def check_classes(templates: Mapping[str, Sequence[str]], classes: Sequence[str], path: object) -> None:
    """Check that a file lists the classes of a vocabulary and no others: a misspelt name would lose its expert.

    Raises:
        InputError: it does not.
    """
    unknown = [name for name in templates if name not in classes]
    if unknown:
        fix = suggest(unknown[0], classes, "Use a file that was made for these classes, or remove the name.")
        raise InputError(path, f"the class {unknown[0][:60]!r}, which the vocabulary does not have", fix)
    missing = [name for name in classes if name not in templates]
    if missing:
        got = f"no templates of {missing[0][:60]!r}" + (f" and {len(missing) - 1} others" if missing[1:] else "")
        raise InputError(path, got, "Add each class, with [] for one without an expert.")
