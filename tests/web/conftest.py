"""The embedded model behind the page, and the page itself, each made once."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from cliptrase_d2.data.emoji_scenes.scene import draw
from cliptrase_d2.data.emoji_scenes.splits import scene_layout
from cliptrase_d2.web.command import add_arguments, launch
from cliptrase_d2.web.models import Models
from cliptrase_d2.web.service import Answers

MOST_PIXELS = 10**6
MOST_MEGABYTES = "0.5"


class Served(NamedTuple):
    """A page that is served: its address, the folder of its files, and what Gradio has of it."""

    address: str
    folder: Path
    page: Any


def arguments(*words: str) -> argparse.Namespace:
    """Those of the command."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture(scope="session")
def models() -> Models:
    return Models(["emoji"])


@pytest.fixture(scope="session")
def answers(models: Models) -> Answers:
    return Answers(models, MOST_PIXELS)


@pytest.fixture(scope="session")
def scene_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A pig and a hamburger on lava."""
    path = tmp_path_factory.mktemp("scene") / "pig.png"
    Image.fromarray(draw(scene_layout(6, "unseen_combination"), 224).image).save(path)
    return str(path)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The page, as the command serves it, with one model and small bounds."""
    pytest.importorskip("gradio", reason="Gradio is not installed")
    folder = tmp_path_factory.mktemp("served")
    bounds = arguments("--models", "emoji", "--max-upload-mb", MOST_MEGABYTES, "--max-pixels", str(MOST_PIXELS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        page, address = launch(bounds, folder)
        yield Served(address, folder, page)
        page.close(verbose=False)
