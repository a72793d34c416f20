"""The page in a browser: with the mouse, with the keyboard alone, and on a phone."""

from __future__ import annotations

import contextlib
import json
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


# The texts of the page outside pictures, with the contrast (WCAG 2) to their backgrounds.
CONTRAST = """() => {
  const parse = colour => colour.match(/[\\d.]+/g).map(Number);
  const luminance = colour => {
    const [r, g, b] = parse(colour).map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const background = node => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor, [, , , alpha = 1] = parse(colour);
      if (alpha === 1) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim(), node = walker.currentNode.parentElement;
    if (!text || !node.checkVisibility({ visibilityProperty: true }) || node.closest("svg, option, style, script"))
      continue;
    const pair = [luminance(getComputedStyle(node).color), luminance(background(node))].sort((a, b) => b - a);
    found.push([text.slice(0, 40), (pair[0] + .05) / (pair[1] + .05)]);
  }
  return found;
}"""
# Visible controls and pictures without a name for screen readers.
NAMELESS = """() => [...document.querySelectorAll("button, input, select, textarea, img, svg[role=img]")].filter(node =>
  node.checkVisibility() && !node.ariaLabel && !node.title && !node.alt && !node.labels?.length
  && !node.innerText?.trim() && !node.closest("[aria-hidden=true], button[aria-label]") && node.ariaHidden !== "true"
).map(node => node.outerHTML.slice(0, 200))"""


class Watched:
    """The page in the browser, with the hosts that it contacts and the errors that it reports."""

    def __init__(self, browser: Any, served: Served):
        self.address = served.address
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        self.page = browser.new_page(viewport=PHONE)
        self.page.set_default_timeout(TIMEOUT)
        self.page.on(
            "console", lambda message: message.type == "error" and self.note(message.location["url"], message.text)
        )
        self.page.on("response", lambda reply: reply.ok or self.note(reply.url, str(reply.status)))
        self.page.on("pageerror", lambda error: self.note("", str(error)))
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.page.goto(self.address)
        self.page.wait_for_selector("#left .empty li")

    def note(self, address: str, message: str) -> None:
        """Record an error, unless Gradio asks for the progress of an upload that has already ended.

        It then logs the answer as "Response". All other failed answers are recorded with their status as well.
        """
        if "/upload_progress?" not in address and message != "Response":
            self.errors.append(f"{message} {address}")

    def measure_overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def open_tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def focus(self, selector: str) -> None:
        """Press Tab until an element has the focus."""
        for _ in range(90):  # more than one round
            if self.page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
            self.page.keyboard.press("Tab")
        pytest.fail(f"{selector} cannot be reached with the Tab key")

    def upload(self, file: str | Path) -> None:
        self.page.locator("#photo").get_by_role("button", name="Remove Image").click()
        self.page.locator("#photo input[type=file]").first.set_input_files(file)

    def open_example(self) -> None:
        """Open the pig and the hamburger on lava."""
        self.page.locator("#examples button").first.click()
        self.page.wait_for_function("document.querySelectorAll('#left tbody tr').length === 3")

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


def test_an_empty_page_says_how_to_start(opened: Watched) -> None:
    text = opened.page.locator("#left .empty").inner_text()
    assert all(word in text for word in ("photo", "Name the classes", "Segment"))
    assert opened.page.locator("#left svg[role=img]").count() == 0
    assert opened.page.locator("#photo").bounding_box()["y"] < PHONE["height"] / 2


def test_a_phone_shows_the_result_without_horizontal_scrolling(opened: Watched) -> None:
    opened.open_example()
    opened.page.wait_for_function(
        """() => { const box = document.querySelector("#left .viewer").getBoundingClientRect();
                   return box.top >= 0 && box.top < innerHeight / 2; }"""
    )
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
    page.locator("#left .empty", has_text="Name the classes").wait_for()
    assert page.locator("#classes textarea").input_value() == ""
    offer = page.locator("#offer .note", has_text="Emoji CLIP has only seen drawings")
    offer.wait_for()
    assert "cliptrase web --models ViT-B-16" in offer.inner_text()  # this server has no other model
    desktop.segment("lava, pig")
    page.wait_for_function("document.querySelectorAll('#left tbody tr').length === 2")
    assert desktop.read_classes() == ["lava", "pig"]
    with page.expect_download() as download:
        page.locator("#left").get_by_role("link", name="Label map").click()
    assert download.value.suggested_filename == "turned_labels.png"
    labels = np.array(Image.open(download.value.path()))
    assert labels.shape == (224, 224)
    assert set(np.unique(labels)) == {0, 1}
    with page.expect_download() as download:
        page.locator("#left").get_by_role("link", name="JSON").click()
    segments = json.loads(Path(download.value.path()).read_text())
    assert [segment["area"] for segment in segments] == [(labels == index).sum() for index in (0, 1)]


def test_names_appear_under_the_pointer_and_classes_can_be_hidden(desktop: Watched) -> None:
    page = desktop.page
    desktop.open_example()
    assert page.locator("#offer").is_hidden()
    layers = page.locator("#left svg[role=img] g")
    layers.nth(1).locator("path").hover()
    page.locator("#left .hovered", has_text="pig").wait_for()
    page.locator("#left tbody").get_by_label("pig").uncheck()
    assert [layer.is_visible() for layer in layers.all()] == [True, False, True]
    page.locator("#left").get_by_label("Opacity").fill("90")
    assert layers.first.locator("path").evaluate("path => getComputedStyle(path).fillOpacity") == "0.9"
    page.locator("#left").get_by_label("Names").uncheck()
    assert page.locator("#left svg text:visible").count() == 0
    page.locator("#left").get_by_label("Method").select_option(label="CLIP")  # which finds only lava
    page.wait_for_function("document.querySelectorAll('#left tbody tr').length === 1")
    assert page.locator("#left").get_by_label("Opacity").input_value() == "90"  # outlasts the result
    assert layers.first.locator("path").evaluate("path => getComputedStyle(path).fillOpacity") == "0.9"
    page.locator("#left").get_by_label("Method").select_option(label="CLIPtrase")
    page.wait_for_function("document.querySelectorAll('#left tbody tr').length === 3")


def test_background_and_unknown_pixels(desktop: Watched) -> None:
    timeout_error = pytest.importorskip("playwright.sync_api").TimeoutError
    page = desktop.page
    page.locator("#more button").first.click()
    unknown = page.locator("#left tbody th", has_text="unknown")
    for _ in range(20):  # Gradio ignores values while the settings open
        page.locator("#threshold input[type=number]").fill("0")
        page.locator("#threshold input[type=number]").fill("100")
        page.locator("#threshold input[type=number]").press("Tab")
        with contextlib.suppress(timeout_error):
            unknown.wait_for(timeout=9000)
            break
    assert desktop.read_classes()[-1] == "unknown"
    page.locator("#threshold input[type=number]").fill("0")
    page.locator("#segment").click()
    unknown.wait_for(state="detached")
    page.locator("#ready input").fill("24 common surroundings")  # the moving list of options may close under a click
    page.locator("#ready input").press("Enter")
    page.locator("#left .note", has_text="'ceiling'").wait_for()  # Emoji CLIP was not trained on this word of the list
    page.locator("#more button").first.click()
    desktop.open_example()
    page.locator("#left .note").wait_for(state="detached")  # the example has no background
    assert page.locator("#left tbody tr").count() == 3


def test_a_click_explains_its_point(desktop: Watched) -> None:
    picture = desktop.page.locator("#left svg[role=img]")
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
    page.locator("#offer").wait_for()  # the words of the previous photo are cleared by now
    desktop.focus("#classes textarea")
    page.keyboard.press("ControlOrMeta+A")
    page.keyboard.type("hamburger, lava, pig")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('#left tbody tr').length === 3")
    desktop.focus("[role=tab]:not([aria-selected=true])")
    page.keyboard.press("Enter")
    desktop.focus("#across input[type=range]")
    before = page.locator("#point-picture image").get_attribute("href")
    for _ in range(9):
        page.keyboard.press("ArrowLeft")
    desktop.focus("#look")
    page.keyboard.press("Enter")
    page.wait_for_function(
        "before => document.querySelector('#point-picture image').href.baseVal !== before", arg=before
    )
    assert desktop.read_slider("Across") == "66"
    desktop.open_tab("Classes")


def test_a_request_made_while_another_runs_is_not_lost(desktop: Watched) -> None:
    for classes in ("lava, pig", "hamburger"):  # without waiting in between
        desktop.segment(classes)
    desktop.page.wait_for_function("document.querySelectorAll('#left tbody tr').length === 1")
    assert desktop.read_classes() == ["hamburger"]


def test_class_names_are_not_interpreted(desktop: Watched) -> None:
    names = ["<img src=x onerror=alert(1)>", "{{value}}", "${1+1}"]
    desktop.segment(", ".join(names))
    desktop.page.locator("#left .note", has_text="onerror").wait_for()  # the model was not trained on these words
    assert set(desktop.read_classes()) <= set(names)
    assert desktop.page.locator("#left .answer img").count() == 0


def test_errors_are_visible(desktop: Watched, tmp_path: Path) -> None:
    desktop.segment("pig, pig")
    message = desktop.page.locator("#status [role=alert]", has_text="'pig'")
    message.wait_for()
    assert message.is_visible()
    desktop.page.locator("#classes textarea").press_sequentially("gy")  # "pig, piggy" is valid
    message.wait_for(state="detached")
    (tmp_path / "large.png").write_bytes(b"x" * 600_000)
    desktop.upload(tmp_path / "large.png")
    desktop.page.get_by_text("exceed the maximum allowed size").wait_for()


def test_a_comparison_can_be_switched_on_and_off(desktop: Watched) -> None:
    desktop.open_example()
    desktop.page.locator("#compare input").check()
    desktop.page.locator("#right tbody th", has_text="lava").wait_for()
    assert desktop.read_classes("right") == ["lava"]
    assert desktop.read_classes() == ["lava", "pig", "hamburger"]
    desktop.page.locator("#compare input").uncheck()
    desktop.page.locator("#right").wait_for(state="hidden")
    assert desktop.page.locator("#left").is_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_texts_have_contrast_and_controls_have_names(opened: Watched, theme: str) -> None:
    opened.page.evaluate("theme => document.body.classList.toggle('dark', theme === 'dark')", theme)
    opened.page.wait_for_timeout(500)  # transitions of colours
    faint = [(text, ratio) for text, ratio in opened.page.evaluate(CONTRAST) if ratio < 4.5]
    assert faint == []
    assert opened.page.evaluate(NAMELESS) == []
    opened.page.evaluate("document.body.classList.remove('dark')")


def test_no_other_host_was_contacted_and_nothing_failed(opened: Watched) -> None:
    assert opened.hosts - {""} == {urlsplit(opened.address).netloc}  # "" are data URIs
    assert opened.errors == []
