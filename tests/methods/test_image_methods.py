"""The contract of methods of whole images: their inputs, their values, and the combinations that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cliptrase_d2 import register_dataset
from cliptrase_d2.clip.tokens import ImageTokens, Needs
from cliptrase_d2.data.mapper import EvaluationMapper
from cliptrase_d2.export import ExportableTower
from cliptrase_d2.methods import (
    DENSE_METHODS,
    IMAGE_METHODS,
    METHOD_CLASSES,
    ImageMethod,
    WholeImage,
    WordMaps,
    WordValues,
    get_dense_method,
    register_method,
)
from cliptrase_d2.methods.word_maps import ReadRows, Size
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.published import PublishedProtocol
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.segmenter.segmenter import Segmenter
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary
from tests.methods.example_methods import Pixels
from tests.pipeline.tiny_segmenter import scene, tiny_config, tiny_segmenter

WORDS = Vocabulary.parse(["sky", "grass", "star"], ["wall", "floor"])
SMALL = {"window": 64, "stride": 32, "logit_scale": 20.0, "prob_thd": 0.28}


class Windows(ImageMethod):
    """The values of CLIP's last block in the protocol's windows, after their mean over the image was subtracted.

    Args:
        centre: whether to subtract the mean.
    """

    title = source = "example"
    reads_windows = True

    def __init__(self, centre: bool = True):
        self.centre = centre

    def __call__(self, x: WholeImage) -> WordValues:
        def read(tokens: ImageTokens) -> tuple[Tensor]:
            value = tokens.qkv()[2][:, :, 1:]
            patches = tokens.to_features(tokens.finish_block(value, residual=False, mlp=False), has_class_token=False)
            return ((patches.patches @ x.text.features.T).transpose(1, 2).unflatten(2, tokens.grid),)

        assert x.windows is not None
        (cosines,) = x.encode(x.cut_windows(), read)  # [K,R,h,w]
        return WordMaps.of_windows(cosines - self.centre * cosines.mean((0, 2, 3))[:, None, None], *x.windows)


class Painted(WordValues):
    """Values of words that masks carry to the pixels inside them."""

    def __init__(self, masks: Tensor, values: Tensor):
        self.masks, self.values = masks, values

    def reader(self, size: Size) -> ReadRows:
        inside = (F.interpolate(self.masks[None].float(), size, mode="bilinear")[0] > 0).float()  # [K,H,W]
        return lambda start, stop: torch.einsum("khw,kr->hrw", inside[:, start:stop], self.values)


class MaskColours(ImageMethod):
    """Word k is the k-th colour channel: each mask takes the mean colour of its pixels in the photograph."""

    title = source = "example"
    needs = Needs(regions=True, photograph=True)

    def __call__(self, x: WholeImage) -> WordValues:
        assert x.masks is not None
        assert x.photograph is not None
        inside = (x.masks > 0).float().flatten(1)  # [K,H·W]
        colours = inside @ x.photograph.flatten(1).T.float() / inside.sum(1, keepdim=True).clamp_min(1)  # [K,3]
        words = F.pad(colours, (0, len(x.text.features) - 3))
        return Painted(x.masks, words / 255)


class Vision(ImageMethod):
    """Reads a second vision model on views of its own."""

    title = source = "example"
    needs = Needs(vision_features="tokens")

    def __call__(self, x: WholeImage) -> WordValues:
        views = F.interpolate(x.pixels[None], (64, 32), mode="bilinear")

        def read(tokens: ImageTokens) -> tuple[Tensor]:
            assert tokens.vision_features is not None
            return (tokens.vision_features.features.transpose(1, 2).unflatten(2, tokens.vision_features.grid),)

        (colours,) = x.encode(views, read)  # [1,3,8,4]
        assert x.vision_model is not None
        return WordMaps.of_grid(F.pad(colours[0], (0, 0, 0, 0, 0, len(x.text.features) - 3)))


EXAMPLES = {"windows": Windows, "mask_colours": MaskColours, "vision": Vision}


@pytest.fixture(autouse=True)
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, method in EXAMPLES.items():
        monkeypatch.setitem(IMAGE_METHODS, name, method)


def build(name: str, protocol: dict[str, Any] | None = None, **arguments: Any) -> CLIPtrase:
    options = arguments.pop("options", {})
    settings = CLIPtraseSettings(
        method=name, clustering=arguments.pop("clustering", "none"), eps=0.5, method_options=options
    )
    return tiny_segmenter(settings=settings, protocol=PublishedProtocol(**(protocol or SMALL)), **arguments)


def make_input(index: int = 0, **changes: Any) -> dict[str, Any]:
    image = scene(index, 84, 115)
    photograph = scene(index, 60, 90)
    defaults = {"image": image, "photograph": photograph, "height": 60, "width": 90, "vocabulary": WORDS}
    return {**defaults, "output_sem_seg": True, **changes}


@pytest.mark.parametrize("protocol", [SMALL, {**SMALL, "window": 0}, {**SMALL, "pamr_steps": 2}], ids=str)
def test_windows_that_are_only_averaged_equal_those_of_a_dense_method(protocol: dict[str, Any]) -> None:
    dense = build("maskclip", protocol, options={"residual": False, "mlp": False})
    (expected,) = dense([make_input(output_grids=True)])
    (output,) = build("windows", protocol, options={"centre": False})([make_input(output_grids=True)])
    assert (output["label_map"] == expected["label_map"]).float().mean() > 0.999
    torch.testing.assert_close(output["scores"], expected["scores"], atol=1e-5, rtol=0)
    assert output["sem_seg"].shape == (4, 60, 90)
    assert output["pred_masks"].shape == (0, 60, 90)


def test_a_method_sees_all_windows_of_its_image_and_no_other_image() -> None:
    model = build("windows")
    inputs = [make_input(0), make_input(1)]
    for output, one in zip(model(inputs), inputs, strict=True):
        alone = model([one])[0]
        torch.testing.assert_close(output["sem_seg"], alone["sem_seg"], atol=1e-5, rtol=0)


def test_masks_and_photograph_have_the_original_size() -> None:
    model = build("mask_colours", {"logit_scale": 50.0}, clustering="dbscan")
    (output,) = model([make_input()])
    whole = model.preprocess([make_input()])
    correlation = model.encode_image(whole, want_features=False).correlation
    (masks,) = model.predict_masks(whole, correlation, [(60, 90)])
    for index in range(len(masks)):
        inside = masks.assignment == index
        if inside.any():
            colour = make_input()["photograph"].float()[:, inside].mean(1)
            # The published order has the two words of the background first: channels 0 and 1 are class "background".
            expected = [3, 3, 0][int(colour.argmax())]
            assert output["label_map"][inside].unique().tolist() == [expected]


def test_a_second_vision_model_reads_the_methods_own_views() -> None:
    (output,) = build("vision", vision_model=Pixels())([make_input()])
    assert output["label_map"].shape == (60, 90)


def test_memory_bounds_the_views_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cliptrase_d2.pipeline.published._PIXELS_TOGETHER", 2 * 64 * 64)
    (expected,) = build("windows")([make_input()])
    monkeypatch.undo()
    for name, method in EXAMPLES.items():
        monkeypatch.setitem(IMAGE_METHODS, name, method)
    (output,) = build("windows")([make_input()])
    torch.testing.assert_close(output["sem_seg"], expected["sem_seg"], atol=1e-5, rtol=0)


def test_the_mapper_and_the_segmenter_pass_the_photograph_on(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(scene(0, 60, 90).permute(1, 2, 0).numpy()).save(path)
    protocol = ("TEST.PROTOCOL", "published", "INPUT.MIN_SIZE_TEST", "84", "INPUT.MAX_SIZE_TEST", "200")
    cfg = tiny_config(tmp_path, *protocol, "MODEL.CLIPTRASE.METHOD", "mask_colours")
    name = register_dataset(f"photographs_{tmp_path.name}", tmp_path, ["sky", "grass", "star"])
    inputs = EvaluationMapper(cfg, name)({"file_name": str(path)})
    assert torch.equal(inputs["photograph"], scene(0, 60, 90))
    assert inputs["image"].shape == (3, 84, 126)
    cfg = tiny_config(tmp_path, *protocol)
    assert "photograph" not in EvaluationMapper(cfg, name)({"file_name": str(path)})
    model = build("mask_colours", {"logit_scale": 50.0}, clustering="dbscan")
    segmenter = Segmenter(model=model, protocol="published", short_side=84, max_size=200)
    (expected,) = model([{**inputs, "vocabulary": WORDS}])
    assert torch.equal(
        torch.from_numpy(segmenter(path, ["sky", "grass", "star"], ["wall", "floor"]).label_map), expected["label_map"]
    )


def test_a_photograph_is_read_only_where_it_is_needed() -> None:
    assert build("mask_colours", clustering="dbscan").needs_photograph
    assert not build("windows").needs_photograph


@pytest.mark.parametrize(
    ("name", "arguments", "match"),
    [
        ("windows", {"clustering": "dbscan"}, r"clustering: 'dbscan', but 'windows' reads no masks"),
        ("mask_colours", {}, r"clustering: 'none'.*mask_colours"),
        ("vision", {}, r"method: 'vision' needs a second vision model"),
        ("windows", {"protocol": {"min_max": True}}, r"min_max: True"),
        ("windows", {"protocol": {"average": "probabilities"}}, r"average: 'probabilities'"),
        ("vision", {"protocol": {"pad_to": 16}, "vision_model": Pixels()}, r"pad_to: 16"),
    ],
)
def test_combinations_that_are_refused(name: str, arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        build(name, **arguments)


def test_other_protocols_are_refused() -> None:
    with pytest.raises(InputError, match=r"method: 'windows'.*TEST\.PROTOCOL.*published"):
        tiny_segmenter(settings=CLIPtraseSettings(method="windows", clustering="none"))


@pytest.mark.parametrize(
    ("changes", "match"),
    [({"photograph": scene(0, 50, 90)}, r"photograph: .*\[3, 50, 90\]"), ({}, "photograph: missing")],
)
def test_a_photograph_that_is_missing_or_of_another_size(changes: dict[str, Any], match: str) -> None:
    inputs = {key: value for key, value in make_input().items() if key != "photograph"} | changes
    with pytest.raises(InputError, match=match):
        build("mask_colours", clustering="dbscan")([inputs])


def test_values_that_are_no_numbers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(ImageMethod):
        title = source = "example"

        def __call__(self, x: WholeImage) -> WordValues:
            return WordMaps.of_grid(torch.full((len(x.text.features), 2, 3), torch.nan))

    monkeypatch.setitem(IMAGE_METHODS, "broken", Broken)
    with pytest.raises(InputError, match="NaN"):
        build("broken")([make_input()])


def test_patch_features_are_refused_where_only_they_are_read() -> None:
    with pytest.raises(InputError, match=r"method: 'windows', which labels whole images"):
        get_dense_method("windows")
    with pytest.raises(InputError, match=r"method.*'windows' labels whole images"):
        ExportableTower(build("windows"), (4, 4))


def test_a_name_belongs_to_one_kind_of_method() -> None:
    try:
        register_method("twice")(Windows)
        assert METHOD_CLASSES["twice"] is Windows
        register_method("twice")(DENSE_METHODS["clip"])
        assert METHOD_CLASSES["twice"] is DENSE_METHODS["clip"]
        assert "twice" not in IMAGE_METHODS
    finally:
        DENSE_METHODS.pop("twice", None)
        IMAGE_METHODS.pop("twice", None)
