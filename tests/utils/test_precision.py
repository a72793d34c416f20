from __future__ import annotations

import pytest
import torch

from cliptrase_d2.clip.tokens import VisualTokens
from cliptrase_d2.pipeline.settings import Method
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.precision import check_finite
from tests.pipeline.tiny_segmenter import scene, tiny_segmenter


@pytest.mark.parametrize("clustering", ["dbscan", "hdbscan"])
def test_features_that_are_no_numbers_are_refused_with_the_image_they_are_of(clustering: str) -> None:
    model = tiny_segmenter(method=Method(clustering=clustering))
    images = [{"image": scene(index), "file_name": f"{index}.png"} for index in range(2)]
    tower, broken = model.tower.forward, []

    def overflows(*given: object) -> VisualTokens:
        tokens = tower(*given)
        for features in (tokens.query, tokens.key, tokens.value, tokens.patches):
            broken.append(features[1].fill_(torch.nan))
        return tokens

    model.tower.forward = overflows  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"1\.png: .*no numbers.*MODEL\.CLIP\.PRECISION"):
        model(images)
    assert broken


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_the_first_image_that_is_at_fault_is_named(value: float) -> None:
    features = torch.zeros(3, 4, 2)
    images = [{"file_name": "a.png"}, {"file_name": "b.png"}, {}]
    check_finite(features, images)
    features[2, 0, 0] = value
    with pytest.raises(InputError, match=r"^image: "):
        check_finite(features, images)
    features[1, 3, 1] = value
    with pytest.raises(InputError, match=r"^b\.png: "):
        check_finite(features, images)
