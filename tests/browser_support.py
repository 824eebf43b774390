"""Headless Chromium over its DevTools protocol, as far as the tests of the page need it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
from loopback import PATIENCE

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

_KEYS = {"Enter": 13, "Escape": 27, "ArrowUp": 38, "ArrowDown": 40, "Tab": 9, " ": 32}


class Browser:
    """One page of a browser of its own; every call waits for the browser."""

    def __init__(self, *, width: int = 1280, height: int = 900) -> None:
        self._size = width, height
        self.complaints: list[str] = []  # what the page logged as an error, and what it loaded from elsewhere
        self.requests: list[str] = []

    async def __aenter__(self) -> Self:
        assert CHROMIUM is not None
        self._profile = tempfile.mkdtemp(prefix="gream-browser-")
        width, height = self._size
        self._process = subprocess.Popen(
            [
                CHROMIUM,
                "--headless=new",
                "--no-sandbox",  # the tests run as root in containers
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--no-first-run",
                "--force-color-profile=srgb",
                "--remote-debugging-port=0",
                f"--window-size={width},{height}",
                f"--user-data-dir={self._profile}",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            port = await self._port()
            self._session = aiohttp.ClientSession()
            self._socket = await self._session.ws_connect(await self._page(port), max_msg_size=0)
        except BaseException:
            self._stop()
            raise
        self._number = 0
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._reader = asyncio.create_task(self._read())
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.call(f"{domain}.enable")
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._reader.cancel()
        await self._socket.close()
        await self._session.close()
        self._stop()

    def _stop(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)

    async def _port(self) -> int:
        path = Path(self._profile) / "DevToolsActivePort"
        end = time.monotonic() + PATIENCE
        while not (path.exists() and path.read_text().strip()):
            assert time.monotonic() < end and self._process.poll() is None, "the browser does not start"
            await asyncio.sleep(0.05)
        return int(path.read_text().split()[0])

    async def _page(self, port: int) -> str:
        """Where its one page is spoken to; the browser may listen before it has one."""
        end = time.monotonic() + PATIENCE
        while True:
            async with self._session.get(f"http://127.0.0.1:{port}/json") as response:
                for target in await response.json():
                    if target["type"] == "page":
                        return str(target["webSocketDebuggerUrl"])
            assert time.monotonic() < end, "the browser opens no page"
            await asyncio.sleep(0.05)

    async def _read(self) -> None:
        async for message in self._socket:
            event = json.loads(message.data)
            if "id" in event:
                self._answers.pop(event["id"]).set_result(event)
            elif event["method"] == "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(event["params"])[:500])
            elif event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
                self.complaints.append(event["params"]["entry"]["text"])
            elif event["method"] == "Network.requestWillBeSent":
                self.requests.append(event["params"]["request"]["url"])

    async def call(self, method: str, **parameters: Any) -> Any:
        """A command of the protocol."""
        self._number += 1
        self._answers[self._number] = answer = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        event = await asyncio.wait_for(answer, PATIENCE)
        assert "error" not in event, event
        return event["result"]

    async def open(self, url: str) -> None:
        """Load a page and wait for its scripts."""
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def run(self, script: str) -> Any:
        """The value of an expression on the page."""
        result = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    async def until(self, condition: str) -> None:
        """Wait for an expression to become true."""
        end = time.monotonic() + PATIENCE
        while not await self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, f"still not: {condition}\n{self.complaints}"
            await asyncio.sleep(0.03)

    async def type(self, text: str) -> None:
        """Type into whatever has the focus."""
        await self.call("Input.insertText", text=text)

    async def press(self, key: str, *, shift: bool = False) -> None:
        """Press and release a key."""
        code = _KEYS[key]
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        text = {"Enter": "\r", " ": " "}.get(key)
        await self.call("Input.dispatchKeyEvent", type="keyDown", **common, **({"text": text} if text else {}))
        await self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    async def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Save what the page looks like, as PNG."""
        shot = await self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))
