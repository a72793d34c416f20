"""Dense features against the outputs of the methods' published code, for photographs, on reproducible weights."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cliptrase_d2.methods import get_method
from cliptrase_d2.methods.anomalies import (
    class_and_self_attention,
    find_attention_outliers,
    find_local_outliers,
    find_long_patches,
    local_outlier_scores,
    repair,
)
from tests.methods.reference import WINDOWS, Reference

pytestmark = pytest.mark.slow

# Rounding in the trunk, whose attention logits are large: in float64, cosines differ by 5e-5 from the published ones.
TOLERANCE = 1e-4
KEPT = {"residual": True, "mlp": True}
REDUCED = {"residual": False, "mlp": False}
# Name in baselines.npz: method and options.
VARIANTS = {
    "clip": ("clip", {}),
    "sclip": ("sclip", {}),
    "gem_depth7": ("gem", {}),
    "gem_depth8": ("gem", {"depth": 7}),
    **{f"naclip_vanilla_{name}": ("naclip", {**KEPT, "attention": name}) for name in ("vanilla", "csa", "naclip")},
    **{f"naclip_reduced_{name}": ("naclip", {"attention": name}) for name in ("naclip", "kk", "nonly", "vanilla")},
    **{
        f"clearclip_{published}_{'resid' if options is KEPT else 'noresid'}": (name, options)
        for published, name in (
            ("vanilla", "clip"),
            ("MaskCLIP", "maskclip"),
            ("SCLIP", "sclip"),
            ("ClearCLIP", "clearclip"),
        )
        for options in (KEPT, REDUCED)
    },
}


@pytest.fixture(scope="module")
def published(shared: Path) -> Reference:
    if not (shared / "data" / "reference" / "methods").is_dir():
        pytest.skip("the outputs of the published methods are not on this machine")
    return Reference(shared)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_the_older_methods_are_met(published: Reference, variant: str) -> None:
    name, options = VARIANTS[variant]
    method, expected = get_method(name, options), published.read("baselines")
    square, wide = published.cosines(method, "0", "1"), published.cosines(method, "wide")
    for window, cosines in zip(WINDOWS, (*square, *wide), strict=True):
        torch.testing.assert_close(cosines.numpy(), expected[f"{variant}_{window}"], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["sc_clip", "sfp"])
def test_sc_clip_and_sfp_are_met_in_a_batch_and_on_a_wide_grid(published: Reference, name: str) -> None:
    method, expected = get_method(name), published.read(name.replace("_", ""))
    square, wide = published.cosines(method, "0", "1"), published.cosines(method, "wide")
    for window, cosines in zip(WINDOWS, (*square, *wide), strict=True):
        torch.testing.assert_close(cosines.numpy(), expected[f"logits_{window}"], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("window", WINDOWS)
def test_outliers_of_sc_clip_are_met(published: Reference, window: str) -> None:
    expected = published.read("scclip")
    patches = published.tokens(get_method("sc_clip"), window).hidden_state()[:, 1:]
    scores = local_outlier_scores(patches)[0]
    torch.testing.assert_close(scores.float().numpy(), expected[f"lof_{window}"], atol=2e-3, rtol=0)
    assert np.array_equal(find_local_outliers(patches)[0].nonzero().flatten(), expected[f"outliers_{window}"])


def list_places(marks: Tensor, columns: int) -> set[tuple[int, int]]:
    return {divmod(int(index), columns) for index in marks.nonzero()}


@pytest.mark.parametrize("window", WINDOWS)
def test_outliers_of_sfp_are_met(published: Reference, window: str) -> None:
    expected, x = published.read("sfp"), published.tokens(get_method("sfp"), window)
    query, key, _ = x.qkv(-2)
    by_class, by_itself = class_and_self_attention(query, key)
    torch.testing.assert_close(by_class[0].numpy(), expected[f"class_row_{window}"], atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(by_itself[0].numpy(), expected[f"self_attention_{window}"], atol=1e-6, rtol=1e-3)
    places = list_places(find_attention_outliers(query, key, 1.5, 10)[0], x.grid[1])
    assert places == set(map(tuple, expected[f"outliers_{window}"].tolist()))


def test_the_other_detectors_of_sfp_are_met(published: Reference) -> None:
    expected, x = published.read("sfp"), published.tokens(get_method("sfp"), "0")
    patches = x.hidden_state()[:, 1:]
    for name, marks in (("L2", find_long_patches(patches, 10)), ("LOF", find_local_outliers(patches))):
        assert list_places(marks[0], 14) == set(map(tuple, expected[f"outliers_{name}_0"].tolist()))


@pytest.mark.parametrize(("name", "factor"), [("few", 0.087), ("none", 0.09)])
def test_few_and_no_outliers_of_sfp_are_met(published: Reference, name: str, factor: float) -> None:
    expected, changed = published.read("edges"), copy.copy(published)
    changed.tower = copy.deepcopy(published.tower)
    attention = changed.tower.visual.transformer.resblocks[10].attn
    for parameter in (attention.in_proj_weight, attention.in_proj_bias):
        third = len(parameter) // 3
        parameter[third : 2 * third] = parameter[:third]
        parameter[: 2 * third] *= factor
    method = get_method("sfp")
    outliers = method.find_outliers(changed.tokens(method, "0"))[0]  # type: ignore[attr-defined]
    assert list_places(outliers, 14) == set(map(tuple, expected[f"sfp_{name}_outliers"].tolist()))
    cosines = changed.cosines(method, "0")
    pixels = torch.nn.functional.interpolate(cosines, (224, 224), mode="bilinear")[0, :, ::8, ::8]
    torch.testing.assert_close(
        pixels.numpy(), expected[f"sfp_{name}_pixel_logits"].astype("float32"), atol=5e-4, rtol=0
    )


@pytest.mark.parametrize("keep", [True, False])
def test_the_repair_of_an_isolated_outlier_is_met(published: Reference, keep: bool) -> None:
    arrays = published.read("edges")
    marks = torch.zeros(5, 6, dtype=torch.bool)
    for row, column in arrays["repair_outliers"].tolist():
        marks[row, column] = True
    patches = torch.from_numpy(arrays["repair_in"]).flatten(1).T  # [4,5,6] to [30,4]
    repaired = repair(patches[None], marks.view(1, 30), (5, 6), keep_isolated=keep)[0]
    expected = arrays["repair_out_scclip" if keep else "repair_out_sfp"]
    torch.testing.assert_close(repaired.T.reshape(4, 5, 6).numpy(), expected, atol=1e-5, rtol=0)
