"""The page, in a real browser, on a server process: progress bars that move."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from sqlalchemy.orm import Session

from conftest import ANN, NAMES
from fastdb.testing.servers import AppServer
from realtime import app, users
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
def pipe(files: Path) -> Iterator[str]:
    """The name of a file that is read for as long as nobody writes into it."""
    path = files / "pipe"
    os.mkfifo(path)
    yield path.name
    path.unlink()


def await_text(browser: webdriver.Chrome, selector: str, text: str) -> None:
    """Wait until an element of the page says this."""
    WebDriverWait(browser, SECONDS).until(
        lambda page: page.find_element(By.CSS_SELECTOR, selector).text == text
    )


def connect(browser: webdriver.Chrome, token: str) -> None:
    """Connect the page with a token."""
    browser.find_element(By.ID, "token").send_keys(token)
    browser.find_element(By.CSS_SELECTOR, "#connect button").click()


def look_at(browser: webdriver.Chrome, *names: str) -> None:
    """Start an operation by the page's form."""
    field = browser.find_element(By.ID, "files")
    field.clear()
    field.send_keys(" ".join(names))
    browser.find_element(By.CSS_SELECTOR, "#start button").click()


def test_progress_is_shown(
    browser: webdriver.Chrome, server: AppServer, pytestconfig: pytest.Config
) -> None:
    """Connected with a token, the page shows an operation until it is complete."""
    browser.get(server.url)
    connect(browser, "demo")
    await_text(browser, "#status", "connected")
    look_at(browser, *NAMES, "missing.txt")
    await_text(browser, ".operation.done span", "9 of 9")
    progress = browser.find_element(By.CSS_SELECTOR, ".operation progress")
    assert (progress.get_attribute("value"), progress.get_attribute("max")) == ("9", "9")
    assert "missing.txt: FileNotFoundError" in browser.find_element(By.ID, "log").text
    if path := pytestconfig.getoption("--screenshot"):
        assert browser.save_screenshot(path)


def test_unknown_token_is_told(browser: webdriver.Chrome, server: AppServer) -> None:
    """The page says why it is not connected."""
    browser.get(server.url)
    connect(browser, "nobody's")
    await_text(browser, "#status", "The token is unknown.")


def test_page_comes_back(browser: webdriver.Chrome, server: AppServer, pipe: str) -> None:
    """Its server gone and there again, the page is connected, and knows what happened meanwhile."""
    browser.get(server.url)
    connect(browser, "demo")
    await_text(browser, "#status", "connected")
    look_at(browser, *NAMES, pipe)
    await_text(browser, ".operation:not(.interrupted) span", "8 of 9")
    server.kill()
    await_text(browser, "#status", "not connected")
    browser.execute_async_script(
        "const done = arguments[0]; socket.io.once('reconnect_error', () => done());"
    )
    await_text(browser, "#status", "not connected")  # though it has tried in vain
    server.start()
    await_text(browser, "#status", "connected")
    await_text(browser, ".operation.interrupted span", "8 of 9")
    look_at(browser, *NAMES)
    await_text(browser, ".operation.done span", "8 of 8")


def test_operations_of_others_are_not_shown(
    browser: webdriver.Chrome, server: AppServer, sync_session: Session
) -> None:
    """Everybody is told of their end; who knows nothing else of them shows no card."""
    users.add(sync_session, "ann", "token of ann")
    sync_session.commit()
    browser.get(server.url)
    connect(browser, "demo")
    await_text(browser, "#status", "connected")
    others = httpx.post(f"{server.url}/operations", json={"files": NAMES}, headers=ANN)
    assert others.status_code == 202
    WebDriverWait(browser, SECONDS).until(
        lambda _: httpx.get(f"{server.url}/operations", headers=ANN).json()[0]["status"] == "done"
    )
    look_at(browser, *NAMES)
    await_text(browser, ".operation.done span", "8 of 8")
    assert len(browser.find_elements(By.CSS_SELECTOR, ".operation")) == 1


def test_missing_client_is_told(
    browser: webdriver.Chrome, live_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where `npm install` was not run, the page says so, also to those who try to connect."""
    monkeypatch.setattr(app, "CLIENT", tmp_path / "missing.js")
    browser.get(live_server)
    await_text(browser, "#status", "Socket.IO's client is missing: npm install")
    connect(browser, "demo")
    await_text(browser, "#status", "Socket.IO's client is missing: npm install")
