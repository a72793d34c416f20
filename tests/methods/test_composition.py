"""The grammar of compositions."""

from __future__ import annotations

import pytest

from cliptrase_d2.methods import DENSE_METHODS
from cliptrase_d2.methods.catalog import METHODS, ComparedMethod
from cliptrase_d2.methods.composition import PartNames, parse_composition
from cliptrase_d2.utils.errors import InputError

NAMES = PartNames(
    {"scr": "CLIPtrase's clusters", "sam": "SAM's masks"}, ("vote", "mean"), ("none", "pamr"), ("whole", "slide")
)
METHOD, SOURCE = "MODEL.CLIPTRASE.METHOD", "MODEL.MASKS.SOURCE"
CLUSTERING, RULE = "MODEL.CLIPTRASE.CLUSTERING", "MODEL.CLIPTRASE.CLASSIFICATION"
REFINEMENT, PROTOCOL = "MODEL.CLIPTRASE.REFINEMENT", "TEST.PROTOCOL"


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("sclip", {METHOD: "sclip", CLUSTERING: "none"}),
        ("sclip+clusters", {METHOD: "sclip", SOURCE: "scr"}),
        ("sclip+sam", {METHOD: "sclip", SOURCE: "sam"}),
        ("cliptrase", {METHOD: "cliptrase"}),
        ("cliptrase_scr", {METHOD: "cliptrase", CLUSTERING: "none"}),
        ("cliptrase_scr+clusters", {METHOD: "cliptrase", SOURCE: "scr"}),
        ("cliptrase+mean", {METHOD: "cliptrase", RULE: "mean"}),
        ("cliptrase+none@slide", {METHOD: "cliptrase", REFINEMENT: "none", PROTOCOL: "slide"}),
        (
            "naclip+sam+mean+pamr@slide",
            {METHOD: "naclip", SOURCE: "sam", RULE: "mean", REFINEMENT: "pamr", PROTOCOL: "slide"},
        ),
    ],
)
def test_a_composition_sets_the_keys_of_its_parts_alone(text: str, keys: dict[str, str]) -> None:
    composition = parse_composition(text, NAMES)
    assert composition.keys == keys
    assert composition.name == text


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("sclip@slide+pamr+mean+sam", "sclip+sam+mean+pamr@slide"),
        ("sclip+pamr+clusters", "sclip+clusters+pamr"),
        ("sclip+scr", "sclip+clusters"),
    ],
)
def test_every_order_has_one_name(text: str, name: str) -> None:
    assert parse_composition(text, NAMES).name == name
    assert parse_composition(text, NAMES) == parse_composition(name, NAMES)


def test_every_name_of_the_catalog_is_a_composition_with_its_settings() -> None:
    for name, method in METHODS.items():
        composition = parse_composition(name, NAMES)
        keys = {f"MODEL.CLIPTRASE.{key.upper()}": value for key, value in method.settings.items()}
        clusters = {SOURCE: "scr"} if name.endswith("+clusters") else {}
        assert composition.keys == keys | clusters
        assert (composition.name, composition.method.options) == (name, method.options)
        assert composition.needs_masks == method.needs_clusters


def test_the_title_names_every_part() -> None:
    title = parse_composition("naclip+sam+mean+pamr@slide", NAMES).title
    for part in (DENSE_METHODS["naclip"].title, "SAM's masks", "mean", "PAMR", "slide"):
        assert part in title
    assert "without clusters" not in parse_composition("cliptrase_scr+clusters", NAMES).title
    assert parse_composition("clip+none", NAMES).title.endswith("not refined")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sclop+sam", r"'sclop' in 'sclop\+sam'.*Did you mean 'sclip'"),
        ("sclip+sem", r"'\+sem' in 'sclip\+sem'.*'\+sam'"),
        ("sclip+slide", r"'\+slide'.*Did you mean '@slide'"),
        ("sclip@pamr", r"'@pamr'.*Did you mean '\+pamr'"),
        ("sclip+", r"'\+' in"),
        ("sclip@whole@slide", "second protocol, '@slide'"),
        ("sclip+clusters+sam", r"second mask source, '\+sam'"),
        ("sclip+mean+vote", r"second rule, '\+vote'"),
        ("+sam", r"unknown method '' in '\+sam'"),
        ("", "unknown method ''"),
        (None, "unknown method None"),
    ],
)
def test_errors_name_the_part_and_a_similar_one(text: object, message: str) -> None:
    with pytest.raises(InputError, match=rf"^TEST\.METHODS: .*{message}"):
        parse_composition(text, NAMES)


def test_a_mask_source_with_the_name_of_a_rule_is_refused() -> None:
    names = PartNames({"mean": "a source"}, NAMES.rules, NAMES.refinements, NAMES.protocols)
    with pytest.raises(InputError, match=r"'\+mean'.*mask source and of a rule"):
        parse_composition("sclip+mean", names)
    assert parse_composition("sclip+vote", names).rule == "vote"


def test_a_method_with_options_keeps_them_beside_other_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    near = ComparedMethod("NACLIP, near", "https://example.org", {"method": "naclip", "clustering": "none"}, {"a": 1})
    monkeypatch.setitem(METHODS, "naclip_near", near)
    composition = parse_composition("naclip_near+sam", NAMES)
    assert composition.method.options == {"a": 1}
    assert composition.title.startswith("NACLIP, near; ")
