"""Defaults and ranges of the settings."""

import math

import pytest

from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.utils.errors import InputError


def test_the_published_settings_are_the_default() -> None:
    assert CLIPtraseSettings() == CLIPtraseSettings(
        method="cliptrase", correlation_layer=-2, correlation="cosine", heads="separate", suppress_global_patches=True,
        clustering="dbscan", eps=0.7, min_samples=3, adaptive_dbscan=False, mask_upsample=4, median_filter=7,
        classification="vote", cls_logit_weight=False, refinement="none",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("correlation", "euclidean"),
        ("heads", "both"),
        ("clustering", "kmeans"),
        ("classification", "max"),
        ("refinement", "crf"),
        ("refinement_steps", 0),
        ("eps", 0.0),
        ("eps", math.nan),
        ("min_samples", 0),
        ("cls_logit_bias", math.inf),
        ("min_cluster_size", 1),
        ("mask_upsample", 0),
        ("median_filter", 4),
        ("median_filter", -1),
    ],
)
def test_a_setting_out_of_range_is_refused(setting: str, value: object) -> None:
    with pytest.raises(InputError) as caught:
        CLIPtraseSettings(**{setting: value})
    assert caught.value.where == setting
    assert caught.value.got == repr(value)
    assert caught.value.allowed


def test_a_setting_without_a_value_is_refused() -> None:
    with pytest.raises(InputError, match=r"^min_samples: None"):
        CLIPtraseSettings(min_samples=None)  # type: ignore[arg-type]
