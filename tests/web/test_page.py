"""The page in a browser: it is used with a mouse, with the keyboard alone, and on a phone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from tests.browser import BROWSER, HEADLESS, NO_BROWSER
from tests.web.conftest import Served

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason=NO_BROWSER)]
MOMENT = 180_000  # milliseconds until an answer must be there, on a busy machine
PHONE, DESKTOP = {"width": 360, "height": 740}, {"width": 1280, "height": 900}


class Watched:
    """A page in the browser, with the hosts that it asks and the errors that its console shows."""

    def __init__(self, browser: Any, served: Served):
        self.address = served.address
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        self.page = browser.new_page(viewport=PHONE)
        self.page.set_default_timeout(MOMENT)
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.page.on("response", lambda answer: answer.ok or self.errors.append(f"{answer.status} {answer.url}"))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.page.goto(self.address)
        self.page.wait_for_selector("#right .answer")

    def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def open_tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def focused(self, selector: str) -> bool:
        return self.page.evaluate("selector => document.activeElement.matches(selector)", selector)

    def tab_to(self, selector: str) -> None:
        """Go on with the Tab key until an element has the focus."""
        for _ in range(60):  # once around the page and more
            if self.focused(selector):
                return
            self.page.keyboard.press("Tab")
        pytest.fail(f"{selector} cannot be reached with the Tab key")

    def classes(self, side: str = "left") -> list[str]:
        return self.page.locator(f"#{side} tbody th").all_inner_texts()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as driver:
        playwright.expect.set_options(timeout=MOMENT)
        chromium = driver.chromium.launch(executable_path=BROWSER, args=list(HEADLESS))
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def opened(browser: Any, served: Served) -> Watched:
    """The page as it opens on a phone; it takes its time, so all tests share it."""
    return Watched(browser, served)


@pytest.fixture
def desktop(opened: Watched) -> Watched:
    opened.page.set_viewport_size(DESKTOP)
    return opened


def test_a_phone_shows_all_of_it_without_scrolling_sideways(opened: Watched) -> None:
    assert opened.classes() == ["lava", "pig", "hamburger"]
    assert opened.overflow() == 0
    for tab, figure in (("Point", "#correlation img"), ("Clusters", "#clustering img")):
        opened.open_tab(tab)
        opened.page.wait_for_selector(figure)
        assert opened.overflow() == 0
    opened.open_tab("Classes")


def test_upload_type_segment_keep(desktop: Watched, tmp_path: Any, scene_file: str) -> None:
    page = desktop.page
    Image.open(scene_file).rotate(90).save(tmp_path / "turned.png")
    page.locator("#photo").get_by_role("button", name="Remove Image").click()
    page.locator("#photo input[type=file]").first.set_input_files(tmp_path / "turned.png")
    page.locator("#photo img").wait_for()
    page.locator("#left table").wait_for(state="detached")  # it was of another photograph
    page.locator("#classes textarea").fill("lava, pig")
    page.locator("#segment").click()
    page.wait_for_function("document.querySelectorAll('#left tbody tr').length === 2")
    assert desktop.classes() == ["lava", "pig"]
    with page.expect_download() as download:
        page.locator("#left").get_by_role("link", name="Label map").click()
    assert download.value.suggested_filename == "turned_labels.png"
    labels = np.array(Image.open(download.value.path()))
    assert labels.shape == (224, 224)
    assert set(np.unique(labels)) == {0, 1}


def test_a_click_explains_its_point(desktop: Watched) -> None:
    page = desktop.page
    picture = page.locator("#left .picture img")
    box = picture.bounding_box()
    picture.click(position={"x": box["width"] / 2 + box["height"] / 4, "y": box["height"] / 4})  # of a square within
    page.wait_for_selector("#correlation img")
    assert page.get_by_role("spinbutton", name=re.compile("Across")).input_value() == "75"
    assert page.get_by_role("spinbutton", name=re.compile("Down")).input_value() == "25"
    desktop.open_tab("Classes")


def test_the_keyboard_is_enough(desktop: Watched, scene_file: str) -> None:
    page = desktop.page
    page.locator("#title").click()
    desktop.tab_to("#photo [aria-label^=Remove]")
    page.keyboard.press("Enter")
    desktop.tab_to("#photo [aria-label^=Drop]")
    choosers: list[Any] = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    for _ in range(20):  # a press is lost while Gradio is still at work on the removal
        page.keyboard.press("Space")
        page.wait_for_timeout(1000)
        if choosers:
            break
    choosers[0].set_files(scene_file)
    page.locator("#photo img").wait_for()
    desktop.tab_to("#classes textarea")
    page.keyboard.press("ControlOrMeta+A")
    page.keyboard.type("hamburger, lava, pig")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('#left tbody tr').length === 3")
    desktop.tab_to("[role=tab]:not([aria-selected=true])")
    page.keyboard.press("Enter")
    desktop.tab_to("#across input[type=range]")
    before = page.locator("#point-picture img").get_attribute("src")
    for _ in range(9):
        page.keyboard.press("ArrowLeft")
    desktop.tab_to("#look")
    page.keyboard.press("Enter")
    page.wait_for_function("before => document.querySelector('#point-picture img').src !== before", arg=before)
    assert page.get_by_role("spinbutton", name=re.compile("Across")).input_value() == "66"
    desktop.open_tab("Classes")


def test_what_is_asked_while_an_answer_is_under_way_is_answered_after_it(desktop: Watched) -> None:
    page = desktop.page
    for words in ("lava, pig", "hamburger"):  # of the second nothing is waited for
        page.locator("#classes textarea").fill(words)
        page.locator("#segment").click()
    page.locator("#right tbody th", has_text="hamburger").wait_for()
    assert desktop.classes("right") == desktop.classes() == ["hamburger"]


def test_what_is_typed_is_text(desktop: Watched) -> None:
    page = desktop.page
    words = ["<img src=x onerror=alert(1)>", "{{value}}", "${1+1}"]
    page.locator("#classes textarea").fill(", ".join(words))
    page.locator("#segment").click()
    page.wait_for_selector("#left .note")  # this model never saw such words
    assert set(desktop.classes()) <= set(words)
    assert page.locator("#left .answer img").count() == 0


def test_what_is_wrong_is_said_on_the_page(desktop: Watched, tmp_path: Any) -> None:
    page = desktop.page
    page.locator("#classes textarea").fill("pig, pig")
    page.locator("#segment").click()
    said = page.locator("#status [role=alert]", has_text="the word 'pig' twice")
    said.wait_for()
    assert said.is_visible()
    page.locator("#photo").get_by_role("button", name="Remove Image").click()
    (tmp_path / "large.png").write_bytes(b"x" * 600_000)
    page.locator("#photo input[type=file]").first.set_input_files(tmp_path / "large.png")
    said = page.get_by_text("exceed the maximum allowed size")
    said.wait_for()
    assert said.is_visible()


def test_comparing_can_be_left_off(desktop: Watched) -> None:
    page = desktop.page
    page.locator("#compare input").uncheck()
    page.locator("#right").wait_for(state="hidden")
    assert page.locator("#left").is_visible()


def test_no_other_host_was_asked_and_nothing_failed(opened: Watched) -> None:
    assert opened.hosts - {""} == {urlsplit(opened.address).netloc}  # "": pictures within the page
    assert opened.errors == []
