"""RESULTS.md is made of what was evaluated, and is that of the weights that are shipped."""

from __future__ import annotations

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
from cliptrase_d2.evaluation.runs import planned_runs
from cliptrase_d2.evaluation.summary import Run
from tools import make_results_table
from tools.make_results_table import (
    FILE,
    METRICS,
    ROOT,
    SPEED,
    STUDIES,
    TABLES,
    Table,
    command,
    differences,
    document,
    shell,
    speed_rows,
    weights_hash,
)


def report(first: float, **changes: Any) -> dict[str, Any]:
    """What metrics.json says, as far as it is shown: 0.5 more from metric to metric."""
    numbers = {name: first + index / 2 for index, name in enumerate(METRICS)}
    return {**numbers, "versions": {"python": "3.12.1", "torch": "2.9"}, **changes}


FOUND = {
    "systems": {Run("clip", "a"): report(10.0), Run("sclip", "a"): report(20.04)},
    "splits": {
        Run("clip", "a"): report(30.0, **{"mIoU-held_out_things": None}),
        Run("clip", "b"): report(40.0),
        Run("sclip", "a"): report(50.0),
    },
}

MEASURED = {"clusterings": "| size | mIoU |\n|---|---|\n| 80 | 27.0 |"}


def test_every_study_has_its_command_its_finding_and_its_table() -> None:
    text = document(FOUND, MEASURED)
    study = STUDIES["clusterings"]
    assert f"## {study.title}\n\n    {shell(['python', *study.words])}\n\n{study.finding}\n\n| size |" in text
    fresh = document(FOUND, {"clusterings": MEASURED["clusterings"].replace("27.0", "28.0")})
    assert differences(text, fresh) == ["| 80 | 28.0 |  (was: | 80 | 27.0 |)"]


@pytest.mark.parametrize("name", STUDIES)
def test_the_tool_of_a_study_is_there_and_writes_where_it_is_read(name: str) -> None:
    study = STUDIES[name]
    assert (ROOT / study.words[0]).is_file()
    assert study.written.startswith(study.words[study.words.index("--output") + 1])


def test_every_evaluation_has_a_row() -> None:
    rows = [line for line in document(FOUND, MEASURED).splitlines() if re.match(r"\| [ab] ", line)]
    assert rows[0] == "| a | clip | 10.0 | 10.5 | 11.0 | 11.5 | 12.0 | 12.5 | 13.0 | 13.5 |"
    assert rows[1].startswith("| a | sclip | 20.0 | 20.5 |")
    assert [row.split(" | ")[:2] for row in rows[2:]] == [["| a", "clip"], ["| a", "sclip"], ["| b", "clip"]]
    assert rows[2].endswith("| 33.0 | - |")


def test_every_table_has_its_command_and_the_page_its_origin() -> None:
    text = document(FOUND, MEASURED)
    for name in FOUND:
        assert f"## {TABLES[name].title}\n\n    {shell(command(TABLES[name]))}\n\n|" in text
    assert "python 3.12.1, torch 2.9" in text
    assert weights_hash() in text


def test_what_the_benchmark_wrote_becomes_rows(tmp_path: Path) -> None:
    row = {"size": 336, "classes": 171, "images_per_second": 359.4, "whole_over_encode_image": 1.393}
    row |= {"milliseconds_per_image": {"whole": 2.0, "image tower": 1.5}, "peak_megabytes": {"whole": 1577.4}}
    file = tmp_path / "speed.json"
    settings = {"precision": "fp32", "batch": "32"}
    other = row | {"peak_megabytes": {"whole": None}}
    file.write_text(json.dumps({"device": "A card", "settings": settings, "rows": [row, other]}))
    head, _, first, second = speed_rows([file])
    assert head.count("|") == first.count("|")
    assert first == "| A card | fp32 | 32 | 336² | 171 | 359.4 | 1.39 | 75 | 1577 |"
    assert second.endswith("| 75 | - |")


def test_the_speed_of_the_page_is_that_of_the_files() -> None:
    page = FILE.read_text(encoding="utf-8")
    assert "\n".join(speed_rows(sorted(SPEED.glob("*.json")))) in page


@pytest.mark.parametrize("name", TABLES)
def test_every_command_can_run(name: str) -> None:
    register_builtin()
    words = command(TABLES[name])
    assert (ROOT / words[1]).is_file()
    assert words[3] == "--config-file"
    runs = planned_runs(load_config(ROOT / words[4], words[5:]))
    assert runs
    for run in runs:
        assert set(METRICS) <= set(metric_names(run.dataset))


def test_a_number_may_differ_by_the_tolerance() -> None:
    written = document(FOUND, MEASURED)
    assert differences(written, written) == []
    assert differences(written, written.replace("| 10.0 |", "| 10.2 |").replace("3.12.1", "3.13.0")) == []


@pytest.mark.parametrize(
    ("old", "new"), [("| 10.0 |", "| 10.4 |"), ("| sclip | 20.0", "| scr | 20.0"), ("- |", "0.0 |")]
)
def test_a_number_or_a_name_that_differs_is_told(old: str, new: str) -> None:
    written = document(FOUND, MEASURED)
    (row,) = differences(written, written.replace(old, new))
    fresh, _, was = row.partition("  (was: ")
    assert new in fresh
    assert old in was


def test_a_row_more_or_less_is_told() -> None:
    written = document(FOUND, {}).partition("\n## Speed and memory")[0]
    fewer = written.rsplit("| b |", 1)[0]
    assert [row.partition(" (was")[0][:3] for row in differences(fewer, written)] == ["| b"]
    assert [row[:6] for row in differences(written, fewer)] == ["no row"]


def test_main_writes_the_page_and_checks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offset = {"value": 0.0}

    def evaluate(name: str) -> dict[Run, dict[str, Any]]:
        return {Run("clip", name): report(10.0 + offset["value"])}

    monkeypatch.setattr(make_results_table, "evaluate", evaluate)
    monkeypatch.setattr(make_results_table, "measure", lambda name: f"| {name} | 1.0 |")
    monkeypatch.setattr(make_results_table, "ROOT", tmp_path)
    monkeypatch.setattr(make_results_table, "FILE", tmp_path / "RESULTS.md")
    monkeypatch.setattr(make_results_table, "WEIGHTS", tmp_path / "weights")
    (tmp_path / "weights").write_bytes(b"numbers")
    for flag, said in ((), "RESULTS.md is written"), (("--check",), "RESULTS.md holds"):
        monkeypatch.setattr(sys, "argv", ["make_results_table.py", *flag])
        make_results_table.main()
        assert said in capsys.readouterr().out
    offset["value"] = 1.0
    with pytest.raises(SystemExit, match=r"(?s)does not hold:.*\| systems \| clip \| 11\.0"):
        make_results_table.main()


def test_the_page_is_of_the_weights_that_are_shipped_and_of_these_commands() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert f"`{weights_hash()}`" in text
    for table in TABLES.values():
        assert shell(command(table)) in text
    for study in STUDIES.values():
        assert study.finding in text


def test_a_command_is_what_the_shell_takes_apart_again() -> None:
    words = command(Table("a", ("A.LIST", "['b', 'c']", "A.NUMBER", "5")))
    assert shell(words).endswith("""A.LIST "['b', 'c']" A.NUMBER 5""")
    assert shlex.split(shell(words)) == words
