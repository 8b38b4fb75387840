"""The report in Chromium: pictures enlarge without scripts, texts have contrast, a phone shows it, paper holds it."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.browsing import PHONE, chromium, faint_texts, in_scheme, needs_browser, webdriver

pytestmark = needs_browser
PAPER = 680  # the width of A4 within its margins, at 96 pixels an inch

from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402


@pytest.fixture(scope="module")
def browser(digits_run: Path) -> Iterator["webdriver.Chrome"]:
    with chromium() as made:
        made.get((digits_run / "report.html").as_uri())
        yield made


def test_a_picture_fills_the_window_without_scripts(digits_run: Path):
    with chromium(1000, 700, scripts=False) as browser:
        browser.get((digits_run / "report.html").as_uri())
        summaries = browser.find_elements(By.TAG_NAME, "summary")
        assert len(summaries) > 20
        for summary in (summaries[0], summaries[5]):
            picture, says = summary.find_element(By.TAG_NAME, "img"), summary.find_element(By.TAG_NAME, "span")
            small, place = picture.size, summary.location
            assert not says.is_displayed()
            summary.click()
            assert summary.size == {"width": 1000, "height": 700}
            assert picture.size["height"] > max(500, small["height"])
            assert says.text == picture.get_attribute("alt")
            assert says.text.endswith(".")
            summary.send_keys(Keys.ENTER)
            assert picture.size == small
            assert summary.location == place, "nothing moved"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_is_read_on_a_phone_in_both_schemes(browser: "webdriver.Chrome", scheme: str):
    in_scheme(browser, scheme)
    assert faint_texts(browser) == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE
    assert browser.get_log("browser") == []


def test_paper_is_light_and_holds_whole_rows_of_pictures(browser: "webdriver.Chrome"):
    size = {"width": PAPER, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": features})
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    beyond = "strip => strip.scrollWidth - strip.clientWidth"
    strips = browser.execute_script(f"return [...document.querySelectorAll('.strip')].map({beyond})")
    assert len(strips) == 6
    assert max(strips) <= 0
    pages = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", pages)) <= 9
