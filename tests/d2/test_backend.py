from __future__ import annotations

import sys

import pytest

from cliptrase_d2.d2 import backend as side
from cliptrase_d2.utils.errors import InputError


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side, "is_installed", lambda: True)


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side, "is_installed", lambda: False)


@pytest.fixture(autouse=True)
def _no_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(side.SWITCH, raising=False)


@pytest.mark.usefixtures("installed")
def test_detectron2_is_used_where_it_is_installed() -> None:
    assert side.choose_backend() == "detectron2"


@pytest.mark.usefixtures("missing")
def test_the_standin_is_used_where_detectron2_is_missing() -> None:
    assert side.choose_backend() == "fallback"
    assert side.describe_backend("fallback", "") == "fallback (Detectron2 not installed)"


@pytest.mark.usefixtures("installed")
def test_the_switch_forces_the_standin_and_the_log_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(side.SWITCH, "fallback")
    assert side.choose_backend() == "fallback"
    assert side.describe_backend("fallback", "") == "fallback (chosen by CLIPTRASE_D2)"
    assert side.describe_backend("detectron2", "0.6") == "Detectron2 0.6"


@pytest.mark.usefixtures("missing")
def test_a_forced_detectron2_that_is_missing_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(side.SWITCH, "detectron2")
    with pytest.raises(InputError, match=r"CLIPTRASE_D2: 'detectron2', which is not installed.*pip install"):
        side.choose_backend()


@pytest.mark.parametrize("value", ["Detectron2", "Fallback", "1"])
def test_another_value_of_the_switch_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(side.SWITCH, value)
    with pytest.raises(InputError, match=f"'{value}'. Allowed: detectron2 or fallback"):
        side.choose_backend()


def test_a_folder_called_detectron2_is_no_library(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "detectron2").mkdir()  # such as a clone of its repository beside the script
    for name in [name for name in sys.modules if name.partition(".")[0] == "detectron2"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert not side.is_installed()


def test_a_library_called_detectron2_is_found(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2" / "__init__.py").touch()
    for name in [name for name in sys.modules if name.partition(".")[0] == "detectron2"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert side.is_installed()
