"""A headless Chromium, told what to do over its DevTools protocol: open, press, look, picture. Asserts nothing."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import websocket

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""
PATIENCE_S = 30.0


class Tab:
    """One page with cookies of its own."""

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(address, timeout=PATIENCE_S, suppress_origin=True)
        self._number = 0
        self.console: list[str] = []
        """Messages and errors of the page, as they came."""
        for domain in ("Page", "Runtime", "Log"):
            self.do(f"{domain}.enable")

    def do(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            told = json.loads(self._socket.recv())
            if told.get("id") == self._number:
                return told.get("result", told)
            if told.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
                self.console.append(json.dumps(told["params"])[:400])

    def open(self, address: str) -> None:
        self.do("Page.navigate", url=address)

    def look(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        return self.do("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait(self, expression: str) -> None:
        """Until an expression is true."""
        until = time.monotonic() + PATIENCE_S
        while not self.look(f"Boolean({expression})"):
            assert time.monotonic() < until, (expression, self.look("document.body.innerText"), self.console)
            time.sleep(0.02)

    def press(self, key: str) -> None:
        self.front()
        code = {"Enter": 13}.get(key, ord(key[0].upper()))
        text = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
        self.do("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self.do("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def front(self) -> None:
        """A page behind another one is neither drawn nor takes keys."""
        self.do("Page.bringToFront")

    def size(self, width: int, height: int) -> None:
        is_mobile = width < 480
        self.do(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=is_mobile
        )

    def picture(self, file: Path) -> None:
        self.front()
        file.write_bytes(base64.b64decode(self.do("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        self._socket.close()


class Browser:
    def __init__(self, address: str) -> None:
        self._root = Tab(address)
        self._port = address.split(":")[2].split("/")[0]

    def tab(self) -> Tab:
        """A new window of somebody else: no cookie is shared."""
        context = self._root.do("Target.createBrowserContext")["browserContextId"]
        return self.window(context)

    def window(self, context: str) -> Tab:
        target = self._root.do("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        tab = Tab(f"ws://127.0.0.1:{self._port}/devtools/page/{target}")
        tab.context = context  # type: ignore[attr-defined]
        return tab


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """A browser that ends with the block. profile: an empty directory."""
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    command += [f"--user-data-dir={profile}", "--no-first-run", "--disable-extensions", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        told, until = profile / "DevToolsActivePort", time.monotonic() + PATIENCE_S
        while not (told.exists() and len(told.read_text().splitlines()) == 2):
            assert process.poll() is None
            assert time.monotonic() < until, "the browser has not started"
            time.sleep(0.05)
        port, path = told.read_text().splitlines()
        yield Browser(f"ws://127.0.0.1:{port}{path}")
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
