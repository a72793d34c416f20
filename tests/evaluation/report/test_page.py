"""The page of a run: what it says, what it loads, and how a browser shows it."""

from __future__ import annotations

import html
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from cliptrase_d2.d2 import DatasetCatalog
from cliptrase_d2.data.benchmarks import BENCHMARKS
from cliptrase_d2.data.register import register_dataset, register_spec
from cliptrase_d2.evaluation.evaluator import SegmentationEvaluator
from cliptrase_d2.evaluation.report.evaluations import Source
from cliptrase_d2.evaluation.report.page import RunFacts, write_page
from cliptrase_d2.utils.errors import InputError
from tests.browser import BROWSER, HEADLESS, NO_BROWSER

CLASSES = ["sky", "<b>tree</b>", "a&b", "road"]
CONTEXT = {
    "protocol": {"name": "center_crop", "short_side": 224},
    "config_hash": "0123456789ab",
    "versions": {"python": "3.12"},
}
FACTS = RunFacts("MODEL:\n  CLIP: <script>\n", False, {"Model": "ViT-B-16"})


class Structure(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def evaluated(
    folder: Path, system: str, classes: list[str] = CLASSES, name: str = "", images: int = 2, labels: bool = True
) -> Source:
    """An evaluation of a few drawn images, two of them in the gallery."""
    unique = f"page_{folder.name}_{len(classes)}_{labels}"
    name = name or register_dataset(unique, folder, classes, folder / "labels", ignore_label=65535)
    chosen = [f"{index}.jpg" for index in range(min(images, 2))]
    evaluator = SegmentationEvaluator(name, folder / system, overlays=chosen, context=CONTEXT)
    for index in range(images):
        truth = torch.tensor([[0, 1], [2, evaluator.ignore_label]]).repeat_interleave(40, 0).repeat_interleave(50, 1)
        masks = torch.rand(3, 80, 100, generator=torch.Generator().manual_seed(index))
        given = {"file_name": f"{index}.jpg", "image": torch.full((3, 80, 100), 90.0)}
        given |= {"sem_seg": truth} if labels else {}
        evaluator.process([given], [{"label_map": truth.clamp(max=1), "pred_masks": masks}])
    evaluator.skip("dark.jpg", InputError("dark.jpg", "a <i>broken</i> image", "Remove it.", allowed="a whole one"))
    evaluator.evaluate()
    return Source(evaluator.folder, system, "a method", "https://arxiv.org/abs/2407.08268", system)


def page(folder: Path, *sources: Source, facts: RunFacts = FACTS) -> tuple[str, Structure]:
    write_page(folder / "report.html", sources, facts)
    text = (folder / "report.html").read_text(encoding="utf-8")
    return text, Structure(text)


def test_numbers_of_every_system_are_there(tmp_path: Path) -> None:
    _, structure = page(tmp_path, evaluated(tmp_path, "clip"), evaluated(tmp_path, "cliptrase"))
    assert structure.text.count("66.67") >= 2  # 2 of 3 scored pixels
    for words in ("clip", "cliptrase", "Results", "Gallery", "What the worst classes were taken for", "0123456789ab"):
        assert words in structure.text
    assert "not in the ground truth" in structure.text  # the road


def test_text_of_the_user_is_text(tmp_path: Path) -> None:
    text, structure = page(tmp_path, evaluated(tmp_path, "clip"))
    assert "<b>tree</b>" not in text
    assert "<i>broken" not in text
    assert "<script" not in text
    assert "<b>tree</b>" in structure.text
    assert "a&b" in structure.text
    assert "CLIP: <script>" in structure.text


def test_nothing_is_loaded_from_anywhere(tmp_path: Path) -> None:
    text, structure = page(tmp_path, evaluated(tmp_path, "clip"))
    sources = [tag["src"] or "" for tag in structure.all("img")]
    assert sources
    assert all(source.startswith("data:image/webp;base64,") for source in sources)
    assert not structure.all("link")
    assert not structure.all("script")
    assert not re.search(r"url\(|@import", text)


def test_pictures_say_what_they_show(tmp_path: Path) -> None:
    _, structure = page(tmp_path, evaluated(tmp_path, "clip"))
    alternatives = [tag["alt"] or "" for tag in structure.all("img")]
    assert len(alternatives) == 8  # image, truth, prediction and masks of two
    assert any(alt.startswith("Ground truth") and "sky 25 %" in alt for alt in alternatives)
    assert any(alt.startswith("Masks of clip") for alt in alternatives)


def test_random_weights_are_called_random(tmp_path: Path) -> None:
    facts = RunFacts("", True, {"Weights": "random"})
    _, structure = page(tmp_path, evaluated(tmp_path, "clip"), facts=facts)
    assert structure.text.count("random weights") >= 3
    assert "Random weights." in structure.text
    assert "random weights" not in page(tmp_path, evaluated(tmp_path, "clip"))[1].text.lower()


def test_numbers_of_the_paper_stand_beside_ours(tmp_path: Path) -> None:
    name = "voc_sem_seg_val"
    if name not in DatasetCatalog.list():
        register_spec(BENCHMARKS["voc20"].spec(tmp_path))
    _, structure = page(tmp_path, evaluated(tmp_path, "cliptrase", name=name))
    assert "80.95" in structure.text  # Table 3, VOC20, mIoU
    assert "not complete: the benchmark has" in structure.text


def test_nothing_to_score_and_no_picture(tmp_path: Path) -> None:
    source = evaluated(tmp_path, "clip", images=0, labels=False)
    _, structure = page(tmp_path, source)
    assert "nan" not in structure.text.lower().split()
    assert "No pictures." in structure.text
    assert "Nothing was scored." in structure.text


def test_prediction_without_labels_is_shown(tmp_path: Path) -> None:
    _, structure = page(tmp_path, evaluated(tmp_path, "clip", labels=False))
    alternatives = [tag["alt"] or "" for tag in structure.all("img")]
    assert [alt.split()[0] for alt in alternatives] == ["Image", "Prediction", "Masks"] * 2
    assert "Nothing was scored." in structure.text
    assert "nan" not in structure.text.lower().split()


def test_many_classes_stay_small(tmp_path: Path) -> None:
    text, structure = page(tmp_path, evaluated(tmp_path, "clip", classes=[f"class {index}" for index in range(847)]))
    assert structure.text.count("not in the ground truth") == 844
    assert len(text) < 500_000


def test_page_can_be_made_again_from_the_files(tmp_path: Path) -> None:
    source = evaluated(tmp_path, "clip")
    first, _ = page(tmp_path, source)
    assert page(tmp_path, source)[0] == first
    (source.folder / "confusion.npz").unlink()
    assert "was not kept" in page(tmp_path, source)[1].text
    (source.folder / "confusion.npz").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"confusion\.npz: a broken file"):
        page(tmp_path, source)
    (source.folder / "metrics.json").write_text("{")
    with pytest.raises(InputError, match=r"metrics\.json: a broken file"):
        page(tmp_path, source)


# Written into the page that is looked at; all is loaded when it runs, for the frame's "load" waits for the pictures.
PROBE = """<script>addEventListener("load", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
  const state = parent.document.documentElement.dataset;
  state.pictures = [...document.images].filter((image) => image.naturalWidth > 0).length;
  state.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  state.headings = document.querySelectorAll("h2").length;
});</script>"""


def browse(folder: Path, file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """What Chromium makes of a file: the page on stdout, what its console says on stderr."""
    command: list[Any] = [
        *(BROWSER, *HEADLESS, f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr"),
        *("--virtual-time-budget=5000", *options, "--dump-dom", file.as_uri()),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason=NO_BROWSER)
@pytest.mark.parametrize("width", [375, 1280])
def test_browser_shows_it_without_overflow(tmp_path: Path, width: int) -> None:
    text, structure = page(tmp_path, evaluated(tmp_path, "clip"), evaluated(tmp_path, "cliptrase"))
    policy = r'<meta http-equiv="Content-Security-Policy"[^>]*>'  # it forbids the script that looks at the page
    probed = re.sub(policy, "", text).replace("</body>", PROBE + "</body>").replace(' loading="lazy"', "")
    # A window of headless Chromium cannot be as narrow as a phone, a frame in it can; as srcdoc it may call its parent.
    frame = f'<iframe style="width:{width}px;height:900px" srcdoc="{html.escape(probed)}"></iframe>'
    (tmp_path / "frame.html").write_text(f"<!doctype html>{frame}", encoding="utf-8")
    state = Structure(browse(tmp_path, tmp_path / "frame.html", "--window-size=1400,1000").stdout).all("html")[0]
    assert state["data-pictures"] == str(len(structure.all("img")))
    assert int(state["data-overflow"] or 1) <= 0
    assert int(state["data-headings"] or 0) >= 3


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason=NO_BROWSER)
def test_browser_has_nothing_to_complain_of(tmp_path: Path) -> None:
    page(tmp_path, evaluated(tmp_path, "clip"))
    done = browse(tmp_path, tmp_path / "report.html")
    assert "Results" in done.stdout
    assert "CONSOLE" not in done.stderr  # its own policy included
    (tmp_path / "bad.html").write_text("<script>throw new Error('seen')</script>", encoding="utf-8")
    assert "CONSOLE" in browse(tmp_path, tmp_path / "bad.html").stderr  # this is how it would complain
