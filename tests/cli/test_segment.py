"""`cliptrase segment`: what it reads, what it writes, and how it says what is wrong."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from cliptrase_d2.cli import inputs, segment
from cliptrase_d2.cli.main import main
from cliptrase_d2.cli.writers import Writer
from cliptrase_d2.data.images import read_label
from cliptrase_d2.segmenter import pretrained as weights
from cliptrase_d2.segmenter import rle
from cliptrase_d2.segmenter.result import SegmentationResult
from cliptrase_d2.utils.errors import InputError
from tests.command_line import ROOT, run_process
from tests.faults import room_for

SCENES = ROOT / "datasets" / "emoji_scenes" / "images"
CLASSES = "soccer ball, red book;red circle, water"


def run(*words: str) -> object:
    """The command with the embedded model; its exit code or last line."""
    with pytest.raises(SystemExit) as end:
        main(["segment", *words])
    return end.value.code


def write_video(path: Path, frames: int) -> None:
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 48))
    for index in range(frames):
        video.write(np.full((48, 64, 3), 40 * index, np.uint8))
    video.release()


def test_an_image_gets_overlay_and_labels_in_the_order_of_the_words(tmp_path: Path) -> None:
    words = ("--classes", CLASSES, "--model", "emoji", "--output", str(tmp_path))
    assert run(str(SCENES / "seen_010.webp"), *words, "--json", "--masks") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "seen_010.json", "seen_010_labels.png", "seen_010_masks.npz", "seen_010_overlay.png",
    ]  # fmt: skip
    labels = read_label(tmp_path / "seen_010_labels.png")
    assert labels.shape == (224, 224)
    assert set(np.unique(labels)) == {0, 1, 2}
    found = json.loads((tmp_path / "seen_010.json").read_text())
    assert found["classes"] == ["soccer ball", "red book", "water"]
    assert found["segments"][0]["class"] == "water"  # the largest
    for part in found["segments"]:
        assert np.array_equal(rle.decode(part["segmentation"]), labels == part["index"])
    with np.load(tmp_path / "seen_010_masks.npz") as archive:
        assert archive["masks"].shape[1:] == (224, 224)
        assert archive["classes"].tolist() == found["classes"]


def test_files_of_words_backgrounds_and_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in (0, 1):
        Image.open(SCENES / f"seen_00{index}.webp").save(photos / f"{index}.png")
    (tmp_path / "words.txt").write_text("grass\nsand\n")
    words = ("--classes-file", str(tmp_path / "words.txt"), "--background", "lion, sky", "--model", "emoji")
    assert run(str(photos), *words, "--output", str(tmp_path / "out")) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"{index}_{kind}.png" for index in (0, 1) for kind in ("overlay", "labels")
    }
    assert "Written to" in capsys.readouterr().out


def test_an_image_in_tiles_has_no_masks_to_write(tmp_path: Path) -> None:
    sizes = ("--opts", "INPUT.MIN_SIZE_TEST", "0", "TEST.WINDOW", "112", "TEST.STRIDE", "56")
    words = (str(SCENES / "seen_010.webp"), "--classes", CLASSES, "--model", "emoji", "--protocol", "tiles")
    assert str(run(*words, "--masks", "--output", str(tmp_path), *sizes)).startswith(
        "error: --masks: with the protocol"
    )
    assert run(*words, "--json", "--output", str(tmp_path), *sizes) == 0
    assert set(np.unique(read_label(tmp_path / "seen_010_labels.png"))) == {0, 1, 2}


def test_ctrl_c_says_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, written = Writer.write, []

    def interrupted(self: Writer, stem: str, result: SegmentationResult) -> None:
        if written:
            os.kill(os.getpid(), signal.SIGINT)
        written.append(stem)
        write(self, stem, result)

    monkeypatch.setattr(Writer, "write", interrupted)
    images = [str(SCENES / f"seen_00{index}.webp") for index in range(3)]
    assert run(*images, "--classes", CLASSES, "--model", "emoji", "--output", str(tmp_path)) == 130
    said = capsys.readouterr().err
    assert said.splitlines()[-1] == f"interrupted. 1 of 3 files are done, written to {tmp_path}/."
    assert "Traceback" not in said
    assert written == ["seen_000"]


def test_a_disk_without_room_is_named_and_leaves_no_part(tmp_path: Path) -> None:
    words = (str(SCENES / "seen_010.webp"), "--classes", CLASSES, "--model", "emoji", "--output", str(tmp_path))
    assert run(*words) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with room_for(5000):
        said = str(run(*words))
    assert said.startswith(f"error: {tmp_path / 'seen_010_overlay.png'}: cannot be written (File too large)")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_video_is_segmented_frame_by_frame(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", 5)
    words = ("--classes", "grass, sand", "--model", "emoji", "--output", str(tmp_path / "out"), "--every", "2")
    assert run(str(tmp_path / "clip.mp4"), *words) == 0
    labels = sorted(path.name for path in (tmp_path / "out" / "clip_labels").iterdir())
    assert labels == ["000000.png", "000002.png", "000004.png"]
    with pytest.raises(InputError, match="64 x 48 = 3,072 pixels"):
        inputs.describe_video(tmp_path / "clip.mp4", max_pixels=3071)
    video = inputs.describe_video(tmp_path / "out" / "clip_overlay.mp4")
    assert (video.frames, video.rate) == (3, 5.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.jpg", "--classes", "a"], "no such file"),
        (["*.nothing", "--classes", "a"], "no such file"),
        (["notes.txt", "--classes", "a"], "the suffix '.txt'"),
        (["empty", "--classes", "a"], "a folder without images"),
        (["a.png", "--classes", "a,,b"], "--classes"),
        (["a.png", "--classes", "a, a"], "--classes"),
        (["a.png", "b/a.png", "--classes", "a"], "whose results would have one name"),
        (["a.png", "--classes", "a", "--every", "0"], "--every"),
        (["a.png", "--classes", "a", "--model", "ViT-Q"], "ViT-Q"),
        (["a.png", "--classes", "a", "--model", "emoji", "--attention", "kk"], "kk"),
        (["a.png", "--classes", "a", "--output", "notes.txt"], "--output"),
    ],
)
def test_what_cannot_be_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "notes.txt").write_text("no picture")
    for name in ("a.png", "b/a.png"):
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    said = str(run(*words))
    assert said.startswith("error: ")
    assert message in said


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
def test_a_video_that_names_other_files_is_not_opened(tmp_path: Path, text: str) -> None:
    write_video(tmp_path / "secret.mp4", 3)
    (tmp_path / "clip.mp4").write_text(text)
    for read in (inputs.describe_video, lambda path: next(inputs.read_frames(path, 1))):
        with pytest.raises(InputError, match=r"clip\.mp4: a video that cannot be read"):
            read(tmp_path / "clip.mp4")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_the_name_of_a_video_is_no_command_for_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "secret.mp4", 3)
    write_video(tmp_path / "own.mp4", 5)
    Path("own.mp4").rename("concat:secret.mp4")
    assert inputs.describe_video(Path("concat:secret.mp4")).frames == 5


def test_an_image_of_more_pixels_than_allowed_is_named(tmp_path: Path) -> None:
    words = ("--classes", "a", "--model", "emoji", "--output", str(tmp_path / "out"))
    said = str(run(str(SCENES / "seen_000.webp"), *words, "--opts", "INPUT.MAX_PIXELS", "50000"))
    assert "seen_000.webp: 224 x 224 = 50,176 pixels. Allowed: at most 50,000 pixels" in said


def test_a_broken_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    said = str(run(str(tmp_path / "clip.mp4"), "--classes", "a", "--model", "emoji", "--output", str(tmp_path / "out")))
    assert "clip.mp4: a video that cannot be read" in said


def test_no_network_and_no_weights_offer_the_embedded_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("cliptrase_d2.clip.weights_source.open_clip.download_pretrained", offline)
    monkeypatch.setattr(weights, "cached_weights", lambda *_: None)
    said = str(run(str(SCENES / "seen_010.webp"), "--classes", "sky", "--output", str(tmp_path)))
    assert said.startswith("error: weights 'openai' of CLIP model 'ViT-B-16': a failed download")
    assert "--model emoji" in said
    printed = capsys.readouterr().out
    assert "open_clip fetches them now, some 59" in printed or "open_clip fetches them now, some 60" in printed


def test_the_default_weights_are_openais_where_there_are_some() -> None:
    assert weights.default_tag("ViT-B-16") == weights.default_tag("ViT-B/16") == "openai"
    assert weights.default_tag("ViT-H-14").startswith("laion2b")
    with pytest.raises(InputError, match="emoji"):
        weights.default_tag("ViT-Q")


def test_nothing_is_said_where_nothing_is_fetched(tmp_path: Path) -> None:
    assert weights.describe_download("emoji-clip", "emoji_scenes") == ""
    assert weights.describe_download("ViT-B-16", str(tmp_path / "weights.pt")) == ""


def test_masks_are_encoded_as_coco_reads_them() -> None:
    for seed, share in enumerate((0.0, 0.3, 0.7, 1.0)):
        mask = np.random.default_rng(seed).random((5, 7)) < share
        encoded = rle.encode(mask)
        assert sum(encoded["counts"]) == 35
        assert np.array_equal(rle.decode(encoded), mask)
        assert np.array_equal(coco.decode(coco.frPyObjects(encoded, 5, 7)).astype(bool), mask)


def test_help_is_there_without_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    printed = capsys.readouterr().out
    assert "--classes-file" in printed
    assert segment.__doc__ is not None
    assert "cliptrase segment photo.jpg" in printed


def test_the_package_can_be_run_as_a_module() -> None:
    done = run_process("segment", "--help", script="-m cliptrase_d2")
    assert done.returncode == 0
    assert "--classes-file" in done.stdout
