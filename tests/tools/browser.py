"""A headless Chromium for tests, by chromedriver and the W3C WebDriver protocol, which is HTTP and JSON."""

from __future__ import annotations

import base64
import json
import os
import shutil
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from processes import PATIENCE_S, Process

LOOK_AGAIN_S = 0.1
REQUEST_S = 60.0
ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-proxy-server"]


def require_browser() -> tuple[str, str]:
    """Paths of chromedriver and Chromium; without them skips the test, or fails it if GATECREW_REQUIRE_BROWSER=1."""
    driver, browser = shutil.which("chromedriver"), shutil.which("chromium")
    if driver and browser:
        return driver, browser
    line = "NO BROWSER: no page is looked at; Debian has it in the packages chromium and chromium-driver"
    if os.environ.get("GATECREW_REQUIRE_BROWSER") == "1":
        pytest.fail(line, pytrace=False)
    pytest.skip(line)


class Browser:
    """One window."""

    def __init__(self, width: int = 1280, height: int = 800) -> None:
        driver, browser = require_browser()
        self._process = Process([driver, "--port=0"])
        try:
            port = self._process.wait_line(r"started successfully on port (\d+)")[1]
            self._session = f"http://127.0.0.1:{port}/session"
            options = {"binary": browser, "args": [*ARGUMENTS, f"--window-size={width},{height}"]}
            wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
            self._session += "/" + self._ask("POST", "", wanted)["sessionId"]
        except BaseException:
            self._process.close()
            raise

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        request = urllib.request.Request(
            self._session + path, method=method, data=None if body is None else json.dumps(body).encode()
        )
        with urllib.request.urlopen(request, timeout=REQUEST_S) as answer:
            return json.load(answer)["value"]

    def open(self, url: str) -> None:
        self._ask("POST", "/url", {"url": url})

    def run(self, script: str) -> Any:
        """The body of a function, in JavaScript; returns what it returns."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": []})

    def text(self) -> str:
        """All that one can read on the page."""
        return str(self.run("return document.body.innerText"))

    def wait(self, is_so: Callable[[str], object], what: str, timeout_s: float = PATIENCE_S) -> None:
        """Until the page's text is so.

        Raises:
            AssertionError: it took too long; says what was to be read.
        """
        deadline = time.monotonic() + timeout_s
        while not is_so(text := self.text()):
            assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}; the page says:\n{text}"
            time.sleep(LOOK_AGAIN_S)

    def screenshot(self) -> bytes:
        """PNG."""
        return base64.b64decode(self._ask("GET", "/screenshot"))

    def close(self) -> None:
        try:
            self._ask("DELETE", "")
        finally:
            self._process.close()
