"""Command-line arguments for the model. Light to import."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cliptrase_d2.utils.errors import InputError, name_arguments

if TYPE_CHECKING:  # importing PyTorch would delay --help
    from cliptrase_d2.d2 import CfgNode
    from cliptrase_d2.segmenter.segmenter import Segmenter

DEFAULT_MODEL = "ViT-B-16"


def add_model_arguments(
    parser: argparse.ArgumentParser, *, protocols: Sequence[str] = (), method: bool = False, rendering: bool = False
) -> None:
    """Add --model, --pretrained, --config-file, --device and --opts.

    Args:
        parser: of the command.
        protocols: choices of --protocol, which is added if there are any.
        method: also add --method.
        rendering: also add --bands and --stretch.
    """
    parser.add_argument("--model", help="'emoji' (included) or a ViT of open_clip (default ViT-B-16)")
    help_weights = "weights: a tag, a file or folder, or hf-hub:owner/name (default: OpenAI's, or the first tag)"
    parser.add_argument("--pretrained", metavar="TAG|PATH", help=help_weights)
    parser.add_argument("--config-file", metavar="FILE|NAME", help="configuration, instead of --model")
    parser.set_defaults(protocol=None, method=None, bands=None, stretch=None)
    if protocols:
        parser.add_argument("--protocol", choices=protocols, help="how images are resized, cropped or tiled")
    if method:
        help_method = "dense features: cliptrase (default), sclip, maskclip, ..., or with parts, such as sclip+sam+pamr"
        parser.add_argument("--method", metavar="NAME", help=help_method)
    if rendering:
        help_bands = "bands of a raster for red, green and blue, counted from 1, or one for grey"
        parser.add_argument("--bands", nargs="+", type=int, metavar="N", help=help_bands)
        help_stretch = "raw values that become black and white, such as 0 3000, or percentiles, such as 2%% 98%%"
        parser.add_argument("--stretch", nargs=2, metavar=("LOW", "HIGH"), help=help_stretch)
    add_device_argument(parser)
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="configuration overrides")


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Add --device."""
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")


def build_segmenter_from(arguments: argparse.Namespace) -> Segmenter:
    """Build the model that the arguments select. Print a notice before a download.

    Raises:
        InputError: an invalid key, value, weights file or device.
    """
    from cliptrase_d2.segmenter.pretrained import EMBEDDED, describe_download
    from cliptrase_d2.segmenter.segmenter import Segmenter

    clip = load_config_from(arguments).MODEL.CLIP
    notice = describe_download(clip.NAME, clip.PRETRAINED)
    if notice:
        print(notice, flush=True)
    try:
        return Segmenter.from_config(arguments.config_file, get_options(arguments))
    except InputError as error:
        if not str(error.got).startswith("failed to download"):
            raise
        fix = f"{error.fix} Or use --model {EMBEDDED}, which is included but was trained on emoji scenes only."
        raise InputError(error.where, error.got, fix, allowed=error.allowed) from error


def load_config_from(arguments: argparse.Namespace) -> CfgNode:
    """Load the configuration that the arguments select.

    Raises:
        InputError: an invalid key or value.
    """
    from cliptrase_d2.config import load_config

    return load_config(arguments.config_file, get_options(arguments))


def model_title(arguments: argparse.Namespace) -> str:
    """Return the name and weights of the model, such as "ViT-B-16, openai" or "ViT-B-16, random weights"."""
    cfg = load_config_from(arguments)
    weights = cfg.MODEL.WEIGHTS or cfg.MODEL.CLIP.PRETRAINED
    return f"{cfg.MODEL.CLIP.NAME}, {Path(weights).name if weights else 'random weights'}"


def get_options(arguments: argparse.Namespace) -> list[str]:
    """Return KEY, VALUE, … of all model arguments. --opts come last and take precedence."""
    from cliptrase_d2.data.rendering import Rendering
    from cliptrase_d2.segmenter.pretrained import model_options

    options: list[str] = []
    if arguments.model or not arguments.config_file:
        options += model_options(arguments.model or DEFAULT_MODEL, arguments.pretrained)
    elif arguments.pretrained:
        options += ["MODEL.CLIP.PRETRAINED", arguments.pretrained]
    if arguments.protocol:
        options += ["TEST.PROTOCOL", arguments.protocol]
    if arguments.method:
        options += _list_method_options(arguments.method)
    with name_arguments({"bands": "--bands", "stretch": "--stretch"}):
        rendering = Rendering(arguments.bands or (), arguments.stretch or ())
    if rendering.bands:
        options += ["INPUT.BANDS", repr(rendering.bands)]
    if rendering.stretch:
        options += ["INPUT.STRETCH", repr(rendering.stretch)]
    if arguments.device:
        options += ["MODEL.DEVICE", arguments.device]
    return [*options, *arguments.opts]


def _list_method_options(text: str) -> list[str]:
    """Return KEY, VALUE, … of a method, or of a composition without a protocol. Absent parts are those configured.

    Raises:
        InputError: the composition cannot be read, or has a protocol.
    """
    if not set("+@") & set(text):
        return ["MODEL.CLIPTRASE.METHOD", text]
    from cliptrase_d2.config import load_config
    from cliptrase_d2.evaluation.compositions import read_composition

    load_config()  # registers the parts
    with name_arguments({"TEST.METHODS": "--method"}):
        composition = read_composition(text)
    if composition.protocol:
        fix = f"Give --protocol {composition.protocol}."
        raise InputError("--method", f"the protocol {composition.protocol!r} in {text!r}", fix)
    keys = composition.keys | {"MODEL.CLIPTRASE.METHOD": composition.base}
    if not composition.masks:
        keys.pop("MODEL.CLIPTRASE.CLUSTERING", None)
    return [word for pair in keys.items() for word in pair]
