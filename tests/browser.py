"""A real headless Chromium, and the page of a server in it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

T = TypeVar("T")

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1280,800",
)


def _programs() -> tuple[str, str] | None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    return (chromium, driver) if chromium and driver else None


@contextmanager
def chromium(profile: Path) -> Iterator[Chrome]:
    """A browser with a profile of its own; skips the test where there is none, unless one is required."""
    programs = _programs()
    if programs is None:
        reason = "there is no chromium with chromedriver on this machine (Debian: apt-get install chromium chromium-driver)"
        if os.environ.get("ASYMKV_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    options = ChromeOptions()
    options.binary_location = programs[0]
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=ChromeService(programs[1]))
    driver.set_script_timeout(30)
    try:
        yield driver
    finally:
        driver.quit()


class Page:
    """The chat of one server, as somebody in front of the browser sees it."""

    def __init__(self, driver: Chrome, url: str) -> None:
        self.driver, self.url = driver, url

    def open(self) -> None:
        self.driver.get(self.url)
        self.until(lambda: self.one("#model").get_attribute("textContent") or self.one("#key-dialog").is_displayed())

    def begin(self, **settings: str) -> None:
        """The page as on a first visit, with these settings."""
        if not self.driver.current_url.startswith(self.url):
            self.driver.get(self.url)
        self.driver.execute_script("localStorage.clear(); sessionStorage.clear()")
        self.keep("asymkv.settings", settings)
        self.open()

    def keep(self, name: str, value: object) -> None:
        self.driver.execute_script("localStorage.setItem(arguments[0], arguments[1])", name, json.dumps(value))

    # looking

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def script(self, code: str, *arguments: object) -> Any:
        return self.driver.execute_script(code, *arguments)

    def until(self, condition: Callable[[], T], seconds: float = 30) -> T:
        return WebDriverWait(self.driver, seconds, poll_frequency=0.02).until(lambda _: condition())

    @property
    def busy(self) -> bool:
        return bool(self.script("return document.body.classList.contains('busy')"))

    def texts(self) -> list[str]:
        """What stands in the conversation, turn by turn."""
        found: list[str] = self.script("return [...document.querySelectorAll('.turn .body')].map((body) => body.textContent)")
        return found

    def states(self) -> list[str]:
        found: list[str] = self.script("return [...document.querySelectorAll('.turn.answer')].map((li) => li.dataset.state)")
        return found

    def meta(self) -> str:
        """What the last answer took."""
        return self.all(".turn.answer .meta")[-1].text

    def pictured(self, n_tokens: int) -> None:
        """Waits until the picture of the cache is one of so many tokens."""
        self.until(lambda: self.one("#strip").get_attribute("data-tokens") == str(n_tokens))

    # doing

    def write(self, text: str) -> None:
        self.one("#prompt").send_keys(text, Keys.ENTER)

    def paste(self, text: str) -> None:
        """A text that is too long to be typed."""
        self.script(
            "const box = document.getElementById('prompt'); box.focus(); box.value = arguments[0];"
            "box.dispatchEvent(new Event('input', {bubbles: true}))",
            text,
        )
        self.one("#prompt").send_keys(Keys.ENTER)

    def answered(self, n: int) -> str:
        """Waits for the nth answer, and gives its text."""
        self.until(lambda: len(self.states()) == n and not self.busy)
        return self.texts()[-1]

    def ask(self, text: str) -> str:
        n = len(self.states())
        self.write(text)
        return self.answered(n + 1)

    def press(self, selector: str, label: str) -> None:
        """A button of a turn, which a mouse has to be near to."""
        button = next(button for button in self.all(f"{selector} button") if button.text == label or _label(button) == label)
        self.script("arguments[0].focus()", button)
        button.send_keys(Keys.ENTER)

    # what the browser noticed

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self._log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def requested(self) -> list[str]:
        """Addresses that were asked for since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self._log("performance")]
        return [message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"]

    def _log(self, kind: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self.driver.get_log(kind)  # type: ignore[no-untyped-call]
        return entries


def _label(button: WebElement) -> str:
    return button.get_attribute("textContent") or ""
