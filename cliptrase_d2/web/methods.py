"""Names and groups of the methods, for the page."""

from __future__ import annotations

from cliptrase_d2.methods import DenseMethod, get_method
from cliptrase_d2.methods.catalog import METHODS as ALL_METHODS
from cliptrase_d2.methods.catalog import ComparedMethod


def _is_offered(compared: ComparedMethod) -> bool:
    """Return whether a method can run on the page, for a photograph and with CLIP alone.

    A photograph has no true labels for an oracle, and the page has no published protocol for methods of whole images.
    """
    method = get_method(compared.settings["method"], compared.options)
    needs = method.needs
    return isinstance(method, DenseMethod) and not (needs.true_labels or needs.vision_features)


METHODS = tuple(name for name, method in ALL_METHODS.items() if _is_offered(method))
_NAMES = {
    **{"cliptrase": "CLIPtrase", "cliptrase_scr": "CLIPtrase without masks", "cliptrase_plus": "CLIPtrase plus"},
    **{"clip": "CLIP", "maskclip": "MaskCLIP"},
    **{"sclip": "SCLIP", "clearclip": "ClearCLIP", "naclip": "NACLIP", "gem": "GEM"},
    **{"sc_clip": "SC-CLIP", "sfp": "SFP", "dih_clip": "DIH-CLIP", "resclip": "ResCLIP"},
    **{"own_patch": "Own patch alone", "cosine": "Cosine", "cliptrase_inner_product": "Clusters of inner products"},
}
_WITH_MASKS, _PER_PIXEL, _ABLATIONS = "Words label masks", "Words label pixels", "Ablations (Table 1 of the paper)"
_IN_TABLE_1 = ("own_patch", "cosine", "cliptrase_inner_product")


def name_method(method: str) -> str:
    """Return the name of a method as its authors write it, such as "SCLIP with masks"."""
    base, _, suffix = method.partition("+")
    return _NAMES.get(base, base) + (" with masks" if suffix else "")


def group_methods() -> dict[str, list[tuple[str, str]]]:
    """Return the methods by group. Each is an identifier and a name, and CLIPtrase is the first."""
    groups: dict[str, list[tuple[str, str]]] = {_WITH_MASKS: [], _PER_PIXEL: [], _ABLATIONS: []}
    for method in sorted(METHODS, key=lambda method: method != "cliptrase"):
        is_ablation = method.partition("+")[0] in _IN_TABLE_1
        group = _ABLATIONS if is_ablation else _WITH_MASKS if ALL_METHODS[method].needs_clusters else _PER_PIXEL
        groups[group].append((method, name_method(method)))
    return groups
