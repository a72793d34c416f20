from __future__ import annotations

import pytest
import torch

from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.tensors import check_finite, stack_to_device
from tests.pipeline.tiny_segmenter import scene, tiny_segmenter


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_the_first_image_with_features_that_are_not_finite_is_named(value: float) -> None:
    features = torch.zeros(3, 4, 2)
    images = [{"file_name": "a.png"}, {"file_name": "b.png"}, {}]
    check_finite(features, images)
    features[2, 0, 0] = value
    with pytest.raises(InputError, match=r"^image: "):
        check_finite(features, images)
    features[1, 3, 1] = value
    with pytest.raises(InputError, match=r"^b\.png: "):
        check_finite(features, images)


@pytest.mark.parametrize("clustering", ["dbscan", "hdbscan"])
def test_the_model_names_an_image_with_nan_features(clustering: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_segmenter(settings=CLIPtraseSettings(clustering=clustering))
    images = torch.full((2, 3, 64, 64), torch.nan)
    images[0] = 0.5
    monkeypatch.setattr(model, "preprocess", lambda inputs: images)
    with pytest.raises(InputError, match=r"1\.png: .*NaN"):
        model([{"image": scene(), "file_name": f"{index}.png"} for index in range(2)])


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_stacking_keeps_order_and_type(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    images = [torch.full((2, 3), index, dtype=torch.uint8) for index in range(3)]
    for tensors in (images, [*images[:2], images[2].to(device)]):
        stacked = stack_to_device(tensors, torch.device(device))
        assert stacked.device.type == device
        assert stacked.dtype == torch.uint8
        assert torch.equal(stacked.cpu(), torch.stack(images))
