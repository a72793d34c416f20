"""Fixtures of several test files."""

from pathlib import Path

import pytest

from cliptrase_d2.data.register import register_dataset
from tests.drawn_scenes import CLASSES, write_scenes


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    """Draw and register five scenes."""
    write_scenes(tmp_path, 5)
    return register_dataset(f"scenes_{tmp_path.name}", tmp_path / "images", CLASSES, tmp_path / "annotations")
