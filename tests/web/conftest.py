"""The page and its service with the embedded model, created once."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from cliptrase_d2.data.emoji_scenes.scene import draw
from cliptrase_d2.data.emoji_scenes.splits import sample_layout
from cliptrase_d2.web.command import add_arguments, launch
from cliptrase_d2.web.models import Models
from cliptrase_d2.web.service import SegmentationService

MAX_PIXELS = 10**6


class Served(NamedTuple):
    """A served page: its address, the folder of its files, and its Gradio blocks."""

    address: str
    folder: Path
    page: Any


def parse(*argv: str) -> argparse.Namespace:
    """Parse arguments of ``cliptrase web``."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(argv)


@pytest.fixture(scope="session")
def models() -> Models:
    return Models(["emoji"])


@pytest.fixture(scope="session")
def service(models: Models) -> SegmentationService:
    return SegmentationService(models, MAX_PIXELS)


@pytest.fixture(scope="session")
def scene_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A pig and a hamburger on lava."""
    path = tmp_path_factory.mktemp("scene") / "pig.png"
    Image.fromarray(draw(sample_layout(6, "unseen_combination"), 224).image).save(path)
    return str(path)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The page as the command serves it, with one model and low limits."""
    pytest.importorskip("gradio", reason="Gradio is not installed")
    folder = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        page, address = launch(
            parse("--models", "emoji", "--max-upload-mb", "0.5", "--max-pixels", str(MAX_PIXELS)), folder
        )
        yield Served(address, folder, page)
        page.close(verbose=False)
