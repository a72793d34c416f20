"""The model of a command: the arguments that choose it, light to import, and how it is built from them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what loads PyTorch waits until the command runs, so that help comes at once
    from cliptrase_d2.d2 import CfgNode
    from cliptrase_d2.segmenter.segmenter import Segmenter

DEFAULT_MODEL = "ViT-B-16"


def add_model_arguments(parser: argparse.ArgumentParser, *, protocols: Sequence[str] = ()) -> None:
    """--model, --pretrained, --config-file, --opts and, where there are protocols, --protocol, one of these."""
    parser.add_argument("--model", help="'emoji', part of this package, or a ViT of open_clip (default ViT-B-16)")
    parser.add_argument("--pretrained", metavar="TAG|FILE", help="its weights (default: OpenAI's, or the first tag)")
    parser.add_argument("--config-file", metavar="FILE", help="a configuration in place of --model")
    parser.set_defaults(protocol=None)
    if protocols:
        parser.add_argument("--protocol", choices=protocols, help="how an image is shown to it")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="changes of the configuration")


def build_segmenter_from(arguments: argparse.Namespace, more: Sequence[str] = ()) -> Segmenter:
    """The model that the arguments name; says before what it will fetch.

    Args:
        arguments: those that `add_model_arguments` adds.
        more: KEY, VALUE, … of other arguments; the user's own --opts count more.
    Raises:
        InputError: a key, value, weight file or device that cannot be used.
    """
    from cliptrase_d2.segmenter.pretrained import EMBEDDED, describe_download
    from cliptrase_d2.segmenter.segmenter import Segmenter
    from cliptrase_d2.utils.errors import InputError

    options = [*_options(arguments), *more, *arguments.opts]
    if not arguments.config_file:
        chosen = dict(zip(options[::2], options[1::2], strict=False))
        message = describe_download(chosen["MODEL.CLIP.NAME"], chosen["MODEL.CLIP.PRETRAINED"])
        if message:
            print(message, flush=True)
    try:
        return Segmenter.from_config(arguments.config_file, options)
    except InputError as error:
        if not str(error.got).startswith("a failed download"):
            raise
        fix = f"{error.fix} Or try --model {EMBEDDED}, which is part of this package and knows the emoji scenes."
        raise InputError(error.where, error.got, fix, allowed=error.allowed) from error


def load_config_from(arguments: argparse.Namespace) -> CfgNode:
    """The configuration that the arguments name.

    Raises:
        InputError: a key or value that cannot be used.
    """
    from cliptrase_d2.config import load_config

    return load_config(arguments.config_file, [*_options(arguments), *arguments.opts])


def model_title(arguments: argparse.Namespace) -> str:
    """Name and weights of the model that the arguments name, "random weights" where it has none.

    Raises:
        InputError: a key or value that cannot be used.
    """
    cfg = load_config_from(arguments)
    weights = cfg.MODEL.WEIGHTS or cfg.MODEL.CLIP.PRETRAINED
    return f"{cfg.MODEL.CLIP.NAME}, {Path(weights).name if weights else 'random weights'}"


def _options(arguments: argparse.Namespace) -> list[str]:
    """KEY VALUE pairs of the arguments but --opts."""
    from cliptrase_d2.segmenter.pretrained import model_options

    options: list[str] = []
    model = arguments.model or ("" if arguments.config_file else DEFAULT_MODEL)
    if model:
        options += model_options(model, arguments.pretrained)
    elif arguments.pretrained:
        options += ["MODEL.CLIP.PRETRAINED", arguments.pretrained]
    if arguments.protocol:
        options += ["TEST.PROTOCOL", arguments.protocol]
    return options
