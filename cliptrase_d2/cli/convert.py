"""Convert labels of other tools to index PNG files with a ready data-set file.

    cliptrase convert annotations/instances_val2017.json converted --images val2017
    cliptrase convert labelme_folder converted --background other
    cliptrase convert hf-datasets:owner/name:validation converted

The format is found from the content. FOLDER receives labels/, the list images.txt and dataset.yaml, which
`cliptrase eval` and train_net.py --dataset take. The report says what was skipped, what overlapped and what is
unlabelled.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from cliptrase_d2.cli.class_arguments import split_names
from cliptrase_d2.cli.outputs import add_overwrite_argument

# As in data/convert/formats.py, whose import would delay --help.
FORMATS = (
    *("coco-panoptic", "coco", "label-studio", "labelme"),
    *("label-studio-masks", "cvat", "hf-datasets"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cliptrase convert``."""
    parser.add_argument("source", metavar="DATA", help="file or folder, or hf-datasets:owner/name:split")
    parser.add_argument("output", type=Path, metavar="FOLDER", help="folder of the results, new or empty")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="folder of the pictures (default: beside DATA)")
    group = parser.add_mutually_exclusive_group()
    help_classes = 'class names in order, separated by commas; "cat;kitten" are synonyms (default: those of DATA)'
    group.add_argument("--classes", help=help_classes)
    group.add_argument("--classes-file", type=Path, metavar="FILE", help="text file with one class per line")
    help_background = "class of pixels that no shape covers (default: they are ignored)"
    parser.add_argument("--background", default="", metavar="NAME", help=help_background)
    parser.add_argument("--from", dest="format", choices=FORMATS, default="", help="format (default: found)")
    parser.add_argument("--keep-crowds", action="store_true", help="COCO: crowd regions are not ignored")
    help_contours = "COCO: the points of polygons are pixels, as those of cv2.findContours (default: found)"
    parser.add_argument("--contours", action=argparse.BooleanOptionalAction, help=help_contours)
    help_tasks = "Label Studio's PNG masks: lines such as '1 a.jpg', or its JSON export"
    parser.add_argument("--tasks", type=Path, metavar="FILE", help=help_tasks)
    parser.add_argument("--image-column", default="", metavar="NAME", help="hf-datasets: column of the pictures")
    parser.add_argument("--label-column", default="", metavar="NAME", help="hf-datasets: column of the label maps")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    add_overwrite_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Convert, print the report and return 0."""
    from cliptrase_d2.class_files import read_class_file
    from cliptrase_d2.data.convert.formats import read_source
    from cliptrase_d2.data.convert.report import describe
    from cliptrase_d2.data.convert.run import convert_source
    from cliptrase_d2.data.convert.source import Options
    from cliptrase_d2.utils.atomic_files import require_writable
    from cliptrase_d2.utils.errors import InputError

    output, names = arguments.output, arguments.classes
    if output.exists() and not output.is_dir():
        raise InputError(output, "a file", "Choose a folder.")
    if output.is_dir() and any(output.iterdir()) and not arguments.overwrite:
        fix = "Choose another folder, or add --overwrite to replace earlier results in it."
        raise InputError(output, "a folder that is not empty", fix)
    options = Options(
        arguments.source,
        output,
        arguments.images,
        read_class_file(arguments.classes_file) if arguments.classes_file else split_names(names) if names else None,
        arguments.keep_crowds,
        arguments.contours,
        arguments.tasks,
        (arguments.image_column, arguments.label_column),
        arguments.workers,
    )
    source = read_source(options, arguments.format)
    require_writable(output, "FOLDER")
    for line in describe(source, convert_source(source, output, arguments.background, arguments.workers), output):
        print(line)
    return 0
