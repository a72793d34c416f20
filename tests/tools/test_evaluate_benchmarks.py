"""Evaluation of all available benchmarks, and comparison with the paper."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from cliptrase_d2.data.benchmarks import BENCHMARKS
from cliptrase_d2.methods.published import BENCHMARKS as BENCHMARKS_OF_METHODS
from cliptrase_d2.methods.published import read_published_methods
from tests import forked
from tests.data.test_benchmarks import write_pair
from tools.evaluate_benchmarks import KEYS, ROOT, main, parse_arguments, plan_evaluation, plan_published

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


@pytest.mark.slow
def test_published_settings_fill_one_table(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--protocol", "published", "--methods", "clip", "sfp", "cliptrase", "--benchmarks", "voc20", "ade150")
    words = (*words, "--incomplete", "--opts", *MODEL)
    assert run(monkeypatch, root, tmp_path / "output", *words) == ""
    rows = {(row["method"], row["benchmark"]): row for row in read(tmp_path / "output")}
    assert list(rows) == [(method, key) for method in ("clip", "sfp", "cliptrase") for key in ("VOC20", "ADE150")]
    found = rows["sfp", "VOC20"]
    assert (found["data_set"], found["metric"], found["published"]) == ("voc_sem_seg_val_sfp", "mIoU", "84.50")
    assert found["status"] == "evaluated on 3 of 1,449 images"
    assert float(found["difference"]) == pytest.approx(float(found["ours"]) - 84.5, abs=0.011)
    assert rows["cliptrase", "VOC20"]["published"] == "81.20"
    assert (rows["clip", "VOC20"]["ours"], rows["clip", "VOC20"]["published"]) == ("", "49.10")
    assert "not public" in rows["clip", "VOC20"]["status"]
    page = (tmp_path / "output" / "comparison.md").read_text()
    assert f"missing: python datasets/prepare_ade20k_150.py {root}" in page
    assert read_published_methods()["sfp"].settings in page
    assert page in capsys.readouterr().out

    assert run(monkeypatch, root, tmp_path / "output", *words) == ""
    assert "".join(capsys.readouterr()).count("an earlier run") == 2
    assert (tmp_path / "output" / "comparison.md").read_text() == page


def test_all_methods_have_published_settings_or_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, tmp_path, tmp_path / "output", "--methods", "all") == ""
    rows = read(tmp_path / "output")
    assert {(row["method"], row["benchmark"]) for row in rows} == {
        (method, BENCHMARKS[key].title) for method in read_published_methods() for key in BENCHMARKS_OF_METHODS
    }
    for row in rows:
        reason = "the settings are not public" if row["published"] else "no published number"
        assert row["status"].startswith("missing: python datasets/" if row["data_set"] else reason)


def test_every_configuration_of_published_settings_is_planned() -> None:
    args = parse_arguments(["--methods", "all"])
    plans = [(method, key, plan_published(args, method, key)) for method in args.methods for key in args.benchmarks]
    found = {plan.config: plan for _, _, plan in plans if plan}
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs/methods").glob("*/*.yaml")}
    assert files == {config for config in found if config.startswith("configs/methods/")}
    for method, key, plan in plans:
        if plan and plan.config in files:
            assert plan.benchmark.key.startswith(key)
            assert method == plan.cfg.MODEL.CLIPTRASE.METHOD
            assert plan.cfg.TEST.EXPECTED_RESULTS == []


@pytest.mark.parametrize(
    "words",
    [
        ("--methods", "all", "--size", "336"),
        ("--methods", "all", "--protocol", "whole"),
        ("--methods", "all", "sclip"),
        ("--protocol", "published", "--methods", "cosine"),
        ("--methods", "nonsense"),
    ],
)
def test_methods_and_protocols_that_do_not_fit(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(words)
    assert words[-1 if "--size" not in words else -2] in capsys.readouterr().err
