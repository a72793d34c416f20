"""`cliptrase eval`: data sets by file and by name, methods, configurations, expected results, and errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cliptrase_d2.cli import job
from cliptrase_d2.cli.evaluate import choose_config
from cliptrase_d2.data import benchmarks
from tests.cli.commands import fail, run
from tests.command_line import HEADLINE, read_results, restore_loggers, write_dataset
from tests.command_line import run as run_train_net
from tests.pipeline.tiny_segmenter import tiny_options
from tests.san.tiny_san import TINY_SAN, TRAINING_OPTIONS


def evaluate(dataset: Path, *words: str, options: tuple[str, ...] = ()) -> object:
    """Evaluate the tiny model on a data set. Return the exit code or the error."""
    with restore_loggers():
        return run("eval", str(dataset), *words, "--opts", *tiny_options(dataset.parent), *options)


def select(monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, Any]:
    """Return the configuration that the arguments of ``cliptrase eval`` select, without evaluating it."""
    selected: list[dict[str, Any]] = []

    def record(arguments: Any) -> None:
        cfg = job.load_config(arguments.config_file, arguments.opts)
        selected.append({"config": arguments.config_file, "clip": cfg.MODEL.CLIP, "test": cfg.TEST, "cfg": cfg})

    monkeypatch.setattr(job, "run_job", record)
    assert run("eval", *words) == 0
    return selected[0]


def test_the_results_are_those_of_train_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = write_dataset(tmp_path / "scenes", 2)
    assert evaluate(dataset) == 0
    results = read_results(dataset)
    assert results["images"] == 2
    same = ("MODEL.CLIPTRASE.ADAPTIVE_DBSCAN", "True", "OUTPUT_DIR", str(tmp_path / "second"))
    assert run_train_net(monkeypatch, dataset, *same) == ""
    again = read_results(dataset, tmp_path / "second")
    assert [results[name] for name in HEADLINE] == [again[name] for name in HEADLINE]


def test_methods_are_compared_in_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = write_dataset(tmp_path / "first", 2), write_dataset(tmp_path / "second", 1)
    assert evaluate(first, str(second), "--method", "clip", "sclip+clusters") == 0
    table = capsys.readouterr().out.partition("Results in percent:\n")[2].splitlines()
    names = [yaml.safe_load(file.read_text())["name"] for file in (first, second)]
    rows = [tuple(line.split()[:2]) for line in table[2:6]]
    assert rows == [(method, name) for name in names for method in ("clip", "sclip+clusters")]
    assert (first.parent / "output" / "report.html").is_file()


def test_impossible_methods_are_an_error_or_rows_with_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = write_dataset(tmp_path / "scenes", 1)
    names = ("--method", "clip+pamr@slide", "clip+mean", "cliptrase@published")
    error = str(evaluate(dataset, *names))
    assert error.startswith("error: TEST.METHODS: 2 of 3 entries")
    assert len(error.splitlines()) == 3
    assert evaluate(dataset, *names, "--skip-impossible") == 0
    table = capsys.readouterr().out.partition("Results in percent:\n")[2].splitlines()
    assert table[2].split()[0] == "clip+pamr@slide"
    assert table[3].split()[:2] == ["clip+mean", "TEST.METHODS:"]
    assert any(line.split()[:1] == ["cliptrase@published"] for line in table[4:])


def test_results_that_differ_from_the_expected_ones_fail(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "scenes", 2)
    assert evaluate(dataset) == 0
    found = read_results(dataset)["mIoU"]
    for shift, code in ((0.0, 0), (1.0, "error: 1 of 1 results differ")):
        expected = ("TEST.EXPECTED_RESULTS", f"[['sem_seg', 'mIoU', {found + shift}, 0.01]]")
        assert str(evaluate(dataset, "--resume", options=expected)).startswith(str(code))


def test_output_names_the_folder_of_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = select(monkeypatch, "voc20", "--output", str(tmp_path / "mine"))["cfg"].OUTPUT_DIR
    assert output == str(tmp_path / "mine")


def test_a_model_and_methods_change_the_common_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    selected = select(monkeypatch, "voc20", "--model", "ViT-L-14", "--method", "sclip")
    assert selected["config"] == "cliptrase/vit_b16_whole"
    assert (selected["clip"].NAME, selected["clip"].PRETRAINED) == ("ViT-L-14", "openai")
    assert list(selected["test"].METHODS) == ["sclip"]


def test_expected_results_are_checked_unless_the_command_line_changes_the_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert len(select(monkeypatch, "emoji_scenes")["test"].EXPECTED_RESULTS) == 12
    assert len(select(monkeypatch, "--config-file", "emoji_scenes")["test"].EXPECTED_RESULTS) == 12
    for words in (["--method", "gem"], ["--protocol", "whole"], ["--model", "emoji"]):
        assert select(monkeypatch, "--config-file", "emoji_scenes", *words)["test"].EXPECTED_RESULTS == []
    given = ["--opts", "TEST.EXPECTED_RESULTS", "[['sem_seg', 'mIoU', 1.0, 1.0]]"]
    assert len(select(monkeypatch, "emoji_scenes", "--method", "gem", *given)["test"].EXPECTED_RESULTS) == 1


@pytest.mark.parametrize(
    ("data", "model", "config"),
    [
        (["emoji_scenes"], None, "emoji_scenes"),
        (["emoji_scenes"], "ViT-B-16", "cliptrase/vit_b16_whole"),  # the values of the first fit its model only
        (["emoji_scenes", "voc20"], None, "cliptrase/vit_b16_whole"),
        (["voc20"], None, "cliptrase/vit_b16_whole"),
        (["my_set.yaml"], None, "cliptrase/vit_b16_whole"),
    ],
)
def test_only_the_emoji_scenes_have_a_configuration_of_their_own(
    data: list[str], model: str | None, config: str
) -> None:
    assert choose_config(data, model) == config


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "DATA: no data set"),
        (["vco20"], "Did you mean 'voc20'"),
        (["no/such.yaml"], "no/such.yaml: no such file"),
        (["emoji_scenes", "--method", "slip"], "TEST.METHODS: unknown method 'slip'. Allowed: "),
        (["emoji_scenes", "--config-file", "vit_b16_whole"], "'cliptrase/vit_b16_whole'"),
        (["emoji_scenes", "--model", "ViT-B-17"], "'ViT-B-17'"),
    ],
)
def test_input_errors_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with restore_loggers():
        error = fail("eval", *words)
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_missing_benchmark_is_reported_with_the_command_that_prepares_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = benchmarks.BENCHMARKS["voc20"].spec
    assert f"Run 'python datasets/prepare_voc.py {tmp_path}'" in spec(tmp_path).if_missing
    monkeypatch.setattr(benchmarks, "CLONE", tmp_path / "no_clone")  # installed without the repository
    assert f"Run 'cliptrase prepare voc {tmp_path}'" in spec(tmp_path).if_missing


def test_a_benchmark_may_be_named_by_its_key_or_its_registered_name(tmp_path: Path) -> None:
    file = write_dataset(tmp_path / "scenes", 1)
    name = yaml.safe_load(file.read_text())["name"]
    words = ["voc20", str(file), "voc_sem_seg_val", name]
    assert job.register_datasets(words) == ("voc_sem_seg_val", name, "voc_sem_seg_val", name)


def test_train_takes_the_options_of_the_command_line(tmp_path: Path) -> None:
    dataset = str(write_dataset(tmp_path / "scenes", 3))
    (tmp_path / "san.yaml").write_text("MODEL: {META_ARCHITECTURE: SAN}\n")
    words = ["--config-file", str(tmp_path / "san.yaml"), "--train-dataset", dataset, "--dataset", dataset]
    options = [*tiny_options(tmp_path), *TINY_SAN, *TRAINING_OPTIONS]
    output = tmp_path / "trained"
    at = options.index("OUTPUT_DIR")
    with restore_loggers():
        assert run("train", *words, "--output", str(output), "--opts", *options[:at], *options[at + 2 :]) == 0
    assert (output / "model_final.pth").is_file()
    assert json.loads((output / "metrics.json").read_text().splitlines()[-1])["total_loss"] > 0
    assert read_results(Path(dataset), output)["images"] == 3


def test_train_refuses_what_cannot_be_trained() -> None:
    with restore_loggers():
        assert fail("train", "--config-file", "emoji_scenes").startswith("error: MODEL.META_ARCHITECTURE: ")
        assert "'san/san_vit_b16'" in fail("train", "--config-file", "san_vit_b16")
