"""The compositions of TEST.METHODS as configurations, and the reasons why some are impossible."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import reduce
from operator import getitem
from typing import Any

from cliptrase_d2.config import ARGUMENT_KEYS
from cliptrase_d2.d2 import META_ARCH_REGISTRY, CfgNode
from cliptrase_d2.data.protocol import PROTOCOLS, Protocol
from cliptrase_d2.evaluation.augmentation import check_augmentation
from cliptrase_d2.evaluation.evaluate import check_evaluation_threshold
from cliptrase_d2.methods.catalog import find_methods
from cliptrase_d2.methods.composition import Composition, PartNames, parse_composition
from cliptrase_d2.utils.errors import InputError, name_arguments

ARCHITECTURE = "CLIPtrase"  # whose parts can be exchanged
_KEY = "TEST.METHODS"


def read_composition(text: object) -> Composition:
    """Read an entry of TEST.METHODS.

    Raises:
        InputError: the method or a part is unknown, or there are two parts of a kind.
    """
    masks, rules, refinements = META_ARCH_REGISTRY.get(ARCHITECTURE).list_parts()
    return parse_composition(text, PartNames(masks, rules, refinements, PROTOCOLS))


def read_compositions(cfg: CfgNode) -> list[Composition]:
    """Read all entries of TEST.METHODS.

    Raises:
        InputError: an entry cannot be read, or two entries have the same parts.
    """
    compositions = list(map(read_composition, cfg.TEST.METHODS))
    names = [composition.name for composition in compositions]
    for name in names:
        if names.count(name) > 1:
            raise InputError(_KEY, f"the method {name!r} twice", "Remove one of them.")
    return compositions


def configure(cfg: CfgNode, composition: Composition) -> CfgNode:
    """Return the configuration of a composition. It equals one that sets these keys itself and names no method."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TEST.METHODS, cfg.TEST.SKIP_IMPOSSIBLE = (), False
    cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, composition.name)
    for key, value in composition.keys.items():
        section, _, name = key.rpartition(".")
        _get(cfg, section)[name] = value
    cfg.MODEL.CLIPTRASE.METHOD_OPTIONS.update(composition.method.options)
    cfg.freeze()
    return cfg


def find_composition(cfg: CfgNode) -> Composition | None:
    """Return the first composition of a method, with or without masks, that a configuration matches, None for none."""
    methods = find_methods()
    for text in (*methods, *(f"{method}+{cfg.MODEL.MASKS.SOURCE}" for method in methods)):
        one = read_composition(text)
        has_masks = cfg.MODEL.CLIPTRASE.CLUSTERING != "none" or not one.needs_masks
        has_options = dict(cfg.MODEL.CLIPTRASE.METHOD_OPTIONS) == one.method.options
        if has_masks and has_options and all(_get(cfg, key) == value for key, value in one.keys.items()):
            return one
    return None


def find_impossible(cfg: CfgNode) -> dict[str, InputError]:
    """Return the compositions of TEST.METHODS that cannot be evaluated, with the reasons. Nothing is loaded.

    Raises:
        InputError: an entry cannot be read, or the CLIP model is unknown.
    """
    compositions = read_compositions(cfg)
    if not compositions:
        return {}
    with name_arguments(ARGUMENT_KEYS):
        patch_size = META_ARCH_REGISTRY.get(ARCHITECTURE).get_patch_multiple(cfg)
    found = {composition.name: _find_reason(cfg, composition, patch_size) for composition in compositions}
    return {name: reason for name, reason in found.items() if reason is not None}


def require_possible(cfg: CfgNode, impossible: Mapping[str, InputError]) -> None:
    """Check that all compositions can be evaluated, or with TEST.SKIP_IMPOSSIBLE at least one.

    Args:
        cfg: of the run.
        impossible: as `find_impossible` returns them.
    Raises:
        InputError: they cannot; with all reasons.
    """
    number, total = len(impossible), len(cfg.TEST.METHODS)
    if not number or (cfg.TEST.SKIP_IMPOSSIBLE and number < total):
        return
    name, first = next(iter(impossible.items()))
    if number == 1 or (number == total and len(set(map(str, impossible.values()))) == 1):
        which = repr(name) if number == 1 else "every entry"
        fix = first.fix if number == total else f"{first.fix} Or set TEST.SKIP_IMPOSSIBLE True."
        raise InputError(first.where, f"{first.got}, in {which} of {_KEY}", fix, first.allowed)
    fix = "Remove them." if number == total else "Remove them, or set TEST.SKIP_IMPOSSIBLE True."
    lines = "".join(f"\n  {name}: {reason}" for name, reason in impossible.items())
    raise InputError(_KEY, f"{number} of {total} entries cannot be evaluated", f"{fix}{lines}")


def _get(cfg: CfgNode, key: str) -> Any:
    return reduce(getitem, key.split("."), cfg)


def _find_reason(cfg: CfgNode, composition: Composition, patch_size: int) -> InputError | None:
    """Return why a composition cannot be evaluated, None if it can."""
    changed = configure(cfg, composition)
    try:
        _check_effects(changed, composition)
        check_augmentation(changed)
        check_evaluation_threshold(changed)
        with name_arguments(ARGUMENT_KEYS):
            META_ARCH_REGISTRY.get(ARCHITECTURE).check_config(changed)
            Protocol(changed.TEST.PROTOCOL, changed.INPUT.MIN_SIZE_TEST, changed.INPUT.MAX_SIZE_TEST, patch_size)
    except InputError as error:
        return error
    return None


def _check_effects(cfg: CfgNode, composition: Composition) -> None:
    """Refuse parts that the rest of the configuration leaves without effect."""
    has_masks = cfg.MODEL.CLIPTRASE.CLUSTERING != "none"
    if composition.needs_masks and not has_masks:
        got, allowed = "'none', but masks are needed", "dbscan or hdbscan"
        raise InputError("MODEL.CLIPTRASE.CLUSTERING", got, "Change it, or remove the method.", allowed=allowed)
    if composition.rule and (not has_masks or cfg.TEST.PROTOCOL == "published"):
        reason = "with TEST.PROTOCOL 'published', which classifies no masks" if has_masks else "without masks"
        got = f"the rule {composition.rule!r} {reason}"
        raise InputError(_KEY, got, "Remove the rule, or add masks, such as +clusters.")
    part = composition.rule or composition.refinement
    if part and cfg.TEST.UNSUPERVISED_GROUPS:
        got = f"{part!r} with TEST.UNSUPERVISED_GROUPS, whose groups are made of the features of masks alone"
        raise InputError(_KEY, got, "Remove the part, or set TEST.UNSUPERVISED_GROUPS to 0.")
