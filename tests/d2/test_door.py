from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cliptrase_d2 import d2
from tests import forked


def _import_door(fake: Path, side: str = "") -> subprocess.CompletedProcess[str]:
    """Import the door in a new process that finds the packages in `fake` first; `side` is what it is told."""
    script = fake / "script.py"
    set_side = f"os.environ['CLIPTRASE_D2'] = {side!r}" if side else "os.environ.pop('CLIPTRASE_D2', None)"
    script.write_text(f"import os; {set_side}; from cliptrase_d2 import d2; print(d2.describe())")
    return forked.run([str(script)], fake)


def _fake_detectron2(folder: Path, body: str) -> Path:
    (folder / "detectron2").mkdir()
    (folder / "detectron2" / "__init__.py").write_text(body)
    return folder


def test_every_promised_name_is_there() -> None:
    assert not [name for name in d2.__all__ if not hasattr(d2, name)]


def test_the_names_come_from_the_side_that_is_said() -> None:
    assert d2.get_cfg.__module__.partition(".")[0] == ("detectron2" if d2.BACKEND == "detectron2" else "cliptrase_d2")
    assert d2.describe().startswith("Detectron2 " if d2.BACKEND == "detectron2" else "fallback (")


@pytest.mark.parametrize(
    "body",
    [
        "raise ImportError('_C.so: undefined symbol: _ZN3c10')",
        "__version__ = '0.6'\nimport a_dependency_that_is_missing",
        "__version__ = '0.6'\nraise AttributeError(\"module 'PIL.Image' has no attribute 'LINEAR'\")",
    ],
    ids=["binary of another PyTorch", "missing dependency", "too new dependency"],
)
def test_a_broken_detectron2_is_explained_and_not_passed_over(body: str, tmp_path: Path) -> None:
    result = _import_door(_fake_detectron2(tmp_path, body))
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert "InputError: Detectron2: it is installed, but importing it fails with" in last
    assert "CLIPTRASE_D2=fallback" in last


def test_the_standin_passes_by_a_broken_detectron2_on_request(tmp_path: Path) -> None:
    fake = _fake_detectron2(tmp_path, "raise ImportError('undefined symbol')")
    result = _import_door(fake, "fallback")
    assert result.stdout.strip() == "fallback (chosen by CLIPTRASE_D2)", result.stderr
