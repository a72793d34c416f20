"""The reference pages are complete: every key, every script and every public name."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import cliptrase_d2
from cliptrase_d2.config import add_keys
from cliptrase_d2.d2 import CfgNode, get_cfg
from tests.docs.pages import ROOT

pytest.importorskip("sphinx", reason="the guides need the extra [docs]")
sys.path.append(str(ROOT / "docs" / "_extensions"))

from configuration_keys import list_functions, read_keys
from included_links import relink

REFERENCE = ROOT / "docs" / "reference"


def _list_keys(cfg: CfgNode, prefix: str = "") -> set[str]:
    keys: set[str] = set()
    for name, value in cfg.items():
        is_section = isinstance(value, CfgNode) and not value.is_new_allowed()  # others are mappings
        keys |= _list_keys(value, f"{prefix}{name}.") if is_section else {prefix + name}
    return keys


def test_every_key_is_in_the_reference_with_its_comment() -> None:
    cfg = get_cfg()
    standard = _list_keys(cfg)
    add_keys(cfg)
    groups = [group for function in list_functions() for group in read_keys(function)]
    names = [name for group in groups for name in group.names]
    assert set(names) == _list_keys(cfg) - standard
    assert len(names) == len(set(names))
    assert all(group.comment for group in groups)


def test_keys_that_share_a_comment_share_an_entry() -> None:
    group = next(group for group in read_keys("_add_method") if "MODEL.CLIPTRASE.EPS" in group.names)
    assert group.names == ("MODEL.CLIPTRASE.EPS", "MODEL.CLIPTRASE.MIN_SAMPLES")
    assert "DBSCAN" in group.comment


def test_every_function_that_defines_keys_has_a_section() -> None:
    page = (REFERENCE / "configuration.md").read_text(encoding="utf-8")
    assert not [name for name in list_functions() if f"configuration-keys:: {name}\n" not in page]


def test_every_script_is_on_the_page_of_tools() -> None:
    page = (REFERENCE / "tools.md").read_text(encoding="utf-8")
    scripts = [path for path in ROOT.glob("*/*.py") if path.parent.name in ("tools", "experiments")]
    names = [path.relative_to(ROOT).as_posix() for path in scripts if "def main(" in path.read_text(encoding="utf-8")]
    assert names
    assert not [name for name in names if f":prog: {name}\n" not in page]


def test_every_public_name_is_in_the_python_reference() -> None:
    page = (REFERENCE / "python.md").read_text(encoding="utf-8")
    names = set(cliptrase_d2.__all__) - {"__version__"}
    assert not [name for name in names if f":: cliptrase_d2.{name}\n" not in page]


def test_links_of_an_included_file_are_rewritten_for_the_page(tmp_path: Path) -> None:
    text = "[a](prepare.py), [b](../docs/page.md#part), [c](https://example.org), [d](#here)"
    expected = "[a](../data/prepare.py), [b](page.md#part), [c](https://example.org), [d](#here)"
    assert relink(text, tmp_path / "data", tmp_path / "docs") == expected


def test_the_notebook_is_stored_without_outputs() -> None:
    cells = json.loads((ROOT / "docs" / "tour.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert not [cell["id"] for cell in code if cell["outputs"] or cell["execution_count"] is not None]
