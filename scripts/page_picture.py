"""docs/images/page.png: the page of `markovae serve` in Chromium, with samples of the reference faces.

python -m scripts.page_picture [RUN]     needs chromium, chromedriver and the extras web and test
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).resolve().parent.parent
SIZE = (900, 700)
SECONDS = 300


def main() -> int:
    """Serve the run, draw twelve images on the page, and keep what is seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", default="tests/fixtures/reference")
    options = parser.parse_args()
    command = [sys.executable, "-m", "markovae", "serve", options.run, "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = next(found[0] for line in server.stdout if (found := re.search(r"http://\S+", line)))
            picture(address, ROOT / "docs" / "images" / "page.png")
        finally:
            server.terminate()
    return 0


def picture(address: str, to: Path) -> None:
    """The view Draw after a sampling."""
    chrome = webdriver.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        chrome.add_argument(word)
    chrome.binary_location = shutil.which("chromium") or ""
    browser = webdriver.Chrome(options=chrome, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        size = {"width": SIZE[0], "height": SIZE[1], "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(address)
        wait = WebDriverWait(browser, SECONDS)
        wait.until(lambda page: page.execute_script("return document.documentElement.dataset.ready"))
        count = browser.find_element(By.CSS_SELECTOR, "#draw-form [name=n]")
        count.clear()
        count.send_keys("12")
        browser.find_element(By.CSS_SELECTOR, "#draw-form [type=submit]").click()
        wait.until(lambda page: "done" in page.find_element(By.CSS_SELECTOR, "#draw .status").text)
        slider = "const s = document.querySelector('#draw [type=range]'); s.value = Math.round(.6 * s.max);"
        browser.execute_script(slider + "s.dispatchEvent(new Event('input', {bubbles: true})); scrollTo(0, 0)")
        browser.save_screenshot(str(to))
    finally:
        browser.quit()


if __name__ == "__main__":
    sys.exit(main())
