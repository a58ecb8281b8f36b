"""Chromium as a person drives it: pages that run scripts, over the DevTools protocol on a pipe."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Page", "opened"]

_PATIENCE_S = 20.0
_KEYS = {"Tab": 9, "Enter": 13, "ArrowRight": 39, "ArrowLeft": 37}


class Page:
    """One page of a running browser.

    Args:
        reading, writing: file descriptors of the browser's pipe.
    """

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing = reading, writing
        self._rest, self._count, self._session = b"", 0, ""
        self.requests: list[str] = []
        self.console: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.call(f"{domain}.enable")
        self.call("Target.setAutoAttach", autoAttach=True, waitForDebuggerOnStart=False, flatten=True)

    def call(self, method: str, *, session: str | None = None, **params: Any) -> dict[str, Any]:
        """The result of a command."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": params}
        if session or self._session:
            message["sessionId"] = session or self._session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        number, end = self._count, time.monotonic() + _PATIENCE_S
        while True:
            answer = self._next(end - time.monotonic())
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result
            self._noted(answer)

    def evaluate(self, script: str) -> Any:
        """The value of an expression, or of its promise."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, script: str, *, seconds: float = _PATIENCE_S) -> Any:
        """The first value of an expression that counts as true."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(script)):
            assert time.monotonic() < end, (script, self.text("body"), self.console)
            time.sleep(0.05)
        return value

    def text(self, selector: str) -> str:
        """What an element says."""
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))

    def look(self, *, width: int, dark: bool) -> None:
        """Give the window a width, and the system a colour scheme."""
        size, scheme = {"width": width, "height": 900, "deviceScaleFactor": 1}, "dark" if dark else "light"
        self.call("Emulation.setDeviceMetricsOverride", **size, mobile=width < 500)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def visit(self, url: str, *, script: str = "") -> None:
        """Load a page; ``script`` runs before its own."""
        self.console.clear()
        self.requests.clear()
        before = script and self.call("Page.addScriptToEvaluateOnNewDocument", source=script)["identifier"]
        self.call("Page.navigate", url=url)
        self.wait(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")
        if before:
            self.call("Page.removeScriptToEvaluateOnNewDocument", identifier=before)

    def choose(self, selector: str, path: Path) -> None:
        """Choose a file in a file input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def press(self, key: str) -> None:
        """Press and release a key."""
        code = {"key": key, "code": key, "windowsVirtualKeyCode": _KEYS[key]}
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **code)

    def screenshot(self, path: Path) -> None:
        """A picture of the whole page."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        data = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def _next(self, seconds: float) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._reading], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            piece = os.read(self._reading, 1 << 16)
            assert piece, "the browser has ended"
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def _noted(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.console.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.console.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.console.append(params["entry"]["text"])
        elif method == "Target.attachedToTarget" and params["targetInfo"]["type"] != "page":
            self._posted("Network.enable", params["sessionId"])

    def _posted(self, method: str, session: str) -> None:
        """Send a command whose answer nobody needs."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": {}, "sessionId": session}
        os.write(self._writing, json.dumps(message).encode() + b"\0")


def _pipe() -> tuple[int, int]:
    """A pipe whose descriptors are above those that the browser uses."""
    ends = os.pipe()
    above = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return above[0], above[1]


@contextmanager
def opened(browser: str, profile: Path) -> Iterator[Page]:
    """A page of a browser of its own, with a made-up camera and microphone.

    Args:
        browser: the program.
        profile: folder of the browser's own files.
    """
    (to_read, to_write), (from_read, from_write) = _pipe(), _pipe()
    # The browser reads commands from descriptor 3 and answers on 4.
    command = ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{from_write}', "browser", browser]
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"]
    options += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--no-first-run"]
    process = subprocess.Popen(
        [*command, *options, f"--user-data-dir={profile}", "about:blank"],
        pass_fds=(to_read, from_write),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_read)
    os.close(from_write)
    try:
        yield Page(from_read, to_write)
    finally:
        process.kill()
        process.wait()
        os.close(from_read)
        os.close(to_write)
