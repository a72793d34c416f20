"""Recognition of a format by the content of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cliptrase_d2.data.convert import coco, coco_panoptic, cvat, hf_datasets, label_studio, label_studio_masks, labelme
from cliptrase_d2.data.convert.json_files import load_json
from cliptrase_d2.data.convert.source import Options, Source
from cliptrase_d2.utils.errors import InputError, check_choice
from cliptrase_d2.utils.user_files import check_readable

_JSON_READERS = {module.FORMAT: module for module in (coco_panoptic, coco, label_studio)}  # the first that recognises
FORMATS = (*_JSON_READERS, labelme.FORMAT, label_studio_masks.FORMAT, cvat.FORMAT, hf_datasets.FORMAT)
_TRIED = f"Tried: {', '.join(FORMATS)}."
_COLOUR_FILES = ("labelmap.txt", "obj_class_to_machine_color.json", "class_dict.csv", "SegmentationClass")
_MASKS = "Masks in PNG files need no conversion: write a data-set file. "
_COLOURS = "a folder of colour masks, which need no conversion"
_COLOURS_FIX = "Write a data-set file with the masks as labels, and the key label_colors."


def read_source(options: Options, name: str = "") -> Source:
    """Read the labels of another tool.

    Args:
        options: of the user.
        name: of the format; "" to recognise it.
    Raises:
        InputError: the source does not exist, has no known format, or is invalid.
    """
    if name:
        check_choice("--from", name, FORMATS)
    if options.source.startswith(hf_datasets.PREFIX) or name == hf_datasets.FORMAT:
        return hf_datasets.read(options)
    path = options.path
    if not path.is_dir():
        return _read_file(path, options, name)
    if not name and hf_datasets.recognises(path):
        return hf_datasets.read(options)
    return _read_folder(path, options, name)


def _read_file(path: Path, options: Options, name: str) -> Source:
    check_readable(path)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return hf_datasets.read(options)
    if suffix == ".xml" or name == cvat.FORMAT:
        root = cvat.parse(path)
        if root is None:
            raise InputError(path, "XML that is not CVAT's", "Export the labels as 'COCO 1.0' or 'CVAT for images'.")
        return cvat.read(root, path, options)
    if suffix not in (".json", ".jsonl", ".geojson"):
        raise _describe_unknown(path, f"a file of the kind {suffix!r}")
    return _read_json(load_json(path), path, options, name)


def _read_json(content: Any, path: Path, options: Options, name: str) -> Source:
    if name in ("", labelme.FORMAT) and labelme.recognises(content):
        return labelme.read([path], options)
    for known, module in _JSON_READERS.items():
        if name in ("", known) and module.recognises(content):
            return module.read(content, path, options)
    raise _describe_unknown(path, _describe_json(content))


def _describe_json(content: Any) -> str:
    """Return a description of JSON in no known format."""
    first = content[0] if isinstance(content, list) and content else content
    keys = set(first) if isinstance(first, dict) else set()
    if keys & {"_via_img_metadata", "_via_settings"} or "regions" in next(iter(_list_dicts(first)), {}):
        return "a project of VGG Image Annotator; its export 'Annotations (as COCO)' is read"
    if {"image_id", "category_id"} <= keys:
        return "COCO results without images and categories; an annotation file is needed"
    if isinstance(content, list) and {"image", "id"} <= keys:
        return "Label Studio's JSON-MIN; its export 'JSON' is read"
    if {"objects", "size"} <= keys or {"objects", "imgHeight"} <= keys:
        return "polygons of Supervisely or Cityscapes; their masks are read directly"
    return f"JSON with {', '.join(sorted(map(repr, keys))[:5]) or 'no known keys'}"


def _list_dicts(content: Any) -> list[dict[str, Any]]:
    return [value for value in content.values() if isinstance(value, dict)] if isinstance(content, dict) else []


def _describe_unknown(path: Path, got: str, fix: str = "") -> InputError:
    return InputError(path, f"{got}, which is no format of labels that can be converted", f"{fix}{_TRIED}")


def _read_folder(folder: Path, options: Options, name: str) -> Source:
    entries = sorted(folder.iterdir())
    if name in ("", label_studio_masks.FORMAT) and any(label_studio_masks.recognises(path.name) for path in entries):
        return label_studio_masks.read(folder, options)
    if name in ("", cvat.FORMAT) and (folder / "annotations.xml").is_file():
        return _read_file(folder / "annotations.xml", options, cvat.FORMAT)
    is_supervisely = (folder / "meta.json").is_file() and any((entry / "ann").is_dir() for entry in [folder, *entries])
    if not name and (is_supervisely or any((folder / known).exists() for known in _COLOUR_FILES)):
        raise InputError(folder, _COLOURS, _COLOURS_FIX)
    # Output folders of earlier conversions hold no JSON files.
    paths = sorted(path for path in folder.rglob("*.json") if path.is_file() and not path.name.startswith("."))
    return _read_json_files(folder, paths, options, name)


def _read_json_files(folder: Path, paths: list[Path], options: Options, name: str) -> Source:
    """Read the one file of a whole data set in a folder, or LabelMe's files."""
    wholes: list[tuple[Path, Any]] = []
    first_problem: InputError | None = None
    for path in paths:
        content = load_json(path)
        if name in ("", labelme.FORMAT) and labelme.recognises(content):
            return labelme.read(paths, options)
        if any(module.recognises(content) for known, module in _JSON_READERS.items() if name in ("", known)):
            wholes.append((path, content if not wholes else None))
        first_problem = first_problem or _describe_unknown(path, _describe_json(content))
    if len(wholes) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path, _ in wholes[:5])
        raise InputError(folder, f"several annotation files: {names}", "Name one of them.")
    if wholes:
        return _read_json(wholes[0][1], wholes[0][0], options, name)
    raise first_problem or _describe_unknown(folder, "a folder without JSON, XML or Parquet files", _MASKS)
