"""Text of a data-set file: YAML with a comment for each key."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import Any

import yaml

from cliptrase_d2.data.proposal.label_keys import Draft
from cliptrase_d2.utils.user_files import CONTROL_CHARACTER

_WIDTH = 100
_ORDER = (
    "name", "images", "image_suffix", "labels", "label_suffix", "image_list", "panoptic_json", "classes", "background",
    "ignore_label", "label_map", "label_colors", "label_coding", "reduce_zero_label", "bands", "stretch",
)  # fmt: skip
_PATHS = ("images", "labels", "image_list", "panoptic_json")
_PATHS_OR_NAMES = ("classes", "label_colors")  # "@voc" is no path


def render(draft: Draft, root: Path, target: Path | None = None) -> str:
    """Return the YAML of a data-set file.

    Args:
        draft: its keys, with paths relative to ``root``.
        root: the folder of the data.
        target: folder of the YAML file, from which its paths start; None for complete paths.
    """
    title = f"Proposed by cliptrase doctor for {root.resolve().name or root}."
    lines = [line for text in (title, *draft.notes) for line in _comment(text)]
    for key in sorted(draft.keys, key=_ORDER.index):
        value = draft.keys[key]
        is_path = key in _PATHS or (key in _PATHS_OR_NAMES and isinstance(value, str) and not value.startswith("@"))
        if key in draft.reasons:
            lines += _comment(f"{key}: {draft.reasons[key]}")
        lines.append(_format(key, _place(value, root, target) if is_path else value))
    return "\n".join(lines) + "\n"


def _place(path: str, root: Path, target: Path | None) -> str:
    full = os.path.join(os.path.abspath(root), path) if path != "." else os.path.abspath(root)
    return full if target is None else Path(os.path.relpath(full, os.path.abspath(target))).as_posix()


def _comment(text: str) -> list[str]:
    """Return a text as lines of comments. A name in it cannot end the comment."""
    clean = CONTROL_CHARACTER.sub(" ", text).replace("\u2028", " ").replace("\u2029", " ")
    clean = clean.encode(errors="backslashreplace").decode()
    wrapped = textwrap.wrap(clean, _WIDTH, initial_indent="# ", subsequent_indent="#   ", break_long_words=False)
    return wrapped or ["#"]


def _format(key: str, value: Any) -> str:
    if isinstance(value, dict) and any(isinstance(entry, tuple) for entry in value):
        rows = [f"  [{', '.join(map(str, color))}]: {_dump(name)}" for color, name in value.items()]
        return "\n".join([f"{key}:", *rows])
    return f"{key}: {_dump(value)}"


def _dump(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, sort_keys=False, width=_WIDTH)
    return text.removesuffix("\n").removesuffix("\n...")
