"""`cliptrase segment`: inputs, outputs and errors."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import signal
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from cliptrase_d2.cli import inputs
from cliptrase_d2.cli.class_arguments import split_names
from cliptrase_d2.cli.model_arguments import add_model_arguments, get_options
from cliptrase_d2.cli.writers import Writer
from cliptrase_d2.data.label_files import read_label
from cliptrase_d2.data.labels import NO_LABEL
from cliptrase_d2.segmenter import pretrained
from cliptrase_d2.segmenter.result import SegmentationResult
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.visualization.colours import ClassColours
from tests.cli.commands import fail, run
from tests.command_line import ROOT

SCENES = ROOT / "datasets" / "emoji_scenes" / "images"
SCENE = str(SCENES / "seen_010.webp")
OPTIONS = ("--classes", "soccer ball, red book;red circle, water", "--model", "emoji", "--output")


def write_video(path: Path, frames: int) -> None:
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 48))
    for index in range(frames):
        video.write(np.full((48, 64, 3), 40 * index, np.uint8))
    video.release()


def test_all_outputs_of_an_image(tmp_path: Path) -> None:
    assert run("segment", SCENE, *OPTIONS, str(tmp_path), "--json", "--masks") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "seen_010.json", "seen_010_labels.png", "seen_010_masks.npz", "seen_010_overlay.png",
    ]  # fmt: skip
    labels = read_label(tmp_path / "seen_010_labels.png")
    assert labels.shape == (224, 224)
    assert set(np.unique(labels)) == {0, 1, 2}
    dataset = COCO(tmp_path / "seen_010.json")
    names = [category["name"] for category in dataset.loadCats(dataset.getCatIds())]
    assert names == ["soccer ball", "red book", "water"]
    assert dataset.loadImgs(1) == [{"id": 1, "file_name": "seen_010.webp", "height": 224, "width": 224}]
    assert len(dataset.anns) == 3
    for annotation in dataset.loadAnns(dataset.getAnnIds(imgIds=1)):
        np.testing.assert_array_equal(dataset.annToMask(annotation), labels == annotation["category_id"])
        assert 0 < annotation["score"] <= 1
    with np.load(tmp_path / "seen_010_masks.npz") as archive:
        assert archive["masks"].shape[1:] == (224, 224)
        assert archive["mask_logits"].shape == (len(archive["masks"]), 3)
        assert archive["classes"].tolist() == names


def test_a_threshold_leaves_pixels_without_a_class(tmp_path: Path) -> None:
    assert run("segment", SCENE, *OPTIONS, str(tmp_path), "--json", "--threshold", "0.8") == 0
    labels = read_label(tmp_path / "seen_010_labels.png")
    assert 0 < (labels == 255).mean() < 1
    annotations = json.loads((tmp_path / "seen_010.json").read_text())["annotations"]
    assert sum(annotation["area"] for annotation in annotations) == (labels != 255).sum()


def test_class_files_backgrounds_and_folders(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in (0, 1):
        Image.open(SCENES / f"seen_00{index}.webp").save(photos / f"{index}.png")
    (tmp_path / "classes.txt").write_text("grass\nsand\n")
    options = ("--classes-file", str(tmp_path / "classes.txt"), "--background", "@common, lion", "--model", "emoji")
    assert run("segment", str(photos), *options, "--output", str(tmp_path / "out")) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"{index}_{kind}.png" for index in (0, 1) for kind in ("overlay", "labels")
    }


@pytest.mark.parametrize(
    ("background", "got"), [("@vox", "'vox'.*'voc'"), ("gravel,,sand", "''"), ("bee", "'bee' appears twice")]
)
def test_faulty_background_is_an_error_of_its_argument(tmp_path: Path, background: str, got: str) -> None:
    words = ("--classes", "bee", "--background", background, "--model", "emoji", "--output", str(tmp_path / "out"))
    assert re.search(f"--background: .*{got}", fail("segment", SCENE, *words))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        (" , \n", ()),
        ("sky , tree;bush\nroad,\n", ("sky", "tree;bush", "road")),
        ("sky,\ntree\n\n road", ("sky", "tree", "road")),
        ("a,,b", ("a", "", "b")),  # which a vocabulary rejects
    ],
)
def test_class_names_are_split_at_commas_and_line_breaks(text: str, names: tuple[str, ...]) -> None:
    assert split_names(text) == names


def test_tiles_have_labels_but_no_masks(tmp_path: Path) -> None:
    sizes = ("--opts", "INPUT.MIN_SIZE_TEST", "0", "TEST.WINDOW", "112", "TEST.STRIDE", "56")
    argv = ("segment", SCENE, *OPTIONS, str(tmp_path), "--protocol", "tiles")
    assert "--masks" in fail(*argv, "--masks", *sizes)
    assert run(*argv, "--json", *sizes) == 0
    assert set(np.unique(read_label(tmp_path / "seen_010_labels.png"))) == {0, 1, 2}


def test_the_published_protocol_needs_a_method_without_clusters(tmp_path: Path) -> None:
    argv = ("segment", SCENE, *OPTIONS, str(tmp_path), "--protocol", "published", "--method", "sclip")
    assert "MODEL.CLIPTRASE.CLUSTERING" in fail(*argv)
    assert run(*argv, "--json", "--opts", "MODEL.CLIPTRASE.CLUSTERING", "none") == 0
    assert set(np.unique(read_label(tmp_path / "seen_010_labels.png"))) <= {0, 1, 2}


def test_ctrl_c_reports_the_finished_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, written = Writer.write, []

    def interrupt(self: Writer, file: Path, name: str, result: SegmentationResult) -> None:
        if written:
            os.kill(os.getpid(), signal.SIGINT)
        written.append(name)
        write(self, file, name, result)

    monkeypatch.setattr(Writer, "write", interrupt)
    images = [str(SCENES / f"seen_00{index}.webp") for index in range(3)]
    assert run("segment", *images, *OPTIONS, str(tmp_path)) == 130
    output = capsys.readouterr().err
    assert "1 of 3 files" in output.splitlines()[-1]
    assert "Traceback" not in output
    assert written == ["seen_000"]


def test_a_video_is_segmented_frame_by_frame(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", 5)
    assert run("segment", str(tmp_path / "clip.mp4"), *OPTIONS, str(tmp_path / "out"), "--every", "2") == 0
    labels = sorted(path.name for path in (tmp_path / "out" / "clip_labels").iterdir())
    assert labels == ["000000.png", "000002.png", "000004.png"]
    with pytest.raises(InputError, match="64 x 48 = 3,072 pixels"):
        inputs.describe_video(tmp_path / "clip.mp4", max_pixels=3071)
    assert inputs.describe_video(tmp_path / "out" / "clip_overlay.mp4") == (3, 5.0)
    (frame, *_) = inputs.read_frames(tmp_path / "out" / "clip_overlay.mp4", 1)
    assert frame.shape[0] == 48
    assert frame.shape[1] > 64  # with a legend
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"clip_overlay.mp4", "clip_labels"}


def test_an_interrupted_video_is_not_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "clip.mp4", 3)
    save, out = SegmentationResult.save_labels, tmp_path / "out"

    def interrupt(self: SegmentationResult, path: Path) -> None:
        save(self, path)
        if path.name == "000001.png":
            os.kill(os.getpid(), signal.SIGINT)

    argv = ("segment", str(tmp_path / "clip.mp4"), *OPTIONS, str(out), "--skip-existing")
    with monkeypatch.context() as patch:
        patch.setattr(SegmentationResult, "save_labels", interrupt)
        assert run(*argv) == 130
    assert {path.name for path in out.iterdir()} == {"clip_labels"}
    assert run(*argv) == 0
    assert (out / "clip_overlay.mp4").exists()
    assert len(list((out / "clip_labels").iterdir())) == 3


def save_scenes(folder: Path, *names: str) -> None:
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.open(SCENES / f"seen_00{index}.webp").resize((64, 64)).save(folder / name)


def list_files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_subfolders_are_repeated_in_the_output(tmp_path: Path) -> None:
    save_scenes(tmp_path, "a.png", "monday/a.png", "monday/noon/a.b.jpg")
    argv = ("segment", str(tmp_path), *OPTIONS, str(tmp_path / "out"), "--recursive")
    for _ in range(2):  # the second time, the folder contains the results of the first
        assert run(*argv, "--overwrite") == 0
        assert list_files(tmp_path / "out") == {
            f"{name}_{kind}.png" for name in ("a", "monday/a", "monday/noon/a.b") for kind in ("overlay", "labels")
        }


def test_results_are_not_overwritten_silently(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_scenes(tmp_path / "photos", "a.png", "b.png")
    argv = ("segment", str(tmp_path / "photos"), *OPTIONS, str(tmp_path / "out"))
    assert run(*argv) == 0
    message = fail(*argv)
    assert "a_overlay.png" in message
    assert "--overwrite" in message
    assert "--skip-existing" in message
    (tmp_path / "out" / "a_labels.png").unlink()
    kept = (tmp_path / "out" / "b_labels.png").stat().st_mtime_ns
    capsys.readouterr()
    assert run(*argv, "--skip-existing") == 0
    assert "1 of 2 files" in capsys.readouterr().out
    assert (tmp_path / "out" / "a_labels.png").exists()
    assert (tmp_path / "out" / "b_labels.png").stat().st_mtime_ns == kept
    assert run(*argv, "--skip-existing") == 0
    assert run(*argv, "--overwrite") == 0
    assert (tmp_path / "out" / "b_labels.png").stat().st_mtime_ns != kept


def test_broken_files_are_skipped_if_requested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_scenes(tmp_path / "photos", "a.png", "c.png")
    (tmp_path / "photos" / "b.png").write_text("not a picture")
    (tmp_path / "photos" / "d.mp4").write_text("not a video")
    argv = ("segment", str(tmp_path / "photos"), *OPTIONS, str(tmp_path / "out"))
    assert "b.png" in fail(*argv)
    assert run(*argv, "--overwrite", "--on-error", "skip") == 1
    skipped = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipped: ")]
    assert ["b.png" in skipped[0], "d.mp4" in skipped[1]] == [True, True]
    assert len(skipped) == 2
    assert list_files(tmp_path / "out") == {f"{name}_{kind}.png" for name in "ac" for kind in ("overlay", "labels")}


def test_classes_from_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ("segment", SCENE, "--classes-file", "-", "--model", "emoji", "--output", str(tmp_path))
    monkeypatch.setattr("sys.stdin", io.StringIO("soccer ball\n\nwater\n"))
    assert "standard input: line 2 is empty" in fail(*argv)
    monkeypatch.setattr("sys.stdin", io.StringIO("soccer ball\nwater\n"))
    assert run(*argv) == 0
    assert set(np.unique(read_label(tmp_path / "seen_010_labels.png"))) == {0, 1}


def test_labels_have_the_colours_of_the_overlay(tmp_path: Path) -> None:
    assert run("segment", SCENE, *OPTIONS, str(tmp_path)) == 0
    labels = Image.open(tmp_path / "seen_010_labels.png")
    assert labels.mode == "P"
    colours = ClassColours(["soccer ball", "red book", "water"]).assign([])
    np.testing.assert_array_equal(np.array(labels.convert("RGB")), colours[np.array(labels)])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["missing.jpg"], "missing.jpg"),
        (["*.nothing"], "*.nothing"),
        (["notes.txt"], "'.txt'"),
        (["empty"], "empty"),
        (["broken.mp4"], "broken.mp4"),
        (["a.png", "--classes", "a,,b"], "--classes"),
        (["a.png", "--classes", "a, a"], "--classes"),
        (["a.png", "b/a.png"], "a.png and b/a.png"),
        (["https://example.org/a.png"], "an address"),
        (["a.png", "--device", "abacus"], "MODEL.DEVICE"),
        (["a.png", "--every", "0"], "--every: 0"),
        (["a.png", "--threshold", "7"], "--threshold: 7"),
        (["a.png", "--model", "ViT-Q"], "--model: 'ViT-Q'"),
        (["a.png", "--method", "kk"], "'kk'"),
        (["a.png", "--output", "notes.txt"], "--output"),
        (["a.png", "--opts", "INPUT.MAX_PIXELS", "1000"], "a.png: 32 x 32 = 1,024 pixels"),
    ],
)
def test_input_errors_name_the_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], message: str
) -> None:
    for folder in ("empty", "b"):
        (tmp_path / folder).mkdir()
    for name in ("notes.txt", "broken.mp4"):
        (tmp_path / name).write_text("neither picture nor video")
    for name in ("a.png", "b/a.png"):
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert message in fail("segment", *OPTIONS, "out", *argv)


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile secret.mp4\n",
        "\ufeff#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n",
        "<?xml version='1.0'?><MPD></MPD>",
        "v=0\nc=IN IP4 127.0.0.1\n",
    ],
    ids=["concat", "HLS", "DASH", "SDP"],
)
def test_playlists_are_not_opened(tmp_path: Path, text: str) -> None:
    write_video(tmp_path / "secret.mp4", 3)
    (tmp_path / "clip.mp4").write_text(text)
    for read in (inputs.describe_video, lambda path: next(inputs.read_frames(path, 1))):
        with pytest.raises(InputError, match=r"clip\.mp4"):
            read(tmp_path / "clip.mp4")


@pytest.mark.skipif(sys.platform != "linux", reason="the file name is invalid elsewhere")
def test_file_names_are_not_ffmpeg_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "secret.mp4", 3)
    write_video(tmp_path / "own.mp4", 5)
    Path("own.mp4").rename("concat:secret.mp4")
    assert inputs.describe_video(Path("concat:secret.mp4"))[0] == 5


def test_a_failed_download_suggests_the_embedded_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("cliptrase_d2.clip.weights_source.fetch_weights", offline)
    monkeypatch.setattr(pretrained, "find_cached_weights", lambda *_: None)
    message = fail("segment", SCENE, "--classes", "sky", "--output", str(tmp_path))
    assert "Network is unreachable" in message
    assert "--model emoji" in message
    assert "598 MB" in capsys.readouterr().out


def test_default_weights_and_their_download(tmp_path: Path) -> None:
    assert pretrained.default_tag("ViT-B-16") == pretrained.default_tag("ViT-B/16") == "openai"
    assert pretrained.default_tag("ViT-H-14").startswith("laion2b")
    assert pretrained.describe_download("emoji-clip", "emoji_scenes") == ""
    assert pretrained.describe_download("ViT-B-16", str(tmp_path / "weights.pt")) == ""


def test_model_arguments_become_options() -> None:
    parser = argparse.ArgumentParser()
    add_model_arguments(parser, method=True)
    config = ["--config-file", "a.yaml"]
    assert get_options(parser.parse_args(config)) == []
    arguments = parser.parse_args([*config, "--pretrained", "x", "--method", "gem", "--opts", "KEY", "VALUE"])
    assert get_options(arguments) == ["MODEL.CLIP.PRETRAINED", "x", "MODEL.CLIPTRASE.METHOD", "gem", "KEY", "VALUE"]


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("gem+pamr", {"METHOD": "gem", "REFINEMENT": "pamr"}),  # the masks stay those of the configuration
        ("sclip+mean+sam", {"METHOD": "sclip", "CLASSIFICATION": "mean", "MASKS": "sam"}),
    ],
)
def test_a_composition_becomes_options(method: str, options: dict[str, str]) -> None:
    parser = argparse.ArgumentParser()
    add_model_arguments(parser, method=True)
    words = get_options(parser.parse_args(["--config-file", "a.yaml", "--method", method]))
    keys = {f"MODEL.CLIPTRASE.{key}" if key != "MASKS" else "MODEL.MASKS.SOURCE": options[key] for key in options}
    assert dict(zip(words[::2], words[1::2], strict=True)) == keys


@pytest.mark.parametrize(
    ("method", "message"),
    [("gem@slide", "--method: the protocol 'slide' in 'gem@slide'"), ("gem+pamm", "--method: unknown part '+pamm'")],
)
def test_a_composition_that_a_command_cannot_use_is_refused(method: str, message: str) -> None:
    assert message in fail("segment", SCENE, "--classes", "sky", "--method", method)


TILES = ("--protocol", "tiles", "--opts", "INPUT.MIN_SIZE_TEST", "0", "TEST.WINDOW", "112", "TEST.STRIDE", "64")


def write_geotiff(path: Path) -> np.ndarray:
    """Write a scene as 16-bit bands in the order blue, green, red and one more, with a georeference and nodata."""
    rasterio = pytest.importorskip("rasterio")
    scene = np.array(Image.open(SCENE).convert("RGB")).astype(np.uint16) * 11 + 1
    values = np.concatenate([scene[..., ::-1], scene[..., :1]], 2).transpose(2, 0, 1)
    values[:, :10] = 0
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000), "nodata": 0}
    with rasterio.open(path, "w", driver="GTiff", width=224, height=224, count=4, dtype="uint16", **place) as dataset:
        dataset.write(values)
    return values


@pytest.mark.parametrize("protocol", ["whole", "tiles"])
def test_georeferenced_label_maps(tmp_path: Path, protocol: str) -> None:
    write_geotiff(tmp_path / "a.tif")
    words = ("segment", str(tmp_path / "a.tif"), *OPTIONS)
    keys = ("--bands", "3", "2", "1", "--stretch", "1", "2806")
    tiles = TILES if protocol == "tiles" else ()
    assert run(*words, str(tmp_path / "png"), *keys, *tiles) == 0
    assert run(*words, str(tmp_path / "tif"), "--format", "tif", *keys, *tiles) == 0
    assert sorted(path.name for path in (tmp_path / "tif").iterdir()) == ["a_labels.tif", "a_overlay.png"]
    labels = read_label(tmp_path / "png" / "a_labels.png")
    np.testing.assert_array_equal(Image.open(tmp_path / "tif" / "a_labels.tif"), labels)
    assert np.array_equal(read_label(tmp_path / "tif" / "a_labels.tif") == NO_LABEL, labels == 255)
    assert (labels[:10] == 255).all()
    assert set(np.unique(labels[10:])) == {0, 1, 2}
    import rasterio

    with rasterio.open(tmp_path / "tif" / "a_labels.tif") as dataset:
        assert dataset.crs == "EPSG:32632"
        assert dataset.transform == rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)
        assert dataset.tags()["CLASS_1"] == "red book"
        assert dataset.nodata == 255
    assert "--overwrite" in fail(*words, str(tmp_path / "tif"), "--format", "tif", *keys)


def test_rasters_above_the_limit_are_read_in_parts(tmp_path: Path) -> None:
    write_geotiff(tmp_path / "a.tif")
    keys = ("--bands", "3", "2", "1", "--stretch", "1", "2806")
    source = ("segment", str(tmp_path / "a.tif"), *OPTIONS)
    words = (*source, str(tmp_path / "out"), *keys)
    limit = ("INPUT.MAX_PIXELS", "1000")
    assert "224 x 224 = 50,176 pixels" in fail(*words, "--opts", *limit)
    for flag in (("--json",), ("--threshold", "0.5")):
        assert "read in parts" in fail(*words, *flag, *TILES, *limit)
    assert run(*words, *TILES, *limit) == 0
    assert run(*source, str(tmp_path / "whole"), *keys, *TILES) == 0
    labels = Image.open(tmp_path / "out" / "a_labels.tif")
    np.testing.assert_array_equal(labels, read_label(tmp_path / "whole" / "a_labels.png"))
    assert Image.open(tmp_path / "out" / "a_overlay.png").height == 224


def test_geotiff_results_need_rasterio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", None)
    message = fail("segment", SCENE, *OPTIONS, str(tmp_path), "--format", "tif")
    assert re.search(r"--format tif: .*cliptrase_d2\[geo\]", message)


def test_bands_and_stretch_are_arguments(tmp_path: Path) -> None:
    assert re.search(r"error: --bands: .*three", fail("segment", SCENE, *OPTIONS, str(tmp_path), "--bands", "1", "2"))
    assert re.search(r"error: --stretch: ", fail("segment", SCENE, *OPTIONS, str(tmp_path), "--stretch", "9", "x"))
    assert "INPUT.BANDS" in fail("segment", SCENE, *OPTIONS, str(tmp_path), "--opts", "INPUT.BANDS", "[0]")
    assert run("segment", SCENE, *OPTIONS, str(tmp_path), "--bands", "1", "--stretch", "2%", "98%") == 0
