"""What `import cliptrase_d2` offers, and what it costs."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import cliptrase_d2
from tests import forked


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, cliptrase_d2; dir(cliptrase_d2); print([m for m in ('torch', 'cv2', 'numpy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("name", [name for name in cliptrase_d2.__all__ if name != "__version__"])
def test_every_name_is_the_one_of_its_module(name: str) -> None:
    value = getattr(cliptrase_d2, name)
    assert value is getattr(import_module(value.__module__), name)


@pytest.mark.parametrize("name", [name for name in cliptrase_d2.__all__ if name != "__version__"])
def test_every_name_can_be_imported_first(name: str, tmp_path: Path) -> None:
    # Where nothing of the package is imported yet, and a circle of imports would show.
    code = f"from cliptrase_d2 import {name}; print({name}.__name__)"
    (tmp_path / "script.py").write_text(f"import sys; assert 'cliptrase_d2' not in sys.modules; {code}")
    done = forked.run([str(tmp_path / "script.py")], tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{name}\n"), done.stderr


def test_dir_lists_what_can_be_had() -> None:
    assert set(cliptrase_d2.__all__) <= set(dir(cliptrase_d2))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Segmentor'"):
        _ = cliptrase_d2.Segmentor  # type: ignore[attr-defined]
    with pytest.raises(ImportError):
        from cliptrase_d2 import Segmentor  # type: ignore[attr-defined]  # noqa: F401


def test_version_is_a_version() -> None:
    assert cliptrase_d2.__version__[0].isdigit() or cliptrase_d2.__version__ == "unknown"
