"""The page in a browser: with the mouse, with the keyboard alone, and on a phone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from tests.browser import BROWSER, HEADLESS, NO_BROWSER
from tests.web.conftest import Served

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason=NO_BROWSER)]
TIMEOUT = 180_000  # milliseconds, enough on a busy machine
PHONE, DESKTOP = {"width": 360, "height": 740}, {"width": 1280, "height": 900}


class Watched:
    """The page in the browser, with the hosts that it contacts and the errors that it reports."""

    def __init__(self, browser: Any, served: Served):
        self.address = served.address
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        self.page = browser.new_page(viewport=PHONE)
        self.page.set_default_timeout(TIMEOUT)
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.page.on("response", lambda reply: reply.ok or self.errors.append(f"{reply.status} {reply.url}"))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.page.goto(self.address)
        self.page.wait_for_selector("#right .answer")

    def measure_overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def open_tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def focus(self, selector: str) -> None:
        """Press Tab until an element has the focus."""
        for _ in range(60):  # more than one round
            if self.page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
            self.page.keyboard.press("Tab")
        pytest.fail(f"{selector} cannot be reached with the Tab key")

    def upload(self, file: str | Path) -> None:
        self.page.locator("#photo").get_by_role("button", name="Remove Image").click()
        self.page.locator("#photo input[type=file]").first.set_input_files(file)

    def segment(self, classes: str) -> None:
        self.page.locator("#classes textarea").fill(classes)
        self.page.locator("#segment").click()

    def read_classes(self, side: str = "left") -> list[str]:
        return self.page.locator(f"#{side} tbody th").all_inner_texts()

    def read_slider(self, name: str) -> str:
        return self.page.get_by_role("spinbutton", name=re.compile(name)).input_value()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as driver:
        playwright.expect.set_options(timeout=TIMEOUT)
        chromium = driver.chromium.launch(executable_path=BROWSER, args=list(HEADLESS))
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def opened(browser: Any, served: Served) -> Watched:
    """The page on a phone, opened once because that is slow."""
    return Watched(browser, served)


@pytest.fixture
def desktop(opened: Watched) -> Watched:
    opened.page.set_viewport_size(DESKTOP)
    return opened


def test_a_phone_needs_no_horizontal_scrolling(opened: Watched) -> None:
    assert opened.read_classes() == ["lava", "pig", "hamburger"]
    assert opened.measure_overflow() == 0
    for tab, figure in (("Point", "#correlation img"), ("Clusters", "#clustering img")):
        opened.open_tab(tab)
        opened.page.wait_for_selector(figure)
        assert opened.measure_overflow() == 0
    opened.open_tab("Classes")


def test_upload_segment_and_download(desktop: Watched, tmp_path: Path, scene_file: str) -> None:
    page = desktop.page
    Image.open(scene_file).rotate(90).save(tmp_path / "turned.png")
    desktop.upload(tmp_path / "turned.png")
    page.locator("#photo img").wait_for()
    page.locator("#left table").wait_for(state="detached")  # the result of the previous photo
    desktop.segment("lava, pig")
    page.wait_for_function("document.querySelectorAll('#left tbody tr').length === 2")
    assert desktop.read_classes() == ["lava", "pig"]
    with page.expect_download() as download:
        page.locator("#left").get_by_role("link", name="Label map").click()
    assert download.value.suggested_filename == "turned_labels.png"
    labels = np.array(Image.open(download.value.path()))
    assert labels.shape == (224, 224)
    assert set(np.unique(labels)) == {0, 1}


def test_a_click_explains_its_point(desktop: Watched) -> None:
    picture = desktop.page.locator("#left .picture img")
    box = picture.bounding_box()
    x = box["width"] / 2 + box["height"] / 4  # the photo is a square in the centre of the box
    picture.click(position={"x": x, "y": box["height"] / 4})
    desktop.page.wait_for_selector("#correlation img")
    assert (desktop.read_slider("Across"), desktop.read_slider("Down")) == ("75", "25")
    desktop.open_tab("Classes")


def test_the_keyboard_is_sufficient(desktop: Watched, scene_file: str) -> None:
    page = desktop.page
    page.locator("#title").click()
    desktop.focus("#photo [aria-label^=Remove]")
    page.keyboard.press("Enter")
    desktop.focus("#photo [aria-label^=Drop]")
    choosers: list[Any] = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    for _ in range(20):  # Gradio ignores keys until the photo is removed
        page.keyboard.press("Space")
        page.wait_for_timeout(1000)
        if choosers:
            break
    choosers[0].set_files(scene_file)
    page.locator("#photo img").wait_for()
    desktop.focus("#classes textarea")
    page.keyboard.press("ControlOrMeta+A")
    page.keyboard.type("hamburger, lava, pig")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('#left tbody tr').length === 3")
    desktop.focus("[role=tab]:not([aria-selected=true])")
    page.keyboard.press("Enter")
    desktop.focus("#across input[type=range]")
    before = page.locator("#point-picture img").get_attribute("src")
    for _ in range(9):
        page.keyboard.press("ArrowLeft")
    desktop.focus("#look")
    page.keyboard.press("Enter")
    page.wait_for_function("before => document.querySelector('#point-picture img').src !== before", arg=before)
    assert desktop.read_slider("Across") == "66"
    desktop.open_tab("Classes")


def test_a_request_made_while_another_runs_is_not_lost(desktop: Watched) -> None:
    for classes in ("lava, pig", "hamburger"):  # without waiting in between
        desktop.segment(classes)
    desktop.page.locator("#right tbody th", has_text="hamburger").wait_for()
    assert desktop.read_classes("right") == desktop.read_classes() == ["hamburger"]


def test_class_names_are_not_interpreted(desktop: Watched) -> None:
    names = ["<img src=x onerror=alert(1)>", "{{value}}", "${1+1}"]
    desktop.segment(", ".join(names))
    desktop.page.wait_for_selector("#left .note")  # the model was not trained on these words
    assert set(desktop.read_classes()) <= set(names)
    assert desktop.page.locator("#left .answer img").count() == 0


def test_errors_are_visible(desktop: Watched, tmp_path: Path) -> None:
    desktop.segment("pig, pig")
    message = desktop.page.locator("#status [role=alert]", has_text="'pig'")
    message.wait_for()
    assert message.is_visible()
    (tmp_path / "large.png").write_bytes(b"x" * 600_000)
    desktop.upload(tmp_path / "large.png")
    desktop.page.get_by_text("exceed the maximum allowed size").wait_for()


def test_the_comparison_can_be_switched_off(desktop: Watched) -> None:
    desktop.page.locator("#compare input").uncheck()
    desktop.page.locator("#right").wait_for(state="hidden")
    assert desktop.page.locator("#left").is_visible()


def test_no_other_host_was_contacted_and_nothing_failed(opened: Watched) -> None:
    assert opened.hosts - {""} == {urlsplit(opened.address).netloc}  # "" are data URIs
    assert opened.errors == []
