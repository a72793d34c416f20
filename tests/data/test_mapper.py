from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cliptrase_d2.config import load_config
from cliptrase_d2.d2 import META_ARCH_REGISTRY
from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.data.mapper import EvaluationMapper
from cliptrase_d2.data.protocol import Protocol
from cliptrase_d2.data.register import register_dataset
from cliptrase_d2.data.rendering import RawRange, Rendering
from cliptrase_d2.segmenter.build import build_segmenter
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary
from tests.data.test_images import rotate_right
from tests.pipeline.tiny_segmenter import tiny_config
from tests.san.tiny_san import TINY_SAN

VOCABULARY = Vocabulary.parse(["sky", "tree", "road"])


def make_mapper(protocol: str = "whole", short_side: int = 32, **rule: Any) -> EvaluationMapper:
    return EvaluationMapper(
        protocol=protocol,
        short_side=short_side,
        max_size=64,
        patch_size=16,
        vocabulary=VOCABULARY,
        label_rule=LabelRule(3, **rule),
    )


def write_record(
    folder: Path, height: int, width: int, labels: np.ndarray | None = None, **options: Any
) -> dict[str, str]:
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 255, (height, width, 3)).astype(np.uint8)).save(folder / "a.png", **options)
    if labels is None:
        labels = random.integers(0, 3, (height, width))
    Image.fromarray(labels.astype(np.uint8)).save(folder / "a_label.png")
    return {"file_name": str(folder / "a.png"), "sem_seg_file_name": str(folder / "a_label.png")}


@pytest.mark.parametrize("size", [(50, 67), (67, 50), (32, 32), (20, 31), (33, 97), (128, 129)])
@pytest.mark.parametrize("side", [32, 48])
def test_center_crop_equals_torchvision(tmp_path: Path, size: tuple[int, int], side: int) -> None:
    transforms = pytest.importorskip("torchvision.transforms", reason="torchvision is the reference here")
    record = write_record(tmp_path, *size)
    mapped = make_mapper("center_crop", side)(record)
    for mode, file, key in (("BICUBIC", "file_name", "image"), ("NEAREST", "sem_seg_file_name", "sem_seg")):
        interpolation = getattr(transforms.InterpolationMode, mode)
        reference = transforms.Compose([transforms.Resize(side, interpolation), transforms.CenterCrop(side)])
        expected = torch.from_numpy(np.array(reference(Image.open(record[file]))))
        assert torch.equal(mapped[key], expected.permute(2, 0, 1) if key == "image" else expected.long())
    assert (mapped["height"], mapped["width"]) == (side, side)


def test_whole_resizes_the_image_and_not_the_labels(tmp_path: Path) -> None:
    labels = np.random.default_rng(1).integers(0, 3, (50, 67))
    record = write_record(tmp_path, 50, 67, labels)
    mapped = make_mapper("whole")(record)
    assert mapped["image"].shape == (3, 32, 48)  # 42.9 is nearer to 3 patches than to 2
    assert mapped["image"].dtype == torch.uint8
    assert (mapped["height"], mapped["width"]) == (50, 67)
    assert torch.equal(mapped["sem_seg"], torch.from_numpy(labels))
    assert mapped["vocabulary"] is VOCABULARY
    assert torch.equal(make_mapper("slide")(record)["image"], mapped["image"])


def test_labels_are_mapped(tmp_path: Path) -> None:
    labels = np.full((32, 32), 9)
    labels[0, 0] = 0
    record = write_record(tmp_path, 32, 32, labels)
    mapper = make_mapper("center_crop", label_map={0: 255, 9: 2})
    mapped = mapper(record)
    assert mapped["sem_seg"].dtype == torch.int64
    assert mapped["sem_seg"][0, 0] == 255
    assert (mapped["sem_seg"].flatten()[1:] == 2).all()
    assert "sem_seg" not in mapper({"file_name": record["file_name"]})


def test_invalid_label_is_found_even_if_it_is_cropped_away(tmp_path: Path) -> None:
    labels = np.zeros((32, 96))
    labels[0, 0] = 77
    with pytest.raises(InputError, match=r"a_label\.png: unknown label values 77"):
        make_mapper("center_crop")(write_record(tmp_path, 32, 96, labels))


def test_image_and_labels_of_different_sizes_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a_label\.png: 20x10 pixels, .*a\.png .*40x30"):
        make_mapper()(write_record(tmp_path, 30, 40, np.zeros((10, 20))))


def test_labels_have_the_size_of_the_image_after_its_exif_rotation(tmp_path: Path) -> None:
    mapped = make_mapper()(write_record(tmp_path, 20, 40, np.zeros((40, 20)), exif=rotate_right()))
    assert mapped["sem_seg"].shape == (40, 20)
    assert mapped["image"].shape == (3, 64, 32)
    with pytest.raises(InputError, match="EXIF rotation"):
        make_mapper()(write_record(tmp_path, 20, 40, np.zeros((20, 40)), exif=rotate_right()))


def test_image_is_not_scored_if_only_unlabelled_pixels_remain(tmp_path: Path) -> None:
    labels = np.full((32, 96), 9)
    labels[:, 0] = 1  # cropped away
    rule = {"label_map": {1: 1, 9: 2}, "unscored_if_only": 9}
    record = write_record(tmp_path, 32, 96, labels)
    assert (make_mapper("center_crop", **rule)(record)["sem_seg"] == 255).all()
    assert (make_mapper("whole", **rule)(record)["sem_seg"] == torch.where(torch.tensor(labels == 9), 2, 1)).all()


def register(folder: Path, **options: Any) -> str:
    return register_dataset(f"mapper_{folder.name}", folder, ["sky", "tree", "road"], folder, **options)


@pytest.mark.parametrize(
    "options", [(), ("MODEL.CLIP.NAME", "emoji-clip", "MODEL.CLIP.PRETRAINED", "emoji_scenes"), TINY_SAN]
)
def test_mapper_of_a_configuration_has_the_input_format_of_its_model(tmp_path: Path, options: tuple[str, ...]) -> None:
    name = register(tmp_path)
    cfg = tiny_config(tmp_path, *options, "DATASETS.TEST", f"('{name}',)")
    model = build_segmenter(cfg)
    mapper = EvaluationMapper(cfg, name)
    assert mapper.protocol == Protocol("whole", 64, 128, model.patch_multiple, model.resampling)
    assert EvaluationMapper(cfg, name, model.patch_multiple, model.resampling).protocol == mapper.protocol
    assert EvaluationMapper(cfg, name, patch_size=4).protocol == replace(mapper.protocol, patch_size=4)
    assert EvaluationMapper(cfg, name, resampling="box").protocol == replace(mapper.protocol, resampling="box")


@pytest.mark.parametrize(("clip", "patch_size"), [("ViT-B-32", 32), ("ViT-L/14", 14)])
def test_mapper_of_a_configuration_needs_no_weights(tmp_path: Path, clip: str, patch_size: int) -> None:
    sizes = ("INPUT.MIN_SIZE_TEST", "224", "INPUT.MAX_SIZE_TEST", "500", "INPUT.MAX_PIXELS", "1000")
    cfg = load_config(options=["MODEL.CLIP.NAME", clip, "TEST.PROTOCOL", "slide", *sizes])
    mapper = EvaluationMapper(cfg, register(tmp_path, label_map={9: 2}))
    assert mapper.protocol == Protocol("slide", 224, 500, patch_size, "bicubic")
    assert mapper.max_pixels == 1000
    assert (mapper.vocabulary, mapper.label_rule) == (VOCABULARY, LabelRule(3, label_map={9: 2}))


def test_mapper_of_a_configuration_needs_a_known_model_and_data_set(tmp_path: Path) -> None:
    name = register(tmp_path)
    cfg = tiny_config(tmp_path, "MODEL.META_ARCHITECTURE", "MyModel")
    with pytest.raises(InputError, match=r"MODEL\.META_ARCHITECTURE: .*'MyModel'.*segmenter\.build"):
        EvaluationMapper(cfg, name)
    assert EvaluationMapper(cfg, name, patch_size=8, resampling="bilinear").protocol.patch_size == 8
    with pytest.raises(InputError, match="no_such_set"):
        EvaluationMapper(tiny_config(tmp_path), "no_such_set")


def test_model_of_another_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = register_dataset(f"mapper_{tmp_path.name}", tmp_path, ["cat", "dog"])
    cfg = tiny_config(tmp_path, *TINY_SAN)
    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "SAN", torch.nn.Identity)  # as the published package does
    with pytest.raises(InputError, match=r"MODEL\.META_ARCHITECTURE.*'SAN'.*torch.*CLIPtraseSAN"):
        EvaluationMapper(cfg, name)


def test_other_entries_of_a_record_stay(tmp_path: Path) -> None:
    record = {**write_record(tmp_path, 32, 32), "meta": {"dataset_name": "scenes"}, "image_id": 7}
    mapped = make_mapper()(record)
    assert {key: mapped[key] for key in record} == record


def test_views_are_made_from_the_original_image(tmp_path: Path) -> None:
    views = [Protocol("whole", side, 96, 16) for side in (48, 64)]
    options = {"protocol": "whole", "short_side": 32, "max_size": 64, "patch_size": 16}
    mapper = EvaluationMapper(**options, vocabulary=VOCABULARY, label_rule=LabelRule(3), views=views)
    record = write_record(tmp_path, 50, 67)
    mapped = mapper(record)
    with Image.open(record["file_name"]) as image:
        expected = [np.array(image.resize(size, Image.Resampling.BICUBIC)) for size in ((64, 48), (80, 64))]
    for view, pixels in zip(mapped["views"], expected, strict=True):
        assert np.array_equal(view.permute(1, 2, 0), pixels)
    assert {key: mapped[key] for key in ("height", "width")} == {"height": 50, "width": 67}
    assert torch.equal(mapped["image"], make_mapper()(record)["image"])
    assert "views" not in make_mapper()(record)


@pytest.mark.parametrize("protocol", ["whole", "center_crop"])
def test_nodata_has_the_ignore_label(tmp_path: Path, protocol: str) -> None:
    rasterio = pytest.importorskip("rasterio")
    raw = np.random.default_rng(0).integers(1, 3000, (4, 32, 32)).astype(np.uint16)
    raw[:, :7] = 0
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", width=32, height=32, count=4, dtype="uint16", nodata=0
    ) as dataset:
        dataset.write(raw)
    record = {**write_record(tmp_path, 32, 32, np.ones((32, 32))), "file_name": str(tmp_path / "a.tif")}
    mapper = make_mapper(protocol, ignore_label=9)
    mapper.rendering = Rendering((4, 2, 1), (0, 3000))
    mapped = mapper(record)
    assert mapped["sem_seg"][:, 0].tolist() == [9] * 7 + [1] * 25
    np.testing.assert_array_equal(mapped["image"][0], np.rint(raw[3] * 255.0 / 3000))
    assert "raw_range" not in mapped


def test_the_range_of_16_bit_images_is_passed_on(tmp_path: Path) -> None:
    record = write_record(tmp_path, 32, 32)
    assert "raw_range" not in make_mapper()(record)
    Image.fromarray(np.full((32, 32), 700, np.uint16)).save(tmp_path / "a.png")
    assert make_mapper()(record)["raw_range"] == RawRange(700, 700, 65535)


def test_keys_of_the_data_set_precede_those_of_the_configuration(tmp_path: Path) -> None:
    cfg = load_config(options=["INPUT.BANDS", "[3, 2, 1]", "INPUT.STRETCH", "['2%', 255]"])
    names = [f"{kind}_{tmp_path.name}" for kind in ("plain", "own")]
    for name, keys in zip(names, ({}, {"bands": [1]}), strict=True):
        register_dataset(name, tmp_path, ["sky"], **keys)
    for name, bands in zip(names, ((3, 2, 1), (1,)), strict=True):
        assert EvaluationMapper(cfg, name).rendering == Rendering(bands, ("2%", 255))
