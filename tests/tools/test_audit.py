"""What is said of an answer of pip-audit."""

from __future__ import annotations

import json
import sys

import pytest

from tools import audit
from tools.audit import Verdict

SOUND = {"name": "pillow", "version": "12.0", "vulns": []}
BAD = {"name": "pillow", "version": "9.0", "vulns": [{"id": "PYSEC-2023-175", "fix_versions": ["10.0.1"]}]}
SKIPPED = {"name": "torch", "skip_reason": "Dependency not found on PyPI and could not be audited: torch"}
OURS = {"name": "cliptrase-d2", "skip_reason": "distribution marked as editable"}


def answer(*packages: dict) -> str:
    return json.dumps({"dependencies": list(packages), "fixes": []})


def test_packages_without_advisories_are_sound() -> None:
    assert audit.verdict(answer(SOUND, OURS), "") == ("", [], [])


def test_an_advisory_is_named_with_what_repairs_it() -> None:
    assert audit.verdict(answer(SOUND, BAD), "").advisories == ["pillow 9.0: PYSEC-2023-175, repaired in: 10.0.1"]


def test_a_package_that_the_index_does_not_have_is_unknown() -> None:
    assert audit.verdict(answer(SOUND, SKIPPED), "") == ("", ["torch"], [])


@pytest.mark.parametrize("text", ["", "Traceback", "[]", "{}"])
def test_no_answer_is_said_to_be_none(text: str) -> None:
    found = audit.verdict(text, "long\nConnectionError: no route to pypi.org\n")
    assert found == ("ConnectionError: no route to pypi.org", [], [])


FINE = Verdict("", [], [])


@pytest.mark.parametrize(
    ("answers", "code", "said"),
    [
        ([FINE, FINE], 0, ""),
        ([FINE, Verdict("", ["detectron2"], [])], 0, "does not have: detectron2\n"),
        ([Verdict("", [], ["pillow 9.0: X"]), Verdict("", [], ["pillow 9.0: X"])], 1, "audit: pillow 9.0: X\n"),
        ([Verdict("no route", [], [])], 1, "cannot be asked from here (no route), so nothing is known"),
        ([Verdict("", ["pillow"], [])], 1, "cannot be asked from here (the index has no record of Pillow)"),
        ([FINE, Verdict("no route", [], [])], 1, "cannot be asked from here (no route), so nothing is known"),
    ],
    ids=["sound", "built here", "an advisory", "no database", "an index without one", "lost on the way"],
)
def test_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answers: list[Verdict], code: int, said: str
) -> None:
    left = iter(answers)
    monkeypatch.setattr(audit, "ask", lambda arguments, timeout: next(left))
    monkeypatch.setattr(sys, "argv", ["audit.py"])
    assert audit.main() == code
    assert said in capsys.readouterr().out
    assert not list(left)
