from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cliptrase_d2 import d2
from cliptrase_d2.d2 import backend
from cliptrase_d2.utils.errors import InputError
from tests import forked


@pytest.mark.parametrize(
    ("switch", "installed", "choice", "description"),
    [
        ("", True, "detectron2", "Detectron2 0.6"),
        ("", False, "fallback", "fallback (Detectron2 not installed)"),
        ("detectron2", True, "detectron2", "Detectron2 0.6"),
        ("fallback", True, "fallback", "fallback (chosen by CLIPTRASE_D2)"),
        ("standin", True, "fallback", "fallback (chosen by CLIPTRASE_D2)"),
        ("fallback", False, "fallback", "fallback (Detectron2 not installed)"),
    ],
)
def test_the_variable_selects_the_backend_and_the_default_is_what_is_installed(
    switch: str, installed: bool, choice: str, description: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(backend.SWITCH, switch)
    monkeypatch.setattr(backend, "is_installed", lambda: installed)
    assert backend.choose_backend() == choice
    assert backend.describe_backend(choice, "0.6") == description


@pytest.mark.parametrize("value", ["Detectron2", "Fallback", "1"])
def test_other_values_of_the_variable_are_rejected(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backend.SWITCH, value)
    with pytest.raises(InputError, match=rf"CLIPTRASE_D2: '{value}'.*'detectron2' or 'fallback'"):
        backend.choose_backend()


def test_selecting_a_missing_detectron2_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backend.SWITCH, "detectron2")
    monkeypatch.setattr(backend, "is_installed", lambda: False)
    with pytest.raises(InputError, match=r"CLIPTRASE_D2: 'detectron2'.*pip install"):
        backend.choose_backend()


@pytest.mark.parametrize("is_package", [False, True])
def test_a_folder_called_detectron2_counts_only_if_it_is_a_package(
    is_package: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "detectron2").mkdir()  # such as a clone of its repository next to the script
    if is_package:
        (tmp_path / "detectron2" / "__init__.py").touch()
    for name in [name for name in sys.modules if name.partition(".")[0] == "detectron2"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert backend.is_installed() == is_package


def test_the_names_come_from_the_described_backend() -> None:
    assert d2.get_cfg.__module__.partition(".")[0] == ("detectron2" if d2.BACKEND == "detectron2" else "cliptrase_d2")
    assert d2.describe().startswith("Detectron2 " if d2.BACKEND == "detectron2" else "fallback (")


def _import_shim(folder: Path, broken: str, switch: str) -> subprocess.CompletedProcess[str]:
    """Import the shim in a new process that finds a Detectron2 with the code `broken`."""
    (folder / "detectron2").mkdir(parents=True)
    (folder / "detectron2" / "__init__.py").write_text(broken)
    script = folder / "script.py"
    set_switch = f"os.environ['CLIPTRASE_D2'] = {switch!r}" if switch else "os.environ.pop('CLIPTRASE_D2', None)"
    script.write_text(f"import os; {set_switch}; from cliptrase_d2 import d2; print(d2.describe())")
    return forked.run([str(script)], folder)


@pytest.mark.parametrize(
    "broken",
    [
        "raise ImportError('_C.so: undefined symbol: _ZN3c10')",
        "__version__ = '0.6'\nimport a_dependency_that_is_missing",
        "__version__ = '0.6'\nraise AttributeError(\"module 'PIL.Image' has no attribute 'LINEAR'\")",
    ],
    ids=["binary for another PyTorch", "missing dependency", "too new dependency"],
)
def test_a_broken_detectron2_is_reported_unless_the_fallback_is_selected(broken: str, tmp_path: Path) -> None:
    result = _import_shim(tmp_path / "default", broken, "")
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert "InputError: Detectron2: " in last
    assert "CLIPTRASE_D2=fallback" in last
    result = _import_shim(tmp_path / "fallback", broken, "fallback")
    assert result.stdout.strip() == "fallback (chosen by CLIPTRASE_D2)", result.stderr
