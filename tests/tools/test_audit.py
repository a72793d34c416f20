"""Parsing of pip-audit's output, and exit codes."""

import json
import sys

import pytest

from tools import audit
from tools.audit import Audit, parse_output

SAFE = {"name": "pillow", "version": "12.0", "vulns": []}
UNSAFE = {"name": "pillow", "version": "9.0", "vulns": [{"id": "PYSEC-2023-175", "fix_versions": ["10.0.1"]}]}
UNKNOWN = {"name": "torch", "skip_reason": "Dependency not found on PyPI and could not be audited: torch"}
OURS = {"name": "cliptrase-d2", "skip_reason": "distribution marked as editable"}


def test_advisories_and_unknown_packages_are_listed() -> None:
    output = json.dumps({"dependencies": [SAFE, OURS, UNSAFE, UNKNOWN], "fixes": []})
    (advisory,) = parse_output(output, "").advisories
    assert advisory.startswith("pillow 9.0: PYSEC-2023-175")
    assert advisory.endswith("10.0.1")
    assert parse_output(output, "")._replace(advisories=[]) == ("", ["torch"], [])


@pytest.mark.parametrize("output", ["", "Traceback", "[]", "{}"])
def test_invalid_output_is_an_error(output: str) -> None:
    expected = ("ConnectionError: no route to pypi.org", [], [])
    assert parse_output(output, "long\nConnectionError: no route to pypi.org\n") == expected


SOUND, NO_ROUTE = Audit("", [], []), Audit("no route", [], [])


@pytest.mark.parametrize(
    ("audits", "code", "message"),
    [
        ([SOUND, SOUND], 0, ""),
        ([SOUND, Audit("", ["detectron2"], [])], 0, "detectron2"),
        ([SOUND, Audit("", [], ["pillow 9.0: X"])], 1, "audit: pillow 9.0: X\n"),
        ([NO_ROUTE], 1, "no route"),
        ([Audit("", ["pillow"], [])], 1, "no record of Pillow"),
        ([SOUND, NO_ROUTE], 1, "no route"),
    ],
    ids=["sound", "local build", "advisory", "no database", "no advisories", "connection lost"],
)
def test_exit_code_and_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], audits: list[Audit], code: int, message: str
) -> None:
    results = iter(audits)
    monkeypatch.setattr(audit, "run_pip_audit", lambda arguments, timeout: next(results))
    monkeypatch.setattr(sys, "argv", ["audit.py"])
    assert audit.main() == code
    assert message in capsys.readouterr().out
    assert not list(results)
