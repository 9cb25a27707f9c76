"""The page, in a real browser, on a server process: progress bars that move."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from conftest import NAMES
from fastdb.testing.servers import AppServer
from realtime.app import CLIENT, ROOT

pytestmark = pytest.mark.fastdb(isolation="database")

SECONDS = 30


def missing(what: str) -> None:
    """Fail in CI, and leave the test out elsewhere."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    """Chromium, without a screen."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        missing("there is no browser: apt install chromium chromium-driver")
    if not CLIENT.exists():
        missing(f"Socket.IO's client is not there: run `npm install` in {ROOT}")
    options = webdriver.ChromeOptions()
    options.binary_location = str(chromium)
    for argument in ("--headless=new", "--no-sandbox", "--window-size=900,760"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options, Service(driver))
    yield browser
    browser.quit()


@pytest.fixture
def server(database_url: str, files: Path) -> Iterator[AppServer]:
    """The app, in a process of its own."""
    environment = {
        "REALTIME_DATABASE_URL": database_url,
        "REALTIME_FILES": str(files),
        "REALTIME_DEMO_TOKEN": "demo",
    }
    with AppServer("realtime.app:app", environment=environment) as server:
        yield server


def test_progress_is_shown(
    browser: webdriver.Chrome, server: AppServer, pytestconfig: pytest.Config
) -> None:
    """Connected with a token, the page shows an operation until it is complete."""
    browser.get(server.url)
    wait = WebDriverWait(browser, SECONDS)
    browser.find_element(By.ID, "token").send_keys("demo")
    browser.find_element(By.CSS_SELECTOR, "#connect button").click()
    wait.until(lambda page: page.find_element(By.ID, "status").text == "connected")
    field = browser.find_element(By.ID, "files")
    field.clear()
    field.send_keys(" ".join([*NAMES, "missing.txt"]))
    browser.find_element(By.CSS_SELECTOR, "#start button").click()
    wait.until(lambda page: page.find_elements(By.CSS_SELECTOR, ".operation.complete"))
    wait.until(lambda page: page.find_element(By.CSS_SELECTOR, ".operation span").text == "9 of 9")
    progress = browser.find_element(By.CSS_SELECTOR, ".operation progress")
    assert (progress.get_attribute("value"), progress.get_attribute("max")) == ("9", "9")
    assert "missing.txt: FileNotFoundError" in browser.find_element(By.ID, "log").text
    if path := pytestconfig.getoption("--screenshot"):
        assert browser.save_screenshot(path)


def test_unknown_token_is_told(browser: webdriver.Chrome, server: AppServer) -> None:
    """The page says why it is not connected."""
    browser.get(server.url)
    browser.find_element(By.ID, "token").send_keys("nobody's")
    browser.find_element(By.CSS_SELECTOR, "#connect button").click()
    WebDriverWait(browser, SECONDS).until(
        lambda page: page.find_element(By.ID, "status").text == "The token is unknown."
    )
