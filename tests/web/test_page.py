"""Every feature of the page, clicked in Chromium; skipped where there is none."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from tests.browsing import PHONE, chromium, faint_texts, in_scheme, needs_browser, opens_well, webdriver

import markovae as mv

pytestmark = needs_browser

from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402


def wait(browser: "webdriver.Chrome") -> None:
    ready = "return document.documentElement.dataset.ready"
    WebDriverWait(browser, 30).until(lambda page: page.execute_script(ready))


@pytest.fixture(scope="module")
def browser(address: str) -> Iterator["webdriver.Chrome"]:
    with chromium() as made:
        made.get(address)
        wait(made)
        yield made


@pytest.fixture(autouse=True)
def quiet(browser: "webdriver.Chrome") -> Iterator[None]:
    """No message in the console, and nothing wider than a phone."""
    yield
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "digit.png"
    Image.fromarray(mv.load_data("digits").test.images[0][0]).resize((24, 16)).save(path)
    return path


def finished(browser: "webdriver.Chrome", section: str) -> str:
    status = browser.find_element(By.CSS_SELECTOR, f"#{section} .status")
    WebDriverWait(browser, 60).until(lambda _: "done" in status.text)
    return status.text


def open_tab(browser: "webdriver.Chrome", name: str) -> None:
    browser.execute_script("scrollTo(0, 0)")
    browser.find_element(By.ID, f"tab-{name}").click()


def shown(browser: "webdriver.Chrome", section: str) -> list[str]:
    images = browser.find_elements(By.CSS_SELECTOR, f"#{section} .sheet img")
    return [str(image.get_attribute("src")) for image in images]


def test_the_first_paint_comes_within_a_second_and_nothing_moves_after_it(
    browser: "webdriver.Chrome", address: str
) -> None:
    opens_well(browser, address, lambda: wait(browser))


def test_samples_are_watched_along_the_chain_and_saved(browser: "webdriver.Chrome") -> None:
    form = browser.find_element(By.ID, "draw-form")
    for name, value in (("n", "3"), ("steps", "4"), ("seed", "7")):
        field = form.find_element(By.NAME, name)
        field.clear()
        field.send_keys(value)
    form.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
    finished(browser, "draw")
    last = shown(browser, "draw")
    assert len(last) == 3
    slider = browser.find_element(By.CSS_SELECTOR, "#draw .chain input[type=range]")
    slider.send_keys(Keys.HOME)
    assert shown(browser, "draw") != last
    slider.send_keys(Keys.END)
    assert shown(browser, "draw") == last
    browser.find_element(By.CSS_SELECTOR, "#draw .sheet button").click()
    link = browser.find_element(By.CSS_SELECTOR, "#lightbox a")
    assert b"markovae:command" in base64.b64decode(str(link.get_attribute("href")).partition(",")[2])
    browser.find_element(By.CSS_SELECTOR, "#lightbox button").click()
    browser.find_element(By.CSS_SELECTOR, "#draw .another").click()
    WebDriverWait(browser, 60).until(lambda _: "--seed 8" in browser.find_element(By.CSS_SELECTOR, "#draw code").text)


def test_an_image_shows_its_bits_its_map_and_its_neighbours(browser: "webdriver.Chrome", picture: Path) -> None:
    open_tab(browser, "bits")
    browser.find_element(By.CSS_SELECTOR, "#bits input[type=file]").send_keys(str(picture))
    browser.find_element(By.CSS_SELECTOR, "#bits button[type=submit]").click()
    assert "24×16 cropped" in finished(browser, "bits")
    assert "bits/dim" in browser.find_element(By.CSS_SELECTOR, "#bits .figure").text
    assert str(browser.find_element(By.CSS_SELECTOR, "#bits .heat").get_attribute("src")).startswith("data:image/png")
    assert len(shown(browser, "bits")) == 3


@pytest.mark.parametrize("way", ["inpaint", "vary", "interpolate"])
def test_an_image_is_edited(browser: "webdriver.Chrome", picture: Path, way: str) -> None:
    open_tab(browser, "edit")
    browser.execute_script("document.querySelector('#edit .status').textContent = ''")
    browser.find_element(By.CSS_SELECTOR, f"#edit option[value={way}]").click()
    browser.find_element(By.CSS_SELECTOR, "#edit input[name=image]").send_keys(str(picture))
    if way == "inpaint":
        canvas = browser.find_element(By.CSS_SELECTOR, "#edit .paint")
        canvas.send_keys(" ", Keys.ARROW_LEFT, Keys.ARROW_LEFT, " ")  # by the keyboard alone
    if way == "interpolate":
        browser.find_element(By.CSS_SELECTOR, "#edit input[name=to]").send_keys(str(picture))
    browser.find_element(By.CSS_SELECTOR, "#edit button[type=submit]").click()
    finished(browser, "edit")
    assert len(shown(browser, "edit")) == 8


def test_what_is_refused_is_told_on_the_page(browser: "webdriver.Chrome", tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(60))
    open_tab(browser, "bits")
    browser.find_element(By.CSS_SELECTOR, "#bits input[type=file]").send_keys(str(broken))
    browser.find_element(By.CSS_SELECTOR, "#bits button[type=submit]").click()
    status = browser.find_element(By.CSS_SELECTOR, "#bits .status")
    WebDriverWait(browser, 30).until(lambda _: "cannot be read" in status.text)


def test_the_lecture_runs_the_exact_chain_in_the_browser(browser: "webdriver.Chrome") -> None:
    open_tab(browser, "lecture")
    words = browser.find_element(By.CSS_SELECTOR, "#lecture .figure")
    assert "L = 405 levels" in words.text  # sigma 0.15, delta 0.01: the endpoint rule
    slider = browser.find_element(By.NAME, "sigma")
    slider.send_keys(Keys.END)
    assert "L = 21 levels" in words.text
    browser.find_element(By.CSS_SELECTOR, "#lecture .play").click()
    WebDriverWait(browser, 30).until(
        lambda page: page.execute_script("return document.querySelector('#lecture').dataset.played")
    )
    assert "At level 0" in words.text


def test_tabs_are_moved_between_by_the_keyboard(browser: "webdriver.Chrome") -> None:
    open_tab(browser, "draw")
    browser.find_element(By.ID, "tab-draw").send_keys(Keys.ARROW_LEFT)
    assert browser.find_element(By.ID, "lecture").is_displayed()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("tab", ["draw", "bits", "edit", "lecture"])
def test_text_has_contrast_in_both_schemes(browser: "webdriver.Chrome", scheme: str, tab: str) -> None:
    in_scheme(browser, scheme)
    open_tab(browser, tab)
    assert faint_texts(browser) == []
