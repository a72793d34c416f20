"""The command line from end to end."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from cliptrase_d2.cli import job
from cliptrase_d2.d2 import DatasetCatalog, MetadataCatalog, describe
from cliptrase_d2.evaluation.evaluator import SegmentationEvaluator
from tests import forked
from tests.command_line import HEADLINE, call, read_results, run, run_process, write_dataset, write_wrapper
from tests.drawn_scenes import CLASSES
from tests.pipeline.tiny_segmenter import tiny_options


def test_two_data_sets_from_the_command_line(tmp_path: Path) -> None:
    first, second = write_dataset(tmp_path / "first", 2), write_dataset(tmp_path / "second", 3)
    options = [*tiny_options(tmp_path), "TEST.SAVE_PREDICTIONS", "True", "DATALOADER.NUM_WORKERS", "1"]
    done = run_process(
        "--eval-only", "--dataset", str(first), "--dataset", str(second), *options, script=write_wrapper(tmp_path)
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    output = tmp_path / "output"
    assert describe() in done.stdout.splitlines()[0]
    assert describe() in (output / "log.txt").read_text().splitlines()[0]
    for dataset, count in ((first, 2), (second, 3)):
        report = read_results(dataset, output)
        assert {*HEADLINE, "per_class", "images", "skipped", "protocol", "config_hash", "versions"} <= set(report)
        assert all(0 <= report[key] <= 100 for key in HEADLINE)
        assert set(report["per_class"]) == set(CLASSES)
        assert (report["images"], report["skipped"]) == (count, [])
        predictions = sorted((output / "inference" / report["dataset"] / "predictions").iterdir())
        assert [path.stem for path in predictions] == [f"scene_{index:03}" for index in range(count)]
        for path in predictions:
            with Image.open(path) as image:
                assert (image.mode, image.size) == ("L", (320, 240))
                assert np.asarray(image).max() < len(CLASSES)
        assert report["dataset"] in done.stdout


def test_systems_are_compared_in_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    groups = {"things": list(CLASSES[3:]), "stuff": list(CLASSES[:3])}
    first, second = write_dataset(tmp_path / "first", 2, groups=groups), write_dataset(tmp_path / "second", 2)
    systems = ("TEST.METHODS", "['clip', 'cliptrase']", "TEST.SAVE_OVERLAYS", "1")
    assert run(monkeypatch, first, *systems, flags=("--dataset", str(second))) == ""
    output = first.parent / "output"
    one, two = (yaml.safe_load(dataset.read_text())["name"] for dataset in (first, second))
    expected = {
        (system, name): read_results(dataset, output, system)
        for name, dataset in ((one, first), (two, second))
        for system in ("clip", "cliptrase")
    }
    before, _, after = capsys.readouterr().out.partition("Results in percent:\n")
    assert not re.search(r"^(sky|grass) +\d", before, re.MULTILINE)  # a comparison has no rows of classes
    table, _, rest = after.partition("Groups of classes")
    rows = [line.split() for line in table.splitlines()]
    assert rows[0] == ["method", "data", "set", "pAcc", "mAcc", "fwIoU", "mIoU"]
    assert {tuple(row[:2]): row[2:] for row in rows[2:6]} == {
        run: [f"{report[name]:.2f}" for name in rows[0][3:]] for run, report in expected.items()
    }
    groups_table, _, sizes_table = rest.partition("Sizes of objects")
    assert f"clip       {one}" in groups_table
    assert f"clip       {two}" not in groups_table  # it has no groups
    for name in (one, two):
        assert f"clip       {name}" in sizes_table
        assert f"{expected['clip', name]['mIoU_large']:.2f}" in sizes_table
    for metric, group in (("mIoU", "things"), ("pAcc", "stuff")):
        assert metric in rest
        assert group in rest
        assert f"{expected['cliptrase', one][f'{metric}-{group}']:.2f}" in rest
    assert f"Reports, overlays: {output}/<method>/inference/<data set>/" in rest
    for system, name in expected:
        (picture,) = (output / system / "inference" / name / "overlays").iterdir()
        assert picture.name == "scene_001.jpg"


def test_a_run_fails_if_a_result_is_not_as_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = write_dataset(tmp_path / "scenes", 2, groups={"things": list(CLASSES[3:])})
    assert run(monkeypatch, scenes) == ""
    found = read_results(scenes)
    tasks = [("sem_seg", "mIoU"), (f"{found['dataset']}/sem_seg", "pAcc"), ("sem_seg", "mIoU-things")]
    right = [[task, metric, found[metric], 0.01] for task, metric in tasks]
    assert run(monkeypatch, scenes, "TEST.EXPECTED_RESULTS", str(right), flags=("--resume",)) == ""
    assert "As expected: 3 of 3 results" in capsys.readouterr().out
    right[1][2] += 1
    message = run(monkeypatch, scenes, "TEST.EXPECTED_RESULTS", str(right), flags=("--resume",))
    assert "1 of 3 results" in message
    table = capsys.readouterr().out.partition("Not as expected, in percent:\n")[2]
    assert table.splitlines()[2].split()[:4] == [f"{found['dataset']}/sem_seg", "pAcc", f"{right[1][2]:.8g}", "0.01"]


@pytest.mark.slow
def test_two_processes_count_what_one_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = write_dataset(tmp_path / "scenes", 3)
    (dataset.parent / "images" / "scene_001.png").write_bytes(b"broken")
    options = ("TEST.ON_ERROR", "skip", "TEST.SAVE_OVERLAYS", "9")
    assert run(monkeypatch, dataset, *options) == ""
    alone = read_results(dataset)
    words = ["--eval-only", "--dataset", str(dataset), *tiny_options(tmp_path), *options]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *forked.FORKING]
    done = forked.run([*torchrun, write_wrapper(tmp_path), *words], tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    together = read_results(dataset, tmp_path / "output")
    assert (alone["images"], len(alone["skipped"])) == (2, 1)
    for key in ("images", "skipped", "config_hash", "data_hash", "no_valid_label"):
        assert together[key] == alone[key]
    # Other numbers of threads may round a pixel to another class.
    assert [together[key] for key in HEADLINE] == pytest.approx([alone[key] for key in HEADLINE], abs=0.5)
    overlays = [
        sorted(path.name for path in (output / "inference" / alone["dataset"] / "overlays").iterdir())
        for output in (dataset.parent / "output", tmp_path / "output")
    ]
    assert overlays == [["scene_000.jpg", "scene_002.jpg"]] * 2  # the broken image has none
    pixels = [sum(values["pixels"] for values in report["per_class"].values()) for report in (alone, together)]
    assert pixels == [2 * 240 * 320] * 2


def test_training_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = call(monkeypatch, *tiny_options(tmp_path))
    assert message.startswith("error: MODEL.META_ARCHITECTURE: training CLIPtrase, which has nothing to train")
    assert "--eval-only" in message


def test_an_unknown_side_of_the_door_is_refused_in_one_line() -> None:
    done = run_process("--eval-only", CLIPTRASE_D2="detectron3")
    assert done.returncode == 1
    assert done.stderr.startswith("error: environment variable CLIPTRASE_D2: 'detectron3'")
    assert len(done.stderr.splitlines()) == 1


def test_an_error_in_a_reading_process_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset = write_dataset(tmp_path / "scenes", 3)
    (dataset.parent / "images" / "scene_001.png").write_bytes(b"broken")
    message = run(monkeypatch, dataset, "DATALOADER.NUM_WORKERS", "2")
    assert message.startswith(f"error: {dataset.parent / 'images' / 'scene_001.png'}: unreadable")
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, "130"), (signal.SIGTERM, "143")])
def test_an_interruption_says_what_is_done_and_how_to_go_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    code: str,
) -> None:
    dataset = write_dataset(tmp_path / "scenes", 3)
    with pytest.MonkeyPatch.context() as patch:
        process = SegmentationEvaluator.process

        def interrupted(self: SegmentationEvaluator, *arguments: Any) -> None:
            if self.counts.images == 2:
                os.kill(os.getpid(), number)
            process(self, *arguments)

        patch.setattr(SegmentationEvaluator, "process", interrupted)
        assert run(monkeypatch, dataset) == code
    said = capsys.readouterr()
    name = yaml.safe_load(dataset.read_text())["name"]
    folder = dataset.parent / "output" / "inference" / name
    assert said.err.splitlines()[-1] == (
        f"interrupted. {name}: 2 of 3 images are done, partial results are in {folder}. "
        "The same command with --resume continues from the finished images."
    )
    assert "Traceback" not in said.out + said.err
    assert run(monkeypatch, dataset, flags=("--resume",)) == ""
    assert "resumed: 2 of 3 images were done" in capsys.readouterr().out


def test_an_output_folder_that_cannot_be_written_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_dataset(tmp_path / "scenes", 3)
    (dataset.parent / "output").write_text("a file in its place")
    monkeypatch.setattr(job, "evaluate_runs", lambda *_, **__: pytest.fail("it was too late"))
    said = run(monkeypatch, dataset)
    assert said.startswith(f"error: OUTPUT_DIR: '{dataset.parent / 'output'}', which cannot be written (File exists)")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_a_disk_that_is_full_for_what_others_write_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = write_dataset(tmp_path / "scenes", 3)
    output = dataset.parent / "output"
    output.mkdir()
    (output / "config.yaml").symlink_to("/dev/full")
    assert run(monkeypatch, dataset).startswith(f"error: {output}: cannot be written (No space left on device)")
    assert "Traceback" not in capsys.readouterr().err


def test_resume_keeps_what_is_finished_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = write_dataset(tmp_path / "scenes", 3)
    assert run(monkeypatch, scenes) == ""
    name = yaml.safe_load(scenes.read_text())["name"]
    file = scenes.parent / "output" / "inference" / name / "metrics.json"
    first = file.stat().st_mtime_ns
    assert run(monkeypatch, scenes, flags=("--resume",)) == ""
    assert file.stat().st_mtime_ns == first
    assert run(monkeypatch, scenes, "MODEL.CLIPTRASE.EPS", "0.3", flags=("--resume",)) == ""
    assert file.stat().st_mtime_ns > first
    second = file.stat().st_mtime_ns
    assert run(monkeypatch, scenes, "MODEL.CLIPTRASE.EPS", "0.3") == ""  # without --resume all is new
    assert file.stat().st_mtime_ns > second


def test_resume_does_not_keep_what_other_labels_gave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The description of a data set is not part of the configuration, but it decides what the numbers mean."""
    first = write_dataset(tmp_path / "scenes", 2)
    assert run(monkeypatch, first, flags=("--resume",)) == ""
    name = read_results(first)["dataset"]
    DatasetCatalog.remove(name)  # as in a new process
    MetadataCatalog.remove(name)
    ignored = {index: 255 if index == 0 else index for index in range(len(CLASSES))}
    write_dataset(tmp_path / "scenes", 2, label_map=ignored)
    before = read_results(first)
    assert run(monkeypatch, first, flags=("--resume",)) == ""
    assert before["per_class"]["sky"]["pixels"] > 0
    assert read_results(first)["per_class"]["sky"]["pixels"] == 0
