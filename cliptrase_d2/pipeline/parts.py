"""The parts of a model that are exchanged without loading CLIP again, and which of them can be combined."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.mask_sources import MaskInputs, MaskSettings, MaskSource, build_mask_source, get_mask_source
from cliptrase_d2.methods import DenseMethod, ImageMethod, get_method
from cliptrase_d2.pipeline.open_vocabulary import read_patch_size, read_tower_kind
from cliptrase_d2.pipeline.proposals import MaskProposals
from cliptrase_d2.pipeline.published import PublishedProtocol
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.utils.errors import InputError

_WITHOUT_WEIGHTS = "scr"  # the mask source that is always built


@dataclass(frozen=True)
class WindowSettings:
    """How images are divided into windows.

    Attributes:
        window, stride: side and step of windows in pixels, multiples of the patch size; None for whole images.
        in_tiles: whether windows are images of their own instead of parts of one correlation.
        published: the published protocol, which has windows of its own; None for one of this package's.
    """

    window: int | None = None
    stride: int | None = None
    in_tiles: bool = False
    published: PublishedProtocol | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> WindowSettings:
        """Read TEST.PROTOCOL and the keys of the protocol.

        Raises:
            InputError: a setting of the published protocol is out of range.
        """
        if cfg.TEST.PROTOCOL == "published":
            return cls(published=PublishedProtocol.from_config(cfg))
        if cfg.TEST.PROTOCOL not in ("slide", "tiles"):
            return cls()
        return cls(cfg.TEST.WINDOW, cfg.TEST.STRIDE, cfg.TEST.PROTOCOL == "tiles")

    def check(self, patch_size: int) -> None:
        """Check that windows fit the patches and leave no gaps.

        Raises:
            InputError: they do not.
        """
        window, stride = self.window, self.stride
        for name, pixels in (("window", window), ("stride", stride)):
            if pixels is not None and (pixels <= 0 or pixels % patch_size):
                fix = f"Use {max(1, round(pixels / patch_size)) * patch_size}, a multiple of the patch size."
                raise InputError(name, f"{pixels} pixels with patches of {patch_size}", fix)
        if window is not None and stride is not None and stride > window:
            fix = "Lower it: no window would cover the pixels in between."
            raise InputError("stride", f"{stride} pixels, more than the window of {window}", fix)
        if self.in_tiles and (window is None or stride is None):
            raise InputError("in_tiles", f"True with window {window} and stride {stride}", "Give both, in pixels.")


@dataclass(frozen=True)
class Combination:
    """The settings of a model that can contradict one another.

    Attributes:
        settings: of the method.
        windows: of the protocol.
        patch_size: of CLIP, in pixels.
        tower: kind of the image tower, "clip" or "siglip2".
        has_vision_model: whether there is a second vision model, or one can be loaded.
        output_mask_features: whether the features of masks are evaluated, without words.
    """

    settings: CLIPtraseSettings
    windows: WindowSettings
    patch_size: int
    tower: str
    has_vision_model: bool
    output_mask_features: bool

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Combination:
        """Read the settings of a model that is not built. It would load a second vision model if it needed one.

        Raises:
            InputError: a setting is out of range, or the CLIP model is unknown.
        """
        settings, windows = CLIPtraseSettings.from_config(cfg), WindowSettings.from_config(cfg)
        tower = read_tower_kind(cfg)
        return cls(settings, windows, read_patch_size(cfg), tower, True, cfg.TEST.UNSUPERVISED_GROUPS > 0)

    def check(self) -> DenseMethod | ImageMethod:
        """Return the method, with its options.

        Raises:
            InputError: the method or an option is unknown, or settings cannot be combined, with the reason.
        """
        settings, published = self.settings, self.windows.published
        method = get_method(settings.method, settings.method_options)
        self.windows.check(self.patch_size)
        if self.tower not in method.towers:
            got = (
                f"{settings.method!r} with SigLIP 2, which has no class token and no space in which patches meet words"
            )
            raise InputError("method", got, "Choose the method 'textregion', or a CLIP such as ViT-B-16.")
        _check_method(method, settings)
        if method.needs.vision_features and not self.has_vision_model:
            got = f"{settings.method!r} needs a second vision model"
            raise InputError("method", got, "Build the model with a vision_model.")
        if published is not None:
            published.check_combination(method, settings)
        elif isinstance(method, ImageMethod):
            got = f"{settings.method!r}, which labels whole images and has no patch features for masks to vote by"
            raise InputError("method", got, "Set TEST.PROTOCOL to 'published', or choose another method.")
        if published is not None and self.output_mask_features:
            got = "features of masks with the published protocol, which has none"
            raise InputError("TEST.UNSUPERVISED_GROUPS", got, "Set it to 0, or choose another protocol.")
        if method.needs.text and self.output_mask_features:
            got = f"mask features of {settings.method!r}, which reads the words, for an evaluation without words"
            raise InputError("method", got, "Choose another method, or set TEST.UNSUPERVISED_GROUPS to 0.")
        return method


def _check_method(method: DenseMethod | ImageMethod, settings: CLIPtraseSettings) -> None:
    """Refuse settings that a method cannot be combined with."""
    name = settings.method
    for setting, off in (("cls_logit_weight", False), ("cls_logit_bias", 0.0)):
        value = getattr(settings, setting)
        if value and not method.has_class_token:
            got = f"{value}, but the method {name!r} has no class token whose logits it could use"
            raise InputError(setting, got, f"Set it to {off}, or choose another method.")
    if method.needs.regions and settings.clustering == "none":
        got = f"'none', but the method {name!r} reads the masks as regions"
        raise InputError("clustering", got, "Choose another clustering or another method.", "'dbscan' or 'hdbscan'")


def check_siglip_masks(source: MaskSource, settings: CLIPtraseSettings) -> None:
    """Refuse mask sources that read the correlation of CLIP's patches, which SigLIP 2 has not.

    Raises:
        InputError: with the reason.
    """
    divides = type(source).predict_logits is MaskSource.predict_logits
    if source.needs_correlation and divides and settings.clustering != "none":
        got = f"{type(source).__name__}, whose masks are clusters of CLIP's correlation, with SigLIP 2, which has none"
        raise InputError("mask_source", got, "Choose another source.", "'backbone' or 'sam_automatic'")


class PartModels:
    """The mask sources and second vision models of a CLIPtrase. Each is built when it is first needed, and kept."""

    def __init__(self) -> None:
        self._built: dict[Hashable, Any] = {}

    @property
    def num_built(self) -> int:
        """The number of models that have been built."""
        return len(self._built)

    def from_config(self, cfg: CfgNode) -> MaskSource:
        """Return the mask source that a configuration needs.

        Raises:
            InputError: the source is unknown, or its weights or settings cannot be used.
        """
        name = cfg.MODEL.MASKS.SOURCE
        kind, settings = get_mask_source(name), MaskSettings.from_config(cfg)
        if cfg.MODEL.CLIPTRASE.CLUSTERING == "none" and name != _WITHOUT_WEIGHTS:
            return _UnusedSource()
        return self.get((kind, settings), lambda: build_mask_source(name, settings))

    def get(self, key: Hashable, build: Callable[[], Any]) -> Any:
        """Return the model of a key, which is built if it is the first time."""
        if key not in self._built:
            self._built[key] = build()
        return self._built[key]


class _UnusedSource(MaskSource):
    """In place of a source whose weights were not loaded, because a configuration without masks does not use them."""

    needs_correlation = False
    needs_pixels = False

    def propose(self, inputs: MaskInputs) -> list[MaskProposals]:
        """Raise, since the setting `clustering` was changed without the configuration."""
        got = f"{inputs.settings.clustering!r}, but the model was built with 'none', without its mask source"
        raise InputError("clustering", got, "Build the model with this clustering.")
