"""Choose prompt templates for each class from unlabelled images (FLOSS).

    cliptrase choose-templates my_set.yaml --model ViT-B-16 --method naclip --output templates.yaml
    cliptrase eval my_set.yaml --model ViT-B-16 --method naclip --protocol published --opts \\
        TEST.PUBLISHED.EXPERTS templates.yaml

Every template of MODEL.CLIP.TEMPLATES labels the images on its own, by the published protocol. For each class, the
templates with the lowest mean entropy of its pixels are kept. Labels are not read.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cliptrase_d2.cli.model_arguments import add_model_arguments, get_options
from cliptrase_d2.cli.outputs import add_overwrite_argument, require_absent

if TYPE_CHECKING:  # importing PyTorch would delay --help
    from cliptrase_d2.d2 import CfgNode

_PROTOCOL = ["TEST.PROTOCOL", "published", "MODEL.CLIPTRASE.CLUSTERING", "none"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cliptrase choose-templates``."""
    parser.add_argument("data", metavar="DATA", help="a file in YAML or a name; its labels are not read")
    add_model_arguments(parser, method=True)
    parser.add_argument("--images", type=int, metavar="N", help="read N evenly spaced images (default: all)")
    parser.add_argument("--keep", type=int, default=4, metavar="N", help="templates of a class (default 4)")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.yaml", help="file to write")
    add_overwrite_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Choose the templates, write the file and return 0."""
    from cliptrase_d2.cli.job import register_datasets
    from cliptrase_d2.config import ARGUMENT_KEYS, load_config
    from cliptrase_d2.data.register import get_dataset_labels
    from cliptrase_d2.pipeline.expert_templates import format_expert_templates
    from cliptrase_d2.pipeline.template_choice import TemplateChooser
    from cliptrase_d2.segmenter.build import build_cliptrase, resolve_device
    from cliptrase_d2.utils.atomic_files import atomic_write_text, require_writable
    from cliptrase_d2.utils.errors import InputError, name_arguments

    for name in ("images", "keep"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise InputError(f"--{name}", value, "Give a number of 1 or more.")
    require_writable(arguments.output.parent, "--output")
    if not arguments.overwrite:
        require_absent([arguments.output])
    cfg = load_config(arguments.config_file, [*_PROTOCOL, *get_options(arguments)])
    (dataset,) = register_datasets([arguments.data])
    resolve_device(cfg)
    cfg.freeze()
    with name_arguments(ARGUMENT_KEYS):
        chooser = TemplateChooser(build_cliptrase(cfg), get_dataset_labels(dataset)[0])
    images = _add_images(cfg, dataset, arguments.images, chooser)
    templates = chooser.choose(arguments.keep)
    settings = _describe(cfg, dataset, images, arguments.keep)
    atomic_write_text(arguments.output, format_expert_templates(templates, settings))
    without = sum(not own for own in templates.values())
    print(f"{images} images: templates of {len(templates) - without} classes, {without} never predicted")
    print(f"  TEST.PUBLISHED.EXPERTS {arguments.output}")
    return 0


def _add_images(cfg: CfgNode, dataset: str, limit: int | None, chooser: Any) -> int:
    """Add the images of a data set. Return their number.

    Raises:
        InputError: an image cannot be read and TEST.ON_ERROR is "stop", or there is none.
    """
    from tqdm import tqdm

    from cliptrase_d2.data.loader import BadRecord, build_evaluation_loader, list_records, sample_evenly
    from cliptrase_d2.data.mapper import EvaluationMapper
    from cliptrase_d2.utils.errors import InputError

    model = chooser.model
    records = list_records(dataset, cfg.TEST.ON_ERROR)
    names = set(sample_evenly(records, limit or len(records)))
    images = [
        {key: value for key, value in record.items() if key != "sem_seg_file_name"}
        for record in records
        if not isinstance(record, BadRecord) and record["file_name"] in names
    ]
    mapper = EvaluationMapper(cfg, dataset, patch_size=model.patch_multiple, resampling=model.resampling)
    options = {"batch_size": 1, "num_workers": cfg.DATALOADER.NUM_WORKERS, "on_error": cfg.TEST.ON_ERROR}
    count = 0
    for (item,) in tqdm(build_evaluation_loader(images, mapper, **options), "Templates", len(images), unit="image"):
        if not isinstance(item, BadRecord):
            chooser.add(item)
            count += 1
    if not count:
        raise InputError(dataset, "no readable image", "Check the folder of images.")
    return count


def _describe(cfg: CfgNode, dataset: str, images: int, keep: int) -> dict[str, Any]:
    """Return the settings of a choice, plain values."""
    clip, method, published = cfg.MODEL.CLIP, cfg.MODEL.CLIPTRASE, cfg.TEST.PUBLISHED
    return {
        "written by": "cliptrase choose-templates",
        "data set": dataset,
        "images": images,
        "keep": keep,
        "model": f"{clip.NAME}, {clip.PRETRAINED or 'random weights'}",
        "templates": clip.TEMPLATES,
        "method": method.METHOD,
        "options": dict(method.METHOD_OPTIONS),
        "short side": cfg.INPUT.MIN_SIZE_TEST,
        "window": cfg.TEST.WINDOW,
        "stride": cfg.TEST.STRIDE,
        "logit scale": published.LOGIT_SCALE,
    }
