"""Compositions, the entries of TEST.METHODS: METHOD[+MASKS][+RULE][+REFINEMENT][@PROTOCOL]."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cliptrase_d2.methods.base import METHOD_CLASSES
from cliptrase_d2.methods.catalog import ComparedMethod, find_methods
from cliptrase_d2.utils.errors import InputError, suggest

CLUSTERS = "clusters"  # the name of CLIPtrase's mask source in a composition
_CLUSTERS_SOURCE = "scr"
_WHERE = "TEST.METHODS"


@dataclass(frozen=True)
class PartNames:
    """The parts that exist.

    Attributes:
        masks: title of every mask source by its name.
        rules, refinements, protocols: names.
    """

    masks: Mapping[str, str]
    rules: Sequence[str]
    refinements: Sequence[str]
    protocols: Sequence[str]

    def find_kinds(self) -> dict[str, list[str]]:
        """Return the kinds of every part, as it is written in a composition. There are several if names coincide."""
        masks = [*self.masks, CLUSTERS]
        kinds = {"mask source": masks, "rule": self.rules, "refinement": self.refinements}
        found: dict[str, list[str]] = {}
        for kind, names in kinds.items():
            for name in dict.fromkeys(names):
                found.setdefault(f"+{name}", []).append(kind)
        return found | {f"@{name}": ["protocol"] for name in self.protocols}


@dataclass(frozen=True)
class Composition:
    """A method with the parts that are named. All other parts are those of the configuration.

    Attributes:
        base: name of the method.
        method: its settings.
        masks: name of the mask source; "" for the method's own choice.
        masks_title: a short description of these masks.
        rule, refinement, protocol: their names; "" for that of the configuration.
    """

    base: str
    method: ComparedMethod
    masks: str = ""
    masks_title: str = ""
    rule: str = ""
    refinement: str = ""
    protocol: str = ""

    @property
    def name(self) -> str:
        """The composition with its parts in the order of the grammar, which names its folder."""
        masks = CLUSTERS if self.masks == _CLUSTERS_SOURCE else self.masks
        parts = "".join(f"+{part}" for part in (masks, self.rule, self.refinement) if part)
        return f"{self.base}{parts}" + (f"@{self.protocol}" if self.protocol else "")

    @property
    def title(self) -> str:
        """The parts in words."""
        # The title of a method with settings of its own names them, that of others may name masks.
        is_plain = self.method.settings.keys() <= {"method", "clustering"} and not self.method.options
        parts = [METHOD_CLASSES[self.method.settings["method"]].title if is_plain and self.masks else self.method.title]
        parts += [f"masks: {self.masks_title}"] if self.masks else []
        parts += [f"rule: {self.rule}"] if self.rule else []
        if self.refinement:
            parts.append("not refined" if self.refinement == "none" else f"refined by {self.refinement.upper()}")
        parts += [f"protocol: {self.protocol}"] if self.protocol else []
        return "; ".join(parts)

    @property
    def needs_masks(self) -> bool:
        """Whether it labels masks instead of pixels."""
        return bool(self.masks) or self.method.needs_clusters

    @property
    def keys(self) -> dict[str, str]:
        """The configuration keys that it sets, with their values, without the options of the method."""
        settings = dict(self.method.settings)
        if self.masks:
            settings.pop("clustering", None)
        settings |= {"classification": self.rule} if self.rule else {}
        settings |= {"refinement": self.refinement} if self.refinement else {}
        keys = {f"MODEL.CLIPTRASE.{name.upper()}": value for name, value in settings.items()}
        keys |= {"MODEL.MASKS.SOURCE": self.masks} if self.masks else {}
        return keys | ({"TEST.PROTOCOL": self.protocol} if self.protocol else {})


def parse_composition(text: object, names: PartNames) -> Composition:
    """Read a composition. Its parts may be in any order.

    Args:
        text: such as "sclip+clusters+mean@slide".
        names: of the parts that exist.
    Raises:
        InputError: the method or a part is unknown, or there are two parts of a kind.
    """
    methods = find_methods()
    base, *parts = re.split("(?=[+@])", str(text))
    if base not in methods or not isinstance(text, str):
        got = f"unknown method {base!r} in {text!r}" if parts else f"unknown method {text!r}"
        raise InputError(_WHERE, got, suggest(base, methods, "Use some of these."), allowed=", ".join(methods))
    kinds, chosen = names.find_kinds(), dict[str, str]()
    for part in parts:
        found = kinds.get(part, [])
        if not found:
            fix = suggest(part, kinds, "Use some of these.")
            raise InputError(_WHERE, f"unknown part {part!r} in {text!r}", fix, allowed=", ".join(kinds))
        if len(found) > 1:
            got = f"{part!r} in {text!r}, the name of a {' and of a '.join(found)}"
            raise InputError(_WHERE, got, "Register yours under another name.")
        if found[0] in chosen:
            got = f"a second {found[0]}, {part!r}, in {text!r}"
            raise InputError(_WHERE, got, "Make two entries of it.")
        chosen[found[0]] = part[1:]
    masks = chosen.get("mask source", "")
    masks = _CLUSTERS_SOURCE if masks == CLUSTERS else masks
    others = (chosen.get(kind, "") for kind in ("rule", "refinement", "protocol"))
    return Composition(base, methods[base], masks, names.masks.get(masks, ""), *others)
