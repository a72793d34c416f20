"""The public names of `cliptrase_d2`, and the cost of importing it."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import cliptrase_d2
from cliptrase_d2.d2 import BACKEND
from cliptrase_d2.utils.errors import InputError
from tests import forked

NAMES = [name for name in cliptrase_d2.__all__ if name != "__version__"]


def test_importing_the_package_loads_no_heavy_dependency() -> None:
    heavy = "[name for name in ('torch', 'cv2', 'numpy') if name in sys.modules]"
    code = f"import sys, cliptrase_d2; dir(cliptrase_d2); print({heavy})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("name", NAMES)
def test_every_name_can_be_imported_first(name: str, tmp_path: Path) -> None:
    if name == "Trainer" and BACKEND == "fallback":
        with pytest.raises(InputError, match=r"cliptrase_d2\.Trainer.*Detectron2"):
            getattr(cliptrase_d2, name)
        return
    value = getattr(cliptrase_d2, name)
    assert value is getattr(import_module(value.__module__), name)
    # In a process that has imported nothing of the package, a circular import would fail.
    code = f"from cliptrase_d2 import {name}; print({name}.__name__)"
    (tmp_path / "script.py").write_text(f"import sys; assert 'cliptrase_d2' not in sys.modules; {code}")
    done = forked.run([str(tmp_path / "script.py")], tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{name}\n"), done.stderr


def test_dir_lists_the_public_names() -> None:
    assert set(cliptrase_d2.__all__) <= set(dir(cliptrase_d2))
    assert cliptrase_d2.__version__[0].isdigit() or cliptrase_d2.__version__ == "unknown"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Segmentor'"):
        _ = cliptrase_d2.Segmentor  # type: ignore[attr-defined]
    with pytest.raises(ImportError):
        from cliptrase_d2 import Segmentor  # type: ignore[attr-defined]  # noqa: F401
