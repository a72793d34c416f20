"""RESULTS.md: its tables, its check, and its agreement with the packaged weights."""

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from cliptrase_d2.config import load_config
from cliptrase_d2.data.builtin import register_builtin
from cliptrase_d2.evaluation.evaluator import metric_names
from cliptrase_d2.evaluation.runs import plan_runs
from cliptrase_d2.evaluation.summary import Run
from cliptrase_d2.methods.catalog import METHODS
from cliptrase_d2.methods.published import read_published_methods
from tools import make_results_table as tool


def report(first: float, **changes: Any) -> dict[str, Any]:
    """Return the used part of a metrics.json. The metrics increase by 0.5."""
    numbers = {name: first + index / 2 for index, name in enumerate(tool.METRICS)}
    return {**numbers, "versions": {"python": "3.12.1", "torch": "2.9"}, **changes}


REPORTS = {
    "methods": {Run("clip", "a"): report(10.0), Run("sclip", "a"): report(20.04)},
    "splits": {
        Run("clip", "a"): report(30.0, **{"mIoU-held_out_things": None}),
        Run("clip", "b"): report(40.0),
        Run("sclip", "a"): report(50.0),
    },
}
STUDY = {"clusterings": "| size | mIoU |\n|---|---|\n| 80 | 27.0 |"}
PAGE = tool.format_page(REPORTS, STUDY)


def test_page_has_commands_findings_and_versions() -> None:
    for name in REPORTS:
        assert f"## {tool.TABLES[name].title}\n\n    {tool.quote(tool.build_command(tool.TABLES[name]))}\n\n|" in PAGE
    study = tool.STUDIES["clusterings"]
    assert f"## {study.title}\n\n    {tool.quote(['python', *study.words])}\n\n{study.finding}\n\n| size |" in PAGE
    assert "python 3.12.1, torch 2.9" in PAGE
    assert tool.hash_weights() in PAGE


def test_every_evaluation_has_a_row() -> None:
    rows = [line for line in PAGE.splitlines() if re.match(r"\| [ab] ", line)]
    assert rows[0] == "| a | clip | 10.0 | 10.5 | 11.0 | 11.5 | 12.0 | 12.5 | 13.0 | 13.5 |"
    assert rows[1].startswith("| a | sclip | 20.0 | 20.5 |")
    assert [row.split(" | ")[:2] for row in rows[2:]] == [["| a", "clip"], ["| a", "sclip"], ["| b", "clip"]]
    assert rows[2].endswith("| 33.0 | - |")


def test_speed_measurements_become_rows(tmp_path: Path) -> None:
    row = {"size": 336, "classes": 171, "images_per_second": 359.4, "whole_over_encode_image": 1.393}
    row |= {"milliseconds_per_image": {"whole": 2.0, "image tower": 1.5}, "peak_megabytes": {"whole": 1577.4}}
    file = tmp_path / "speed.json"
    settings = {"precision": "fp32", "batch": "32"}
    other = row | {"peak_megabytes": {"whole": None}}
    file.write_text(json.dumps({"device": "A card", "settings": settings, "rows": [row, other]}))
    head, line, first, second = tool.format_speed([file])
    assert head.count("|") == line.count("|") == first.count("|")
    assert first == "| A card | fp32 | 32 | 336² | 171 | 359.4 | 1.39 | 75 | 1577 |"
    assert second.endswith("| 75 | - |")


@pytest.mark.parametrize("name", tool.TABLES)
def test_command_of_every_table_is_valid(name: str) -> None:
    register_builtin()
    words = tool.build_command(tool.TABLES[name])
    assert (tool.ROOT / words[1]).is_file()
    assert words[3] == "--config-file"
    runs = plan_runs(load_config(tool.ROOT / words[4], tool.TABLES[name].options))
    assert runs
    for run in runs:
        assert set(tool.METRICS) <= set(metric_names(run.dataset))


def test_scenes_of_another_seed_are_drawn_by_the_first_command() -> None:
    draw, evaluate = map(shlex.split, tool.format_commands(tool.TABLES["seed2"]).splitlines())
    assert draw[1:] == ["datasets/prepare_emoji_scenes.py", "output/emoji_scenes_seed2", "--seed", "2"]
    assert evaluate[-2:] == ["--dataset", f"{draw[2]}/dataset.yaml"]


def test_the_tables_of_methods_have_all_but_the_oracle() -> None:
    """They measure every method of the catalog that reads neither the truth nor a model besides CLIP."""
    others = [name for name, facts in read_published_methods().items() if facts.extra_models]
    for name in ("baselines", "slide", "seed2", "seed2_slide"):
        table = tool.TABLES[name]
        methods = load_config(tool.ROOT / table.config, table.options).TEST.METHODS
        assert set(methods) == {
            name for name in METHODS if "oracle" not in name and METHODS[name].settings["method"] not in others
        }


@pytest.mark.parametrize("study", tool.STUDIES.values(), ids=tool.STUDIES)
def test_script_of_every_study_exists_and_writes_its_output(study: tool.Study) -> None:
    assert (tool.ROOT / study.words[0]).is_file()
    assert study.output.startswith(study.words[study.words.index("--output") + 1])


@pytest.mark.parametrize(
    ("old", "new", "is_equal"),
    [
        ("| 10.0 |", "| 10.2 |", True),
        ("3.12.1", "3.13.0", True),
        ("| 10.0 |", "| 10.4 |", False),
        ("| 27.0 |", "| 28.0 |", False),
        ("| sclip | 20.0", "| scr | 20.0", False),
        ("33.0 | - |", "33.0 | 0.0 |", False),
    ],
)
def test_numbers_within_the_tolerance_are_equal(old: str, new: str, is_equal: bool) -> None:
    differences = tool.find_differences(PAGE, PAGE.replace(old, new))
    assert len(differences) == (not is_equal)
    for row in differences:
        changed, _, previous = row.partition("  (was: ")
        assert new in changed
        assert old in previous


def test_missing_and_additional_rows_are_differences() -> None:
    page = tool.format_page(REPORTS, {}).partition("\n## Speed and memory")[0]
    shorter = page.rsplit("| b |", 1)[0]
    assert [row.partition(" (was")[0][:3] for row in tool.find_differences(shorter, page)] == ["| b"]
    assert [row[:6] for row in tool.find_differences(page, shorter)] == ["no row"]


def test_main_writes_and_checks_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = [10.0]
    monkeypatch.setattr(tool, "evaluate", lambda name: {Run("clip", name): report(numbers[-1])})
    monkeypatch.setattr(tool, "run_study", lambda name: f"| {name} | 1.0 |")
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "FILE", tmp_path / "RESULTS.md")
    monkeypatch.setattr(tool, "WEIGHTS", tmp_path / "weights")
    (tmp_path / "weights").write_bytes(b"numbers")
    for flags in ((), ("--check",)):
        monkeypatch.setattr(sys, "argv", ["make_results_table.py", *flags])
        tool.main()
        assert "RESULTS.md" in capsys.readouterr().out
    numbers.append(11.0)
    with pytest.raises(SystemExit, match=r"(?s)^error: .*\| methods \| clip \| 11\.0"):
        tool.main()


def test_stored_page_fits_the_weights_and_the_commands() -> None:
    text = tool.FILE.read_text(encoding="utf-8")
    assert f"`{tool.hash_weights()}`" in text
    assert "\n".join(tool.format_speed(sorted(tool.SPEED.glob("*.json")))) in text
    for table in tool.TABLES.values():
        assert f"## {table.title}\n\n{tool.format_commands(table)}\n|" in text
    for study in tool.STUDIES.values():
        assert study.finding in text


def test_quoted_command_can_be_split_by_a_shell() -> None:
    words = tool.build_command(tool.Table("a", options=("A.LIST", "['b', 'c']", "A.NUMBER", "5")))
    assert tool.quote(words).endswith("""A.LIST "['b', 'c']" A.NUMBER 5""")
    assert shlex.split(tool.quote(words)) == words
