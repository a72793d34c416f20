"""Proposal of a data-set file for a folder of anybody's data."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path

from cliptrase_d2.data.label_names import UNLABELLED
from cliptrase_d2.data.proposal.annotations import PANOPTIC, Annotations, find_annotations
from cliptrase_d2.data.proposal.bands import PictureFacts, look_at_pictures, needs_bands
from cliptrase_d2.data.proposal.class_lists import choose_table, find_tables
from cliptrase_d2.data.proposal.content import LABEL, MAX_LABEL_FILES, classify, look_at_labels
from cliptrase_d2.data.proposal.file_sets import find_sets
from cliptrase_d2.data.proposal.image_lists import find_lists
from cliptrase_d2.data.proposal.inventory import MASK_SUFFIXES, PICTURE_SUFFIXES, Inventory, scan, suffix
from cliptrase_d2.data.proposal.label_keys import Draft, describe_values, set_label_keys
from cliptrase_d2.data.proposal.pairs import Pair, Side, find_pairs, join_depths, list_sides
from cliptrase_d2.data.proposal.words import count, rank_split, score_pictures
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.user_files import read_text

LAYOUTS = (
    "a folder of pictures with a folder of masks of the same stems; train/val/test below or above them; pictures and "
    "masks in one folder with different endings; one folder per sequence or sample; the exports of Roboflow, CVAT, "
    "Supervisely, VOC, Cityscapes, ADE20K, CamVid, GTA5 and COCO panoptic"
)
_MAX_OTHERS = 5
_CITIES = {"frankfurt", "lindau", "munster", "aachen", "bochum", "bremen", "cologne", "darmstadt", "hamburg", "zurich"}
_VOC_STEM = re.compile(r"20(07|08|09|10|11|12)_\d{6}")


def propose(root: Path) -> Draft:
    """Return the data-set file for a folder, whose paths are relative to the folder.

    Args:
        root: a folder. It is only read: all its names, and a sample of its files.
    Raises:
        InputError: the folder has no pictures, or its labels are in a form that has to be converted.
    """
    inventory = scan(root)
    look = cache(lambda path: classify(root / path))
    sets = find_sets(inventory, look)
    annotations = find_annotations(inventory)
    _refuse_one_file_per_label(root, annotations)
    draft = Draft()
    if files := _find_dataset_files(inventory):
        draft.notes.append(f"Data-set files of the folder, for cliptrase doctor --dataset: {_join(files)}.")
    draft.keys["name"] = re.sub(r"[^\w.-]+", "_", root.resolve().name).strip("._-")[:100] or "my_set"
    pairs = find_pairs(sets, look)
    if pairs:
        _set_pair(draft, pairs, inventory, annotations)
        return draft
    if convertible := [one for one in annotations if one.kind != PANOPTIC]:
        raise _convert(root, convertible[0])

    def is_label(side: Side) -> bool:
        return look(side.files[0].path) == LABEL and score_pictures(side.parts[-1:]) < 2

    sides = [side for side in list_sides(sets, PICTURE_SUFFIXES) if not is_label(side)]
    if not sides:
        got = f"no pictures and labels that belong together: {inventory.describe()}"
        raise InputError(root, got, "Sort the files in such a way, or name another folder.", allowed=LAYOUTS)
    side = min(sides, key=lambda side: (-score_pictures(side.parts), side.is_narrow, -len(side.files), side.parts))
    _set_unlabelled(draft, side, inventory)
    lone = sorted({"/".join(other.parts) or "." for other in list_sides(sets, MASK_SUFFIXES) if is_label(other)})
    if lone:
        draft.notes.append(f"Files like labels, whose names match no picture: {_join(lone)}.")
    return draft


def _find_dataset_files(inventory: Inventory) -> list[str]:
    """Return the data-set files in a folder itself."""
    files = []
    for name in inventory.files.get("", ()):
        if suffix(name) in (".yaml", ".yml"):
            try:
                text = read_text(inventory.root / name)
            except InputError:  # no text
                continue
            if all(re.search(rf"^{key}\s*:", text, re.MULTILINE) for key in ("name", "images", "classes")):
                files.append(name)
    return files


def _convert(root: Path, annotations: Annotations) -> InputError:
    got = f"labels in {annotations.kind} files, such as {annotations.paths[0]}"
    return InputError(root, got, f"Run 'cliptrase convert {root} OUT', then 'cliptrase doctor OUT'.")


def _refuse_one_file_per_label(root: Path, annotations: Sequence[Annotations]) -> None:
    studio = next((one for one in annotations if one.kind == "Label Studio"), None)
    if studio:
        raise _convert(root, studio)


def _set_unlabelled(draft: Draft, side: Side, inventory: Inventory) -> None:
    """Set the keys for pictures without labels."""
    draft.set(
        "images", to_pattern(side, is_shared=False), f"{count(len(side.files), 'picture')} ({' '.join(side.suffixes)})"
    )
    tables = find_tables(inventory, {file.stem for file in side.files})
    if tables:
        draft.set("classes", tables[0].value, f"the {len(tables[0].names)} names of {tables[0].path}")
    else:
        draft.set("classes", ["class_0", "class_1"], "no class list was found: replace these by those you look for")
    draft.notes.append("No labels were found, so the file is for predictions only.")
    _set_bands(draft, look_at_pictures([inventory.root / file.path for file in side.files]))


def _set_pair(draft: Draft, pairs: Sequence[Pair], inventory: Inventory, annotations: Sequence[Annotations]) -> None:
    """Set the keys for the most likely pair of pictures and labels."""
    pair = join_depths(pairs)
    root, matched = inventory.root, pair.matched
    is_shared = pair.pictures.parts == pair.labels.parts
    pictures = [root / image.path for image, _ in matched]
    facts = look_at_labels([root / label.path for _, label in matched])
    split = f", the split {pair.split!r}" if pair.split else ""
    draft.set("images", to_pattern(pair.pictures, is_shared), f"{count(len(matched), 'picture')} with labels{split}")
    draft.set("labels", to_pattern(pair.labels, is_shared), describe_values(facts))
    for key, side in (("image_suffix", pair.pictures), ("label_suffix", pair.labels)):
        if side.ending and not side.is_constant:
            draft.set(key, side.ending, "the rest of the stems pairs the files")
    _set_list(draft, pair, inventory)
    folders = {pair.pictures.files[0].path.rpartition("/")[0], pair.labels.files[0].path.rpartition("/")[0]}
    tables = find_tables(inventory, {image.stem for image, _ in matched})
    panoptic = next((one for one in annotations if one.kind == PANOPTIC), None)
    if panoptic and facts.colors:
        path = max(panoptic.paths, key=lambda path: (pair.split in path, rank_split(path), path))
        draft.set("classes", path, "the categories of the JSON file")
        draft.set("panoptic_json", path, "the labels are COCO's panoptic PNG files")
    elif facts.colors and pair.labels.ending == "_seg" and matched[0][1].stem.startswith("ADE_"):
        draft.set("label_coding", "ade20k_full", "these are the full annotations of ADE20K")
        draft.set("classes", "classes.txt", "write this file: the names of all ADE20K classes, one per line")
        draft.set("reduce_zero_label", True, "0 is unlabelled")
    else:
        label_folders = {label.path.rpartition("/")[0] for _, label in matched}
        own_lists = [table for table in tables if table.path.endswith("/label_names.txt")]
        tables = [table for table in tables if table not in own_lists]
        if own_names := [table.names for table in own_lists if table.path.rpartition("/")[0] in label_folders]:
            classes = dict.fromkeys(name for names in own_names for name in names if name not in UNLABELLED)
            draft.set("classes", list(classes), "all names of label_names.txt, which numbers the classes of each file")
        else:
            set_label_keys(draft, facts, choose_table(tables, facts, folders), _name_layout(pair))
        _note_tables(draft, [table.path for table in tables])
    _set_bands(draft, look_at_pictures(pictures))
    _note_rest(draft, pair, pairs, facts.broken)


def to_pattern(side: Side, is_shared: bool) -> str:
    """Return the folder or pattern of a set of files.

    Args:
        side: the set.
        is_shared: whether the other files of the pair are in the same folders, so that the suffix must tell them apart.
    """
    folder = "/".join(side.parts)
    if side.is_constant:
        return f"{folder}/{side.ending}{side.suffixes[0]}"
    if (is_shared or side.is_narrow or side.start) and len(side.suffixes) == 1:
        return f"{folder}/{side.start}*{side.suffixes[0]}".lstrip("/")
    if side.start:
        return f"{folder}/{side.start}*".lstrip("/")
    return f"{folder}/*" if "*" in folder else folder or "."


def _name_layout(pair: Pair) -> str:
    """Return the public data set that the names prove; "" for another."""
    image, label = pair.matched[0]
    if {*pair.pictures.parts, *image.wild} & _CITIES and "_gtFine_" in label.path:
        return "cityscapes"
    is_voc = all(_VOC_STEM.fullmatch(image.stem) for image, _ in pair.matched[:100])
    return "voc" if is_voc and "SegmentationClass" in pair.labels.parts else ""


def _set_list(draft: Draft, pair: Pair, inventory: Inventory) -> None:
    """Set the list of images if only a part of them has labels, or is a split."""
    lists = find_lists(inventory, pair)
    if lists:
        best = lists[0]
        draft.set("image_list", best.path, f"{len(best.stems):,} of {len(pair.matched) + pair.lone_pictures:,} images")
        if others := [one.path for one in lists[1:]]:
            draft.notes.append(f"Other lists: {_join(others)}.")
    elif pair.lone_pictures:
        draft.notes.append(
            f"Without labels: {count(pair.lone_pictures, 'picture')}. Remove them, or name the others in an image_list."
        )


def _note_tables(draft: Draft, paths: Sequence[str]) -> None:
    used = [draft.keys.get("classes"), draft.keys.get("label_colors")]
    quoted = " ".join(draft.reasons.values())
    if others := [path for path in paths if path not in used and path not in quoted]:
        draft.notes.append(f"Class lists that were not used: {_join(others)}.")


def _set_bands(draft: Draft, facts: PictureFacts) -> None:
    """Set the keys for pictures with many bands or values that fill a small part of their range."""
    if needs_bands(facts):
        chosen = [3, 2, 1] if facts.bands > 3 else [1]
        draft.set("bands", chosen, f"{facts.bands} bands. Satellites often have blue, green and red first: check it")
    if (facts.bits > 8 or facts.is_float) and facts.low is not None and facts.high is not None:
        low, high = (round(value) if abs(facts.high) > 10 else round(value, 4) for value in (facts.low, facts.high))
        if facts.is_float or high < 2 ** (facts.bits - 1):
            draft.set("stretch", [low, high], "98 % of the values in a sample lie in this range")
    elif facts.bits > 8:
        draft.notes.append(f"The pictures have {facts.bits} bits: set stretch: [low, high] if they look black.")


def _note_rest(draft: Draft, best: Pair, pairs: Sequence[Pair], broken: Collection[str]) -> None:
    if len(best.matched) > MAX_LABEL_FILES:
        draft.notes.append(f"{MAX_LABEL_FILES} of {len(best.matched):,} label files were looked at.")
    if best.lone_labels:
        draft.notes.append(f"Without a picture: {count(best.lone_labels, 'label file')}.")
    if broken:
        draft.notes.append(f"Unreadable: {count(len(broken), 'label file')}, the first being {next(iter(broken))}")
    others: dict[tuple[tuple[str, ...], tuple[str, ...]], Pair] = {}
    for pair in pairs:
        if pair.kinds == best.kinds and pair.score >= min(best.score, 2):
            others.setdefault((pair.pictures.parts, pair.labels.parts), pair)
    others.pop((pairs[0].pictures.parts, pairs[0].labels.parts))
    if "**" in best.pictures.parts:
        depth, other_depth = len(best.pictures.parts) - 1, len(best.labels.parts) - 1
        used = best.pictures.parts[:-1], best.labels.parts[:-1]
        others = {place: pair for place, pair in others.items() if (place[0][:depth], place[1][:other_depth]) != used}
    if others:
        places = [("/".join(one), "/".join(two), pair) for (one, two), pair in others.items()]
        listed = [f"{one or '.'} with {two or '.'} ({len(pair.matched):,})" for one, two, pair in places]
        draft.notes.append(f"Other pairs: {_join(listed)}.")


def _join(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_OTHERS} more" if len(names) > _MAX_OTHERS else ""
    return ", ".join(names[:_MAX_OTHERS]) + more
