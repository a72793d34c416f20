"""`cliptrase choose-templates`: the file, its use in an evaluation, and errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cliptrase_d2.clip.prompts import TEMPLATE_SETS
from cliptrase_d2.pipeline.expert_templates import read_expert_templates
from tests.cli.commands import fail, run
from tests.command_line import restore_loggers, write_dataset
from tests.drawn_scenes import CLASSES
from tests.pipeline.tiny_segmenter import tiny_options

SCENES = Path(__file__).parents[2] / "datasets" / "emoji_scenes"


def choose(folder: Path, dataset: Path, *words: str) -> dict[str, tuple[str, ...]]:
    output = folder / "chosen.yaml"
    options = tiny_options(folder)
    options[options.index("MODEL.CLIP.TEMPLATES") + 1] = "vild"
    config = folder / "tiny.yaml"
    config.write_text("MODEL: {CLIPTRASE: {METHOD: naclip}}\n")
    words = ("--config-file", str(config), "--output", str(output), "--overwrite", *words)
    assert run("choose-templates", str(dataset), *words, "--opts", *options) == 0
    return read_expert_templates(output)


def test_labels_are_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = write_dataset(tmp_path, 3)
    chosen = choose(tmp_path, dataset)
    assert list(chosen) == list(CLASSES)
    assert all(set(own) <= set(TEMPLATE_SETS["vild"]) and len(own) <= 4 for own in chosen.values())
    assert "3 images: " in capsys.readouterr().out
    for label in (tmp_path / "annotations").iterdir():
        label.write_bytes(b"no image")
    assert choose(tmp_path, dataset) == chosen
    spec = yaml.safe_load(dataset.read_text())
    del spec["labels"]
    dataset.write_text(yaml.safe_dump({**spec, "name": f"unlabelled_{tmp_path.name}"}))
    assert choose(tmp_path, dataset) == chosen


def test_number_of_images_and_templates(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, 3)
    chosen = choose(tmp_path, dataset, "--images", "1", "--keep", "2")
    assert max(map(len, chosen.values())) == 2
    assert "# images: 1\n# keep: 2\n" in (tmp_path / "chosen.yaml").read_text()


def test_templates_of_some_scenes_label_others(tmp_path: Path) -> None:
    spec = yaml.safe_load((SCENES / "dataset.yaml").read_text())
    files = {}
    for name, stems in {"choice": "seen_00[0-1]*", "evaluation": "unseen_combination_00[0-2]*"}.items():
        folders = {"images": f"{SCENES}/images/{stems}", "labels": f"{SCENES}/annotations/{stems}"}
        files[name] = tmp_path / f"{name}.yaml"
        files[name].write_text(yaml.safe_dump({**spec, **folders, "name": f"floss_{name}"}))
    options = ["MODEL.CLIP.TEMPLATES", "vild", "TEST.PUBLISHED.LOGIT_SCALE", "100.0", "TEST.WINDOW", "0"]
    options += ["MODEL.CLIP.TEXT_CACHE", "", "DATALOADER.NUM_WORKERS", "0", "MODEL.DEVICE", "cpu"]
    model = ["--config-file", "emoji_scenes"]
    chosen = tmp_path / "chosen.yaml"
    words = [str(files["choice"]), *model, "--method", "maskclip", "--output", str(chosen)]
    assert run("choose-templates", *words, "--opts", *options) == 0
    results: list[dict[str, Any]] = []
    for experts in ("", str(chosen)):
        output = tmp_path / f"output{len(results)}"
        words = [str(files["evaluation"]), *model, "--method", "maskclip", "--protocol", "published"]
        own = ["TEST.PUBLISHED.EXPERTS", experts]
        with restore_loggers():
            assert run("eval", *words, "--output", str(output), "--opts", *options, *own) == 0
        (report,) = output.rglob("metrics.json")
        results.append(json.loads(report.read_text()))
    assert results[1]["protocol"]["experts"] == str(chosen)
    plain, experts = (result["pAcc"] for result in results)
    assert plain != experts
    assert experts > 0.8 * plain, "the words keep their meaning"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--keep", "0"], "--keep: 0"),
        (["--images", "0"], "--images: 0"),
        (["--method", "naclp"], "'naclp'"),
        (["--opts", "TEST.PROTOCOL", "slide"], "TEST.PROTOCOL"),
    ],
)
def test_input_errors_name_the_argument(tmp_path: Path, words: list[str], message: str) -> None:
    dataset = write_dataset(tmp_path, 1)
    output = ["--output", str(tmp_path / "chosen.yaml")]
    options = [] if "--opts" in words else ["--opts"]
    words = ["--config-file", "emoji_scenes", *output, *words, *options, "MODEL.DEVICE", "cpu"]
    assert message in fail("choose-templates", str(dataset), *words)


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    (tmp_path / "chosen.yaml").write_text("mine")
    assert "exists already" in fail("choose-templates", "voc20", "--output", str(tmp_path / "chosen.yaml"))
