"""Methods that TEST.METHODS compares: a dense-feature method, with or without CLIPtrase's clusters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cliptrase_d2.methods.base import METHOD_CLASSES
from cliptrase_d2.methods.cliptrase_plus import CLIPtrasePlus
from cliptrase_d2.methods.corrclip import CorrCLIP
from cliptrase_d2.methods.textregion import TextRegion


@dataclass(frozen=True)
class ComparedMethod:
    """A named set of settings. All other settings are the same for all methods of a comparison.

    Attributes:
        title: a short description.
        source: where it is described.
        settings: fields of `CLIPtraseSettings` with their values. A method that does not set ``clustering`` needs
            clusters and takes the configured ones.
        options: of the dense-feature method; the others have their defaults.
    """

    title: str
    source: str
    settings: Mapping[str, str]
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def needs_clusters(self) -> bool:
        """Whether it labels masks instead of pixels."""
        return "clustering" not in self.settings

    @property
    def changes(self) -> dict[str, Any]:
        """Fields of `CLIPtraseSettings` with their values: the settings and the options."""
        return {**self.settings, "method_options": dict(self.options)}


def _per_pixel(name: str, title: str = "") -> ComparedMethod:
    method = METHOD_CLASSES[name]
    return ComparedMethod(title or method.title, method.source, {"method": name, "clustering": "none"})


def _with_clusters(method: ComparedMethod) -> ComparedMethod:
    settings = {key: value for key, value in method.settings.items() if key != "clustering"}
    title = f"{method.title}; its pixels vote in CLIPtrase's clusters"
    return ComparedMethod(title, method.source, settings, method.options)


_PAPER = METHOD_CLASSES["cliptrase"].source
_BASE = {
    **{name: _per_pixel(name) for name in ("clip", "maskclip", "sclip", "clearclip", "naclip", "gem")},
    **{name: _per_pixel(name) for name in ("sc_clip", "sfp", "dih_clip", "resclip", "proxyclip")},
    **{name: _per_pixel(name) for name in ("own_patch", "cosine", "cosine_oracle")},
    "cliptrase_scr": _per_pixel("cliptrase", "CLIPtrase's semantic correlation recovery, without clusters"),
    "cliptrase_inner_product": ComparedMethod(
        "Table 1: CLIPtrase, clusters of inner products",
        _PAPER,
        {"method": "cliptrase", "correlation": "inner_product"},
    ),
    "cliptrase": ComparedMethod("CLIPtrase, with clusters", _PAPER, {"method": "cliptrase"}),
    # It reads the configured masks, and needs TEST.PROTOCOL "published".
    "textregion": ComparedMethod(TextRegion.title, TextRegion.source, {"method": "textregion"}),
    # These read the configured masks, which then vote.
    "cliptrase_plus": ComparedMethod(CLIPtrasePlus.title, CLIPtrasePlus.source, {"method": "cliptrase_plus"}),
    "corrclip": ComparedMethod(CorrCLIP.title, CorrCLIP.source, {"method": "corrclip"}),
}

# A per-pixel method with clusters lets its pixels vote in CLIPtrase's masks. cliptrase_scr with clusters is cliptrase.
METHODS = _BASE | {
    f"{name}+clusters": _with_clusters(method)
    for name, method in _BASE.items()
    if not method.needs_clusters and name != "cliptrase_scr"
}


def find_methods() -> dict[str, ComparedMethod]:
    """Return the methods that a composition starts with: those of the catalog, and all other registered ones."""
    methods = {name: method for name, method in METHODS.items() if "+" not in name}
    return methods | {name: _per_pixel(name) for name in METHOD_CLASSES if name not in methods}
