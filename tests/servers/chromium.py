"""A headless Chromium with a private profile, told what to do over its DevTools protocol."""

from __future__ import annotations

import itertools
import json
import os
import select
import sys
import time
from pathlib import Path
from typing import Any, Self

from tests.programs import program
from tests.servers import Daemon, require_binary, wait_until

_FLAGS = [
    *("--headless", "--no-sandbox", "--no-zygote", "--disable-gpu", "--disable-dev-shm-usage", "--mute-audio"),
    *("--no-first-run", "--no-default-browser-check", "--disable-extensions", "--disable-breakpad", "--disable-sync"),
    *("--disable-quic", "--disable-background-networking", "--disable-component-update", "--no-proxy-server"),
    "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-pipe",
]
_WITH_PIPES = str(program("with_pipes.py"))
_TIMEOUT_SECONDS = 30.0


class BrowserError(Exception):
    """The browser refused an order, or a script in a page failed."""


class Chromium:
    """As a context: one browser, with as many pages as are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[dict[str, Any]] = []
        self._numbers = itertools.count(1)
        self._read = b""

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        binary = require_binary("chromium")
        orders_end, self._orders = os.pipe()
        self._answers, answers_end = os.pipe()
        command = [sys.executable, _WITH_PIPES, str(orders_end), str(answers_end), binary, *_FLAGS]
        folders = dict.fromkeys(("HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"), str(self.folder))
        self._daemon = Daemon(
            [*command, f"--user-data-dir={self.folder / 'profile'}", "about:blank"],
            folder=self.folder,
            env={**os.environ, **folders},
            pass_fds=(orders_end, answers_end),
        )
        os.close(orders_end)
        os.close(answers_end)
        self.order("Browser.setDownloadBehavior", behavior="deny")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._orders)
        os.close(self._answers)
        self._daemon.kill()

    def page(self) -> Page:
        """A new, empty page."""
        target = self.order("Target.createTarget", url="about:blank")["targetId"]
        session: str = self.order("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Page(self, session)

    def order(self, method: str, session: str | None = None, **parameters: object) -> dict[str, Any]:
        """The result of an order; the events that come before it are kept. Raises ``BrowserError``."""
        number = next(self._numbers)
        message: dict[str, object] = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._orders, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") != number:
                self._note(answer)
            elif "error" in answer:
                raise BrowserError(f"{method}: {answer['error']['message']}")
            else:
                result: dict[str, Any] = answer["result"]
                return result

    def _note(self, event: dict[str, Any]) -> None:
        """Keep an event. A dialog holds up its page, and every order to it, until it is closed."""
        if event.get("method") == "Page.javascriptDialogOpening":
            message = {"id": next(self._numbers), "method": "Page.handleJavaScriptDialog", "params": {"accept": True}}
            os.write(self._orders, json.dumps(message | {"sessionId": event["sessionId"]}).encode() + b"\0")
        self.events.append(event)

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self._answers, 1 << 20) if ready else b""
            if not data:
                raise TimeoutError(f"the browser does not answer; it printed:\n{self._daemon.log()}")
            self._read += data
        message, _, self._read = self._read.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer


class Page:
    """One page (a tab)."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser = browser
        self._session = session
        self.order("Page.enable")

    def order(self, method: str, **parameters: object) -> dict[str, Any]:
        return self._browser.order(method, self._session, **parameters)

    def open(self, url: str) -> bool:
        """Go to a URL, as from the address bar, and wait until its document is loaded; false if the browser saves the
        file instead of showing it. Raises ``BrowserError`` where there is no answer."""
        result = self.order("Page.navigate", url=url)
        if result.get("isDownload"):
            return False
        if "errorText" in result:
            raise BrowserError(f"{url}: {result['errorText']}")
        wait_until(lambda: self.evaluate("document.readyState") == "complete", what=f"{url} to be loaded")
        return True

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page, of a promise what it becomes. Raises ``BrowserError``."""
        result = self.order(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in result:
            raise BrowserError(str(result["exceptionDetails"].get("exception", {}).get("description", result)))
        return result["result"].get("value")

    def dialogs(self) -> list[str]:
        """What scripts of this page have alerted so far."""
        return [
            event["params"]["message"]
            for event in self._browser.events
            if event.get("method") == "Page.javascriptDialogOpening" and event["sessionId"] == self._session
        ]
