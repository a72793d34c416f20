"""Evaluation of all available benchmarks, and comparison with the paper."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from cliptrase_d2.data.benchmarks import BENCHMARKS
from tests import forked
from tests.data.test_benchmarks import write_pair
from tools.evaluate_benchmarks import KEYS, main, parse_arguments, plan_evaluation

# The embedded model is fast, and its words have a meaning.
MODEL = (
    *("MODEL.CLIP.NAME", "emoji-clip", "MODEL.CLIP.PRETRAINED", "emoji_scenes", "MODEL.CLIP.TEMPLATES", "simple"),
    *("DATALOADER.NUM_WORKERS", "0"),
)


def run(monkeypatch: pytest.MonkeyPatch, root: Path, output: Path, *words: str) -> str:
    """Run the command. Return its error message."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    monkeypatch.setattr(sys, "argv", ["tools/evaluate_benchmarks.py", "--output", str(output), *words])
    forked.fork_subprocesses(monkeypatch, output.parent)
    try:
        main()
    except SystemExit as error:
        return str(error.code)
    return ""


def read(output: Path) -> list[dict[str, str]]:
    with (output / "comparison.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three pairs of VOC20, which the published script uses for VOC21 too."""
    labels = np.repeat([[0, 1, 255]], 240, 0).repeat(80, 1)
    for stem in ("a", "b", "c"):
        write_pair(tmp_path / "data", BENCHMARKS["voc20"], stem, labels)
    return tmp_path / "data"


@pytest.mark.slow
def test_available_benchmarks_are_evaluated_once_and_others_are_marked(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--benchmarks", "voc20", "voc21", "ade150", "--methods", "clip", "cliptrase", "--incomplete")
    words = (*words, "--opts", *MODEL)
    assert run(monkeypatch, root, tmp_path / "output", *words) == ""
    rows = read(tmp_path / "output")
    assert len(rows) == 3 * 2 * 4
    cells = {(row["benchmark"], row["method"], row["metric"]): row for row in rows}
    voc = cells["VOC20", "cliptrase", "mIoU"]
    assert voc["status"] == "evaluated on 3 of 1,449 images"
    assert voc["published"] == "80.95"
    assert float(voc["difference"]) == pytest.approx(float(voc["ours"]) - 80.95, abs=0.011)
    assert cells["VOC21 (script)", "clip", "mIoU"]["published"] == "17.54"
    assert cells["ADE150", "clip", "pAcc"]["ours"] == ""
    assert f"missing: python datasets/prepare_ade20k_150.py {root}" in (tmp_path / "output/comparison.md").read_text()
    assert "emoji-clip with the weights emoji_scenes: center_crop, short side 224" in capsys.readouterr().out

    assert run(monkeypatch, root, tmp_path / "output", *words) == ""
    assert "".join(capsys.readouterr()).count("an earlier run") == 4
    assert read(tmp_path / "output") == rows


@pytest.mark.slow
def test_other_benchmarks_are_evaluated_after_a_failure(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (BENCHMARKS["ade150"].images + "/a.jpg", BENCHMARKS["ade150"].labels + "/a.png"):
        (root / path).parent.mkdir(parents=True)
        (root / path).write_bytes(b"broken")
    words = ("--benchmarks", "ade150", "voc20", "--methods", "clip", "--incomplete", "--protocol", "whole")
    words = (*words, "--size", "112", "--opts", *MODEL)
    assert run(monkeypatch, root, tmp_path / "output", *words).startswith("error: ADE150 failed")
    statuses = {row["benchmark"]: row["status"] for row in read(tmp_path / "output")}
    assert statuses == {"ADE150": "failed with exit code 1", "VOC20": "evaluated on 3 of 1,449 images"}
    assert "The paper has no numbers for this protocol and size." in (tmp_path / "output/comparison.md").read_text()


def test_incomplete_benchmark_is_skipped(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--benchmarks", "voc20", "--methods", "clip", "--opts", "MODEL.CLIP.PRETRAINED", "")
    assert run(monkeypatch, root, tmp_path / "output", *words) == ""
    assert {row["status"] for row in read(tmp_path / "output")} == {
        f"incomplete, 3 of 1,449: python datasets/prepare_voc.py {root}"
    }
    assert "# ViT-B-16 with RANDOM weights (seed 0): center_crop" in (tmp_path / "output/comparison.md").read_text()


@pytest.mark.parametrize("words", [(), ("--size", "336"), ("--protocol", "whole"), ("--protocol", "slide")])
@pytest.mark.parametrize("key", KEYS)
def test_every_benchmark_can_be_planned(key: str, words: tuple[str, ...]) -> None:
    plan = plan_evaluation(parse_arguments(words), key)
    assert plan.cfg.TEST.EXPECTED_RESULTS == []
    assert list(plan.cfg.TEST.METHODS) == ["clip", "sclip", "cliptrase"]
    is_crop = plan.cfg.TEST.PROTOCOL == "center_crop"
    assert plan.benchmark is BENCHMARKS.get(f"{key}_paper" if is_crop else key, BENCHMARKS[key])


def test_size_is_free_with_other_protocols_only() -> None:
    plan = plan_evaluation(parse_arguments(["--protocol", "whole", "--size", "448"]), "voc20")
    assert plan.cfg.INPUT.MIN_SIZE_TEST == 448
    with pytest.raises(SystemExit):
        parse_arguments(["--size", "448"])
