"""Chromium for the tests that click; they are skipped, saying so, where there is none."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

webdriver = pytest.importorskip("selenium.webdriver")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs chromium and chromedriver")
PHONE = 360


@contextmanager
def chromium(width: int = PHONE, height: int = 800, scripts: bool = True) -> Iterator[Any]:
    """A window of this many pixels; `scripts` False is a person who has switched them off."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    if not scripts:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        resize(made, width, height)
        yield made
    finally:
        made.quit()


def resize(browser: Any, width: int, height: int = 800) -> None:
    """A window of this many pixels."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def wait(browser: Any, done: Callable[[], bool], what: str, seconds: float = 10) -> None:
    """Until it is done, for so many seconds at most."""
    ui = pytest.importorskip("selenium.webdriver.support.ui")
    ui.WebDriverWait(browser, seconds, poll_frequency=0.05).until(lambda _: done(), what)


def in_scheme(browser: Any, scheme: str) -> None:
    """Light or dark."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


_LOOKS = """
const [done] = arguments, moved = [];
new PerformanceObserver(list => moved.push(...list.getEntries().map(entry => entry.value)))
  .observe({type: "layout-shift", buffered: true});
new PerformanceObserver(list => {
  const [first] = list.getEntriesByName("first-contentful-paint");
  if (first) requestAnimationFrame(() => setTimeout(() => done([first.startTime, moved]), 50));
}).observe({type: "paint", buffered: true});
"""
FIRST_PAINT = 1000.0  # milliseconds


def opens_well(browser: Any, address: str, ready: Callable[[], None] = lambda: None, shift: float = 0) -> None:
    """The first paint comes within a second, and nothing moves after it by more than `shift` of the window.

    On a busy machine, which is not the page's fault, the time is not judged.
    """
    painted: list[float] = []
    while not painted or (min(painted) > FIRST_PAINT and len(painted) < 5 and not busy()):
        browser.get(address)
        ready()
        paint, moved = browser.execute_async_script(_LOOKS)
        assert sum(moved) <= shift, address
        painted.append(paint)
    assert min(painted) <= FIRST_PAINT or busy(), address


def busy() -> bool:
    """More processes want to compute than there are cores."""
    return os.getloadavg()[0] > (os.cpu_count() or 1)


# Of every element with text of its own: its color against what is painted behind it.
_CONTRASTS = """
const parts = text => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
const over = (top, below) => {
  const [r, g, b, a = 1] = top;
  return [r, g, b].map((value, i) => a * value + (1 - a) * below[i]);
};
const light = color => color.map(value => value / 255)
  .map(value => value <= .03928 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4)
  .reduce((sum, value, i) => sum + value * [.2126, .7152, .0722][i], 0);
const behind = element => {
  const layers = [];
  for (let e = element; e; e = e.parentElement) layers.unshift(parts(getComputedStyle(e).backgroundColor));
  return layers.reduce((below, top) => over(top, below), arguments[0]);
};
return [...document.body.querySelectorAll('*')].filter(element => element.checkVisibility()
    && [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())).map(element => {
  const style = getComputedStyle(element), back = behind(element);
  const ink = over(parts(element instanceof SVGElement ? style.fill : style.color), back);
  const [low, high] = [light(ink), light(back)].sort((a, b) => a - b);
  return [(high + .05) / (low + .05), element.tagName + ': ' + element.textContent.trim().slice(0, 40)];
});
"""


def faint_texts(browser: Any, least: float = 4.5) -> list[tuple[float, str]]:
    """The visible texts whose contrast is below WCAG's 4.5 (2.1, success criterion 1.4.3), with it."""
    dark = browser.execute_script("return matchMedia('(prefers-color-scheme: dark)').matches")
    found = browser.execute_script(_CONTRASTS, [18, 18, 18] if dark else [255, 255, 255])
    assert len(found) > 5, "a page of texts"
    return [(round(ratio, 2), text) for ratio, text in found if ratio < least]
